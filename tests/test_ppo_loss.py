from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hotloop import _core, ops
from hotloop.losses import formulas
from hotloop.ops import PPO_STATISTICS, reference
from layouts import LAYOUTS, same

NAMES = ("new_log_prob", "old_log_prob", "advantages", "new_values", "old_values", "returns", "entropy")
DIFFERENTIABLE = ("new_log_prob", "new_values", "entropy")
# around the run (128), the block of a sum (1024), its lanes (16)
SHAPES = [
    (0,),
    (1,),
    (2,),
    (7,),
    (16,),
    (33,),
    (127,),
    (129,),
    (1023,),
    (1025,),
    (3, 0),
    (1, 1),
    (9, 31),
    (33, 129),
]


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {n: torch.randn(shape, dtype=torch.float64, generator=generator) for n in NAMES}
    # ratios and values on both sides of their clips, and log ratios beyond the clamp
    made["new_log_prob"] = made["old_log_prob"] + 0.3 * made["new_log_prob"]
    if made["new_log_prob"].numel() > 20:
        made["new_log_prob"].view(-1)[3] += 15.0
        made["new_log_prob"].view(-1)[4] -= 15.0
    made["new_values"] = made["old_values"] + 0.3 * made["new_values"]
    return {n: x.to(dtype) for n, x in made.items()}


def options(shape: tuple[int, ...], which: str) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(5)
    extra: dict[str, Any] = {"ent_coef": 0.03, "vf_coef": 0.7}
    if "w" in which:
        extra["prio_weights"] = torch.rand(shape, generator=generator) + 0.5
    if "v" in which:
        extra["valid"] = torch.rand(shape, generator=generator) < 0.7
    if "c" in which:
        extra["vf_clip_coef"] = 0.2
    if "n" not in which:
        extra["normalize_advantage"] = False
    return extra


