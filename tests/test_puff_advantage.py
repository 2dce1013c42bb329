from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hotloop import ops
from hotloop.ops import reference
from layouts import FLAG_DTYPES, HALF_DTYPES, LAYOUTS, SHAPES, random_flags, same

GAMMA, LAMBDA, RHO, C = 0.97, 0.9, 1.1, 0.95


def inputs(shape: tuple[int, int], dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    return {
        "values": torch.randn(shape, generator=g, dtype=dtype),
        "rewards": torch.randn(shape, generator=g, dtype=dtype),
        "dones": random_flags(shape, g).to(dtype),
        "importance": 2 * torch.rand(shape, generator=g, dtype=dtype),
    }


def boundary(segments: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    g = torch.Generator().manual_seed(99)
    return {
        "next_values": torch.randn(segments, generator=g, dtype=dtype),
        "next_rewards": torch.randn(segments, generator=g, dtype=dtype),
        "next_dones": (torch.rand(segments, generator=g) < 0.3).to(dtype),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_reference_to_the_last_bit(shape: tuple[int, int], dtype: torch.dtype, isa: str) -> None:
    x = inputs(shape, dtype)
    assert same(
        ops.puff_advantage(**x, gamma=GAMMA, gae_lambda=LAMBDA, rho_clip=RHO, c_clip=C),
        reference.puff_advantage(**x, gamma=GAMMA, gae_lambda=LAMBDA, rho_clip=RHO, c_clip=C),
    )
    last = boundary(shape[0], dtype)
    assert same(
        ops.puff_advantage(**x, **last, gamma=GAMMA, gae_lambda=LAMBDA, rho_clip=RHO, c_clip=C),
        reference.puff_advantage(**x, **last, gamma=GAMMA, gae_lambda=LAMBDA, rho_clip=RHO, c_clip=C),
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("out_layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(9, 33), (33, 129), (257, 9)], ids=str)
def test_any_strides_are_read_and_written_in_place(
    shape: tuple[int, int], layout: str, out_layout: str, isa: str
) -> None:
    x = inputs(shape)
    expected = reference.puff_advantage(**x, gamma=GAMMA, gae_lambda=LAMBDA)
    placed: dict[str, Any] = {name: LAYOUTS[layout](tensor) for name, tensor in x.items()}
    out = LAYOUTS[out_layout](torch.full(shape, math.nan))
    result = ops.puff_advantage(**placed, gamma=GAMMA, gae_lambda=LAMBDA, out=out)
    assert result is out
    assert same(out, expected)


def test_writes_nothing_outside_a_strided_out() -> None:
    x = inputs((9, 33))
    wide = torch.full((20, 80), 7.0)
    ops.puff_advantage(**x, gamma=GAMMA, gae_lambda=LAMBDA, out=wide[1:19:2, 2:68:2])
    wide[1:19:2, 2:68:2] = 7.0
    assert (wide == 7.0).all()


@pytest.mark.parametrize("flag_dtype", FLAG_DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
def test_flag_dtypes(flag_dtype: torch.dtype, layout: str, isa: str) -> None:
    x = inputs((33, 129))
    expected = reference.puff_advantage(**x, gamma=GAMMA, gae_lambda=LAMBDA)
    x["dones"] = LAYOUTS[layout](x["dones"].to(flag_dtype))
    assert same(ops.puff_advantage(**x, gamma=GAMMA, gae_lambda=LAMBDA), expected)


@pytest.mark.parametrize("input_dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rewards_and_importance_of_another_floating_dtype(input_dtype: torch.dtype, isa: str) -> None:
    x = inputs((9, 33))
    x["rewards"], x["importance"] = x["rewards"].to(input_dtype), x["importance"].to(input_dtype)
    assert same(
        ops.puff_advantage(**x, gamma=GAMMA, gae_lambda=LAMBDA),
        reference.puff_advantage(**x, gamma=GAMMA, gae_lambda=LAMBDA),
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(9, 33), (33, 129), (257, 9)], ids=str)
def test_half_precision_values_are_computed_in_float32_and_rounded_once(
    shape: tuple[int, int], dtype: torch.dtype, layout: str, isa: str
) -> None:
    x = {name: tensor.to(dtype) for name, tensor in inputs(shape).items()}
    x["values"][0, :3] = torch.tensor([math.nan, math.inf, 6e4]).to(dtype)
    x["values"][1] *= 1e-6  # subnormal in float16
    wide = {name: tensor.float() for name, tensor in x.items()}
    placed: dict[str, Any] = {name: LAYOUTS[layout](tensor) for name, tensor in x.items()}
    out = LAYOUTS[layout](torch.zeros(shape, dtype=dtype))
    assert ops.puff_advantage(**placed, gamma=GAMMA, gae_lambda=LAMBDA, out=out) is out
    assert same(out, ops.puff_advantage(**wide, gamma=GAMMA, gae_lambda=LAMBDA).to(dtype))
    assert same(out, reference.puff_advantage(**x, gamma=GAMMA, gae_lambda=LAMBDA))


def test_lambda_one_telescopes_to_the_monte_carlo_return() -> None:
    x = inputs((5, 40), torch.float64)
    x["importance"] = torch.ones_like(x["importance"])
    last = boundary(5, torch.float64)
    advantages = ops.puff_advantage(**x, **last, gamma=GAMMA, gae_lambda=1.0)
    rewards = torch.cat([x["rewards"][:, 1:], last["next_rewards"][:, None]], dim=1)
    dones = torch.cat([x["dones"][:, 1:], last["next_dones"][:, None]], dim=1)
    for s in range(5):
        for t in range(40):
            total, discount = 0.0, 1.0
            for u in range(t, 40):  # forwards, until the episode ends
                total += discount * rewards[s, u].item()
                discount *= GAMMA
                if dones[s, u]:
                    break
            else:
                total += discount * last["next_values"][s].item()
            assert advantages[s, t].item() == pytest.approx(total - x["values"][s, t].item(), abs=1e-10)


def test_lambda_zero_is_the_clipped_one_step_error() -> None:
    x = inputs((5, 40), torch.float64)
    advantages = ops.puff_advantage(**x, gamma=GAMMA, gae_lambda=0.0, rho_clip=RHO)
    error = x["rewards"][:, 1:] + GAMMA * (1 - x["dones"][:, 1:]) * x["values"][:, 1:] - x["values"][:, :-1]
    torch.testing.assert_close(advantages[:, :-1], x["importance"][:, :-1].clamp(max=RHO) * error)
    assert (advantages[:, -1] == 0).all()


def test_a_row_cut_at_a_done_equals_two_rows() -> None:
    x = inputs((3, 30))
    x["dones"].zero_()
    x["dones"][:, 12] = 1.0
    whole = ops.puff_advantage(**x, gamma=GAMMA, gae_lambda=LAMBDA)
    left = {name: tensor[:, :12] for name, tensor in x.items()}
    right = {name: tensor[:, 12:] for name, tensor in x.items()}
    arrived = {
        "next_values": x["values"][:, 12],
        "next_rewards": x["rewards"][:, 12],
        "next_dones": x["dones"][:, 12],
    }
    assert same(whole[:, :12], ops.puff_advantage(**left, **arrived, gamma=GAMMA, gae_lambda=LAMBDA))
    assert same(whole[:, 12:], ops.puff_advantage(**right, gamma=GAMMA, gae_lambda=LAMBDA))


@pytest.mark.parametrize("name", ["values", "rewards", "dones", "importance"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_follow_the_formula(name: str, bad: float, isa: str) -> None:
    for layout in ("contiguous", "transposed"):
        x = inputs((9, 37))
        x[name][4, 20] = bad
        expected = reference.puff_advantage(**x, gamma=GAMMA, gae_lambda=LAMBDA)
        placed: dict[str, Any] = {key: LAYOUTS[layout](tensor) for key, tensor in x.items()}
        assert same(ops.puff_advantage(**placed, gamma=GAMMA, gae_lambda=LAMBDA), expected)


def test_a_nan_ratio_is_not_clipped_away() -> None:
    x = inputs((1, 4))
    x["importance"][0, 1] = math.nan
    assert ops.puff_advantage(**x, gamma=GAMMA, gae_lambda=LAMBDA)[0, 1].isnan()


def test_bits_do_not_depend_on_threads(threads: None) -> None:
    x = inputs((1030, 129))  # above the serial grain, in blocks that do not divide evenly
    results = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        results.append(ops.puff_advantage(**x, gamma=GAMMA, gae_lambda=LAMBDA))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@settings(max_examples=150, deadline=None)
@given(
    segments=st.integers(0, 40),
    horizon=st.integers(0, 300),
    layout=st.sampled_from(sorted(LAYOUTS)),
    seed=st.integers(0, 2**31),
    gamma=st.floats(0, 1),
    gae_lambda=st.floats(0, 1),
    rho=st.floats(0, 3) | st.just(math.inf),
    c=st.floats(0, 3) | st.just(math.inf),
    poison=st.lists(st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e38, 1e-42]), max_size=5),
)
def test_property_any_shape_layout_and_value(
    segments: int,
    horizon: int,
    layout: str,
    seed: int,
    gamma: float,
    gae_lambda: float,
    rho: float,
    c: float,
    poison: list[float],
) -> None:
    x = inputs((segments, horizon), seed=seed)
    if segments * horizon:
        for i, bad in enumerate(poison):
            list(x.values())[i % 4].view(-1)[(seed + 7 * i) % (segments * horizon)] = bad
    placed: dict[str, Any] = {name: LAYOUTS[layout](tensor) for name, tensor in x.items()}
    arguments: dict[str, Any] = {"gamma": gamma, "gae_lambda": gae_lambda, "rho_clip": rho, "c_clip": c}
    assert same(ops.puff_advantage(**placed, **arguments), reference.puff_advantage(**x, **arguments))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"rewards": torch.zeros(4, 6)},
            ValueError,
            r"rewards must be \[S, T\] = \[4, 5\], got float32 \[4, 6\]",
        ),
        ({"values": torch.zeros(4)}, ValueError, r"values must be \[S, T\], got float32 \[4\]"),
        (
            {"values": torch.zeros(4, 5, dtype=torch.int32)},
            TypeError,
            "values must be of a floating dtype, got int32",
        ),
        (
            {"dones": torch.zeros(4, 5, dtype=torch.int64)},
            TypeError,
            "dones must be bool, uint8 or of a floating",
        ),
        (
            {"importance": torch.ones(4, 5, dtype=torch.bool)},
            TypeError,
            "importance must be of a floating dtype",
        ),
        ({"gamma": 1.5}, ValueError, r"gamma must be in \[0, 1\], got 1.5"),
        ({"gamma": math.nan}, ValueError, r"gamma must be in \[0, 1\]"),
        ({"gae_lambda": "high"}, TypeError, "gae_lambda must be a number, got str"),
        ({"rho_clip": -1.0}, ValueError, "rho_clip must be >= 0"),
        ({"next_values": torch.zeros(4)}, ValueError, "must be given together"),
        ({"out": torch.zeros(4, 5, dtype=torch.float64)}, TypeError, "out must be float32, got float64"),
        ({"out": torch.zeros(5, 4)}, ValueError, r"out must be \[S, T\] = \[4, 5\], got float32 \[5, 4\]"),
        (
            {"out": torch.zeros(4, 1).expand(4, 5)},
            ValueError,
            "out must be a tensor whose elements do not overlap",
        ),
    ],
)
def test_errors_name_argument_expectation_and_actual(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {
        **inputs((4, 5)),
        "gamma": GAMMA,
        "gae_lambda": LAMBDA,
        "out": torch.full((4, 5), 3.0),
        **change,
    }
    with pytest.raises(error, match=f"puff_advantage: .*{message}"):
        ops.puff_advantage(**arguments)
    if "out" not in change:
        assert (arguments["out"] == 3.0).all(), "written to before the arguments were checked"
