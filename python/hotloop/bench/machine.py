"""What a figure needs beside it to mean anything: the processor, versions, threads, the allocator."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

#: What makes glibc keep freed blocks instead of handing them to the kernel and faulting them in again.
MALLOC_KEEP = "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=8589934592"
_DEFAULT_CACHE = 32 << 20
_SHOWN_ENVIRONMENT = (
    "OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY", "GLIBC_TUNABLES", "LD_PRELOAD",
    "HOTLOOP_ISA",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """The machine and the software, as plain values."""
    import torch

    import hotloop
    from hotloop import _core

    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "last_level_cache_bytes": last_level_cache(),
        "memory_bytes": _memory(),
        "instruction_set": _core.isa(),
        "instruction_sets_supported": list(_core.isas_supported()),
        "torch": str(torch.__version__),
        "torch_threads": torch.get_num_threads(),
        "tensordict": _version("tensordict"),
        "numpy": _version("numpy"),
        "python": platform.python_version(),
        "hotloop": hotloop.__version__,
        "compiler": _core.build_info()["compiler"],
        "commit": commit(),
        "system": f"{platform.system()} {platform.release()}",
        "environment": {name: os.environ[name] for name in _SHOWN_ENVIRONMENT if name in os.environ},
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def processor_name(cpuinfo: str | None = None) -> str:
    """The model's name from the text of /proc/cpuinfo (read when None), or what Python knows."""
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text()
        except OSError:
            cpuinfo = ""
    names = [line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def last_level_cache() -> int:
    """Bytes of the largest cache; 32 MiB where the system does not tell."""
    folder = Path("/sys/devices/system/cpu/cpu0/cache")
    try:
        return max((cache_size(p.read_text()) for p in folder.glob("index*/size")), default=_DEFAULT_CACHE)
    except (OSError, ValueError):
        return _DEFAULT_CACHE


def cache_size(text: str) -> int:
    """Bytes of `32768K`, as Linux writes it."""
    text = text.strip()
    return int(text.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(text[-1:], 0)


def commit() -> str | None:
    """The commit of the checkout that hotloop was imported from, `+` behind it where files were changed; None
    for an installed package."""
    import hotloop

    folder = Path(hotloop.__file__).parent
    if not (folder.parents[1] / "csrc").is_dir():
        return None  # some other repository may lie around an installed package
    head = _git(folder, "rev-parse", "--short", "HEAD")
    if head is None:
        return None
    return head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
