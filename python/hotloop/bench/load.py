"""How busy the machine is with other work: what makes a timing worthless without showing in it."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
# In /proc/stat's first line: user nice system idle iowait irq softirq steal (guest times are part of user).
_IDLE = (3, 4)
_COLUMNS = 8


@dataclass(frozen=True)
class Reading:
    """Processor seconds so far: of all processes, of this one; and the clock."""

    busy: float
    own: float
    clock: float


def busy_seconds(stat: str) -> float:
    """Seconds in which a processor was not idle, from the text of /proc/stat; stolen time counts."""
    fields = stat.split("\n", 1)[0].split()
    if not fields or fields[0] != "cpu":
        raise ValueError(f"busy_seconds: /proc/stat must start with 'cpu', got {stat[:40]!r}")
    ticks = [int(field) for field in fields[1 : 1 + _COLUMNS]]
    return (sum(ticks) - sum(ticks[i] for i in _IDLE if i < len(ticks))) / _TICKS


def read() -> Reading | None:
    """The state now, or None where the system does not tell."""
    try:
        busy = busy_seconds(Path("/proc/stat").read_text())
    except (OSError, ValueError):
        return None
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Reading(busy, usage.ru_utime + usage.ru_stime, time.perf_counter())


def other_load(before: Reading | None, after: Reading | None, processors: int) -> float | None:
    """The share of all processors that others used between two readings, 0 to 1; None where unknown.

    /proc/stat counts in ticks of 10 ms, so a window should be some tenths of a second long.
    """
    if before is None or after is None or after.clock <= before.clock:
        return None
    others = (after.busy - before.busy) - (after.own - before.own)
    return min(1.0, max(0.0, others / ((after.clock - before.clock) * processors)))
