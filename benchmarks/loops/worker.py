"""The process of one contestant: orders as lines of JSON on stdin, answers as lines of JSON on stdout.

The first line says who plays what; then `race` or `learning` order epochs. Between orders the process may be
stopped.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from hotloop.bench import load

from .contestants import Contestant, make_contestant
from .environments import AbsentError
from .jobs import JOBS

Emit = Callable[..., None]


def main() -> int:
    # Whatever other packages print must not come between the answers.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def emit(event: str, **fields: Any) -> None:
        channel.write(json.dumps({"event": event, **fields}) + "\n")
        channel.flush()

    try:
        return serve(json.loads(sys.stdin.readline()), emit)
    except AbsentError as error:
        emit("absent", why=str(error))
        return 0
    except KeyboardInterrupt:
        return 130


def serve(order: Mapping[str, Any], emit: Emit) -> int:
    """Does what stdin orders until it ends. `order` says who plays what: see `process.Worker`."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(order["threads"])
    if order["keep"]:
        import hotloop

        kept = hotloop.keep_freed_memory()
        if not kept.kept:
            raise AbsentError(f"freed memory cannot be kept: {kept.reason}")
    job = JOBS[order["job"]]
    start = time.perf_counter()
    if order["quick"]:
        job = job.quick()
    contestant = make_contestant(order["contestant"], job, threads=order["threads"], seed=order["seed"])
    emit("ready", note=contestant.note, build=time.perf_counter() - start, machine=_machine())
    first = Weights(contestant.network)
    try:
        for line in sys.stdin:
            given = json.loads(line)
            emit("done", **ORDERS[given["do"]](contestant, given, first))
    finally:
        contestant.close()
    return 0


class Weights:
    """The weights of a network as they were, to be put back."""

    def __init__(self, network: nn.Module) -> None:
        self._pairs = [(p, p.detach().clone()) for p in network.parameters()]

    def put_back(self) -> None:
        with torch.no_grad():
            for parameter, saved in self._pairs:
                parameter.copy_(saved)


def time_epoch(contestant: Contestant, given: Mapping[str, Any], first: Weights) -> dict[str, Any]:
    """Times one epoch. Beforehand the weights are set back to the first ones: in every epoch every contestant
    plays the episodes of an untrained policy, whose length decides what the environment costs."""
    first.put_back()
    before, start = load.read(), time.perf_counter()
    contestant.epoch()
    seconds, after = time.perf_counter() - start, load.read()
    contestant.take_returns()
    return {"seconds": seconds, "other_load": load.other_load(before, after, os.cpu_count() or 1)}


def profile(contestant: Contestant, given: Mapping[str, Any], first: Weights) -> dict[str, Any]:
    """Seconds by phase of `epochs` more epochs."""
    first.put_back()
    return {"epochs": contestant.profile(given["epochs"])}


def learn(contestant: Contestant, given: Mapping[str, Any], first: Weights) -> dict[str, Any]:
    """Trains `epochs` epochs: the returns of the episodes that ended in each."""
    returns = []
    for _ in range(given["epochs"]):
        contestant.epoch()
        returns.append(contestant.take_returns())
    return {"returns": returns}


ORDERS: Mapping[str, Callable[[Contestant, Mapping[str, Any], Weights], dict[str, Any]]] = {
    "epoch": time_epoch,
    "profile": profile,
    "learn": learn,
}


def _machine() -> dict[str, Any]:
    from hotloop.bench import machine

    return machine.describe()


if __name__ == "__main__":
    sys.exit(main())
