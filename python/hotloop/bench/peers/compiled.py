"""`torch.compile` of the loop over time. It is unrolled, so the time to compile grows with the steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from hotloop.bench.case import Contestant
from hotloop.bench.peers import Unfit, loops

_MOST_STEPS = 128


def contestants(op: str, layout: str, inputs: Sequence[Any]) -> Iterator[Contestant]:
    steps = inputs[0].steps
    if steps > _MOST_STEPS:
        raise Unfit(f"compiling a loop of {steps} steps takes over a minute (run up to {_MOST_STEPS})")
    torch.compiler.reset()

    def compiled(loop: Any) -> Any:
        return torch.compile(loop, dynamic=False)

    calls = loops.calls(op, inputs, compiled)
    try:
        calls[0]()
    except Exception as error:  # the compiler below it may be missing
        raise Unfit(f"torch.compile fails here: {type(error).__name__}: {str(error)[:200]}") from error
    yield Contestant("torch.compile of the loop", "loop", calls, loops.results, note="compiled before timing")
