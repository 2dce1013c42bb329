"""Runs clang-tidy (.clang-tidy) over csrc, each source once, as compiled for AVX2, all processors at work.

usage: python tools/tidy.py [source ...]
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11

ROOT = Path(__file__).resolve().parents[1]
FLAGS = [
    "-std=c++17",
    "-mavx2",
    "-mfma",
    "-mf16c",
    "-mbmi2",
    "-DHL_HAVE_X86_KERNELS",
    '-DHL_VERSION="tidy"',
    '-DHL_CUDA_ARCHS="tidy"',
]
OF_CUDA = ("cuda_call.cpp", "cuda_module.cpp")  # they include CUDA's headers


def sources() -> list[Path]:
    """What a compiler is given: sources that pybind_unit.cpp includes are read through it."""
    unit = ROOT / "csrc/bind/pybind_unit.cpp"
    parts = set(re.findall(r'^#include "(\w+\.cpp)"$', unit.read_text(), re.MULTILINE))
    found = [path for path in sorted((ROOT / "csrc").glob("*/*.cpp")) if path.name not in parts]
    if cuda_include() is None:
        unread = [path for path in found if path.name in OF_CUDA]
        print(f"tidy: no nvcc, so nothing is said of {', '.join(path.name for path in unread)}")
        return [path for path in found if path not in unread]
    return found


def cuda_include() -> Path | None:
    """Where CUDA's headers are; None where there are none."""
    nvcc = shutil.which("nvcc")
    homes = [Path(nvcc).resolve().parents[1]] if nvcc else []
    for home in [*homes, Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))]:
        for header in (
            sorted(home.glob("**/include/cuda_runtime_api.h")) if home != Path("/usr/local") else []
        ):
            return header.parent
    return None


def complaints(path: Path) -> str:
    """What clang-tidy says of one file; empty where it is content."""
    tidy = Path(sys.executable).with_name("clang-tidy")
    cuda = cuda_include()
    folders = (pybind11.get_include(), sysconfig.get_path("include"), *([] if cuda is None else [cuda]))
    includes = [f"-isystem{folder}" for folder in folders]
    done = subprocess.run(
        [tidy if tidy.exists() else "clang-tidy", "--quiet", path, "--", *FLAGS, *includes],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr if done.returncode else ""


def main(arguments: list[str]) -> int:
    paths = [Path(name).resolve() for name in arguments] or sources()
    if not Path(sys.executable).with_name("clang-tidy").exists() and shutil.which("clang-tidy") is None:
        print("tidy: no clang-tidy, neither beside this Python nor on the path")
        return 1
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [text for text in pool.map(complaints, paths) if text]
    print("\n".join(found) if found else f"tidy: {len(paths)} sources, nothing to say")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
