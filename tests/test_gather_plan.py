from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from hotloop import ops
from hotloop.ops import reference
from layouts import same
from plan_support import Tagged, flat, tree
from test_gather import DTYPES, draw, leaf

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 31, 33, 127, 129])
def test_equals_reference(rows: int) -> None:
    buffer = tree((rows, 4))
    for count in (0, 1, 8, 33):
        plan = ops.GatherPlan.allocate(flat(buffer), count)
        expected = {key: torch.empty_like(each) for key, each in plan.out.items()}
        for seed in range(2):
            indices = draw(rows, count).add(seed) % rows
            plan.gather(buffer, indices)
            reference.gather_plan(expected, flat(buffer), indices, {})
            for key, wanted in expected.items():
                assert torch.equal(plan.out[key], wanted), key


@pytest.mark.parametrize("out_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("source_dtype", DTYPES, ids=str)
def test_converts_like_torch(source_dtype: torch.dtype, out_dtype: torch.dtype) -> None:
    sources = {"x": leaf((9, 33), source_dtype), "y": leaf((9,), source_dtype)}
    plan = ops.GatherPlan.allocate(sources, 12, dtypes={"x": out_dtype, "y": out_dtype})
    indices = draw(9, 12)
    plan.gather(sources, indices)
    for key, source in sources.items():
        assert plan.out[key].dtype == out_dtype
        assert torch.equal(plan.out[key], source[indices].to(out_dtype))


@pytest.mark.parametrize("out_dtype", FLOATING, ids=str)
@pytest.mark.parametrize("source_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1 / 255, -3.0, 0.0, 1e-30])
def test_scales_in_float_and_rounds_once(
    source_dtype: torch.dtype, out_dtype: torch.dtype, scale: float
) -> None:
    source = torch.arange(256).reshape(4, 64).to(source_dtype)
    if source_dtype.is_floating_point:
        source = torch.cat([source / 7, torch.tensor([[float("inf"), float("nan"), -0.0, 1e-6] * 16])]).to(
            source_dtype
        )
    plan = ops.GatherPlan({"x": torch.empty(len(source), 64, dtype=out_dtype)}, scales={"x": scale})
    plan.gather({"x": source}, torch.arange(len(source)))
    wide = torch.float64 if torch.float64 in (source_dtype, out_dtype) else torch.float32
    expected = (source.to(wide) * torch.tensor(scale, dtype=wide)).to(out_dtype)
    assert same(plan.out["x"], expected)
    twin = {"x": torch.empty_like(plan.out["x"])}
    reference.gather_plan(twin, {"x": source}, torch.arange(len(source)), {"x": scale})
    assert same(plan.out["x"], twin["x"])


def test_every_pixel_scaled_to_one() -> None:
    """An oracle from outside: numpy's own division and rounding."""
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 256)
    plan = ops.GatherPlan({"x": torch.empty(1, 256)}, scales={"x": 1 / 255})
    plan.gather({"x": pixels}, torch.tensor([0]))
    expected = pixels.numpy().astype(np.float32) * np.float32(1 / 255)
    assert (plan.out["x"].numpy() == expected).all()
    assert plan.out["x"][0, 255] == 1.0


def test_strided_leaves_outputs_and_indices() -> None:
    base = leaf((40, 12, 10), torch.float32)
    wide = torch.full((9, 25, 25), 7.0)
    for source in (base[::2], base[:20].transpose(1, 2), base[1:21, 2:9, 4:7], base[:1].expand(20, 12, 10)):
        out = wide[:, 1 : 2 * source.shape[1] + 1 : 2, 1 : 2 * source.shape[2] + 1 : 2]
        plan = ops.GatherPlan({"x": out})
        indices = draw(20, 18)[::2]
        plan.gather([source], indices)
        assert torch.equal(out, source[indices])
        out.fill_(7.0)
        assert (wide == 7.0).all(), "wrote outside of out"


def test_leaves_that_are_replaced_are_read_where_they_are_now() -> None:
    buffer = TensorDict({"x": torch.zeros(4, 3)}, [4])
    plan = ops.GatherPlan.allocate({"x": buffer["x"]}, 2)
    indices = torch.tensor([3, 0])
    buffer["x"] = torch.arange(12.0).reshape(4, 3)
    plan.gather(buffer, indices)
    assert plan.out["x"].tolist() == [[9, 10, 11], [0, 1, 2]]
    buffer["x"] = torch.arange(12).reshape(4, 3) * 2  # int64: converted
    plan.gather(buffer, indices)
    assert plan.out["x"].tolist() == [[18, 20, 22], [0, 2, 4]]
    buffer["x"].data = torch.full((4, 3), 5)
    plan.gather(buffer, indices)
    assert plan.out["x"].unique().tolist() == [5]
    buffer["x"].resize_(2, 3)
    with pytest.raises(IndexError, match=r"indices\[0\] must be in \[0, 2\) \(rows of the source\), got 3"):
        plan.gather(buffer, indices)
    buffer = TensorDict({"x": torch.zeros(4, 2)}, [4])
    with pytest.raises(ValueError, match=r"out\[x\] must be of shape \[2, 2\], got float32 \[2, 3\]"):
        plan.gather(buffer, indices)


def test_memory_is_used_again() -> None:
    plan = ops.GatherPlan.allocate({"x": torch.zeros(5, 2)}, 3)
    address, version = plan.out["x"].data_ptr(), plan.out["x"]._version
    plan.gather([torch.ones(5, 2)], torch.zeros(3, dtype=torch.int64))
    assert plan.out["x"].data_ptr() == address
    assert plan.out["x"]._version > version


@pytest.mark.parametrize(
    ("change", "indices", "error", "message"),
    [
        ({}, torch.tensor([0, 4]), IndexError, r"indices\[1\] must be in \[0, 4\) .*, got 4"),
        ({}, torch.tensor([0, -1]), IndexError, r"indices\[1\] must be in \[0, 4\) .*, got -1"),
        ({}, torch.tensor([0, 2**40]), IndexError, r"indices\[1\] must be"),
        ({}, torch.tensor([0.0, 1.0]), TypeError, "indices must be int64, got float32"),
        ({}, torch.tensor([0, 1], dtype=torch.int32), TypeError, "indices must be int64, got int32"),
        ({}, torch.tensor([[0, 1]]), ValueError, r"indices must be \[k\], got int64 \[1, 2\]"),
        ({}, [0, 1], TypeError, "indices must be a torch.Tensor, got list"),
        ({}, torch.tensor([0, 1, 2]), ValueError, r"out\[x\] must be of shape \[3, 2\]"),
        ({"y": torch.zeros(5)}, None, ValueError, r"source\[y\] must be of 4 rows, like the first leaf"),
        ({"y": torch.zeros(4, 1)}, None, ValueError, r"out\[y\] must be of shape \[2, 1\]"),
        ({"y": torch.zeros(())}, None, ValueError, r"source\[y\] must be of at least 1 dimension"),
        ({"y": 3}, None, TypeError, r"source\[y\] must be a torch.Tensor, got int"),
        ({"y": torch.zeros(4, device="meta")}, None, TypeError, r"source\[y\] must be"),
    ],
)
def test_errors_leave_everything_as_it_was(
    change: dict[str, Any], indices: Any, error: type[Exception], message: str
) -> None:
    out = {"x": torch.full((2, 2), 7.0), "y": torch.full((2,), 7.0)}
    plan = ops.GatherPlan(out)
    source = {"x": torch.zeros(4, 2), "y": torch.zeros(4), **change}
    with pytest.raises(error, match=f"GatherPlan.gather: {message}"):
        plan.gather(source, torch.tensor([0, 1]) if indices is None else indices)
    assert all((each == 7.0).all() for each in out.values())


def test_missing_keys_and_wrong_options() -> None:
    plan = ops.GatherPlan({"x": torch.zeros(2)})
    with pytest.raises(KeyError, match="x"):
        plan.gather({}, torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="source must be one tensor for each of the 1 leaves, got 2"):
        plan.gather([torch.zeros(3)] * 2, torch.tensor([0, 0]))
    with pytest.raises(KeyError, match=r"scales must be for some of \['x'\], got 'z'"):
        ops.GatherPlan({"x": torch.zeros(2)}, scales={"z": 2.0})
    with pytest.raises(TypeError, match=r"'x' must be of a floating dtype to be scaled, got torch\.int32"):
        ops.GatherPlan({"x": torch.zeros(2, dtype=torch.int32)}, scales={"x": 2.0})
    with pytest.raises(KeyError, match=r"dtypes must be for some of \['x'\], got 'z'"):
        ops.GatherPlan.allocate({"x": torch.zeros(2)}, 1, dtypes={"z": torch.int32})


def test_overlaps_are_refused() -> None:
    pool = torch.zeros(6, 2)
    indices = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"out\[x\] must be memory of its own.* overlaps source\[x\]"):
        ops.GatherPlan({"x": pool[2:4]}).gather({"x": pool[:3]}, indices)
    both = {"x": torch.zeros(3, 2), "y": torch.zeros(3, 2)}
    with pytest.raises(ValueError, match=r"out\[y\] must be memory of its own.* overlaps out\[x\]"):
        ops.GatherPlan({"x": pool[:2], "y": pool[1:3]}).gather(both, indices)
    with pytest.raises(ValueError, match=r"out\[x\] must be a tensor whose elements do not overlap"):
        ops.GatherPlan({"x": torch.zeros(1, 2).expand(2, 2)}).gather({"x": pool}, indices)
    with pytest.raises(ValueError, match=r"out\[x\] must be memory of its own.* overlaps indices"):
        ops.GatherPlan({"x": indices}).gather({"x": torch.zeros(3, dtype=torch.int64)}, indices)


