"""What a wheel and a source distribution of hotloop must be, told from the files alone.

`check_wheel` and `check_sdist` raise `WheelError` with what is wrong. Several tools and `tests/packaging`
share them.
"""

from __future__ import annotations

import re
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SIZE_LIMIT = 3_000_000  # bytes
# What a Linux system has, beside what the C++ runtime and OpenMP bring. A name with a hash is a private copy.
MAY_LINK = re.compile(r"lib(stdc\+\+|gcc_s|gomp|m|c|pthread|dl|rt)\.so\.\d+|ld-linux.*")
# _cuda is built where there is nvcc.
NATIVE = re.compile(r"(_core|_cuda)\.cpython-(?P<python>\d+)-(?P<machine>\w+)-linux-gnu\.so")
TAG = re.compile(r"cp(?P<python>\d+)-cp(?P=python)-(?P<platforms>[\w.]+)")
METADATA = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
OPTIONAL_METADATA = {"sboms/auditwheel.cdx.json"}  # auditwheel's note of what it put in
BESIDE_THE_PACKAGE = {
    "CHANGELOG.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md", "pyproject.toml", "setup.py",
    "setup.cfg", "PKG-INFO",  # setuptools writes these two
}  # fmt: skip


class WheelError(Exception):
    """What is wrong with the wheel, or with the source distribution."""


class Wheel(NamedTuple):
    """What is known of a wheel that passed."""

    path: Path
    size: int  # bytes
    python: str  # such as 311
    platforms: tuple[str, ...]  # such as manylinux_2_28_x86_64
    needed: dict[str, tuple[str, ...]]  # shared libraries of each native module


def version() -> str:
    match = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert match is not None
    return match.group(1)


def package_files() -> set[str]:
    """The package's Python files, stubs and marker, relative to it."""
    folder = ROOT / "python/hotloop"
    found = {str(path.relative_to(folder)) for pattern in ("*.py", "*.pyi") for path in folder.rglob(pattern)}
    return found | {"py.typed"}


def readelf(*arguments: str | Path) -> str:
    command = ["readelf", "--wide", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def check_native(module: Path) -> tuple[str, ...]:
    """The libraries that a native module needs, none of them unwelcome; it exports its entry point alone."""
    listing = readelf("-d", module)
    needed = tuple(re.findall(r"\(NEEDED\).*\[(.+)\]", listing))
    unwelcome = [name for name in needed if not MAY_LINK.fullmatch(name)]
    if unwelcome or "RPATH" in listing or "RUNPATH" in listing:
        raise WheelError(f"{module.name} links {unwelcome} or names a search path:\n{listing}")
    exported = [
        parts[7]
        for parts in (line.split() for line in readelf("--dyn-syms", module).splitlines())
        if len(parts) >= 8 and parts[4] in ("GLOBAL", "WEAK") and parts[5] == "DEFAULT" and parts[6] != "UND"
    ]
    entry = f"PyInit_{module.name.split('.')[0]}"
    if exported != [entry]:
        raise WheelError(f"{module.name} exports {exported}, not {entry} alone")
    if str(ROOT).encode() in module.read_bytes():
        raise WheelError(f"{module.name} names {ROOT}, where it was built")
    return needed


def check_wheel(path: Path) -> Wheel:
    """Name, size, contents, native modules and versions of one wheel for Linux."""
    match = re.fullmatch(rf"hotloop-{re.escape(version())}-({TAG.pattern})\.whl", path.name)
    if match is None:
        raise WheelError(f"{path.name} is not named as a wheel of hotloop {version()}")
    size = path.stat().st_size
    if size >= SIZE_LIMIT:
        raise WheelError(f"{path.name} has {size:,} bytes, {SIZE_LIMIT:,} are too many")
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        archive.extractall(folder)
        info = f"hotloop-{version()}.dist-info/"
        metadata = {name.removeprefix(info) for name in names if name.startswith(info)}
        package = {name.removeprefix("hotloop/") for name in names if name.startswith("hotloop/")}
        native = {name for name in package if NATIVE.fullmatch(name)}
        foreign = {name for name in names if not name.startswith((info, "hotloop/"))}
        different = foreign | ((package - native) ^ package_files())
        different |= (metadata - OPTIONAL_METADATA) ^ METADATA
        if different:
            raise WheelError(f"{path.name} has too much or lacks: {sorted(different)}")
        if {name.split(".")[0] for name in native} not in ({"_core"}, {"_core", "_cuda"}):
            raise WheelError(f"{path.name} has the native modules {sorted(native)}")
        for name in native:
            module = NATIVE.fullmatch(name)
            assert module is not None
            if module["python"] != match["python"]:
                raise WheelError(f"{path.name} holds {name}, which is for another Python")
        needed = {name: check_native(Path(folder, "hotloop", name)) for name in sorted(native)}
        check_versions(Path(folder, info, "METADATA").read_text(), Path(folder, "hotloop/__init__.py"))
    return Wheel(path, size, match["python"], tuple(match["platforms"].split(".")), needed)


def check_versions(metadata: str, init: Path) -> None:
    """One version everywhere. That of the native module shows when it is imported: `build_info()`."""
    told = {
        "pyproject.toml": version(),
        "METADATA": next(iter(re.findall(r"^Version: (.+)$", metadata, re.MULTILINE)), ""),
        "__init__.py": next(iter(re.findall(r'^__version__ = "(.+)"$', init.read_text(), re.MULTILINE)), ""),
        "CHANGELOG.md": next(
            iter(re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)), ""
        ),
    }
    if len(set(told.values())) != 1:
        raise WheelError(f"versions differ: {told}")


def check_sdist(path: Path) -> set[str]:
    """The files of a source distribution: what building needs, and nothing of the repository beside it."""
    if path.name != f"hotloop-{version()}.tar.gz":
        raise WheelError(f"{path.name} is not named as the source distribution of hotloop {version()}")
    with tarfile.open(path) as archive:
        names = {
            member.name.split("/", 1)[1]
            for member in archive.getmembers()
            if member.isfile() and "hotloop.egg-info/" not in member.name
        }
    sources = {
        str(source.relative_to(ROOT))
        for pattern in ("*.h", "*.cpp", "*.map", "*.cuh", "*.cu")
        for source in (ROOT / "csrc").rglob(pattern)
    }
    expected = BESIDE_THE_PACKAGE | sources | {f"python/hotloop/{name}" for name in package_files()}
    if names != expected:
        raise WheelError(f"{path.name} has too much or lacks: {sorted(names ^ expected)}")
    return names


def describe(wheel: Wheel) -> str:
    links = "; ".join(
        f"{name.split('.')[0]} needs {', '.join(found)}" for name, found in wheel.needed.items()
    )
    return f"{wheel.path.name}\n  {wheel.size / 1e6:.2f} MB, {'.'.join(wheel.platforms)}; {links}"
