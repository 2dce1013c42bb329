from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hotloop import ops
from hotloop.ops import reference
from layouts import FLAG_DTYPES, same
from plan_support import Tagged
from test_gather import DTYPES, leaf

F32, I64 = torch.float32, torch.int64


def targets(n: int) -> dict[str, Tensor]:
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "env_obs": ((5, 3), torch.bfloat16),
        "dones": ((), F32),
        "last_actions": ((2,), torch.int32),
        "column": ((1,), I64),
        "baseline": ((), F32),
        "batch": ((), I64),
    }
    return {name: torch.full((n, *shape), 9).to(dtype) for name, (shape, dtype) in shapes.items()}


def sources(n: int, agents: int, seed: int = 0) -> dict[str, Tensor]:
    return {
        "env_obs": leaf((n, 5, 3), torch.uint8, seed),
        "dones": leaf((n,), torch.bool, seed),
        "last_actions": leaf((agents, 2), I64, seed) + 1,
        "column": leaf((n,), torch.int32, seed),
        "baseline": leaf((agents,), F32, seed),
        "batch": torch.tensor(n).expand(n),
    }


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 31, 33, 127, 129, 257])
def test_equals_reference(n: int) -> None:
    start, agents = 3, n + 5
    options: dict[str, Any] = {
        "offsets": {"last_actions": start, "baseline": start},
        "scales": {"env_obs": 1 / 255},
        "cleared": ("last_actions",),
    }
    ours, theirs = targets(n), targets(n)
    plan = ops.StagePlan(ours, **options)
    assert plan.count == n
    for step in range(3):
        given, g = sources(n, agents, step), torch.Generator().manual_seed(step)
        ends = tuple(torch.rand(n, generator=g) < 0.3 for _ in range(step))
        plan.stage(list(given.values()), ends)
        reference.stage_plan(theirs, given, ends, **options)
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("target_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("source_dtype", DTYPES, ids=str)
def test_converts_like_torch(target_dtype: torch.dtype, source_dtype: torch.dtype) -> None:
    target = {"x": torch.zeros(9, 3, dtype=target_dtype), "y": torch.zeros(9, dtype=target_dtype)}
    x, y = leaf((9, 3), source_dtype), leaf((9,), source_dtype)
    ops.StagePlan(target).stage([x, y])
    assert target["x"].equal(x.to(target_dtype))
    assert target["y"].equal(y.to(target_dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, F32, torch.float64], ids=str)
def test_scales_pixels(dtype: torch.dtype) -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    target = {"x": torch.empty(256, dtype=dtype)}
    ops.StagePlan(target, scales={"x": 1 / 255}).stage([pixels])
    wide = torch.float64 if dtype == torch.float64 else F32
    assert same(target["x"], (pixels.to(wide) * torch.tensor(1 / 255, dtype=wide)).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("flag_dtype", FLAG_DTYPES, ids=str)
def test_rows_of_ended_episodes_become_zeros(flag_dtype: torch.dtype, dtype: torch.dtype) -> None:
    n = 300  # more than one run of flags
    target = {"kept": torch.empty(n, 3, dtype=dtype), "cleared": torch.empty(n, 3, dtype=dtype)[:, ::2]}
    ended = [torch.arange(n) % 7 == 0, torch.arange(n) % 11 == 3]
    ones = torch.ones(n, 3, dtype=dtype)
    plan = ops.StagePlan(target, cleared=["cleared"])
    plan.stage([ones, ones[:, :2]], tuple(flags.to(flag_dtype) for flags in ended))
    assert target["kept"].equal(ones)
    expected = torch.where((ended[0] | ended[1])[:, None], torch.zeros_like(ones), ones)[:, :2]
    assert target["cleared"].equal(expected)


def test_a_nan_flag_is_true_as_in_torch() -> None:
    target = {"x": torch.zeros(2)}
    ops.StagePlan(target, cleared=["x"]).stage([torch.ones(2)], (torch.tensor([float("nan"), 0.0]),))
    assert target["x"].tolist() == [0, 1]


def test_scaled_rows_are_cleared_to_positive_zero() -> None:
    target = {"x": torch.empty(2)}
    ops.StagePlan(target, cleared=["x"], scales={"x": -1.0}).stage(
        [torch.ones(2)], (torch.tensor([1.0, 0.0]),)
    )
    assert target["x"].tolist() == [0, -1]
    assert not target["x"][0].signbit()


def test_strided_sources_and_targets() -> None:
    wide = torch.full((8, 7), 7.0)
    target = {"a": wide[::2, 1::2], "b": torch.zeros(3, 4).t()}
    a, b = leaf((3, 8), torch.float64).t()[::2], leaf((4, 1), F32).expand(4, 3)
    ops.StagePlan(target).stage([a, b])
    assert target["a"].equal(a.to(F32))
    assert target["b"].equal(b)
    target["a"].fill_(7.0)
    assert (wide == 7.0).all(), "wrote outside of the target"


def good(n: int = 3) -> dict[str, Any]:
    return {"x": torch.ones(n, 2), "y": torch.ones(n + 4)}


@pytest.mark.parametrize(
    ("change", "ends", "error", "message"),
    [
        (
            {"x": torch.ones(2, 2)},
            (),
            ValueError,
            r"source\[x\] must be of shape \[3, 2\], got float32 \[2, 2\]",
        ),
        ({"x": torch.ones(3, 3)}, (), ValueError, r"source\[x\] must be of shape \[3, 2\]"),
        ({"x": torch.ones(3)}, (), ValueError, r"source\[x\] must be of shape \[3, 2\], got float32 \[3\]"),
        ({"y": torch.ones(4)}, (), ValueError, r"source\[y\] must be of shape \[3\] from row 2 on"),
        ({"y": torch.ones(0)}, (), ValueError, r"source\[y\] must be of shape \[3\] from row 2 on"),
        ({"y": torch.tensor(1.0)}, (), ValueError, r"source\[y\] must be of shape \[3\] from row 2 on"),
        ({"x": [1]}, (), TypeError, r"source\[x\] must be a torch.Tensor, got list"),
        ({"x": torch.ones(3, 2, requires_grad=True)}, (), ValueError, "does not require grad"),
        ({"x": torch.ones(3, 2, dtype=torch.complex64)}, (), TypeError, "of a real dtype"),
        ({}, (torch.zeros(2),), ValueError, r"ends\[0\] must be \[n\] = \[3\], got float32 \[2\]"),
        ({}, (torch.zeros(3), torch.zeros(3, dtype=I64)), TypeError, r"ends\[1\] must be bool, uint8"),
    ],
)
def test_errors_leave_everything_as_it_was(
    change: dict[str, Any], ends: tuple[Tensor, ...], error: type[Exception], message: str
) -> None:
    target = {"x": torch.full((3, 2), 7.0), "y": torch.full((3,), 7.0)}
    plan = ops.StagePlan(target, offsets={"y": 2}, cleared=["x"])
    with pytest.raises(error, match=message):
        plan.stage(list({**good(), **change}.values()), ends)
    assert all((each == 7.0).all() for each in target.values())


def test_wrong_options() -> None:
    target = {"x": torch.zeros(3), "i": torch.zeros(3, dtype=I64)}
    with pytest.raises(ValueError, match="sources must be a list of 2 tensors, got 1"):
        ops.StagePlan(target).stage([torch.zeros(3)])
    with pytest.raises(ValueError, match=r"targets must have one common first size, got \[3, 4\]"):
        ops.StagePlan({**target, "y": torch.zeros(4)})
    with pytest.raises(ValueError, match=r"targets must have one common first size, got \[\]"):
        ops.StagePlan({})
    with pytest.raises(KeyError, match=r"options must be for some of \['x', 'i'\], got 'z'"):
        ops.StagePlan(target, cleared=["z"])
    with pytest.raises(KeyError, match="got 'z'"):
        ops.StagePlan(target, offsets={"z": 0})
    with pytest.raises(KeyError, match="got 'z'"):
        ops.StagePlan(target, scales={"z": 1.0})
    with pytest.raises(ValueError, match="the offset of 'x' must be at least 0, got -1"):
        ops.StagePlan(target, offsets={"x": -1})
    with pytest.raises(TypeError, match="'i' must be of a floating dtype to be scaled"):
        ops.StagePlan(target, scales={"i": 0.5})


def test_overlaps_are_refused() -> None:
    pool = torch.zeros(6)
    with pytest.raises(ValueError, match=r"target\[y\] must be memory of its own.* overlaps target\[x\]"):
        ops.StagePlan({"x": pool[:3], "y": pool[2:5]}).stage([torch.ones(3)] * 2)
    with pytest.raises(ValueError, match=r"target\[x\] must be memory of its own.* overlaps source\[x\]"):
        ops.StagePlan({"x": pool[:3]}).stage([pool[1:4]])
    with pytest.raises(ValueError, match=r"target\[x\] must be memory of its own.* overlaps ends\[0\]"):
        ops.StagePlan({"x": pool[:3]}).stage([torch.ones(3)], (pool[:3],))
    with pytest.raises(ValueError, match=r"target\[x\] must be a tensor whose elements do not overlap"):
        ops.StagePlan({"x": torch.zeros(1).expand(3)}).stage([torch.ones(3)])


def test_a_target_that_was_resized_is_refused() -> None:
    target = {"x": torch.zeros(3)}
    plan = ops.StagePlan(target)
    target["x"].resize_(2)
    with pytest.raises(ValueError, match=r"target\[x\] must be of 3 rows, got float32 \[2\]"):
        plan.stage([torch.ones(3)])


def test_subclasses_take_the_dispatcher() -> None:
    n, agents = 5, 9
    options: dict[str, Any] = {
        "offsets": {"last_actions": 2, "baseline": 4},
        "scales": {"env_obs": 1 / 255},
        "cleared": ["last_actions"],
    }
    plain, tagged = targets(n), targets(n)
    given, ends = sources(n, agents), (torch.tensor([1, 0, 0, 1, 0]).bool(),)
    ops.StagePlan(plain, **options).stage(list(given.values()), ends)
    plan = ops.StagePlan(tagged, **options)
    plan.stage([each.as_subclass(Tagged) for each in given.values()], ends)
    for name in plain:
        assert torch.equal(plain[name], tagged[name]), name
    before = {name: each.clone() for name, each in tagged.items()}
    for name in given:
        wrong = {**given, name: given[name][:1].as_subclass(Tagged)}
        with pytest.raises(ValueError, match=rf"source\[{name}\] must be of shape"):
            plan.stage(list(wrong.values()), ends)
    with pytest.raises(ValueError, match=r"ends must be \[n\] = \[5\], got \[1\]"):
        plan.stage([each.as_subclass(Tagged) for each in given.values()], (ends[0][:1],))
    assert all(torch.equal(before[name], tagged[name]) for name in before)


@pytest.mark.parametrize("through", ["pickle", "deepcopy"])
def test_copies_are_independent(through: str) -> None:
    plan = ops.StagePlan({"x": torch.zeros(2)}, offsets={"x": 1}, scales={"x": 0.5}, cleared=["x"])
    other = pickle.loads(pickle.dumps(plan)) if through == "pickle" else copy.deepcopy(plan)
    other.stage([torch.tensor([8.0, 4.0, 2.0])], (torch.tensor([False, True]),))
    assert other.targets["x"].tolist() == [2, 0]
    assert plan.targets["x"].tolist() == [0, 0]


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_property_any_windows_and_flags(data: st.DataObject) -> None:
    n, start = data.draw(st.integers(0, 20)), data.draw(st.integers(0, 4))
    shape = tuple(data.draw(st.lists(st.integers(0, 3), max_size=3)))
    dtypes = [data.draw(st.sampled_from(DTYPES)) for _ in range(2)]
    options: dict[str, Any] = {"offsets": {"x": start}, "scales": {}, "cleared": ["x"]}
    if dtypes[0].is_floating_point and data.draw(st.booleans()):
        options["scales"] = {"x": data.draw(st.sampled_from([0.5, -1 / 3]))}
    given = {"x": leaf((n + start + data.draw(st.integers(0, 2)), *shape), dtypes[1])}
    flags = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=torch.bool)
    ours, theirs = ({"x": torch.full((n, *shape), 1).to(dtypes[0])} for _ in range(2))
    ops.StagePlan(ours, **options).stage(list(given.values()), (flags,))
    reference.stage_plan(theirs, given, (flags,), **options)
    assert torch.equal(ours["x"], theirs["x"])
