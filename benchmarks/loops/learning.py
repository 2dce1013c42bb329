"""What the contestants learn: the returns after the same number of steps, over some seeds."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from hotloop.bench.machine import usable_cores

from .environments import AbsentError
from .jobs import JOBS, Job
from .process import Entry, Worker

OURS = "hotloop"
#: The limit learns nothing, and the double plays the job at which there is nothing to learn.
DO_NOT_LEARN = ("bare", "reference")
LAST = 0.1  # of the epochs: their episodes make the final return
Listener = Callable[[Mapping[str, Any]], None]


def learn(
    jobs: Sequence[str],
    contestants: Sequence[str],
    seeds: int,
    *,
    quick: bool = False,
    listen: Listener = lambda found: None,
) -> list[dict[str, Any]]:
    """Trains everybody with every seed at the jobs that can be learnt; `listen` hears of each job.

    Nothing is timed, so as many train at once as there are cores.

    Returns:
        For each job: `job`, `steps` (agent steps), `absent`, `contestants` (each with `returns`, the final
        one of every seed, their `mean`, and `curves`, the mean of every epoch's episodes), `verdict`.

    Raises:
        WorkerError: a contestant's process failed.
    """
    found = []
    for name in jobs:
        job = JOBS[name].quick() if quick else JOBS[name]
        if not job.learn_steps:
            continue
        learners = [contestant for contestant in contestants if contestant not in DO_NOT_LEARN]
        result = _learn(job, learners, seeds, quick)
        listen(result)
        found.append(result)
    return found


def _learn(job: Job, contestants: Sequence[str], seeds: int, quick: bool) -> dict[str, Any]:
    epochs = math.ceil(job.learn_steps / job.batch_size)
    absent: dict[str, str] = {}
    curves: dict[str, list[list[list[float]]]] = {}

    def train(entry: Entry) -> list[list[float]] | str:
        try:
            worker = Worker(entry, cache)
        except AbsentError as error:
            return str(error)
        try:
            returns: list[list[float]] = worker.ask("learn", epochs=epochs)["returns"]
            return returns
        finally:
            worker.close()

    with tempfile.TemporaryDirectory(prefix="loops-") as cache, ThreadPoolExecutor(usable_cores()) as pool:
        entries = [
            Entry(name, job.name, threads=1, seed=seed, quick=quick)
            for seed in range(seeds)
            for name in contestants
        ]
        for entry, outcome in zip(entries, pool.map(train, entries), strict=True):
            if isinstance(outcome, str):
                absent[entry.contestant] = outcome
            else:
                curves.setdefault(entry.contestant, []).append(outcome)
    finals = {name: [final_return(run) for run in runs] for name, runs in curves.items()}
    return {
        "job": asdict(job),
        "steps": epochs * job.batch_size,
        "absent": absent,
        "contestants": [
            {
                "name": name,
                "returns": finals[name],
                "mean": statistics.fmean(finals[name]),
                "curves": [[statistics.fmean(e) if e else None for e in run] for run in runs],
            }
            for name, runs in curves.items()
        ],
        "verdict": verdict(finals),
    }


def final_return(epochs: Sequence[Sequence[float]]) -> float:
    """Mean return of the episodes that ended in the last tenth of the epochs, or of the newest that did; NaN
    where none ever did."""
    count = max(1, round(LAST * len(epochs)))
    late = [value for epoch in epochs[-count:] for value in epoch]
    every = [value for epoch in epochs for value in epoch]
    return statistics.fmean(late) if late else every[-1] if every else math.nan


def verdict(finals: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Where our mean lies in the spread of the others: `place` is `within`, `above` or `below` the range from
    `lowest` to `highest`, the worst and the best seed of any other; None where there is nobody to compare."""
    others = [value for name, values in finals.items() if name != OURS for value in values]
    if OURS not in finals or not others:
        return {"place": None, "lowest": None, "highest": None}
    mean, lowest, highest = statistics.fmean(finals[OURS]), min(others), max(others)
    place = "below" if mean < lowest else "above" if mean > highest else "within"
    return {"place": place, "lowest": lowest, "highest": highest}