def test_no_leaves() -> None:
    ops.GatherPlan({}).gather({}, torch.tensor([0, 5]))


def test_subclasses_take_the_dispatcher() -> None:
    source = {"x": torch.arange(256).to(torch.uint8).reshape(4, 64), "y": torch.rand(4)}
    tagged = {key: each.as_subclass(Tagged) for key, each in source.items()}
    indices = torch.tensor([2, 0, 2])
    for dtype in FLOATING:
        plans = [
            ops.GatherPlan.allocate(source, 3, dtypes={"x": dtype}, scales={"x": 1 / 255}) for _ in range(2)
        ]
        plans[0].gather(source, indices)
        plans[1].gather(tagged, indices)
        for key in source:
            assert torch.equal(plans[0].out[key], plans[1].out[key])
    with pytest.raises(IndexError):
        plans[1].gather(tagged, torch.tensor([0, 0, 4]))
    with pytest.raises(ValueError, match=r"out\[x\] must be of shape \[2, 64\]"):
        plans[1].gather(tagged, torch.tensor([0, 0]))
    assert torch.equal(plans[0].out["x"], plans[1].out["x"]), "an error must leave all as it was"


@pytest.mark.parametrize("through", ["pickle", "deepcopy"])
def test_copies_are_independent(through: str) -> None:
    plan = ops.GatherPlan({"x": torch.zeros(2), ("a", "b"): torch.zeros(2)}, scales={"x": 0.5})
    other = pickle.loads(pickle.dumps(plan)) if through == "pickle" else copy.deepcopy(plan)
    other.gather({"x": torch.ones(3), "a": {"b": torch.ones(3)}}, torch.tensor([0, 2]))
    assert other.out["x"].tolist() == [0.5, 0.5]
    assert other.out["a", "b"].tolist() == [1, 1]
    assert plan.out["x"].tolist() == [0, 0]


