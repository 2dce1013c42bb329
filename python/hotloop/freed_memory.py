"""What the C library does with freed memory, and how to keep it.

glibc hands large freed blocks back to the kernel (those of 128 KiB to 32 MiB, by thresholds that it
moves by itself). The next tensor of that size gets fresh pages, and each is cleared and mapped at its
first touch: 5 to 6 times the cost of writing it. A training loop frees and allocates the same
activations thousands of times a second.
"""

from __future__ import annotations

from typing import NamedTuple

from hotloop import _core


class FreedMemory(NamedTuple):
    """What happens to memory that is freed."""

    kept: bool
    reason: str  # why it is not kept; empty where it is


_state = FreedMemory(False, "hotloop.keep_freed_memory() was not called")


def keep_freed_memory() -> FreedMemory:
    """Tell the C library to keep freed memory for the next allocation, for the rest of the process.

    Sets glibc's `M_MMAP_THRESHOLD` to 1 GiB and turns trimming off (`M_TRIM_THRESHOLD` -1), as
    `GLIBC_TUNABLES=glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=...` does before a
    process starts. The process then holds on to the largest amount that it ever had in use at once. Blocks
    that were allocated before are still unmapped when they are freed, so call it early.

    Without glibc, or where another allocator was preloaded (jemalloc, tcmalloc), nothing is changed.

    Returns:
        Whether freed memory is kept now, and if not, why not.
    """
    global _state
    reason = _core.keep_freed_memory()
    _state = FreedMemory(not reason, reason)
    return _state


def freed_memory() -> FreedMemory:
    """What `keep_freed_memory` came to in this process."""
    return _state
