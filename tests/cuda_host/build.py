"""Compiles csrc/cuda and its bindings with the host compiler, against simt.h in place of CUDA.

The result is a module with the functions of `hotloop._cuda`, whose kernels run on the CPU in tests. ninja
compiles what changed; objects lie in build/cuda_host, or in build/cuda_host_sanitize where HOTLOOP_SANITIZE
is set.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCES = ROOT / "csrc"
SANITIZE = os.environ.get("HOTLOOP_SANITIZE", "")
BUILD = ROOT / "build" / ("cuda_host_sanitize" if SANITIZE else "cuda_host")
# Beside bind_<op>.cpp of every op that csrc/cuda has.
BINDINGS = (
    "cuda_call",
    "cuda_module",
    "tensor_arg",
    "torch_bridge",
    "estimator_inputs",
    "bind_discounted_return",
)
FLAGS = [
    "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-Wall",
    "-Wextra", "-Wno-unused-parameter", "-Werror", "-DHL_BIND_CUDA", '-DHL_VERSION=\\"host\\"', f"-I{HERE}",
]  # fmt: skip
SANITIZE_FLAGS = [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1"]


def bindings() -> list[Path]:
    ops = [SOURCES / "bind" / f"bind_{path.stem}.cpp" for path in sorted((SOURCES / "cuda").glob("*.cu"))]
    return [path for path in ops if path.is_file()] + [SOURCES / "bind" / f"{name}.cpp" for name in BINDINGS]


def write_ninja(output: Path) -> None:
    flags = [*FLAGS, *(SANITIZE_FLAGS if SANITIZE else []), f"-isystem{sysconfig.get_path('include')}"]
    lines = [
        "ninja_required_version = 1.5",
        f"cxx = {os.environ.get('CXX', 'c++')}",
        f"flags = {' '.join(flags)}",
        "rule compile",
        "  command = $cxx $flags -include simt.h -x c++ -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = $out",
        "rule link",
        "  command = $cxx $flags -shared $in -o $out",
        "  description = $out",
    ]
    objects = []
    sources = [
        *sorted((SOURCES / "cuda").glob("*.cu")),
        *bindings(),
        HERE / "simt.cpp",
        HERE / "simt_fiber.cpp",
    ]
    for source in sources:
        name = f"{source.parent.name}_{source.stem}.o"
        lines.append(f"build {name}: compile {source}")
        objects.append(name)
    lines.append(f"build {output.name}: link {' '.join(objects)}")
    # An executable of its own, always with AddressSanitizer: a test module would have to be loaded after it.
    lines += [
        "rule faults",
        f"  command = $cxx -std=c++17 -O1 -g1 -Wall -Wextra -fsanitize=address -I{HERE} -include simt.h "
        "-MMD -MF $out.d $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = $out",
        f"build faults: faults {' '.join(f'{HERE}/{n}.cpp' for n in ('faults', 'simt', 'simt_fiber'))}",
    ]
    text = "\n".join([*lines, ""])
    ninja = BUILD / "build.ninja"
    if not ninja.is_file() or ninja.read_text() != text:
        ninja.write_text(text)


def build(target: str = "_cuda.so") -> Path:
    """The path of the compiled module, or of `faults`, the runner's own test."""
    BUILD.mkdir(parents=True, exist_ok=True)
    output = BUILD / "_cuda.so"
    write_ninja(output)
    # The compiler of a sanitized run is not to be instrumented itself.
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    command = [sys.executable, "-m", "ninja", "-C", str(BUILD), target]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode != 0:
        raise RuntimeError(f"the kernels do not compile for the host runner:\n{result.stdout}{result.stderr}")
    return BUILD / target


if __name__ == "__main__":
    print(build())
