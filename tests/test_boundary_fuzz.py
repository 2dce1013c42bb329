"""The native boundary under arguments of chance: see `boundary_fuzz`. `make fuzz` runs many more cases."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from boundary_fuzz import Call, corpus, run_case
from hotloop import _core, ops


@cache
def calls() -> list[Call]:
    return corpus()


def test_every_native_op_is_called() -> None:
    native = {name for name in dir(_core) if name[0] != "_" and hasattr(torch.ops.hotloop, name)}
    assert native <= {call.name for call in calls()}


@pytest.mark.filterwarnings("ignore")
def test_whatever_stands_for_an_argument() -> None:
    """As many cases for each op: of cases spread over all of them, a check that one op lacks sees too few."""
    for call in calls():
        try_arguments_of(call)


def try_arguments_of(call: Call) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def cases(data: st.DataObject) -> None:
        run_case([call], lambda n: data.draw(st.integers(0, n - 1)))

    cases()


@pytest.mark.filterwarnings("ignore")
def test_many_cases_of_chance() -> None:
    outcomes = {run_case(calls(), random.Random(number).randrange) for number in range(1500)}
    assert {"returned", "TypeError", "ValueError"} <= outcomes


def planted(function: Any) -> list[Call]:
    return [Call("planted", function, (torch.zeros(3, 4), torch.zeros(3, 4), 1.0))]


def writes_and_raises(x: Any, y: Any, _: Any) -> None:
    if isinstance(x, Tensor) and x.dtype == torch.float32 and x.dim() and not x.requires_grad:
        x.fill_(5.0)
    raise ValueError("after the fact")


def writes_behind(x: Any, y: Any, _: Any) -> None:
    if isinstance(x, Tensor) and x.layout == torch.strided and not x.is_meta and not x.is_neg():
        whole = torch.empty(0, dtype=torch.uint8).set_(x.detach().untyped_storage())  # type: ignore[call-overload]
        whole[-1:] += 1


def breaks(x: Any, y: Any, _: Any) -> None:
    raise SystemError("error return without exception set")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (writes_and_raises, AssertionError, r"wrote to Tensor.* and raised ValueError"),
        (writes_behind, AssertionError, "wrote outside of"),
        (breaks, SystemError, "without exception"),
    ],
)
def test_a_planted_fault_is_noticed(function: Any, error: type[Exception], message: str) -> None:
    def many() -> None:
        for number in range(300):
            run_case(planted(function), random.Random(number).randrange)

    with pytest.raises(error, match=message):
        many()


def test_numbers_that_are_too_large_are_refused_and_not_wrapped() -> None:
    with pytest.raises((OverflowError, TypeError, ValueError)):
        ops.sample_segments(torch.ones(5), 2**70, 3, law="successive", seed=0, epoch=0, minibatch=0)


class Tagged(Tensor):
    """Goes the way through torch, which the native module's checks do not guard."""


def test_the_ways_through_torch_refuse_what_is_no_tensor_before_they_write() -> None:
    target, index = torch.zeros(2, 3).as_subclass(Tagged), torch.tensor([0, 1])
    with pytest.raises(TypeError, match=r"StagePlan.stage: each source must be a torch.Tensor, got str"):
        ops.StagePlan({"x": target}).stage(["x"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"GatherPlan.gather: .*source.* must be a torch.Tensor, got str"):
        ops.GatherPlan({"x": target}).gather(["x"], index)  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"GatherPlan.gather: indices must be a torch.Tensor, got list"):
        ops.GatherPlan({"x": target}).gather([torch.zeros(2, 3)], [0, 1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"GatherPlan.gather: each target must be a torch.Tensor, got float"):
        ops.GatherPlan({"x": 1.0}).gather([target], index)  # type: ignore[dict-item]
    column = torch.zeros(2, 3).as_subclass(Tagged)
    plan, last = ops.StorePlan({"x": column}, ["x"], ops.RowCursors(2, 2, 3)), ops.LastActions(2)
    with pytest.raises(TypeError, match=r"StorePlan.store: actions must be a torch.Tensor, got str"):
        plan.store({"x": torch.ones(2), "actions": "x"}, 0, 2, last)
    with pytest.raises(TypeError, match=r"StorePlan.store: each source must be a torch.Tensor, got NoneType"):
        plan.store({"x": None}, 0, 2)  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="does not require grad"):
        plan.store({"x": torch.ones(2), "actions": torch.ones(2, requires_grad=True)}, 0, 2, last)
    with pytest.raises(ValueError, match="store_: sources"):
        plan.store({"x": torch.ones(2, 2), "actions": torch.ones(2)}, 0, 2, last)
    assert not last.buffer.any()
    assert plan.cursors.positions.tolist() == [0, 0]
    assert not column.any()
