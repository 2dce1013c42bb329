"""The process that measures: a job as JSON on stdin, events as lines of JSON on stdout.

OpenMP reads its settings when torch is loaded, so every number of threads needs a process of its own, started
with the environment that `hotloop.bench.runner` makes.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

Emit = Callable[..., None]


def main() -> int:
    job = json.loads(sys.stdin.read())
    # Whatever other packages print must not come between the events.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def emit(event: str, **fields: Any) -> None:
        channel.write(json.dumps({"event": event, **fields}) + "\n")
        channel.flush()

    return serve(job, emit)


def serve(job: dict[str, Any], emit: Emit) -> int:
    """Does a job and says how it ended; returns the exit code."""
    try:
        work(job, emit)
    except (ValueError, MemoryError) as error:
        emit("error", message=str(error) or type(error).__name__)
        return 1
    except KeyboardInterrupt:  # the terminal's Ctrl-C reaches both processes; the other one tells the user
        return 130
    emit("done")
    return 0


def work(job: dict[str, Any], emit: Emit) -> None:
    """Does a job: `suites`, `options` (fields of `Options`), `threads`, `seconds`; or `explain`, a shape."""
    import torch

    from hotloop.bench import machine

    torch.set_num_threads(job["threads"])
    torch.set_grad_enabled(False)
    if not job.get("warnings", False):
        warnings.simplefilter("ignore")
    emit("machine", machine=machine.describe())
    if "explain" in job:
        from hotloop.bench.explain import facts

        emit("explain", facts=facts(tuple(job["explain"]), job["threads"], job["seconds"]))
    else:
        _measure(job, emit)


def _measure(job: dict[str, Any], emit: Emit) -> None:
    from hotloop.bench import suites
    from hotloop.bench.case import DisagreementError, run_case
    from hotloop.bench.suite import Options

    given = dict(job["options"])
    if given.get("shapes") is not None:
        given["shapes"] = tuple(tuple(shape) for shape in given["shapes"])
    if given.get("only") is not None:
        given["only"] = tuple(given["only"])
    options = Options(**given)
    for name in job["suites"]:
        for op, why in suites.absent(name, options).items():
            emit("absent", suite=name, op=op, why=why)
        for case in suites.SUITES[name](options):
            emit("begin", suite=name, title=case.title)
            try:
                record = run_case(case, job["seconds"])
            except DisagreementError as error:
                emit("wrong", suite=name, title=case.title, message=str(error))
            else:
                emit("case", record=record)
            del case
            gc.collect()


if __name__ == "__main__":
    sys.exit(main())
