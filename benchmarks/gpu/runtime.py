"""The clock of a GPU, and what must be known of it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from hotloop.bench.machine import commit

Calls = Sequence[Callable[[], object]]


class Runtime(Protocol):
    """A device on which calls are timed."""

    device: torch.device
    #: bytes of its last level of cache
    cache_bytes: int

    def microseconds(self, calls: Calls) -> float:
        """From the beginning of the first call to the end of the last, on the device; of one call."""

    def graph(self, calls: Calls) -> Callable[[], object]:
        """One call that queues them all."""

    def synchronize(self) -> None:
        """Wait until everything is done."""


class CudaRuntime:
    """The current CUDA device, timed by its own events."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.cache_bytes = int(torch.cuda.get_device_properties(self.device).L2_cache_size)

    def microseconds(self, calls: Calls) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e3 / len(calls)

    def graph(self, calls: Calls) -> Callable[[], object]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for call in calls:
                call()
        torch.cuda.current_stream().wait_stream(side)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            for call in calls:
                call()
        return recorded.replay

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)


def obstacle() -> str | None:
    """Why nothing can be timed here; None where it can."""
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = "torch was built without CUDA" if built is None else f"torch (CUDA {built}) finds no NVIDIA GPU"
        return f"needs an NVIDIA GPU, and {why}"
    try:
        import hotloop._cuda  # noqa: F401
    except ImportError as error:
        return f"needs hotloop._cuda, which does not load ({error}); see hotloop doctor"
    return None


def facts() -> dict[str, Any]:
    """What a figure needs beside it to mean anything."""
    available = torch.cuda.is_available()
    properties = torch.cuda.get_device_properties(torch.cuda.current_device()) if available else None
    return {
        "device": None if properties is None else properties.name,
        "compute_capability": None if properties is None else f"{properties.major}.{properties.minor}",
        "memory_bytes": None if properties is None else properties.total_memory,
        "multiprocessors": None if properties is None else properties.multi_processor_count,
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "clocks": _said("nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader"),
        "torch": str(torch.__version__),
        "torch_cuda": torch.version.cuda,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _said(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0] if lines else None
