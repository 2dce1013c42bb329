"""Builds the source distribution and from it the wheel, as a user's pip would, and uses the wheel elsewhere.

1. The wheel is built from the source distribution with build isolation, where there is no torch, and without
   CUDA, as it is released.
2. Source distribution and wheel hold what `wheel_contents.py` says, and the native modules link neither
   torch nor CUDA.
3. In a fresh environment outside the checkout it imports, `hotloop doctor` is content, and op tests pass.
   torch and the other requirements are borrowed from the environment that runs this script: they are not
   tested here; `make wheels test-wheels` does that, for every Python.

usage: python tools/check_wheel.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from wheel_contents import ROOT, WheelError, check_sdist, check_wheel, describe

OP_TESTS = ("test_puff_advantage.py", "test_gather.py", "test_runtime.py")


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    result = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise WheelError(f"{' '.join(map(str, command))} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def pip(*arguments: str | Path) -> str:
    return run(sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments)


def build(work: Path) -> Path:
    """The wheel, built from the source distribution in an isolated environment."""
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", work / "sdist")
    (sdist,) = (work / "sdist").iterdir()
    check_sdist(sdist)
    os.environ["HOTLOOP_CUDA"] = "0"
    start = time.perf_counter()
    pip("wheel", "--no-deps", "--no-cache-dir", "--wheel-dir", work / "wheel", sdist)
    (wheel,) = (work / "wheel").glob("*.whl")
    print(f"built {wheel.name} from {sdist.name} in {time.perf_counter() - start:.0f} s")
    return wheel


def use(wheel: Path, work: Path) -> None:
    """Installs the wheel into an environment of its own and runs it there."""
    run(sys.executable, "-m", "venv", "--without-pip", work / "venv")
    python = work / "venv/bin/python"
    pip("--python", python, "install", "--no-deps", wheel)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # A plain path in a .pth file is searched after site itself, and .pth files that lie there are not read:
    # what is installed in place in this environment stays out of sight.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    elsewhere = work / "elsewhere"
    shutil.copytree(ROOT / "tests", elsewhere / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", elsewhere)
    where = run(python, "-c", "import hotloop._core; print(hotloop._core.__file__)", cwd=elsewhere).strip()
    if not Path(where).is_relative_to(site):
        raise WheelError(f"hotloop was imported from {where}, not from the wheel in {site}")
    print(run(work / "venv/bin/hotloop", "doctor", cwd=elsewhere))
    tests = [f"tests/{name}" for name in OP_TESTS]
    print(run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=elsewhere).splitlines()[-1])


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="hotloop-wheel-") as folder:
        work = Path(folder)
        try:
            wheel = build(work)
            print(describe(check_wheel(wheel)))
            use(wheel, work)
        except WheelError as problem:
            print(f"check_wheel: {problem}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
