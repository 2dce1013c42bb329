"""What holds for every departure-indexed estimator, `gae` and its kin."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator_support import (
    DISCOUNT,
    EDGE_SHAPES,
    as_tuple,
    assert_same,
    departure,
    pick,
    place,
    rates,
    transpose,
)
from hotloop import ops
from hotloop.ops import reference
from layouts import FLAG_DTYPES, HALF_DTYPES, LAYOUTS, same

COMMON = ("rewards", "terminated", "truncated", "last_values", "truncation_values", "valid")


@dataclass
class Op:
    native: Callable[..., Any]
    twin: Callable[..., Any]
    inputs: tuple[str, ...]
    scalars: dict[str, Any]
    outputs: int = 1

    def call(self, x: dict[str, Any], **more: Any) -> Any:
        return self.native(**self.arguments(x), **{**self.scalars, **more})

    def expected(self, x: dict[str, Any], **more: Any) -> Any:
        return self.twin(**self.arguments(x), **{**self.scalars, **more})

    def arguments(self, x: dict[str, Any]) -> dict[str, Any]:
        return pick(x, *(n for n in (*COMMON, *self.inputs) if n in x))

    def rows(self, count: int) -> dict[str, Any]:
        return {name: t for name, t in rates(count).items() if name in self.scalars}


CLIPS = {"rho_clip": 1.1, "c_clip": 0.95}
OPS = {
    "gae": Op(ops.gae, reference.gae, ("values",), DISCOUNT, 2),
    "td_lambda": Op(ops.td_lambda, reference.td_lambda, ("values",), DISCOUNT),
    "discounted_return": Op(ops.discounted_return, reference.discounted_return, (), {"gamma": 0.97}),
    "vtrace": Op(
        ops.vtrace, reference.vtrace, ("values", "importance"), {**DISCOUNT, **CLIPS, "pg_rho_clip": 1.3}, 2
    ),
    "retrace": Op(
        ops.retrace, reference.retrace, ("values", "q_values", "importance"), {**DISCOUNT, "c_clip": 0.95}
    ),
}
every_op = pytest.mark.parametrize("op", OPS.values(), ids=list(OPS))


@every_op
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("time_major", [False, True])
def test_equals_reference_to_the_last_bit(op: Op, time_major: bool, dtype: torch.dtype, isa: str) -> None:
    for shape in EDGE_SHAPES:
        if op is OPS["gae"] and shape[0] * shape[1] > 1200:
            continue  # its reference walks single steps; see test_gae.py
        x = departure(shape, dtype)
        if time_major:
            x = transpose(x)
        assert_same(op.call(x, time_major=time_major), op.expected(x, time_major=time_major), shape)


@every_op
@pytest.mark.parametrize("flags", [torch.bool, torch.float32])
@pytest.mark.parametrize("left_out", [("truncated", "truncation_values"), ("valid",), COMMON[2::2]], ids=str)
def test_optional_inputs_may_be_left_out(
    op: Op, left_out: tuple[str, ...], flags: torch.dtype, isa: str
) -> None:
    for shape in ((9, 33), (3, 200)):
        x = departure(shape)
        x = {n: t.to(flags) if t.dtype == torch.bool else t for n, t in x.items()}
        for name in left_out:
            if name != "last_values":
                del x[name]
        if "truncation_values" not in x:
            x.pop("truncated", None)
        assert_same(op.call(x), op.expected(x), shape)


@every_op
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides_are_read_and_written_in_place(op: Op, layout: str, isa: str) -> None:
    for shape in ((9, 33), (3, 140), (257, 3)):
        x = departure(shape)
        placed = place(x, layout)
        placed["last_values"] = torch.stack([x["last_values"]] * 2, dim=1)[:, 1]
        out = tuple(LAYOUTS[layout](torch.full(shape, math.nan)) for _ in range(op.outputs))
        result = op.call(placed, out=out if op.outputs > 1 else out[0])
        assert all(r is o for r, o in zip(as_tuple(result), out, strict=True))
        assert_same(out, as_tuple(op.expected(x)), shape)


@every_op
@pytest.mark.parametrize("flag_dtype", FLAG_DTYPES, ids=str)
def test_flag_dtypes(op: Op, flag_dtype: torch.dtype, isa: str) -> None:
    for layout in ("contiguous", "transposed"):
        x = departure((9, 33))
        expected = op.expected(x)
        for name in ("terminated", "truncated", "valid"):
            x[name] = x[name].to(flag_dtype)
        assert_same(op.call(place(x, layout)), expected)
        x["terminated"] = x["terminated"].to(torch.float64)  # flags of several dtypes
        assert_same(op.call(place(x, layout)), expected)


@every_op
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
def test_half_precision_is_computed_in_float32_and_rounded_once(
    op: Op, dtype: torch.dtype, layout: str, isa: str
) -> None:
    x = departure((9, 141), dtype)
    wide = {n: t.float() if t.is_floating_point() else t for n, t in x.items()}
    result = op.call(place(x, layout))
    assert_same(result, tuple(t.to(dtype) for t in as_tuple(op.call(wide))))
    assert_same(result, op.expected(x))


@every_op
@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("rows", [1, 9, 257])
def test_a_discount_for_each_row(op: Op, rows: int, time_major: bool, isa: str) -> None:
    x = departure((rows, 20))
    discounts = op.rows(rows)
    expected = [
        op.expected({n: t[i : i + 1] for n, t in x.items()}, **{n: t[i].item() for n, t in discounts.items()})
        for i in range(0, rows, 7)
    ]
    placed = transpose(x) if time_major else x
    result = as_tuple(op.call(placed, **discounts, time_major=time_major))
    result = tuple(t.t() if time_major else t for t in result)
    for i, each in zip(range(0, rows, 7), expected, strict=True):
        assert_same(tuple(t[i : i + 1] for t in result), as_tuple(each), i)
    # strided, of another dtype, and one of the two only
    strided = torch.stack([discounts["gamma"].double()] * 2, dim=1)[:, 1]
    one = op.call(placed, gamma=strided, time_major=time_major)
    assert_same(one, op.expected(placed, gamma=discounts["gamma"], time_major=time_major))


@every_op
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nothing_leaks_across_an_episodes_end(op: Op, bad: float, isa: str) -> None:
    for layout in ("contiguous", "transposed"):
        x = departure((9, 20))
        for name in ("terminated", "truncated"):
            x[name].zero_()
        x["valid"].fill_(True)
        x["terminated"][4, 5], x["truncated"][4, 10], x["valid"][4, 15] = True, True, False
        for name in ("rewards", "values", "q_values"):
            x[name][4, 6] = x[name][4, 11] = bad
        x["rewards"][4, 15] = bad  # a filler step: whatever it holds must not matter
        result = op.call(place(x, layout))
        assert_same(result, op.expected(x))
        for part in as_tuple(result):
            assert part[4, :6].isfinite().all()
            assert part[4, 7:11].isfinite().all()
            assert part[4, 12:].isfinite().all()
            assert not part[4, 6].isfinite()
        assert as_tuple(result)[0][:4].isfinite().all()


@every_op
def test_a_truncated_episode_equals_a_row_of_its_own(op: Op) -> None:
    x = departure((3, 30))
    for name in ("terminated", "truncated"):
        x[name].zero_()
    del x["valid"]
    x["truncated"][:, 12] = True
    whole = as_tuple(op.call(x))
    left = {name: tensor[:, :13] for name, tensor in x.items() if tensor.ndim == 2}
    left["truncated"] = torch.zeros(3, 13, dtype=torch.bool)
    left["last_values"] = x["truncation_values"][:, 12]
    right = {name: t[:, 13:] if t.ndim == 2 else t for name, t in x.items()}
    assert_same(tuple(t[:, :13] for t in whole), as_tuple(op.call(left)))
    assert_same(tuple(t[:, 13:] for t in whole), as_tuple(op.call(right)))


@every_op
@pytest.mark.asks_for_values
def test_truncation_without_values_is_an_error_and_not_a_guess(op: Op) -> None:
    x = departure((4, 5))
    del x["truncation_values"]
    out = tuple(torch.full((4, 5), 3.0) for _ in range(op.outputs))
    with pytest.raises(ValueError, match="truncation_values must be given when truncated has true entries"):
        op.call(x, out=out if op.outputs > 1 else out[0])
    assert all((t == 3.0).all() for t in out)
    with pytest.raises(ValueError, match="truncation_values must be given when truncated has true entries"):
        op.expected(x)
    x["truncated"] = torch.full((4, 5), -0.0)
    assert_same(op.call(x), op.expected({**x, "truncated": None}))


@every_op
def test_bits_do_not_depend_on_threads(op: Op, threads: None) -> None:
    for layout in ("contiguous", "transposed"):
        x = place(departure((1030, 129)), layout)
        results = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            results.append(op.call(x))
        for other in results[1:]:
            assert_same(other, results[0])


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([n for n in OPS if n != "gae"]),
    rows=st.integers(0, 20),
    horizon=st.integers(0, 150),
    layout=st.sampled_from(sorted(LAYOUTS)),
    seed=st.integers(0, 2**31),
    gamma=st.floats(0, 1),
    poison=st.lists(st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e38, 1e-42]), max_size=5),
    left_out=st.sets(st.sampled_from(["truncated", "valid"])),
)
def test_property_any_shape_layout_and_value(
    name: str,
    rows: int,
    horizon: int,
    layout: str,
    seed: int,
    gamma: float,
    poison: list[float],
    left_out: set[str],
) -> None:
    op = OPS[name]
    x = departure((rows, horizon), seed=seed)
    reals = [t for t in x.values() if t.is_floating_point() and t.numel()]
    for i, bad in enumerate(poison if reals else []):
        target = reals[(seed + i) % len(reals)].view(-1)
        target[(seed + 7 * i) % len(target)] = bad
    for each in left_out:
        del x[each]
    assert_same(op.call(place(x, layout), gamma=gamma), op.expected(x, gamma=gamma))


@every_op
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"terminated": torch.zeros(4, 6)},
            ValueError,
            r"terminated must be \[N, T\] = \[4, 5\], got float32 \[4, 6\]",
        ),
        ({"rewards": torch.zeros(4, 5).int()}, TypeError, "rewards must be of a floating dtype, got int32"),
        ({"terminated": torch.zeros(4, 5).int()}, TypeError, "terminated must be bool, uint8 or of a float"),
        (
            {"last_values": torch.zeros(5)},
            ValueError,
            r"last_values must be \[N\] = \[4\], got float32 \[5\]",
        ),
        ({"valid": torch.ones(4)}, ValueError, r"valid must be \[N, T\]"),
        ({"gamma": -0.1}, ValueError, r"gamma must be in \[0, 1\]"),
        ({"gamma": "high"}, TypeError, "gamma must be a number, got str"),
        ({"gamma": torch.ones(5)}, ValueError, r"gamma must be a number or \[N\] = \[4\], got float32 \[5\]"),
        ({"gamma": torch.ones(4).int()}, TypeError, "gamma must be of a floating dtype"),
        pytest.param(
            {"gamma": torch.tensor([0.1, 0.2, 1.5, 0.0])},
            ValueError,
            r"gamma\[2\] must be in \[0, 1\], got 1.5",
            marks=pytest.mark.asks_for_values,
        ),
        ({"time_major": True}, ValueError, r"last_values must be \[N\] = \[5\]"),
        (
            {
                "rewards": torch.zeros(4, 5, requires_grad=True),
                "values": torch.zeros(4, 5, requires_grad=True),
            },
            ValueError,
            "require",
        ),
    ],
)
def test_errors_name_argument_expectation_and_actual(
    op: Op, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    x = departure((4, 5))
    out = tuple(torch.full((4, 5), 3.0) for _ in range(op.outputs))
    scalars = {n: v for n, v in change.items() if n not in x}
    with pytest.raises(error, match=message):
        op.call({**x, **change}, **scalars, out=out if op.outputs > 1 else out[0])
    assert all((t == 3.0).all() for t in out), "written to before the arguments were checked"


@every_op
def test_out_is_checked(op: Op) -> None:
    x = departure((4, 5))
    name = "out[0]" if op.outputs > 1 else "out"

    def call(first: torch.Tensor) -> None:
        op.call(x, out=(first, torch.zeros(4, 5)) if op.outputs > 1 else first)

    with pytest.raises(
        ValueError, match=rf"{name.replace('[', '.').replace(']', '.')} must be .N, T. = .4, 5."
    ):
        call(torch.zeros(5, 4))
    with pytest.raises(TypeError, match="must be float32, got float64"):
        call(torch.zeros(4, 5).double())
    with pytest.raises(ValueError, match="overlaps rewards"):
        call(x["rewards"])
    with pytest.raises(ValueError, match="whose elements do not overlap"):
        call(torch.zeros(4, 1).expand(4, 5))
    if op.outputs > 1:
        both = torch.zeros(4, 5)
        with pytest.raises(
            ValueError, match=r"out\[1\] must be memory of its own, got a tensor that overlaps"
        ):
            op.call(x, out=(both, both))


def test_a_coefficient_of_zero_cuts_too() -> None:
    x = departure((2, 6))
    x["valid"].fill_(True)
    x["rewards"][:, 3] = math.nan
    for name in ("gae", "td_lambda", "vtrace", "retrace"):
        result = as_tuple(OPS[name].call(x, gae_lambda=0.0))[0]
        assert result[:, :2].isfinite().all()
        assert same(result, as_tuple(OPS[name].expected(x, gae_lambda=0.0))[0])
