"""An environment as a user has it: what pip installed and no more, no compiler on the path, elsewhere."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "requirements/constraints.txt"
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "nvcc", "ninja")


class FreshEnvironment:
    """A virtual environment in `folder`, made by `python`; commands run in `folder`/elsewhere."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.scripts = folder / "venv/bin"
        self.python = self.scripts / "python"
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir(parents=True)
        subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "HOTLOOP", "PYTEST", "COV_", "COVERAGE"))
            and name != "VIRTUAL_ENV"
        }
        self.environment |= {"PATH": str(self.scripts), "MPLBACKEND": "agg"}
        there = [name for name in COMPILERS if shutil.which(name, path=str(self.scripts))]
        assert there == [], f"{there} on the path of a fresh environment"

    def install(self, *arguments: str | Path) -> None:
        extra = shlex.split(os.environ.get("PIP_ARGS", ""))
        self.run(self.python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *extra, *arguments)

    def run(self, *command: str | Path, **environment: str) -> str:
        """What the command prints; one that fails fails the test, with what it printed."""
        done = subprocess.run(
            [*map(str, command)],
            cwd=self.elsewhere,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
        return done.stdout

    def evaluate(self, program: str, **environment: str) -> str:
        return self.run(self.python, "-c", program, **environment).strip()