def run(
    function: Any, tensors: dict[str, Tensor], extra: dict[str, Any]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    leaves = {n: x.detach().requires_grad_(n in DIFFERENTIABLE) for n, x in tensors.items()}
    loss, statistics = function(**leaves, **extra)
    gradients = torch.autograd.grad(1.5 * loss, [leaves[n] for n in DIFFERENTIABLE])
    return loss.detach(), statistics, list(gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("which", ["n", "", "nc", "nwvc", "wv"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_reference(shape: tuple[int, ...], which: str, dtype: torch.dtype) -> None:
    tensors, extra = inputs(shape, dtype), options(shape, which)
    loss, statistics, gradients = run(ops.ppo_loss, tensors, extra)
    expected_loss, expected_statistics, expected_gradients = run(reference.ppo_loss, tensors, extra)
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-12}
    torch.testing.assert_close(loss, expected_loss, **close)
    torch.testing.assert_close(statistics, expected_statistics, **close)
    torch.testing.assert_close(gradients, expected_gradients, **close)


def by_formulas(**x: Any) -> tuple[Tensor, Tensor]:
    """What `PPOActor` and `PPOCritic` compute, in the dtype of the arguments."""
    valid, weights, clip, vf_clip = x["valid"], x["prio_weights"], x["clip_coef"], x["vf_clip_coef"]
    ratio = formulas.importance_ratio(x["new_log_prob"], x["old_log_prob"], valid)
    advantages = weights * formulas.normalize_advantages(x["advantages"], valid)
    policy = formulas.clipped_surrogate(ratio, advantages, clip, valid)
    entropy = formulas.masked_mean(x["entropy"], valid)
    value = formulas.value_loss(x["new_values"], x["old_values"], x["returns"], vf_clip, valid)
    kl = formulas.kl_estimates(ratio, x["new_log_prob"], x["old_log_prob"])
    clipped = ((ratio - 1.0).abs() > clip).to(ratio.dtype)
    tracked = formulas.masked_means((kl, clipped, ratio, x["new_log_prob"]), valid)
    loss = policy - x["ent_coef"] * entropy + x["vf_coef"] * value
    return loss, torch.stack([policy, value, entropy, *tracked]).detach().double()


@pytest.mark.parametrize("shape", [(64, 32), (5, 7), (2000,)], ids=str)
def test_agrees_with_the_losses(shape: tuple[int, ...]) -> None:
    tensors = inputs(shape, seed=3)
    extra = {**options(shape, "wvnc"), "clip_coef": 0.2}
    loss, statistics, gradients = run(ops.ppo_loss, tensors, extra)
    expected_loss, expected_statistics, expected_gradients = run(by_formulas, tensors, extra)
    torch.testing.assert_close(loss, expected_loss, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(statistics[:7], expected_statistics, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-8)
    explained = formulas.explained_variance(tensors["old_values"], tensors["returns"], extra["valid"])
    count, r, r2, d, d2 = statistics[7:].tolist()
    assert 1 - (d2 - d * d / count) / (r2 - r * r / count) == pytest.approx(explained.item(), abs=1e-5)
    assert count == extra["valid"].sum().item()


@pytest.mark.parametrize("which", ["n", "nwvc", "wc"])
def test_gradcheck(which: str) -> None:
    tensors, extra = inputs((3, 5), torch.float64, seed=8), options((3, 5), which)
    leaves = {n: x.requires_grad_(n in DIFFERENTIABLE) for n, x in tensors.items()}

    def loss(*wanted: Tensor) -> Tensor:
        return ops.ppo_loss(**{**leaves, **dict(zip(DIFFERENTIABLE, wanted, strict=True))}, **extra)[0]

    assert torch.autograd.gradcheck(loss, [leaves[n] for n in DIFFERENTIABLE])


def clamp_passes_its_edges() -> bool:
    edge = torch.ones((), requires_grad=True)
    return torch.autograd.grad(edge.clamp(-1.0, 1.0), edge)[0].item() == 1.0


@pytest.mark.skipif(
    not clamp_passes_its_edges(),
    reason="this torch (2.14 or later) gives a clamp's edge no gradient; the op does, as 2.13 and before",
)
def test_ties_and_edges_have_the_gradient_that_torch_gives() -> None:
    # ratios on an edge of the clip, advantages of 0, and errors of equal size on both sides of a target
    edges = [0.0, math.log(1.5), math.log(0.5), 10.0, -10.0, 10.5, -10.5, 0.0]
    log_ratio = torch.tensor(edges, dtype=torch.float64)
    zero = torch.zeros(8, dtype=torch.float64)
    tensors = {
        "new_log_prob": log_ratio,
        "old_log_prob": zero,
        "advantages": torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, -2.0, 2.0, 0.0], dtype=torch.float64),
        "new_values": torch.tensor([1.0, 2.0, -1.0, 0.5, 0.25, -0.5, 0.0, 3.0], dtype=torch.float64),
        "old_values": zero,
        "returns": torch.tensor([0.75, 1.25, -0.75, 0.5, 0.0, -1.0, 0.0, 1.75], dtype=torch.float64),
        "entropy": zero,
    }
    extra = {"clip_coef": 0.5, "vf_clip_coef": 0.5, "normalize_advantage": False}
    actual, expected = run(ops.ppo_loss, tensors, extra), run(reference.ppo_loss, tensors, extra)
    torch.testing.assert_close(actual, expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_and_instruction_set_do_not_change_a_bit(layout: str, isa: str) -> None:
    tensors, extra = inputs((37, 61)), options((37, 61), "nwvc")
    moved = {n: LAYOUTS[layout](x) for n, x in tensors.items()}
    moved_extra = {n: LAYOUTS[layout](x) if isinstance(x, Tensor) else x for n, x in extra.items()}
    actual = run(ops.ppo_loss, moved, moved_extra)
    _core.set_isa("baseline")
    expected = run(ops.ppo_loss, tensors, extra)
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])
    assert all(torch.equal(a, b) for a, b in zip(actual[2], expected[2], strict=True))


def test_bits_do_not_depend_on_threads(threads: None) -> None:
    tensors, extra = inputs((300, 128)), options((300, 128), "nwvc")
    results = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        results.append(run(ops.ppo_loss, tensors, extra))
    for loss, statistics, gradients in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(statistics, results[0][1])
        assert all(torch.equal(a, b) for a, b in zip(gradients, results[0][2], strict=True))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**31), st.sampled_from(["", "n", "nc", "nwvc"]))
def test_properties(size: int, seed: int, which: str) -> None:
    tensors, extra = inputs((size,), seed=seed), options((size,), which)
    loss, statistics, _ = run(ops.ppo_loss, tensors, extra)
    named = dict(zip(PPO_STATISTICS, statistics.tolist(), strict=True))
    total = named["policy_loss"] - 0.03 * named["entropy"] + 0.7 * named["value_loss"]
    assert loss.item() == pytest.approx(total, rel=1e-6, abs=1e-6)
    assert 0 <= named["clipfrac"] <= 1
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    shuffled = {n: x[order] for n, x in tensors.items()}
    moved = {n: x[order] if isinstance(x, Tensor) else x for n, x in extra.items()}
    torch.testing.assert_close(run(ops.ppo_loss, shuffled, moved)[1], statistics, rtol=1e-5, atol=1e-6)


# -- numbers that are none -----------------------------------------------------------------------------------


