"""Freed memory stays with the process: seen in the page faults that the kernel counts."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hotloop

PROGRAM = """
import resource, torch, hotloop
torch.set_num_threads(1)
if {keep}:
    print(hotloop.keep_freed_memory())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones({elements})  # freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
GLIBC = platform.libc_ver()[0] == "glibc"
PAGE = resource.getpagesize()


def run(keep: bool, elements: int, **environment: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(keep=keep, elements=elements)],
        capture_output=True,
        text=True,
        check=True,
        # settings of the machine must not decide
        env={k: v for k, v in os.environ.items() if k not in ("GLIBC_TUNABLES", "LD_PRELOAD")} | environment,
    )
    return result.stdout.splitlines()


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
def test_blocks_are_used_again_without_page_faults() -> None:
    elements = 16 << 20  # 64 MiB: more than glibc ever keeps by itself
    pages = elements * 4 // PAGE
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if huge.exists() and "[always]" in huge.read_text():
        pages //= 512  # one fault maps 2 MiB
    state, kept = run(True, elements)
    assert state == "FreedMemory(kept=True, reason='')"
    assert int(kept) < pages
    (released,) = run(False, elements)
    assert int(released) > 10 * pages


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
def test_another_allocator_is_left_alone(tmp_path: Path) -> None:
    source = tmp_path / "other.c"
    source.write_text(
        "#include <stddef.h>\nvoid* __libc_malloc(size_t n);\n"
        "void* malloc(size_t n) { return __libc_malloc(n); }\n"
    )
    library = tmp_path / "libother.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    state, _ = run(True, 8, LD_PRELOAD=str(library))
    assert state == 'FreedMemory(kept=False, reason="malloc is that of libother.so, not glibc\'s")'


def test_the_state_is_remembered() -> None:
    from hotloop.freed_memory import freed_memory

    state = hotloop.keep_freed_memory()
    assert state.kept == (state.reason == "")
    assert freed_memory() == state
    assert torch.ones(3).sum() == 3
