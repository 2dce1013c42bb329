"""The files of `make wheels`, unopened by pip: names, sizes, contents, linked libraries, versions."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import wheel_contents
from conftest import wheel_folder


def test_every_wheel_is_as_it_must_be(wheels: dict[str, Path]) -> None:
    for python, path in wheels.items():
        wheel = wheel_contents.check_wheel(path)
        assert wheel.python == python
        assert all(
            re.fullmatch(r"manylinux_2_\d+_x86_64|manylinux_2_\d+_aarch64", tag) for tag in wheel.platforms
        )
        assert all(
            "libgomp.so.1" in needed for name, needed in wheel.needed.items() if name.startswith("_core")
        )
        print(wheel_contents.describe(wheel))


def test_the_source_distribution_is_as_it_must_be() -> None:
    (sdist,) = wheel_folder().glob("*.tar.gz")
    files = wheel_contents.check_sdist(sdist)
    assert {
        "setup.py",
        "csrc/bind/exports.map",
        "python/hotloop/py.typed",
        "python/hotloop/_core.pyi",
    } <= files


def rewritten(path: Path, folder: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of a wheel whose files `change` has changed."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    copy = folder / path.name
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return copy


def drop(name: str) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.pop(name) and None


def put(name: str, data: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.update({name: data})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("hotloop/py.typed"), r"lacks: \['py.typed'\]"),
        (drop("hotloop/_core.pyi"), r"lacks: \['_core.pyi'\]"),
        (put("tests/test_gae.py", b""), r"too much .*'tests/test_gae.py'"),
        (put("hotloop/notes.txt", b""), r"too much .*'notes.txt'"),
        (put("hotloop/big.py", b""), r"too much .*'big.py'"),
        (put("hotloop/__init__.py", b'__version__ = "9"\n'), "versions differ"),
        (put("hotloop/_core.cpython-39-x86_64-linux-gnu.so", b""), "for another Python"),
        (put("hotloop/_cuda.txt", bytes(range(256)) * 20_000), "too much"),
    ],
    ids=[
        "no marker",
        "no stub",
        "a test",
        "a text",
        "a module",
        "a version",
        "a module of another Python",
        "data",
    ],
)
def test_the_check_sees(
    wheels: dict[str, Path], tmp_path: Path, change: Callable[[dict[str, bytes]], None], message: str
) -> None:
    copy = rewritten(next(iter(wheels.values())), tmp_path, change)
    with pytest.raises(wheel_contents.WheelError, match=message):
        wheel_contents.check_wheel(copy)


def test_the_check_sees_a_wheel_that_is_too_large(wheels: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / next(iter(wheels.values())).name
    shutil.copy(next(iter(wheels.values())), copy)
    with copy.open("ab") as file:
        file.write(bytes(wheel_contents.SIZE_LIMIT))
    with pytest.raises(wheel_contents.WheelError, match="are too many"):
        wheel_contents.check_wheel(copy)


def test_the_check_sees_a_search_path_and_an_unwelcome_library(
    wheels: dict[str, Path], tmp_path: Path
) -> None:
    """Of modules that were never linked so, by changing the dynamic section's bytes: needs no compiler."""
    with zipfile.ZipFile(next(iter(wheels.values()))) as archive:
        (name,) = (name for name in archive.namelist() if "/_core." in name and name.endswith(".so"))
        data = archive.read(name)
    module = tmp_path / Path(name).name
    module.write_bytes(data.replace(b"libgomp.so.1\0", b"libtorch.so1\0"))
    with pytest.raises(wheel_contents.WheelError, match="libtorch"):
        wheel_contents.check_native(module)
