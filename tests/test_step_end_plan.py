"""`ops.StepEndPlan`: last actions and average rewards of a slice, against three operations of torch."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop import ops
from layouts import same
from plan_support import Tagged
from test_gather import DTYPES, leaf

F32 = torch.float32


def numbers(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)) * 3


def by_torch(averages: Tensor, rewards: Tensor, baseline: Tensor, beta: float, agents: slice) -> None:
    averages[agents] = torch.add(torch.sub(rewards, baseline).mul_(beta), baseline)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 64, 257])
@pytest.mark.parametrize("beta", [0.0, 0.1, 1.0, 1 / 3, -7.5])
def test_averages_are_those_of_torch_to_the_last_bit(n: int, beta: float) -> None:
    ours, agents = numbers(n + 5), slice(3, n + 3)
    theirs = ours.clone()
    rewards, baseline = numbers(n, 1), numbers(n, 2)
    rewards[0] = float("inf")
    last = torch.zeros(n + 5, 1, dtype=torch.int32)
    for _ in range(3):
        actions = torch.arange(n, dtype=torch.int32)
        ops.StepEndPlan(3, n + 3).finish(last, actions, ours, rewards, baseline, beta)
        by_torch(theirs, rewards, baseline, beta, agents)
        baseline = theirs[agents].clone()
        assert same(ours, theirs)
    assert last[:3].tolist() == [[0]] * 3
    assert last[3 : n + 3, 0].tolist() == list(range(n))
    assert last[n + 3 :].tolist() == [[0]] * 2


def test_arguments_may_have_any_strides() -> None:
    wide, rows = numbers(60).reshape(15, 4), numbers(24, 1).reshape(6, 4)
    ours, theirs = wide.clone()[:, 2], wide.clone()[:, 2]
    rewards, baseline = rows[:, 1], rows.flip(0)[:, 3]
    last = torch.zeros(15, 6, dtype=torch.int64)[:, ::3]
    actions = torch.arange(24).reshape(2, 12).t()[::2]
    ops.StepEndPlan(9, 15).finish(last, actions, ours, rewards, baseline, 0.3)
    by_torch(theirs, rewards, baseline, 0.3, slice(9, 15))
    assert torch.equal(ours, theirs)
    assert torch.equal(last[9:], actions)
    assert not last[:9].any()


@pytest.mark.parametrize("target_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("source_dtype", DTYPES, ids=str)
def test_actions_convert_like_torch(target_dtype: torch.dtype, source_dtype: torch.dtype) -> None:
    last, actions = torch.zeros(9, 3, dtype=target_dtype), leaf((4, 3), source_dtype)
    ops.StepEndPlan(5, 9).finish(last, actions)
    assert same(last[5:], torch.zeros(4, 3, dtype=target_dtype).copy_(actions))
    assert not last[:5].any()


def good(**change: Any) -> dict[str, Any]:
    given = {
        "last_actions": torch.full((5, 2), 7), "actions": torch.ones(3, 2), "averages": torch.full((5,), 7.0),
        "rewards": torch.ones(3), "baseline": torch.ones(3), "beta": 0.5,
    }  # fmt: skip
    return {**given, **change}


POOL = torch.full((10,), 7.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"actions": torch.ones(2, 2)}, ValueError, r"actions must be \[n, k\] = \[3, 2\], got float32 \[2"),
        ({"actions": torch.ones(3)}, ValueError, r"actions must be \[n, k\] = \[3, 2\], got float32 \[3\]"),
        ({"actions": [1]}, TypeError, "actions must be a torch.Tensor, got list"),
        ({"last_actions": torch.full((4, 2), 7)}, ValueError, "last_actions must be of at least 5 agents"),
        ({"last_actions": torch.full((5,), 7)}, ValueError, r"last_actions must be \[A, k\]"),
        ({"averages": torch.full((4,), 7.0)}, ValueError, r"averages must be of at least 5 agents"),
        ({"averages": torch.full((5,), 7.0).double()}, TypeError, "averages must be float32, got float64"),
        ({"rewards": torch.ones(4)}, ValueError, r"rewards must be \[n\] = \[3\], got float32 \[4\]"),
        ({"rewards": torch.ones(3).half()}, TypeError, "rewards must be float32, got float16"),
        ({"rewards": None}, TypeError, "rewards must be a torch.Tensor, got NoneType"),
        ({"rewards": torch.ones(3, requires_grad=True)}, ValueError, "does not require grad"),
        ({"baseline": torch.ones(3, 1)}, ValueError, r"baseline must be \[n\] = \[3\], got float32 \[3, 1\]"),
        ({"baseline": torch.ones(3).long()}, TypeError, "baseline must be float32, got int64"),
        ({"beta": "much"}, TypeError, "beta must be a number, got str"),
        ({"averages": POOL[:5], "rewards": POOL[4:7]}, ValueError, "averages must be memory of its own"),
        ({"averages": POOL[:5], "baseline": POOL[2:5]}, ValueError, "averages must be memory of its own"),
        ({"averages": torch.full((1,), 7.0).expand(5)}, ValueError, "whose elements do not overlap"),
        (
            {"last_actions": POOL.view(5, 2), "actions": POOL[:6].view(3, 2)},
            ValueError,
            "last_actions must be memory of its own",
        ),
    ],
)  # fmt: skip
def test_errors_leave_everything_as_it_was(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = good(**change)
    with pytest.raises(error, match=rf"StepEndPlan\.finish: {message}" if "must" in message else message):
        ops.StepEndPlan(2, 5).finish(*given.values())
    assert (given["last_actions"] == 7).all()
    assert (given["averages"] == 7).all()


def test_slices_that_are_none_are_refused() -> None:
    for start, stop in ((-1, 2), (2, 2), (3, 2)):
        with pytest.raises(ValueError, match=rf"0 <= start < stop, got \[{start}, {stop}\)"):
            ops.StepEndPlan(start, stop)


def test_subclasses_take_the_dispatcher() -> None:
    plan, given, theirs = ops.StepEndPlan(2, 5), good(), good()
    plan.finish(*theirs.values())
    tagged = [x.as_subclass(Tagged) if isinstance(x, Tensor) else x for x in given.values()]
    assert not plan.try_finish(*tagged)
    assert (given["averages"] == 7).all()
    plan.finish(*tagged)
    for name in ("last_actions", "averages"):
        assert torch.equal(given[name], theirs[name])
    before = given["averages"].clone()
    for name, wrong in (
        ("actions", torch.ones(2, 2)),
        ("rewards", torch.ones(2)),
        ("baseline", torch.ones(2)),
    ):
        with pytest.raises(ValueError, match=rf"{name} must be \[n"):
            plan.finish(*good(averages=given["averages"], **{name: wrong.as_subclass(Tagged)}).values())
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor, got NoneType"):
        plan.finish(*good(actions=torch.ones(3, 2).as_subclass(Tagged), rewards=None).values())
    assert torch.equal(given["averages"], before)


def test_writes_advance_the_version_counters() -> None:
    given = good()
    versions = [given[name]._version for name in ("last_actions", "averages")]
    ops.StepEndPlan(2, 5).finish(*given.values())
    assert all(
        given[name]._version > v for name, v in zip(("last_actions", "averages"), versions, strict=True)
    )


def test_it_can_be_pickled() -> None:
    plan = pickle.loads(pickle.dumps(ops.StepEndPlan(2, 5)))
    assert (plan.start, plan.stop) == (2, 5)
