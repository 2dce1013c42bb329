"""Timing contestants in turn, A B C A B C ...: a machine whose speed drifts slows all of them alike."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from hotloop import _core

RESULTS = Path(__file__).parent / "results"


@dataclass
class Timing:
    """Microseconds a call."""

    median: float
    minimum: float
    maximum: float


def interleaved(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int = 200, calls: int = 1
) -> dict[str, Timing]:
    """Medians over `rounds` rounds; each round times `calls` calls of every contestant in turn."""
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for function in contestants.values():  # warm-up: caches, pages, lazy set-up
        for _ in range(calls):
            function()
    for _ in range(rounds):
        for name, function in contestants.items():
            start = time.perf_counter()
            for _ in range(calls):
                function()
            samples[name].append((time.perf_counter() - start) / calls * 1e6)
    return {name: Timing(statistics.median(s), min(s), max(s)) for name, s in samples.items()}


def machine() -> dict[str, object]:
    """What a figure needs beside it to mean anything."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "instruction_set": _core.isa(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "compiler": _core.build_info()["compiler"],
        "commit": commit.stdout.strip(),
        "malloc": os.environ.get("GLIBC_TUNABLES", "default"),
    }


def report(title: str, timings: Mapping[str, Timing], baseline: str) -> str:
    """A table with every contestant's ratio to `baseline`."""
    width = max(len(name) for name in timings)
    lines = [title]
    for name, t in timings.items():
        ratio = t.median / timings[baseline].median
        lines.append(
            f"  {name:<{width}}  {t.median:10.3f} us  [{t.minimum:.3f}, {t.maximum:.3f}]  {ratio:6.2f}x"
        )
    return "\n".join(lines)


def save(name: str, groups: dict[str, dict[str, Timing]]) -> Path:
    """Writes the medians with the machine under benchmarks/results/."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {
        "machine": machine(),
        "microseconds": {
            group: {n: asdict(t) for n, t in timings.items()} for group, timings in groups.items()
        },
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path
