"""The suite `advantages`: every estimator, in every layout it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from hotloop import ops
from hotloop.bench.case import Case, Contestant, Result, floor, sets_for
from hotloop.bench.estimators import ESTIMATORS, Estimator, absent_estimators, expected, make_inputs
from hotloop.bench.peers import peers_for
from hotloop.bench.suite import Options

SHAPES = ((64, 64), (1024, 64), (4096, 128), (16384, 64), (64, 2048))
#: Of the estimators that share the engine of the first two, so that a whole run stays within minutes.
FEW_SHAPES = ((1024, 64), (4096, 128))
_ALL_SHAPES_OF = ("puff_advantage", "gae")


def cases(options: Options) -> Iterator[Case]:
    """One case for each estimator, layout and shape, made when it is its turn and forgotten afterwards."""
    for estimator in ESTIMATORS:
        if not estimator.available or not options.wants(estimator.op):
            continue
        for layout in estimator.layouts:
            for shape in options.shapes or default_shapes(estimator.op):
                yield _case(estimator, layout, shape, options)


def default_shapes(op: str) -> tuple[tuple[int, int], ...]:
    """What an estimator is measured on where nothing else is asked for."""
    return SHAPES if op in _ALL_SHAPES_OF else FEW_SHAPES


def absent(options: Options) -> dict[str, str]:
    """Estimators that are not there."""
    return {name: why for name, why in absent_estimators().items() if options.wants(name)}


def _case(estimator: Estimator, layout: str, shape: tuple[int, int], options: Options) -> Case:
    rows, steps = shape
    moved = estimator.moved(rows, steps)
    sets = sets_for(shape, moved, options.rotate)
    inputs = [make_inputs(estimator.reads, rows, steps, layout, seed) for seed in range(sets)]
    contestants = [floor(moved, sets), _ours(estimator, inputs)]
    missing: dict[str, str] = {}
    contestants += peers_for(estimator.op, layout, inputs, options.peers, missing)
    return Case(
        "advantages",
        estimator.op,
        shape,
        moved,
        contestants,
        layout=layout,
        expected=lambda: expected(estimator, inputs[0]),
        rtol=5e-6,
        absent=missing,
        sets=sets,
    )


def _ours(estimator: Estimator, inputs: Sequence[Any]) -> Contestant:
    op: Callable[..., Any] = getattr(ops, estimator.op)
    calls = []
    for x in inputs:
        shape = vars(x)[estimator.reads[0]].shape
        out = tuple(torch.empty(shape) for _ in range(estimator.writes))
        calls.append(partial(estimator.call, op, x, out))
    return Contestant(f"hotloop.ops.{estimator.op}", "ours", calls, _as_results)


def _as_results(returned: Any) -> Result:
    return list(returned) if isinstance(returned, (tuple, list)) else [returned]
