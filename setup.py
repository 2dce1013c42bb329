"""Builds hotloop._core: ninja compiles every source in parallel and only what changed.

The kernels listed in SIMD_KERNELS and AVX2_KERNELS are compiled once per instruction set; the fastest one
that the processor has is picked at run time. No torch header is included and no torch library linked:
building needs no torch.

Environment: CXX, CXXFLAGS and LDFLAGS as everywhere;
HOTLOOP_BUILD_DIR: where ninja keeps its objects, so that an editable install and later rebuilds share them;
HOTLOOP_SANITIZE=address,undefined: builds for those sanitizers, under build/sanitize instead of build.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
# Hot loops, compiled once for each instruction set ...
SIMD_KERNELS = ("categorical", "gae", "puff_advantage", "sampling_kernels")
# ... or for all but AVX-512, which would gain these a few per cent and cost a sixth of the build.
AVX2_KERNELS = (
    "adam", "categorical_backward", "clip_grad_norm", "convert_floats", "delta_lambda", "gaussian",
    "gaussian_backward", "importance_ratio", "ppo_loss", "retrace", "reverse_scan", "row_priorities",
    "td_lambda", "vtrace",
)  # fmt: skip
X86_ISAS = {
    "baseline": ["-O2", "-ftree-vectorize"],  # for processors of before 2013: a third less to compile
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-mbmi2"],
    "avx512": [
        "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c", "-mbmi2",
        "-mprefer-vector-width=256",
    ],
}  # fmt: skip
# Results must not depend on the instruction set: no contraction into fused multiply-add.
FLAGS = [
    "-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno",
    "-fno-trapping-math", "-Wall", "-Wextra", "-Wno-unused-parameter",
]  # fmt: skip
EXPORTS = "csrc/bind/exports.map"
PYBIND_UNIT = "csrc/bind/pybind_unit.cpp"  # what it includes is not compiled by itself
SANITIZE = os.environ.get("HOTLOOP_SANITIZE", "")
# A finding ends the process: a report in the middle of a log is read by nobody.
SANITIZE_FLAGS = (
    [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1", "-O1"]
    if SANITIZE
    else []
)


def version() -> str:
    match = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert match is not None
    return match.group(1)


def is_x86() -> bool:
    # ARCHFLAGS is how macOS builds name another target than the machine's own.
    target = os.environ.get("ARCHFLAGS", platform.machine())
    return any(name in target for name in ("x86_64", "AMD64"))


def translation_units() -> list[tuple[str, str, list[str]]]:
    """(source, object name, extra flags) of everything that is compiled."""
    units = []
    parts = set(re.findall(r'^#include "(\w+\.cpp)"$', (ROOT / PYBIND_UNIT).read_text(), re.MULTILINE))
    for source in sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").glob("*/*.cpp")):
        if Path(source).name in parts or Path(source).name.startswith("cuda_"):
            continue
        stem = "_".join(Path(source).with_suffix("").parts[1:])
        kernel = Path(source).stem
        if is_x86() and Path(source).parts[1] == "cpu" and kernel in (*SIMD_KERNELS, *AVX2_KERNELS):
            units += [
                (source, f"{stem}.{isa}.o", [f"-DHL_ISA_NAMESPACE={isa}", *flags])
                for isa, flags in X86_ISAS.items()
                if kernel in SIMD_KERNELS or isa != "avx512"
            ]
        else:
            units.append((source, f"{stem}.o", ["-O2"] if Path(source).parts[1] == "bind" else []))
    return units


class NinjaBuild(build_ext):
    """Writes build.ninja and runs it."""

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        work = Path(os.environ.get("HOTLOOP_BUILD_DIR") or Path(self.build_temp) / "ninja").resolve()
        work.mkdir(parents=True, exist_ok=True)
        (work / "build.ninja").write_text(self.build_file(output))
        jobs = ["-j", str(self.parallel)] if self.parallel else []
        verbose = ["-v"] if self.verbose and self.verbose > 1 else []
        subprocess.run([sys.executable, "-m", "ninja", "-C", str(work), *jobs, *verbose], check=True)

    def build_file(self, output: Path) -> str:
        openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
        includes = [f"-isystem{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"))]
        defines = [f'-DHL_VERSION=\\"{version()}\\"'] + (["-DHL_HAVE_X86_KERNELS"] if is_x86() else [])
        link = ["-shared", f"-Wl,--version-script={ROOT.resolve() / EXPORTS}"] + ["-Wl,-s"] * (not SANITIZE)
        if sys.platform == "darwin":
            link = ["-bundle", "-undefined", "dynamic_lookup"]
        link += [*openmp, *SANITIZE_FLAGS, os.environ.get("LDFLAGS", "")]
        flags = [*FLAGS, *SANITIZE_FLAGS, *openmp, *includes, *defines, os.environ.get("CXXFLAGS", "")]
        lines = [
            "ninja_required_version = 1.5",
            f"cxx = {os.environ.get('CXX', 'c++')}",
            f"flags = {' '.join(flags)}",
            f"link = {' '.join(link)}",
            "rule compile",
            "  command = $cxx $flags $extra -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = $out",
            "rule link",
            "  command = $cxx $in $link -o $out",
            "  description = $out",
        ]
        objects = []
        for source, name, extra in translation_units():
            lines += [f"build {name}: compile {ROOT.resolve() / source}", f"  extra = {' '.join(extra)}"]
            objects.append(name)
        lines.append(f"build {output}: link {' '.join(objects)} | {ROOT.resolve() / EXPORTS}")
        return "\n".join([*lines, ""])


setup(
    ext_modules=[Extension("hotloop._core", sources=[source for source, _, _ in translation_units()])],
    cmdclass={"build_ext": NinjaBuild},
    # setuptools packs what lies in its build folder: an instrumented module must never lie in the usual one
    options={"build": {"build_base": "build/sanitize"}} if SANITIZE else {},
)
