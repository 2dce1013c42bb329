"""Compiles every CUDA kernel for every architecture that releases are for, and reads what ptxas says of it.

1. Warnings are errors, of the front end and of ptxas alike.
2. No kernel spills registers or uses a stack, and none takes more than MAX_REGISTERS.
3. The table of registers and shared memory in docs/cuda.md is that of this compilation (where it was made
   with the same version of nvcc; otherwise the difference is told and no more).

Where there is no nvcc it says so and passes: nothing of this can be checked there.

usage: python tools/cuda_gate.py [--write]      --write puts the table into docs/cuda.md
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "csrc"
BUILD = ROOT / "build/cuda_gate"
DOCUMENT = ROOT / "docs/cuda.md"
ARCHS = ("75", "80", "86", "89", "90", "100", "120")
# With 256 threads a block, a multiprocessor of 65,536 registers then holds two blocks at least.
MAX_REGISTERS = 128
FLAGS = [
    "-std=c++17", "-O3", "-fmad=false", "--expt-relaxed-constexpr", "-Werror", "all-warnings",
    "-Xptxas", "-v,-Werror",
]  # fmt: skip
ACCESSES = ("any", "steps", "rows")  # of csrc/cuda/plain.cuh, in its order
BEGIN, END = "<!-- kernels: written by tools/cuda_gate.py --write -->", "<!-- end of kernels -->"

ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<arch>\d+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Kernel:
    """What ptxas says of one kernel on one architecture. Bytes, but for the registers."""

    name: str
    arch: str
    registers: int
    stack: int
    spilled: int
    shared: int


def find_nvcc() -> Path | None:
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [shutil.which("nvcc"), *(f"{home}/bin/nvcc" for home in homes if home)]
    return next((Path(place) for place in places if place and Path(place).is_file()), None)


def nvcc_version(nvcc: Path) -> str:
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"V(\d+\.\d+\.\d+)", said)
    return match.group(1) if match else "unknown"


def parse(log: str) -> list[Kernel]:
    """The kernels in what `ptxas -v` printed, under their mangled names."""
    found = []
    for match in ENTRY.finditer(log):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        spilled = int(match["stores"]) + int(match["loads"])
        found.append(
            Kernel(
                match["name"], match["arch"], int(match["registers"]), int(match["stack"]), spilled,
                int(shared.group(1)) if shared else 0,
            )
        )  # fmt: skip
    return found


def readable(names: list[str]) -> dict[str, str]:
    """Mangled names as they are written, without what all of them share."""
    said = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    short = {}
    for mangled, name in zip(names, said, strict=True):
        name = re.sub(r"hotloop::(device::)?|\(anonymous namespace\)::|^void ", "", name)
        name = name[: name.rindex("(")]
        name = re.sub(r"\(Access\)(\d)", lambda found: ACCESSES[int(found[1])], name)
        name = re.sub(r"DepartureEstimator<(?:float|double), (\w+<\w+>) ?>", r"\1", name)
        short[mangled] = name.replace("_kernel", "").replace(" >", ">")
    return short


def included(source: Path) -> list[Path]:
    """A file and the project's own headers that it includes, whatever way."""
    found: list[Path] = []
    waiting = [source.resolve()]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.append(path)
        names = re.findall(r'^\s*#\s*include "([^"]+)"', path.read_text(), re.MULTILINE)
        waiting += [(path.parent / name).resolve() for name in names]
    return sorted(found)


def compile_all(nvcc: Path, source: Path) -> str:
    """What nvcc and ptxas print for one file, all architectures; kept until a source changes."""
    codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ARCHS]
    codes.append(f"-gencode=arch=compute_{ARCHS[-1]},code=compute_{ARCHS[-1]}")
    command = [str(nvcc), *FLAGS, *codes, "-c", str(source), "-o", str(BUILD / f"{source.stem}.o")]
    digest = hashlib.sha256(" ".join([nvcc_version(nvcc), *command]).encode())
    for path in included(source):
        digest.update(path.read_bytes())
    kept = BUILD / f"{source.stem}.{digest.hexdigest()[:16]}.log"
    if kept.is_file():
        return kept.read_text()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    log = result.stdout + result.stderr
    if result.returncode != 0:
        raise RuntimeError(f"{source.name} does not compile:\n{log}")
    kept.write_text(log)
    return log