def test_bits_do_not_depend_on_threads(threads: None) -> None:
    source = {"x": leaf((300, 64, 60), torch.uint8), "y": leaf((300, 64), torch.float32)}
    plan = ops.GatherPlan.allocate(source, 100, dtypes={"x": torch.bfloat16}, scales={"x": 1 / 255})
    indices = draw(300, 100)
    torch.set_num_threads(1)
    plan.gather(source, indices)
    first = {key: each.clone() for key, each in plan.out.items()}
    for count in (2, 4):
        torch.set_num_threads(count)
        plan.gather(source, indices)
        assert all(torch.equal(plan.out[key], first[key]) for key in first)


def test_indices_may_change_while_the_kernel_runs() -> None:
    """Another thread that spoils the checked indices must not lead the kernel out of the buffer."""
    source, indices = {"x": torch.ones(512, 4096)}, torch.zeros(512, dtype=torch.int64)
    plan = ops.GatherPlan.allocate(source, 512)
    done = threading.Event()

    def spoil() -> None:
        while not done.is_set():
            indices.fill_(2**50)
            indices.zero_()

    spoiler = threading.Thread(target=spoil)
    spoiler.start()
    try:
        for _ in range(30):
            try:
                plan.gather(source, indices)
            except IndexError:
                continue
            assert (plan.out["x"] == 1).all()
    finally:
        done.set()
        spoiler.join()


