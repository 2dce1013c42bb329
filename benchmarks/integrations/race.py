"""One host at one job: with hotloop and without, an iteration each in turn."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotloop.bench.runner import environment
from hotloop.bench.timing import LOAD_LIMIT, PATIENCE
from hotloop.bench.turns import TurnProcess

from .subject import sides

WARM_UP = 2  # iterations
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Race:
    """`python`: of the host's environment. `memory`: `default`, or `keep`: freed memory is not handed
    back."""

    host: str
    job: str
    python: Path
    threads: int = 1
    memory: str = "default"
    rounds: int = 7
    quick: bool = False
    seed: int = 0


def run(race: Race) -> dict[str, Any]:
    """Runs a race.

    Returns:
        `host`, `job`, `threads`, `memory`, `steps`, `note`, `machine`; `plain`, `hotloop` and, where the host
        has one, `floor`: lists of samples, each with `seconds`, `parts` (seconds by part that hotloop
        replaces) and `other_load`; and `summary(...)`.

    Raises:
        WorkerError: a process failed.
    """
    subjects: dict[str, TurnProcess] = {}
    samples: dict[str, list[dict[str, Any]]] = {side: [] for side in sides(race.host)}
    try:
        for side in samples:
            subjects[side] = _start(race, side)
            for _ in range(WARM_UP):
                subjects[side].ask("iteration")
        quiet = 0
        for _ in range(PATIENCE * race.rounds):
            turn = [subjects[side].ask("iteration") for side in samples]
            for side, sample in zip(samples, turn, strict=True):
                samples[side].append(sample)
            quiet += statistics.fmean(sample["other_load"] or 0.0 for sample in turn) <= LOAD_LIMIT
            if quiet >= race.rounds:
                break
        ready = subjects["hotloop"].ready
    finally:
        for subject in subjects.values():
            subject.close()
    return {
        "host": race.host, "job": race.job, "threads": race.threads, "memory": race.memory,
        **ready, **samples, "summary": summary(**samples),
    }  # fmt: skip


def summary(
    plain: Sequence[Mapping[str, Any]],
    hotloop: Sequence[Mapping[str, Any]],
    floor: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Medians of the sides.

    Returns:
        `seconds` (plain, hotloop), `whole` (their ratio), `replaced` (seconds of all parts, plain and
        hotloop),
        `part` (their ratio), `share` (of a plain iteration that is replaced), `parts`: by name plain,
        hotloop, ratio. Where there is a floor: `floor` (seconds of all parts), `at_most` (how many times
        faster than the plain ones) and `floors`: by name seconds and at most.
    """
    ours = hotloop
    names = sorted({name for sample in (*plain, *ours) for name in sample["parts"]})
    seconds = [statistics.median(sample["seconds"] for sample in side) for side in (plain, ours)]
    replaced = [statistics.median(sum(sample["parts"].values()) for sample in side) for side in (plain, ours)]
    parts = {
        name: [statistics.median(sample["parts"].get(name, 0.0) for sample in side) for side in (plain, ours)]
        for name in names
    }
    found = {
        "seconds": seconds,
        "whole": seconds[0] / seconds[1],
        "replaced": replaced,
        "part": _ratio(*replaced),
        "share": replaced[0] / seconds[0],
        "parts": {name: [*both, _ratio(*both)] for name, both in parts.items()},
    }
    if not floor:
        return found
    lowest = statistics.median(sum(sample["parts"].values()) for sample in floor)
    by_name = {name: statistics.median(sample["parts"].get(name, 0.0) for sample in floor) for name in names}
    floors = {name: [least, _ratio(parts[name][0], least)] for name, least in by_name.items()}
    return {**found, "floor": lowest, "at_most": _ratio(replaced[0], lowest), "floors": floors}


def _ratio(plain: float, ours: float) -> float | None:
    return plain / ours if ours else None


def _start(race: Race, side: str) -> TurnProcess:
    env = environment(race.threads, race.memory)
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT / "benchmarks"), env["PYTHONPATH"]])
    order = {
        "host": race.host, "job": race.job, "side": side, "threads": race.threads, "quick": race.quick,
        "seed": race.seed,
    }  # fmt: skip
    command = [str(race.python), "-m", "integrations.worker"]
    return TurnProcess(f"{race.host} ({side}) at {race.job}", command, env, order)
