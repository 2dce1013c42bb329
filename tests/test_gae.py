from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hotloop import ops
from hotloop.ops import reference
from hotloop.ops.gae import gae_of_next_values
from layouts import FLAG_DTYPES, HALF_DTYPES, LAYOUTS, SHAPES, random_flags, same

DISCOUNT: dict[str, Any] = {"gamma": 0.97, "gae_lambda": 0.9}
SMALL_SHAPES = [shape for shape in SHAPES if shape[0] * shape[1] <= 1200]  # the reference walks single steps


def inputs(shape: tuple[int, int], dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    return {
        "rewards": torch.randn(shape, generator=g, dtype=dtype),
        "values": torch.randn(shape, generator=g, dtype=dtype),
        "terminated": random_flags(shape, g),
        "truncated": random_flags(shape, g),
        "truncation_values": torch.randn(shape, generator=g, dtype=dtype),
        "valid": ~random_flags(shape, g, 0.1),
        "last_values": torch.randn(shape[0], generator=g, dtype=dtype),
    }


def assert_same(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    assert same(actual[0], expected[0])
    assert same(actual[1], expected[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("shape", SMALL_SHAPES, ids=str)
def test_equals_reference_to_the_last_bit(
    shape: tuple[int, int], time_major: bool, dtype: torch.dtype, isa: str
) -> None:
    x = inputs(shape, dtype)
    expected = reference.gae(**x, **DISCOUNT)
    if time_major:
        x = {name: tensor if name == "last_values" else tensor.t().contiguous() for name, tensor in x.items()}
    advantages, returns = ops.gae(**x, **DISCOUNT, time_major=time_major)
    if time_major:
        advantages, returns = advantages.t(), returns.t()
    assert_same((advantages, returns), expected)


@pytest.mark.parametrize("left_out", ["truncated", "valid"])
def test_optional_inputs_may_be_left_out(left_out: str, isa: str) -> None:
    x = inputs((9, 33))
    del x[left_out]
    if left_out == "truncated":
        del x["truncation_values"]
    assert_same(ops.gae(**x, **DISCOUNT), reference.gae(**x, **DISCOUNT))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(9, 33), (3, 257), (257, 3)], ids=str)
def test_any_strides(shape: tuple[int, int], layout: str, isa: str) -> None:
    x = inputs(shape)
    expected = reference.gae(**x, **DISCOUNT)
    placed: dict[str, Any] = {
        name: tensor if tensor.ndim == 1 else LAYOUTS[layout](tensor) for name, tensor in x.items()
    }
    placed["last_values"] = torch.stack([x["last_values"]] * 2, dim=1)[:, 1]
    out = (LAYOUTS[layout](torch.zeros(shape)), LAYOUTS[layout](torch.zeros(shape)))
    assert_same(ops.gae(**placed, **DISCOUNT, out=out), expected)
    assert_same(out, expected)


@pytest.mark.parametrize("flag_dtype", FLAG_DTYPES, ids=str)
def test_flag_dtypes(flag_dtype: torch.dtype, isa: str) -> None:
    x = inputs((9, 33))
    expected = reference.gae(**x, **DISCOUNT)
    for name in ("terminated", "truncated", "valid"):
        x[name] = x[name].to(flag_dtype)
    assert_same(ops.gae(**x, **DISCOUNT), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
def test_half_precision_values_are_computed_in_float32_and_rounded_once(
    dtype: torch.dtype, layout: str, isa: str
) -> None:
    x: dict[str, Any] = {n: t.to(dtype) if t.is_floating_point() else t for n, t in inputs((9, 141)).items()}
    wide: dict[str, Any] = {n: t.float() if t.is_floating_point() else t for n, t in x.items()}
    placed: dict[str, Any] = {n: LAYOUTS[layout](t) if t.ndim == 2 else t for n, t in x.items()}
    result = ops.gae(**placed, **DISCOUNT)
    advantages, returns = ops.gae(**wide, **DISCOUNT)
    assert_same(result, (advantages.to(dtype), returns.to(dtype)))
    assert_same(result, reference.gae(**x, **DISCOUNT))


def test_lambda_one_is_the_monte_carlo_return() -> None:
    x = inputs((4, 50), torch.float64)
    del x["valid"]
    _, returns = ops.gae(**x, gamma=0.97, gae_lambda=1.0)
    for n in range(4):
        for t in range(50):
            total, discount = 0.0, 1.0
            for u in range(t, 50):
                total += discount * x["rewards"][n, u].item()
                discount *= 0.97
                if x["terminated"][n, u]:
                    break
                if x["truncated"][n, u]:
                    total += discount * x["truncation_values"][n, u].item()
                    break
            else:
                total += discount * x["last_values"][n].item()
            assert returns[n, t].item() == pytest.approx(total, abs=1e-10)


def test_agrees_with_the_arrival_indexed_op_on_shifted_data() -> None:
    x = inputs((6, 20), torch.float64)
    plain = {"rewards": x["rewards"], "values": x["values"], "terminated": x["terminated"].double()}
    advantages, _ = ops.gae(**plain, last_values=x["last_values"], **DISCOUNT)
    shifted = ops.puff_advantage(
        x["values"],
        torch.cat([torch.zeros(6, 1, dtype=torch.float64), x["rewards"][:, :-1]], dim=1),
        torch.cat([torch.zeros(6, 1, dtype=torch.float64), plain["terminated"][:, :-1]], dim=1),
        torch.ones(6, 20, dtype=torch.float64),
        next_values=x["last_values"],
        next_rewards=x["rewards"][:, -1],
        next_dones=plain["terminated"][:, -1],
        **DISCOUNT,
    )
    torch.testing.assert_close(advantages, shifted, rtol=0, atol=1e-12)


def test_a_truncated_episode_equals_a_row_of_its_own() -> None:
    x = inputs((3, 30))
    for name in ("terminated", "truncated"):
        x[name].zero_()
    del x["valid"]
    x["truncated"][:, 12] = True
    whole, _ = ops.gae(**x, **DISCOUNT)
    left = {name: tensor[:, :13] for name, tensor in x.items() if tensor.ndim == 2}
    left["truncated"] = torch.zeros(3, 13, dtype=torch.bool)
    alone, _ = ops.gae(**left, last_values=x["truncation_values"][:, 12], **DISCOUNT)
    assert same(whole[:, :13], alone)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nothing_leaks_across_an_episodes_end(bad: float, isa: str) -> None:
    for layout in ("contiguous", "transposed"):
        x = inputs((1, 20))
        for name in ("terminated", "truncated"):
            x[name].zero_()
        x["valid"].fill_(True)
        x["terminated"][0, 5], x["truncated"][0, 10], x["valid"][0, 15] = True, True, False
        x["values"][0, 6] = x["values"][0, 11] = bad
        x["rewards"][0, 15] = bad  # a filler step: whatever it holds must not matter
        placed: dict[str, Any] = {name: LAYOUTS[layout](t) if t.ndim == 2 else t for name, t in x.items()}
        advantages, returns = ops.gae(**placed, **DISCOUNT)
        assert_same((advantages, returns), reference.gae(**x, **DISCOUNT))
        assert advantages[0, :6].isfinite().all()
        assert advantages[0, 7:11].isfinite().all()
        assert advantages[0, 12:].isfinite().all()
        assert not advantages[0, 6].isfinite()


@pytest.mark.asks_for_values
def test_truncation_without_values_is_an_error_and_not_a_guess() -> None:
    x = inputs((4, 5))
    del x["truncation_values"]
    out = (torch.full((4, 5), 3.0), torch.full((4, 5), 3.0))
    for dtype in FLAG_DTYPES:
        with pytest.raises(
            ValueError, match="gae: truncation_values must be given when truncated has true entries"
        ):
            ops.gae(**{**x, "truncated": x["truncated"].to(dtype)}, **DISCOUNT, out=out)
    assert (out[0] == 3.0).all()
    assert (out[1] == 3.0).all()
    x["truncated"] = torch.full((4, 5), -0.0)
    assert_same(ops.gae(**x, **DISCOUNT), reference.gae(**{**x, "truncated": None}, **DISCOUNT))


def test_bits_do_not_depend_on_threads(threads: None) -> None:
    x = inputs((1030, 129))
    results = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        results.append(ops.gae(**x, **DISCOUNT))
    for other in results[1:]:
        assert_same(other, results[0])


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(0, 12),
    horizon=st.integers(0, 150),
    layout=st.sampled_from(sorted(LAYOUTS)),
    seed=st.integers(0, 2**31),
    gamma=st.floats(0, 1),
    gae_lambda=st.floats(0, 1),
)
def test_property_any_shape_and_layout(
    rows: int, horizon: int, layout: str, seed: int, gamma: float, gae_lambda: float
) -> None:
    x = inputs((rows, horizon), seed=seed)
    placed: dict[str, Any] = {
        name: LAYOUTS[layout](tensor) if tensor.ndim == 2 else tensor for name, tensor in x.items()
    }
    assert_same(
        ops.gae(**placed, gamma=gamma, gae_lambda=gae_lambda),
        reference.gae(**x, gamma=gamma, gae_lambda=gae_lambda),
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"rewards": torch.zeros(4, 6)},
            ValueError,
            r"rewards must be \[N, T\] = \[4, 5\], got float32 \[4, 6\]",
        ),
        ({"values": torch.zeros(4, 5, dtype=torch.int32)}, TypeError, "values must be of a floating dtype"),
        (
            {"terminated": torch.zeros(4, 5).int()},
            TypeError,
            "terminated must be bool, uint8 or of a floating",
        ),
        (
            {"last_values": torch.zeros(5)},
            ValueError,
            r"last_values must be \[N\] = \[4\], got float32 \[5\]",
        ),
        ({"valid": torch.ones(4)}, ValueError, r"valid must be \[N, T\]"),
        ({"gamma": -0.1}, ValueError, r"gamma must be in \[0, 1\]"),
        (
            {"out": (torch.zeros(4, 5), torch.zeros(4, 4))},
            ValueError,
            r"out\[1\] must be \[N, T\] = \[4, 5\]",
        ),
        ({"time_major": True}, ValueError, r"last_values must be \[N\] = \[5\]"),
    ],
)
def test_errors_name_argument_expectation_and_actual(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"gae: .*{message}"):
        ops.gae(**{**inputs((4, 5)), **DISCOUNT, **change})