@settings(max_examples=80, deadline=None)
@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
    count=st.integers(0, 10),
    dtypes=st.tuples(st.sampled_from(DTYPES), st.sampled_from(FLOATING)),
    scale=st.sampled_from([1.0, 1 / 255, -2.5]),
)
def test_property_any_permuted_view(
    shape: list[int], order: Any, count: int, dtypes: tuple[torch.dtype, torch.dtype], scale: float
) -> None:
    dims = list(range(len(shape)))
    order.shuffle(dims)
    source = {"x": leaf(tuple(shape), dtypes[0]).permute(dims)}
    indices = draw(source["x"].shape[0], count)
    plan = ops.GatherPlan.allocate(source, count, dtypes={"x": dtypes[1]}, scales={"x": scale})
    expected = {"x": torch.empty_like(plan.out["x"])}
    plan.gather(source, indices)
    reference.gather_plan(expected, source, indices, {"x": scale})
    assert torch.equal(plan.out["x"], expected["x"])


@pytest.mark.parametrize("width", [256, 1000, 4099])
def test_wide_rows_into_large_memory_go_past_the_cache(width: int, threads: None) -> None:
    count = 2**24 // width + 1
    source = leaf((50, width), torch.uint8)
    out = torch.full((count, width + 3), 7, dtype=torch.uint8)
    plan = ops.GatherPlan({"x": out[:, 1:-2]})
    indices = draw(50, count)
    for number in (1, 2):
        torch.set_num_threads(number)
        out.fill_(7)
        plan.gather([source], indices)
        assert torch.equal(out[:, 1:-2], source[indices])
        assert (out[:, 0] == 7).all()
        assert (out[:, -2:] == 7).all()


@pytest.mark.parametrize("out_dtype", FLOATING, ids=str)
@pytest.mark.parametrize("scale", [1.0, 1 / 255, -1e-5, 3e38])
def test_every_instruction_set_converts_alike(out_dtype: torch.dtype, scale: float, isa: str) -> None:
    """All bit patterns of half precision, and float32 ones of every exponent around where float16 rounds."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    patterns = (torch.arange(2**18, dtype=torch.int64) * 16411 - 2**31).to(torch.int32)
    whole = torch.arange(-600, 600)
    sources = {
        "f16": bits.view(torch.float16),
        "bf16": bits.view(torch.bfloat16),
        "f32": patterns.view(torch.float32),
        "f64": torch.logspace(-50, 50, 3001, dtype=torch.float64),
        **{str(dtype): whole.to(dtype) for dtype in DTYPES if not dtype.is_floating_point},
    }
    for source in sources.values():
        wide = torch.float64 if torch.float64 in (source.dtype, out_dtype) else torch.float32
        expected = (source.to(wide) * torch.tensor(scale, dtype=wide)).to(out_dtype)
        expected = source.to(out_dtype) if scale == 1.0 else expected
        for out in (
            torch.empty(1, len(source), dtype=out_dtype),
            torch.empty(1, 3 * len(source), dtype=out_dtype)[:, ::3],
        ):
            ops.GatherPlan({"x": out}, scales={"x": scale}).gather([source[None]], torch.tensor([0]))
            assert same(out[0], expected)