def test_what_invalid_entries_hold_does_not_matter() -> None:
    tensors, extra = inputs((9, 40)), options((9, 40), "nwvc")
    expected = run(ops.ppo_loss, tensors, extra)
    for bad in (math.nan, math.inf, -math.inf):
        spoilt = {n: x.masked_fill(~extra["valid"], bad) for n, x in tensors.items()}
        weights = extra["prio_weights"].masked_fill(~extra["valid"], bad)
        actual = run(ops.ppo_loss, spoilt, {**extra, "prio_weights": weights})
        assert torch.equal(actual[0], expected[0])
        assert torch.equal(actual[1], expected[1])
        assert all(torch.equal(a, b) for a, b in zip(actual[2], expected[2], strict=True))


def test_without_valid_entries_everything_is_zero() -> None:
    tensors = inputs((4, 5))
    loss, statistics, gradients = run(ops.ppo_loss, tensors, {"valid": torch.zeros(4, 5)})
    assert loss.item() == 0.0
    assert statistics.tolist() == [0.0] * 12
    assert all((g == 0).all() for g in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_passed_on(name: str) -> None:
    tensors = inputs((50,))
    tensors[name][7] = math.nan
    extra = {"vf_clip_coef": 0.2, "ent_coef": 0.1}
    actual, expected = run(ops.ppo_loss, tensors, extra), run(reference.ppo_loss, tensors, extra)
    assert actual[0].isnan()
    assert same(actual[1].isnan().float(), expected[1].isnan().float())
    for a, b in zip(actual[2], expected[2], strict=True):
        assert (a.isnan() | ~b.isnan()).all(), "where torch's clamp hides a NaN, ours may show it"
        others = torch.arange(50) != 7
        assert name == "advantages" or a[others].isfinite().all()


# -- arguments -----------------------------------------------------------------------------------------------


def test_half_precision_and_flags_of_any_kind() -> None:
    tensors = inputs((200,))
    for name in ("old_log_prob", "advantages", "old_values", "returns"):
        tensors[name] = tensors[name].to(torch.bfloat16)
    keep = torch.arange(200) % 3 != 0
    full = {n: x.float() for n, x in tensors.items()}
    expected = ops.ppo_loss(**full, valid=keep)
    for flags in (keep, keep.to(torch.uint8), keep.double() * 4):
        actual = ops.ppo_loss(**tensors, valid=flags)
        assert torch.equal(actual[0], expected[0])
        assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"new_log_prob": None}, TypeError, "new_log_prob must be a torch.Tensor"),
        ({"new_log_prob": torch.zeros(3, 4).half()}, TypeError, "new_log_prob must be float32 or float64"),
        ({"new_log_prob": torch.zeros(1, 3, 4)}, ValueError, r"new_log_prob must be \[N\] or \[B, T\]"),
        (
            {"returns": torch.zeros(4, 3)},
            ValueError,
            r"returns must be \[B, T\] = \[3, 4\], got float32 \[4, 3\]",
        ),
        ({"advantages": torch.zeros(3, 4).int()}, TypeError, "advantages must be of a floating dtype"),
        ({"entropy": torch.zeros(3, 4).double()}, TypeError, "entropy must be float32, got float64"),
        ({"valid": torch.zeros(3, 4).int()}, TypeError, "valid must be bool, uint8 or of a floating dtype"),
        ({"clip_coef": -0.1}, ValueError, "clip_coef must be >= 0"),
        ({"vf_clip_coef": math.nan}, ValueError, "vf_clip_coef must be >= 0"),
        ({"ent_coef": math.inf}, ValueError, "ent_coef must be finite"),
        ({"eps": None}, TypeError, "eps must be a number, got NoneType"),
        (
            {"returns": torch.zeros(3, 4, requires_grad=True)},
            ValueError,
            "returns must be .* does not require grad",
        ),
        (
            {"prio_weights": torch.zeros(3, 4, requires_grad=True)},
            ValueError,
            "prio_weights must be .*detach",
        ),
    ],
)
def test_errors(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {n: torch.zeros(3, 4) for n in NAMES} | changes
    with pytest.raises(error, match=f"ppo_loss: {message}"):
        ops.ppo_loss(**arguments)


def test_the_registered_op_loses_no_gradient_either() -> None:
    x = torch.zeros(3, 4)
    leaf = torch.zeros(3, 4, requires_grad=True)
    with pytest.raises(ValueError, match="advantages must be a tensor that does not require grad"):
        torch.ops.hotloop.ppo_loss(x, x, leaf, x, x, x, x, None, None, 0.2, None, 0.5, 0.0, True, 1e-8)
