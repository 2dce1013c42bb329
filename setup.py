"""Builds hotloop._core, and hotloop._cuda where there is nvcc: ninja compiles only what changed, in parallel.

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
HOTLOOP_CUDA=auto (hotloop._cuda where nvcc is found), 0 (never) or 1 (nvcc must be found);
HOTLOOP_CUDA_ARCHS: what it is compiled for, such as "80 90 120+PTX", or "all". Without it: the GPUs of this
machine, and PTX, which any newer GPU's driver compiles when it is first loaded.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
# Hot loops, compiled once for each instruction set ...
SIMD_KERNELS = ("categorical", "gae", "puff_advantage", "sampling_kernels", "tanh")
# ... or for all but AVX-512, which would gain these a few per cent and cost a sixth of the build.
AVX2_KERNELS = (
    "adam", "categorical_backward", "clip_grad_norm", "convert_floats", "delta_lambda", "gaussian",
    "gaussian_backward", "importance_ratio", "ppo_loss", "retrace", "return_moments", "reverse_scan",
    "row_priorities", "scale_pixels", "td_lambda", "vtrace",
)  # fmt: skip
# Sums of products of bytes: compiled for any processor, and with AVX-512 VNNI.
BYTE_PRODUCT_KERNELS = ("pixel_linear", "pixel_linear_grad")
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
X86_BYTE_PRODUCTS = [*X86_ISAS["avx512"][:-1], "-mavx512vnni", "-mprefer-vector-width=512"]
MSVC = sys.platform == "win32"
if MSVC:  # its own words for the same; /fp:precise fuses nothing since Visual Studio 2022
    X86_ISAS = {"baseline": [], "avx2": ["/arch:AVX2"], "avx512": ["/arch:AVX512"]}
    X86_BYTE_PRODUCTS = ["/arch:AVX512"]
    FLAGS = ["/nologo", "/std:c++17", "/O2", "/fp:precise", "/EHsc", "/MD", "/bigobj", "/DNOMINMAX", "/W3"]
# The same for kernels: float32 and float64 as IEEE 754 has them, no approximate functions.
CUDA_FLAGS = [
    "-std=c++17", "-O3", "-fmad=false", "--expt-relaxed-constexpr", "-Werror", "all-warnings",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-ffp-contract=off",
]  # fmt: skip
CUDA_ARCHS = ("75", "80", "86", "89", "90", "100", "120")  # "all", and PTX of the last
# Beside bind_<op>.cpp of every op in csrc/cuda.
CUDA_BINDINGS = (
    "bind_discounted_return", "cuda_call", "cuda_module", "estimator_inputs", "tensor_arg", "torch_bridge",
)  # fmt: skip
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
        elif is_x86() and Path(source).parts[1] == "cpu" and kernel in BYTE_PRODUCT_KERNELS:
            flags = ["-DHL_ISA_NAMESPACE=avx512vnni", "-DHL_BYTE_PRODUCTS", *X86_BYTE_PRODUCTS]
            units.append((source, f"{stem}.baseline.o", X86_ISAS["baseline"]))
            units.append((source, f"{stem}.avx512vnni.o", flags))
        else:
            bind = Path(source).parts[1] == "bind"
            units.append((source, f"{stem}.o", ["-O2"] if bind and not MSVC else []))
    return units


def nvcc() -> Path | None:
    """The compiler, where hotloop._cuda is to be built."""
    wanted = os.environ.get("HOTLOOP_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        raise ValueError(f"HOTLOOP_CUDA must be auto, 0 or 1, got {wanted}")
    if wanted == "0" or SANITIZE:
        return None
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [shutil.which("nvcc"), *(f"{home}/bin/nvcc" for home in homes if home)]
    found = next((Path(place).resolve() for place in places if place and Path(place).is_file()), None)
    if found is None and wanted == "1":
        raise FileNotFoundError(
            "HOTLOOP_CUDA=1, but there is no nvcc on the path, in CUDA_HOME or in /usr/local/cuda"
        )
    return found


def cuda_home(compiler: Path) -> Path:
    """What the compiler itself takes for its home: the one on the path may be a script or a link."""
    said = subprocess.run(
        [compiler, "--dryrun", "-x", "cu", os.devnull, "-o", os.devnull],
        capture_output=True,
        text=True,
        check=False,
    )
    match = re.search(r"^#\$ TOP=(.+)$", said.stdout + said.stderr, re.MULTILINE)
    return Path(match.group(1)).resolve() if match else compiler.parent.parent


def cuda_archs() -> list[str]:
    """Such as ["80", "90", "120+PTX"]."""
    wanted = os.environ.get("HOTLOOP_CUDA_ARCHS", "")
    if wanted == "all":
        return [*CUDA_ARCHS, f"{CUDA_ARCHS[-1]}+PTX"]
    if wanted:
        return re.split(r"[ ,;]+", wanted.strip())
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
        found = sorted(
            {line.strip().replace(".", "") for line in answer.splitlines() if line.strip()}, key=int
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        found = []
    return [*(found or ["80"]), "75+PTX"]


def code_flags(archs: list[str]) -> list[str]:
    flags = []
    for arch in archs:
        number = arch.removesuffix("+PTX")
        code = f"compute_{number}" if arch.endswith("+PTX") else f"sm_{number}"
        flags.append(f"-gencode=arch=compute_{number},code={code}")
    return flags


def cuda_units() -> list[tuple[str, str, str]]:
    """(source, object name, rule) of hotloop._cuda."""
    kernels = sorted((ROOT / "csrc/cuda").glob("*.cu"))
    bindings = [ROOT / f"csrc/bind/bind_{path.stem}.cpp" for path in kernels]
    bindings = [path for path in bindings if path.is_file()]
    bindings += [ROOT / f"csrc/bind/{name}.cpp" for name in CUDA_BINDINGS]
    units = [(str(path.relative_to(ROOT)), f"cuda_{path.stem}.o", "kernel") for path in kernels]
    return units + [(str(path.relative_to(ROOT)), f"{path.stem}.o", "compile") for path in bindings]


class NinjaBuild(build_ext):
    """Writes build.ninja and runs it."""

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        work = Path(os.environ.get("HOTLOOP_BUILD_DIR") or Path(self.build_temp) / "ninja").resolve()
        compiler = nvcc()
        if compiler is None or ext.name.endswith("._core"):
            text = self.build_file(output)
        else:
            work /= "cuda"
            text = self.cuda_build_file(output, compiler)
        work.mkdir(parents=True, exist_ok=True)
        (work / "build.ninja").write_text(text)
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

    def cuda_build_file(self, output: Path, compiler: Path) -> str:
        home = cuda_home(compiler)
        archs = cuda_archs()
        library = next((p for p in sorted(home.glob("**/libcudart_static.a"))), None)
        if library is None:
            raise FileNotFoundError(
                f"there is nvcc, but no libcudart_static.a in {home}: HOTLOOP_CUDA=0 does without"
            )
        includes = [f"-isystem{path}" for path in (home / "include", sysconfig.get_path("include"))]
        archs_text = " ".join(archs).replace(" ", "\\ ")
        defines = [
            "-DHL_BIND_CUDA", f'-DHL_VERSION=\\"{version()}\\"', f'-DHL_CUDA_ARCHS=\\"{archs_text}\\"'
        ]  # fmt: skip
        flags = [*FLAGS, "-O2", *includes, *defines, os.environ.get("CXXFLAGS", "")]
        link = [
            "-shared", f"-Wl,--version-script={ROOT.resolve() / EXPORTS}", "-Wl,-s", "-Wl,--exclude-libs,ALL",
            os.environ.get("LDFLAGS", ""),
        ]  # fmt: skip
        lines = [
            "ninja_required_version = 1.5",
            f"cxx = {os.environ.get('CXX', 'c++')}",
            f"flags = {' '.join(flags)}",
            f"cuda_flags = {' '.join([*CUDA_FLAGS, *code_flags(archs)])}",
            "rule compile",
            "  command = $cxx $flags -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = $out",
            "rule kernel",
            f"  command = {compiler} $cuda_flags -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = $out",
            "rule link",
            f"  command = $cxx $in {library} -ldl -lrt -lpthread {' '.join(link)} -o $out",
            "  description = $out",
        ]
        objects = []
        for source, name, rule in cuda_units():
            lines.append(f"build {name}: {rule} {ROOT.resolve() / source}")
            objects.append(name)
        lines.append(f"build {output}: link {' '.join(objects)} | {ROOT.resolve() / EXPORTS}")
        return "\n".join([*lines, ""])


def extensions() -> list[Extension]:
    found = [Extension("hotloop._core", sources=[source for source, _, _ in translation_units()])]
    if nvcc() is not None:
        found.append(Extension("hotloop._cuda", sources=[source for source, _, _ in cuda_units()]))
    return found


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": NinjaBuild},
    # setuptools packs what lies in its build folder: an instrumented module must never lie in the usual one
    options={"build": {"build_base": SANITIZE_BASE}} if SANITIZE else {},
)
