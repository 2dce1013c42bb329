"""A race: all contestants at one job and one number of threads, an epoch each in turn, A B C A B C ..."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from hotloop.bench.machine import usable_cores
from hotloop.bench.timing import LOAD_LIMIT, PATIENCE

from .environments import AbsentError
from .figures import Entrant, summary
from .jobs import JOBS
from .process import Entry, Worker

WARM_UP = 2  # epochs; the first compiles what is compiled and touches all memory
PROFILED = 5  # epochs
Listener = Callable[[Mapping[str, Any]], None]
Started = tuple[Entrant, Worker]


@dataclass(frozen=True)
class Plan:
    """What to race: every contestant with every memory at every job with every number of threads."""

    jobs: tuple[str, ...]
    contestants: tuple[str, ...]
    threads: tuple[int, ...] = (1,)
    memory: tuple[str, ...] = ("default", "kept")
    rounds: int = 7
    quick: bool = False
    seed: int = 0


def run(plan: Plan, listen: Listener = lambda race: None) -> list[dict[str, Any]]:
    """Runs every race of a plan; `listen` hears each when it is over.

    Returns:
        The races, see `figures.summary`.

    Raises:
        WorkerError: a contestant's process failed.
    """
    races = []
    for threads in plan.threads:
        for job in plan.jobs:
            found = race(plan, job, threads)
            listen(found)
            races.append(found)
    return races


def race(plan: Plan, job: str, threads: int) -> dict[str, Any]:
    """One race. Contestants that cannot take part are in its `absent`, with the reason."""
    entries = [
        Entry(contestant, job, threads, memory, plan.seed, plan.quick)
        for contestant in plan.contestants
        for memory in plan.memory
    ]
    # So many at a time as there are cores: starting and compiling are not what is measured.
    with ThreadPoolExecutor(max(1, usable_cores() // threads)) as pool:
        starts = [(entry, pool.submit(_start, entry)) for entry in entries]
    try:
        started, absent = _line_up(starts)
        entrants = [entrant for entrant, _ in started]
        _rounds(started, plan.rounds)
        for entrant, worker in started:
            entrant.profile = worker.ask("profile", epochs=PROFILED)["epochs"]
    finally:
        for _, future in starts:
            with contextlib.suppress(Exception):
                future.result()[1].close()
    played = JOBS[job].quick() if plan.quick else JOBS[job]
    return summary(played, threads, entrants, absent, started[0][1].machine if started else None)


def _start(entry: Entry) -> Started:
    worker = Worker(entry)
    try:
        warm_up = [worker.ask("epoch")["seconds"] for _ in range(WARM_UP)]
    except BaseException:
        worker.close()
        raise
    return Entrant(entry.contestant, entry.memory, worker.note, worker.build, warm_up), worker


def _line_up(starts: Sequence[tuple[Entry, Future[Started]]]) -> tuple[list[Started], dict[str, str]]:
    """Who takes part, and who cannot, with the reason. Raises what went wrong with one that should."""
    started, absent = [], {}
    for entry, future in starts:
        error = future.exception()
        if error is None:
            started.append(future.result())
        elif isinstance(error, AbsentError):
            absent[f"{entry.contestant}, memory {entry.memory}"] = str(error)
        else:
            raise error
    return started, absent


def _rounds(started: Sequence[Started], rounds: int) -> None:
    """So many rounds that are quiet, or `PATIENCE` times as many altogether."""
    quiet = 0
    for _ in range(PATIENCE * rounds):
        loads = []
        for entrant, worker in started:
            answer = worker.ask("epoch")
            entrant.samples.append(answer["seconds"])
            entrant.loads.append(answer["other_load"])
            loads.append(answer["other_load"] or 0.0)
        quiet += not loads or statistics.fmean(loads) <= LOAD_LIMIT
        if quiet >= rounds:
            break
