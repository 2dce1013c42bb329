"""Compiles the kernels with other compilers, for other processors and systems, and compares their results.

tests/portability/kernels.cpp runs 20 kernels on the same numbers and prints hashes of what they wrote. It is
built with all of csrc/cpu by each of

    gcc      c++, the reference
    arrays   c++ with arrays in place of the compiler's vectors, which is what MSVC gets
    clang    clang++, all of GNU's extensions that have no twin refused (-Wpedantic -Wgnu -Werror)
    aarch64  aarch64-linux-gnu-g++, run by qemu-aarch64
    windows  x86_64-w64-mingw32-g++, run by wine: Windows' ABI and C library, though not MSVC

and every line must be the same, to the last bit. What is not installed is named and left out (Debian: clang,
g++-aarch64-linux-gnu, qemu-user, g++-mingw-w64-x86-64, wine64). macOS' compiler and MSVC are not among them.

usage: python tools/portability_check.py [NAME ...]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build/portability"
# As setup.py has them, but for -O2, which compiles in half the time.
FLAGS = (
    "-std=c++17", "-O2", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math",
    "-Wall", "-Wextra", "-Wno-unused-parameter",
)  # fmt: skip


class Target(NamedTuple):
    """A compiler, what it is given besides, and what runs the result."""

    compilers: tuple[str, ...]
    flags: tuple[str, ...] = ()
    runners: tuple[str, ...] = ()


TARGETS = {
    # its guess that an array may be uninitialised is wrong: the loop before fills as many entries as are read
    "gcc": Target(("c++",), ("-Werror", "-Wno-error=maybe-uninitialized")),
    "arrays": Target(("c++",), ("-DHL_PORTABLE_VECTORS", "-Werror", "-Wno-error=maybe-uninitialized")),
    # & of two conditions is meant: && would be a branch
    "clang": Target(("clang++",), ("-Wpedantic", "-Wgnu", "-Werror", "-Wno-bitwise-instead-of-logical")),
    "aarch64": Target(
        ("aarch64-linux-gnu-g++",),
        ("-static", "-Werror", "-Wno-error=maybe-uninitialized"),
        ("qemu-aarch64", "qemu-aarch64-static"),
    ),
    "windows": Target(
        ("x86_64-w64-mingw32-g++-posix", "x86_64-w64-mingw32-g++"),
        ("-static", "-DHL_PORTABLE_VECTORS", "-Werror", "-Wno-error=maybe-uninitialized"),
        ("wine64", "/usr/lib/wine/wine64", "wine"),
    ),
}


def first_of(names: tuple[str, ...]) -> str | None:
    return next((found for found in map(shutil.which, names) if found), None)


def build(name: str, compiler: str) -> Path:
    """The program; SystemExit with the compiler's words where there is a warning or an error."""
    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / ("kernels.exe" if name == "windows" else "kernels")
    sources = sorted(map(str, (ROOT / "csrc/cpu").glob("*.cpp")))
    done = subprocess.run(
        [compiler, *FLAGS, *TARGETS[name].flags, "-o", program, "tests/portability/kernels.cpp", *sources],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"portability_check: {name}: {compiler} failed:\n{done.stderr}")
    return program


def lines_of(name: str, program: Path, runner: str | None) -> list[str]:
    environment = {**os.environ, "WINEPREFIX": str(WORK / "wine"), "WINEDEBUG": "-all"}
    done = subprocess.run(
        [*([runner] if runner else []), program],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"portability_check: {name} ended with code {done.returncode}: {done.stderr}")
    return done.stdout.splitlines()


def differences(reference: list[str], found: list[str]) -> list[str]:
    """The kernels whose lines differ."""
    if len(reference) != len(found):
        return [f"{len(found)} lines in place of {len(reference)}"]
    return [
        theirs.rpartition(" ")[0] for ours, theirs in zip(reference, found, strict=True) if ours != theirs
    ]


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(TARGETS))
    if unknown:
        print(f"portability_check: there is no {', '.join(unknown)}, only {', '.join(TARGETS)}")
        return 2
    reference: list[str] = []
    failed = False
    for name in ["gcc", *(each for each in names or TARGETS if each != "gcc")]:
        target = TARGETS[name]
        compiler = first_of(target.compilers)
        if compiler is None:
            print(f"{name}: left out, there is no {target.compilers[0]}")
            continue
        program = build(name, compiler)
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
        told = f"{name}: compiled by {version.splitlines()[0]}"
        runner = first_of(target.runners)
        if target.runners and runner is None:
            print(f"{told}; not run, there is no {target.runners[0]}")
            continue
        lines = lines_of(name, program, runner)
        reference = reference or lines
        unlike = differences(reference, lines)
        failed = failed or bool(unlike) or not lines
        outcome = f"OTHER BITS: {', '.join(unlike)}" if unlike else "the same bits"
        print(
            f"{told}, run{f' by {Path(runner).name}' if runner else ''}: {len(lines)} results, {outcome}",
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
