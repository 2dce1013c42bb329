"""Builds hotloop._core: ninja compiles every source in parallel and only what changed.

The kernels listed in SIMD_KERNELS and AVX2_KERNELS are compiled once per instruction set; the fastest one
that the processor has is picked at run time. No torch header is included and no torch library linked:
building needs no torch.

GCC is the compiler that is used and tested. clang builds without threads on Linux, since its OpenMP runtime
would be a second one beside torch's; so do macOS and Windows. On Windows cl and link must be on the path (a
developer prompt).

Environment: CXX, CXXFLAGS and LDFLAGS as everywhere;
HOTLOOP_BUILD_DIR: where ninja keeps its objects, so that an editable install and later rebuilds share them;
HOTLOOP_SANITIZE=address,undefined: builds for those sanitizers, under build/sanitize instead of build;
HOTLOOP_SANITIZE=thread: for that one, under build/sanitize-thread, without OpenMP, whose runtime it cannot
see into, and with the kernels once: races do not depend on the instruction set.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
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
MSVC = sys.platform == "win32"
if MSVC:  # its own words for the same; /fp:precise fuses nothing since Visual Studio 2022
    X86_ISAS = {"baseline": [], "avx2": ["/arch:AVX2"], "avx512": ["/arch:AVX512"]}
    FLAGS = ["/nologo", "/std:c++17", "/O2", "/fp:precise", "/EHsc", "/MD", "/bigobj", "/DNOMINMAX", "/W3"]
EXPORTS = "csrc/bind/exports.map"
PYBIND_UNIT = "csrc/bind/pybind_unit.cpp"  # what it includes is not compiled by itself
SANITIZE = os.environ.get("HOTLOOP_SANITIZE", "")
SANITIZE_BASE = "build/sanitize-thread" if SANITIZE == "thread" else "build/sanitize"
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
    return SANITIZE != "thread" and any(name in target for name in ("x86_64", "AMD64"))


def openmp_flags(cxx: str) -> list[str]:
    if sys.platform != "linux":
        return []
    told = subprocess.run(
        [*shlex.split(cxx), "--version"], capture_output=True, text=True, check=False
    ).stdout
    return [] if "clang" in told else ["-fopenmp"]


def ninja_path(path: Path | str) -> str:
    return re.sub(r"([$: ])", r"$\1", str(path))


def translation_units() -> list[tuple[str, str, list[str]]]:
    """(source, object name, extra flags) of everything that is compiled."""
    units = []
    parts = set(re.findall(r'^#include "(\w+\.cpp)"$', (ROOT / PYBIND_UNIT).read_text(), re.MULTILINE))
    for source in sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").glob("*/*.cpp")):
        if Path(source).name in parts:
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
            bind = Path(source).parts[1] == "bind"
            units.append((source, f"{stem}.o", ["-O2"] if bind and not MSVC else []))
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
        cxx = os.environ.get("CXX", "cl" if MSVC else "c++")
        openmp = [] if SANITIZE == "thread" else openmp_flags(cxx)
        system = "/I" if MSVC else "-isystem"
        includes = [f'{system}"{path}"' for path in (pybind11.get_include(), sysconfig.get_path("include"))]
        defines = [f'-DHL_VERSION=\\"{version()}\\"'] + (["-DHL_HAVE_X86_KERNELS"] if is_x86() else [])
        link = ["-shared", f"-Wl,--version-script={ROOT.resolve() / EXPORTS}"] + ["-Wl,-s"] * (not SANITIZE)
        if sys.platform == "darwin":
            link = ["-bundle", "-undefined", "dynamic_lookup"]
        elif MSVC:
            link = ["/nologo", "/DLL", f'/LIBPATH:"{Path(sys.base_prefix) / "libs"}"', "/EXPORT:PyInit__core"]
        link += [*openmp, *SANITIZE_FLAGS, os.environ.get("LDFLAGS", "")]
        flags = [*FLAGS, *SANITIZE_FLAGS, *openmp, *defines, os.environ.get("CXXFLAGS", "")]
        if not MSVC:  # a binary tells nothing of the folder where it was built
            flags.insert(0, f"-ffile-prefix-map={ROOT.resolve()}=.")
        compile_command = "$cxx $flags $extra -MMD -MF $out.d -c $in -o $out"
        link_command = "$cxx $in $link -o $out"
        dependencies = ["  depfile = $out.d", "  deps = gcc"]
        if MSVC:
            compile_command = "$cxx $flags $extra /showIncludes /c $in /Fo$out"
            link_command = "link $in $link /OUT:$out"
            dependencies = ["  deps = msvc"]
        lines = [
            "ninja_required_version = 1.5",
            f"cxx = {cxx}",
            f"flags = {' '.join(flags)}",
            f"link = {' '.join(link)}",
            "rule compile",
            f"  command = {compile_command}",
            *dependencies,
            "  description = $out",
            "rule link",
            f"  command = {link_command}",
            "  description = $out",
        ]
        objects = []
        # Kernels know nothing of Python: builds in one HOTLOOP_BUILD_DIR for several Pythons share them.
        for source, name, extra in translation_units():
            lines += [
                f"build {name}: compile {ninja_path(ROOT.resolve() / source)}",
                f"  extra = {' '.join([*extra, *(includes if name.startswith('bind_') else [])])}",
            ]
            objects.append(name)
        exports = ninja_path(ROOT.resolve() / EXPORTS)
        lines.append(f"build {ninja_path(output)}: link {' '.join(objects)} | {exports}")
        return "\n".join([*lines, ""])


setup(
    ext_modules=[Extension("hotloop._core", sources=[source for source, _, _ in translation_units()])],
    cmdclass={"build_ext": NinjaBuild},
    # setuptools packs what lies in its build folder: an instrumented module must never lie in the usual one
    options={"build": {"build_base": SANITIZE_BASE}} if SANITIZE else {},
)