def complaints(kernels: list[Kernel]) -> list[str]:
    wrong = []
    for k in kernels:
        where = f"{k.name} on sm_{k.arch}"
        if k.spilled:
            wrong.append(f"{where} spills {k.spilled} bytes")
        if k.stack:
            wrong.append(f"{where} uses {k.stack} bytes of stack")
        if k.registers > MAX_REGISTERS:
            wrong.append(f"{where} takes {k.registers} registers, more than {MAX_REGISTERS}")
    return wrong


def table(kernels: list[Kernel], version: str) -> str:
    """Markdown: a line a kernel, its registers on each architecture, its static shared memory in bytes."""
    lines = [
        f"nvcc {version}; registers a thread on each architecture, and bytes of static shared memory."
        " No kernel spills or uses a stack.",
        "",
        "| kernel | " + " | ".join(f"sm_{arch}" for arch in ARCHS) + " | shared |",
        "| --- |" + " ---: |" * (len(ARCHS) + 1),
    ]
    by_name: dict[str, dict[str, Kernel]] = {}
    for kernel in kernels:
        by_name.setdefault(kernel.name, {})[kernel.arch] = kernel
    for name, on in sorted(by_name.items()):
        registers = " | ".join(str(on[arch].registers) if arch in on else "-" for arch in ARCHS)
        lines.append(f"| `{name}` | {registers} | {max(k.shared for k in on.values())} |")
    return "\n".join(lines)


def written_table(text: str) -> str:
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def check_document(wanted: str, version: str, write: bool) -> str | None:
    """What is wrong with the table in the document, or None."""
    text = DOCUMENT.read_text()
    if BEGIN not in text or END not in text:
        return f"{DOCUMENT.name} has no place for the table of kernels"
    if write:
        before, after = text.partition(BEGIN)[0], text.partition(END)[2]
        DOCUMENT.write_text(f"{before}{BEGIN}\n{wanted}\n{END}{after}")
        return None
    kept = written_table(text)
    if kept == wanted:
        return None
    if not kept.startswith(f"nvcc {version};"):
        print(f"cuda_gate: the table in {DOCUMENT.name} was made with another nvcc: {kept.partition(';')[0]}")
        return None
    return f"the table in {DOCUMENT.name} is not that of these kernels: python tools/cuda_gate.py --write"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/cuda.md")
    write = parser.parse_args().write
    nvcc = find_nvcc()
    if nvcc is None:
        print("cuda_gate: SKIPPED, THERE IS NO NVCC: no CUDA kernel was compiled and nothing was checked")
        return 0
    BUILD.mkdir(parents=True, exist_ok=True)
    version = nvcc_version(nvcc)
    sources = sorted((SOURCES / "cuda").glob("*.cu"))
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            logs = list(pool.map(lambda source: compile_all(nvcc, source), sources))
    except RuntimeError as problem:
        print(f"cuda_gate: {problem}")
        return 1
    found = {(k.name, k.arch): k for log in logs for k in parse(log)}  # a kernel of two files is one
    names = readable(sorted({name for name, _ in found}))
    kernels = [
        Kernel(names[k.name], k.arch, k.registers, k.stack, k.spilled, k.shared) for k in found.values()
    ]
    text = table(kernels, version)
    print(text)
    wrong = complaints(kernels)
    missing = [arch for arch in ARCHS if not any(k.arch == arch for k in kernels)]
    wrong += [f"nothing was compiled for sm_{arch}" for arch in missing]
    document = check_document(text, version, write)
    wrong += [document] if document else []
    for each in wrong:
        print(f"cuda_gate: {each}")
    if not wrong:
        size = f"{len(names)} kernels in {len(sources)} files"
        print(f"cuda_gate: {size}, {len(ARCHS)} architectures and PTX: passed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
