"""Builds the source distribution and from it the wheel, as a user's pip would, and uses the wheel elsewhere.

1. The wheel is built from the source distribution with build isolation, where there is no torch.
2. It holds the package, its types and its licence, and nothing of the repository beside them.
3. Its native modules link neither torch nor CUDA nor an OpenMP runtime of their own.
4. In a fresh environment outside the checkout it imports, `hotloop doctor` is content, and op tests pass.
   torch and the other requirements are borrowed from the environment that runs this script: they are not
   tested here.

usage: python tools/check_wheel.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OP_TESTS = ("test_puff_advantage.py", "test_gather.py", "test_runtime.py")
# What a Linux system has, beside what the C++ runtime and OpenMP bring. A name with a hash is a private copy.
MAY_LINK = re.compile(r"lib(stdc\+\+|gcc_s|gomp|m|c|pthread|dl|rt)\.so\.\d+|ld-linux.*")


class WheelError(Exception):
    """What is wrong with the wheel."""


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
    start = time.perf_counter()
    pip("wheel", "--no-deps", "--no-cache-dir", "--wheel-dir", work / "wheel", sdist)
    (wheel,) = (work / "wheel").glob("*.whl")
    size = wheel.stat().st_size / 2**20
    print(f"built {wheel.name} ({size:.1f} MiB) from {sdist.name} in {time.perf_counter() - start:.0f} s")
    return wheel


def inspect(wheel: Path, work: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(work / "unpacked")
    foreign = [name for name in names if not re.match(r"hotloop(-[\w.]+\.dist-info)?/", name)]
    if foreign:
        raise WheelError(f"the wheel holds what is not the package: {foreign}")
    package = {name.removeprefix("hotloop/") for name in names}
    folder = ROOT / "python/hotloop"
    sources = {str(path.relative_to(folder)) for path in folder.rglob("*.py*") if path.suffix != ".pyc"}
    missing = sources - package
    if missing:
        raise WheelError(f"the wheel lacks {sorted(missing)}")
    if not any(name.endswith("/LICENSE") for name in names):
        raise WheelError("the wheel lacks its licence")
    modules = sorted((work / "unpacked" / "hotloop").glob("*.so"))
    if not any(module.name.startswith("_core.") for module in modules):
        raise WheelError("the wheel lacks its native module")
    for module in modules:
        listing = run("readelf", "-d", module)
        needed = re.findall(r"\(NEEDED\).*\[(.+)\]", listing)
        unwelcome = [name for name in needed if not MAY_LINK.fullmatch(name)]
        if unwelcome or "RPATH" in listing or "RUNPATH" in listing:
            raise WheelError(f"{module.name} links {unwelcome} or names a search path:\n{listing}")
        print(f"{module.name} ({module.stat().st_size / 2**20:.1f} MiB) links {', '.join(needed)}")


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
            inspect(wheel, work)
            use(wheel, work)
        except WheelError as problem:
            print(f"check_wheel: {problem}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