def of_next_values(
    rewards: Tensor, values: Tensor, following: Tensor, terminated: Tensor, done: Tensor
) -> tuple[Tensor, Tensor]:
    """TorchRL's formula, step by step, of `[N, T]`."""
    dtype = values.dtype
    gamma, decay = (torch.tensor(DISCOUNT[name], dtype=dtype) for name in DISCOUNT)
    decay = gamma * decay
    delta = rewards + gamma * (~terminated).to(dtype) * following - values
    advantages, carried = torch.empty_like(values), torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        carried = advantages[:, t] = delta[:, t] + decay * (~done[:, t]).to(dtype) * carried
    return advantages, advantages + values


@pytest.mark.parametrize("limits", [False, True], ids=["ends", "time limits"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", ["rows", "one column", "time-major", "strided"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (33, 64), (17, 300)], ids=str)
def test_values_that_are_given_for_what_follows(
    shape: tuple[int, int], layout: str, dtype: torch.dtype, limits: bool
) -> None:
    g = torch.Generator().manual_seed(3)
    rewards, values, following = (torch.randn(shape, generator=g, dtype=dtype) for _ in range(3))
    terminated = random_flags(shape, g)
    done = terminated | random_flags(shape, g) if limits else terminated.clone()
    expected = of_next_values(rewards, values, following, terminated, done)
    given = [rewards, values, following, terminated, done]
    out = torch.empty_like(values), torch.empty_like(values)
    if layout == "one column":
        given, out = [x.unsqueeze(-1) for x in given], (out[0].unsqueeze(-1), out[1].unsqueeze(-1))
    elif layout == "time-major":
        given, out = [x.t().contiguous() for x in given], (out[0].t(), out[1].t())
    elif layout == "strided":
        given = [torch.stack([x, x], -1)[..., 1] for x in given]
    major = layout == "time-major"
    assert gae_of_next_values(*given, *DISCOUNT.values(), major, out)
    assert_same(tuple(x.reshape(shape) if not major else x.t() for x in out), expected)


@pytest.mark.parametrize("at", [0, 7, 8, 34])
def test_a_step_that_is_terminated_but_not_done_is_left_to_the_caller(at: int) -> None:
    zeros, flags = torch.zeros(5, 7), torch.zeros(5, 7, dtype=torch.bool)
    terminated = flags.clone()
    terminated.view(-1)[at] = True
    out = torch.ones(5, 7), torch.ones(5, 7)
    for spread in (False, True):
        given = [torch.stack([x, x], -1)[..., 0] if spread else x for x in (terminated, flags)]
        assert not gae_of_next_values(zeros, zeros, zeros, *given, 0.9, 0.9, False, out)
        assert bool((out[0] == 1).all())
        assert gae_of_next_values(zeros, zeros, zeros, *reversed(given), 0.9, 0.9, False, out)
        out[0].fill_(1)
    assert not gae_of_next_values(zeros, zeros, zeros, flags.float(), flags, 0.9, 0.9, False, out)


def test_values_of_what_follows_are_checked() -> None:
    zeros, flags = torch.zeros(5, 7), torch.zeros(5, 7, dtype=torch.bool)
    out = torch.zeros(5, 7), torch.zeros(5, 7)
    with pytest.raises(ValueError, match=r"gae_of_next_values: next_values must be"):
        gae_of_next_values(zeros, zeros, torch.zeros(5, 6), flags, flags, 0.9, 0.9, False, out)
    with pytest.raises(ValueError, match=r"gae_lambda must be in \[0, 1\]"):
        gae_of_next_values(zeros, zeros, zeros, flags, flags, 0.9, 1.5, False, out)
    with pytest.raises(ValueError, match=r"out\[0\]"):
        gae_of_next_values(zeros, zeros, zeros, flags, flags, 0.9, 0.9, False, (zeros, out[1]))
