"""Runs jobs in worker processes, one for each number of threads and setting of the allocator."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hotloop.bench.machine import MALLOC_KEEP
from hotloop.bench.suite import Options

FORMAT = 1
MALLOCS = ("default", "keep")
Listener = Callable[[Mapping[str, Any]], None]


class WorkerError(Exception):
    """A worker process said what is wrong, or ended without saying."""


@dataclass(frozen=True)
class Plan:
    """What to measure. `malloc`: `default`, or `keep`: freed memory is not handed back to the kernel."""

    suites: tuple[str, ...]
    threads: tuple[int, ...] = (1,)
    malloc: tuple[str, ...] = ("default",)
    seconds: float = 0.5
    options: Options = field(default_factory=Options)


def environment(
    threads: int, malloc: str = "default", base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment of a worker.

    Two threads and more are bound to cores and spin while they wait: unbound, a region of 0.26 ms was seen to
    take 16 ms beside one other busy process. What the caller set for OpenMP and for glibc does not count.
    """
    made = dict(os.environ if base is None else base)
    made["OMP_NUM_THREADS"] = str(threads)
    for name in ("OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"):
        made.pop(name, None)
    if threads > 1:
        made.update(OMP_PROC_BIND="TRUE", OMP_PLACES="cores", OMP_WAIT_POLICY="ACTIVE")
    made.pop("GLIBC_TUNABLES", None)
    if malloc == "keep":
        made["GLIBC_TUNABLES"] = MALLOC_KEEP
    # The worker must find this hotloop, wherever it was imported from.
    package = str(Path(__file__).parents[2])
    made["PYTHONPATH"] = os.pathsep.join(filter(None, [package, made.get("PYTHONPATH")]))
    return made


def run(plan: Plan, listen: Listener = lambda event: None) -> dict[str, Any]:
    """Measures a plan.

    `listen` hears every event as it comes, the fields `threads` and `malloc` added.

    Returns:
        The report: `format`, `machine` (of the first worker), and `runs`, each with `threads`, `malloc`,
        `environment`, `cases`, `absent` (ops that this hotloop lacks) and `wrong` (results that disagreed).

    Raises:
        WorkerError: a worker could not do its job.
    """
    report: dict[str, Any] = {"format": FORMAT, "machine": None, "runs": []}
    for threads in plan.threads:
        for malloc in plan.malloc:
            report["runs"].append(_run(plan, threads, malloc, report, listen))
    return report


def _run(plan: Plan, threads: int, malloc: str, report: dict[str, Any], listen: Listener) -> dict[str, Any]:
    job = {
        "suites": plan.suites, "options": asdict(plan.options), "threads": threads, "seconds": plan.seconds,
    }  # fmt: skip
    found: dict[str, Any] = {
        "threads": threads,
        "malloc": malloc,
        "environment": {},
        "cases": [],
        "absent": [],
        "wrong": [],
    }
    for event in events(job, environment(threads, malloc)):
        kind = event["event"]
        if kind == "machine":
            report["machine"] = report["machine"] or event["machine"]
            found["environment"] = event["machine"]["environment"]
        elif kind == "case":
            found["cases"].append(event["record"])
        elif kind in ("absent", "wrong"):
            found[kind].append({name: value for name, value in event.items() if name != "event"})
        listen({**event, "threads": threads, "malloc": malloc})
    return found


def events(job: Mapping[str, Any], env: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The events of a worker that does a job, one by one as they come.

    Raises:
        WorkerError: it reported an error, or ended without having said that it is done.
    """
    command = [sys.executable, "-m", "hotloop.bench.worker"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(env), text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    last: dict[str, Any] = {}
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job))
            process.stdin.close()
        for line in process.stdout:
            last = json.loads(line)
            if last["event"] == "error":
                raise WorkerError(last["message"])
            if last["event"] != "done":
                yield last
        process.wait()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
    if last.get("event") != "done":
        raise WorkerError(f"the measuring process ended with code {process.returncode}")
