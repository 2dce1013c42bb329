"""Makes an environment of its own for a host of `hotloop.integrations`, and prints its Python.

    python tools/host_environment.py sb3

It lies in .venv-hosts/<host> and sees what is in .venv too (torch, numpy, pytest, hotloop), so that it
costs megabytes
and seconds. What the host needs beside that is in requirements/hosts/<host>.txt and installed without
dependencies: several hosts ask for another torch than the one that is there. A line `# build:
package==version` compiles a package from source, without its CUDA part.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements" / "hosts"
BUILD = "# build: "


def hosts() -> list[str]:
    """Those that there are requirements for."""
    return sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))


def make(host: str) -> Path:
    """The environment's Python; made, or brought up to date where its requirements have changed."""
    requirements = REQUIREMENTS / f"{host}.txt"
    folder = ROOT / ".venv-hosts" / host
    python = folder / "bin" / "python"
    stamp = folder / "requirements.txt"
    if stamp.is_file() and stamp.read_text() == requirements.read_text():
        return python
    venv.create(folder, with_pip=False, clear=True)
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    # `site.addsitedir` also reads the .pth files there: the editable install of hotloop is one of them
    below = sysconfig.get_path("purelib")
    Path(site, "below.pth").write_text(f"import site; site.addsitedir({below!r})\n")
    # The pip of this environment installs into the other one.
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    pip += ["--disable-pip-version-check", "--ignore-installed"]
    subprocess.run([*pip, "-r", str(requirements)], check=True)
    for line in requirements.read_text().splitlines():
        if line.startswith(BUILD):
            package = line.removeprefix(BUILD).strip()
            name = package.partition("==")[0]
            subprocess.run(
                [*pip, "--no-build-isolation", "--no-binary", name, package],
                check=True, env={**os.environ, "PUFFERLIB_DISABLE_CUDA": "1"},
            )  # fmt: skip
    stamp.write_text(requirements.read_text())
    return python


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in hosts():
        print(f"usage: host_environment.py {{{','.join(hosts())}}}", file=sys.stderr)
        return 2
    print(make(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
