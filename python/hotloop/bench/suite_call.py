"""The suite `call`: what a call costs before any work is done, on the smallest shapes.

At 64 agents a rollout step is a dozen such calls, and they are half of its time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from hotloop import ops
from hotloop.bench.case import Case, Contestant, floor
from hotloop.bench.estimators import ESTIMATORS, GAMMA, LAMBDA, expected, make_inputs
from hotloop.bench.peers import peers_for
from hotloop.bench.suite import Options

SHAPES = ((8, 8),)


def cases(options: Options) -> Iterator[Case]:
    for shape in options.shapes or SHAPES:
        if options.wants("call"):
            yield call_case(shape, options)


def call_case(shape: tuple[int, int], options: Options) -> Case:
    rows, steps = shape
    estimator = next(e for e in ESTIMATORS if e.op == "puff_advantage")
    x = make_inputs(estimator.reads, rows, steps, estimator.layouts[0], 0)
    positional = (x.values, x.rewards, x.dones, x.importance, GAMMA, LAMBDA, 1.0, 1.0)
    flags = x.dones.bool()
    out, total, priorities = torch.empty(shape), torch.empty(shape), torch.empty(rows)
    overload = torch.ops.hotloop.puff_advantage.out
    indices = torch.arange(rows)
    copies = [torch.empty(shape) for _ in range(3)]
    contestants = [
        floor(estimator.moved(rows, steps), 1),
        Contestant("torch.add(a, b, out=c)", "torch", [lambda: torch.add(x.values, x.rewards, out=total)]),
        Contestant(
            "hotloop.ops.puff_advantage(..., out=out)",
            "ours",
            [lambda: ops.puff_advantage(*positional, out=out)],
            lambda returned: [returned],
        ),
        Contestant(
            "the same with bool dones",
            "ours",
            [lambda: ops.puff_advantage(x.values, x.rewards, flags, x.importance, GAMMA, LAMBDA, out=out)],
            lambda returned: [returned],
        ),
        Contestant(
            "torch.ops.hotloop.puff_advantage.out",
            "ours",
            [lambda: overload(*positional, None, None, None, out=out)],
            lambda _: [out],
        ),
        Contestant(
            "hotloop.ops.row_priorities(..., out=out)",
            "ours",
            [lambda: ops.row_priorities(x.values, out=priorities)],
        ),
        Contestant(
            "hotloop.ops.gather of 3 leaves",
            "ours",
            [lambda: ops.gather([x.values, x.rewards, x.dones], indices, out=copies)],
        ),
    ]
    absent: dict[str, str] = {}
    contestants += peers_for("call", "", [x], options.peers, absent)
    return Case(
        "call", "call", shape, estimator.moved(rows, steps), contestants,
        expected=lambda: expected(estimator, x), rtol=5e-6, absent=absent,
    )  # fmt: skip
