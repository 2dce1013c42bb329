from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hotloop import _core, ops
from hotloop.ops import reference
from layouts import HALF_DTYPES, LAYOUTS, same

ROWS = (0, 1, 7, 8, 9, 31, 33, 63, 64, 65, 127, 129)
# around a tile (4), where a row is read along (32), the lanes (16), a run (256), its parts (256 of them)
CHOICES = (1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 47, 129, 255, 256, 257, 1000, 66_000)
HEADS = ((3,), (2, 2), (2, 5, 3), (33, 1, 4), (40, 300))


def logits_of(rows: int, columns: int, dtype: torch.dtype = torch.float32, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(rows * 1009 + columns)
    return scale * torch.randn(rows, columns, dtype=torch.float64, generator=generator).to(dtype)


def mask_of(logits: Tensor, nvec: tuple[int, ...] | None) -> Tensor:
    mask = torch.rand(logits.shape, generator=torch.Generator().manual_seed(7)) < 0.6
    first = 0
    for n in nvec or logits.shape[1:]:
        kept = torch.arange(len(mask)) % n
        mask[torch.arange(len(mask)), first + kept] = True
        first += n
    return mask


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 1e-13, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 5e-7, "atol": 5e-7}


def check(logits: Tensor, nvec: tuple[int, ...] | None, mask: Tensor | None) -> None:
    """Forward and backward of both ops against the twins."""
    close = tolerance(logits.dtype)
    key: dict[str, Any] = {"seed": 11, "step": 2**33 + 5, "mask": mask, "nvec": nvec}
    full, expected_full = (torch.zeros(logits.shape, dtype=logits.dtype) for _ in range(2))
    drawn = ops.categorical_sample(logits, **key, log_probs=full)
    expected = reference.categorical_sample(logits, **key, log_probs=expected_full)
    torch.testing.assert_close(full, expected_full, **close)
    assert torch.equal(drawn[0], expected[0])
    assert drawn[0].dtype == torch.int32
    x, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    evaluated = ops.categorical_evaluate(x, drawn[0], mask=mask, nvec=nvec)
    assert all(torch.equal(a, b) for a, b in zip(evaluated, drawn[1:], strict=True)), "ratio must be 1"
    twin = reference.categorical_evaluate(y, drawn[0], mask=mask, nvec=nvec)
    for a, b, c in zip(evaluated, drawn[1:], twin, strict=True):
        torch.testing.assert_close(a, c, **close)
        assert b.dtype == c.dtype
    weights = torch.randn(2, len(logits), dtype=twin[0].dtype, generator=torch.Generator().manual_seed(3))
    (gx,) = torch.autograd.grad(sum((w * v).sum() for w, v in zip(weights, evaluated, strict=True)), x)
    (gy,) = torch.autograd.grad(sum((w * v).sum() for w, v in zip(weights, twin, strict=True)), y)
    torch.testing.assert_close(gx, gy, rtol=close["rtol"] * 10, atol=close["atol"] * 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("choices", CHOICES)
def test_agrees_with_reference(choices: int, dtype: torch.dtype) -> None:
    for rows in ROWS if choices <= 33 else (0, 1, 9):
        check(logits_of(rows, choices, dtype), None, None)


@pytest.mark.parametrize("nvec", HEADS, ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_several_heads_and_masks(nvec: tuple[int, ...], masked: bool) -> None:
    for rows in (1, 9, 65):
        logits = logits_of(rows, sum(nvec))
        check(logits, nvec, mask_of(logits, nvec) if masked else None)


@pytest.mark.parametrize("choices", [5, 300])
def test_mask_of_one_head(choices: int) -> None:
    logits = logits_of(33, choices)
    mask = mask_of(logits, None)
    check(logits, None, mask)
    actions, _, _ = ops.categorical_sample(logits, seed=1, step=1, mask=mask)
    assert mask.gather(1, actions.long()[:, None]).all()
    forbidden = logits.masked_fill(~mask, -math.inf)
    for a, b in zip(
        ops.categorical_sample(logits, seed=1, step=1, mask=mask),
        ops.categorical_sample(forbidden, seed=1, step=1),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("columns", [3, 12, 70])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_and_instruction_set_do_not_change_a_bit(layout: str, columns: int, isa: str) -> None:
    logits, actions = logits_of(67, columns), torch.arange(67) % columns
    mask = mask_of(logits, None)
    before = _core.isa()
    results = []
    for x, m, name in ((logits, mask, "baseline"), (LAYOUTS[layout](logits), LAYOUTS[layout](mask), before)):
        _core.set_isa(name)
        leaf = x.requires_grad_()
        log_prob, entropy = ops.categorical_evaluate(leaf, actions, mask=m)
        finite = torch.where(log_prob.isfinite(), log_prob, 0.0)
        (gradient,) = torch.autograd.grad((finite + 2 * entropy).sum(), leaf)
        full = LAYOUTS[layout](torch.zeros(67, columns))
        sampled = ops.categorical_sample(leaf.detach(), seed=3, step=4, mask=m, log_probs=full)
        results.append([log_prob.detach(), entropy.detach(), gradient, full, *sampled])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("shape", [(4000, 3), (700, 90)], ids=str)
def test_bits_do_not_depend_on_threads(shape: tuple[int, int], threads: None) -> None:
    logits = logits_of(*shape)
    results = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        leaf = logits.clone().requires_grad_()
        actions, _, _ = ops.categorical_sample(logits, seed=9, step=0)
        log_prob, entropy = ops.categorical_evaluate(leaf, actions)
        (gradient,) = torch.autograd.grad((log_prob + entropy).sum(), leaf)
        results.append([actions, log_prob.detach(), entropy.detach(), gradient])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
@pytest.mark.parametrize("columns", [6, 40])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, columns: int) -> None:
    logits = logits_of(19, columns, dtype)
    half, full = logits.clone().requires_grad_(), logits.float().requires_grad_()
    drawn = ops.categorical_sample(logits, seed=1, step=2)
    assert all(
        torch.equal(a, b)
        for a, b in zip(drawn, ops.categorical_sample(logits.float(), seed=1, step=2), strict=True)
    )
    gradients = []
    for leaf in (half, full):
        log_prob, entropy = ops.categorical_evaluate(leaf, drawn[0])
        assert log_prob.dtype == entropy.dtype == torch.float32
        gradients.append(torch.autograd.grad((log_prob - entropy).sum(), leaf)[0])
    assert torch.equal(gradients[0], gradients[1].to(dtype))


# -- oracles that are no second copy of the formula ----------------------------------------------------------


@pytest.mark.parametrize("columns", [2, 17, 400])
def test_agrees_with_torch_distributions(columns: int) -> None:
    logits = logits_of(50, columns, scale=5.0)
    law = torch.distributions.Categorical(logits=logits.double())
    actions, log_prob, entropy = ops.categorical_sample(logits, seed=5, step=0)
    torch.testing.assert_close(log_prob.double(), law.log_prob(actions), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(entropy.double(), law.entropy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("nvec", [(4,), (2, 3), (40, 2)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck(nvec: tuple[int, ...], masked: bool) -> None:
    logits = logits_of(5, sum(nvec), torch.float64).requires_grad_()
    mask = mask_of(logits, nvec) if masked else None
    with torch.no_grad():
        actions, _, _ = ops.categorical_sample(logits, seed=0, step=0, mask=mask, nvec=nvec)

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        return ops.categorical_evaluate(x, actions, mask=mask, nvec=nvec)

    assert torch.autograd.gradcheck(evaluate, logits)
    assert torch.autograd.gradcheck(
        lambda x: torch.ops.hotloop.categorical_evaluate(x, actions, mask, list(nvec))[:2], logits
    )


def test_frequencies_are_the_probabilities(backend: str) -> None:
    # Pearson's statistic over 2^20 rows (2^15 under the host runner) and 8 choices: chi-squared with 7
    # degrees of freedom. 43.8 is exceeded with probability 2.3e-7; the seed is fixed, so this cannot turn
    # false by chance later.
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5, -3.0, 2.0, -6.0, 0.1])
    rows = 2**15 if backend == "cuda_host" else 2**20
    expected = logits.double().softmax(0) * rows
    for columns, seed in ((8, 1), (100, 2)):  # both ways to read a row
        row = torch.full((columns,), -math.inf)
        row[:8] = logits
        actions, _, _ = ops.categorical_sample(row.expand(rows, columns), seed=seed, step=seed)
        counts = torch.bincount(actions, minlength=columns)
        assert counts[8:].sum() == 0
        statistic = ((counts[:8] - expected).square() / expected).sum().item()
        assert statistic < 43.8


def test_heads_rows_and_steps_are_independent() -> None:
    # 2^16 pairs of fair coins: correlation * 2^8 is a standard normal number, beyond 5.5 with probability
    # 4e-8
    logits = torch.zeros(2**16, 4)
    draws = [ops.categorical_sample(logits, seed=3, step=s, nvec=(2, 2))[0] for s in (0, 1, 2**32)]
    coins = [2.0 * d[:, h].double() - 1 for d in draws for h in (0, 1)]
    coins.append(coins[0].roll(1))
    coins.append(2.0 * ops.categorical_sample(logits[:, :2], seed=4, step=0)[0].double() - 1)
    for i, a in enumerate(coins):
        for b in coins[:i]:
            assert abs((a * b).mean().item()) * 2**8 < 5.5
        assert abs(a.mean().item()) * 2**8 < 5.5


def test_rare_choices_are_as_rare_as_they_should_be() -> None:
    # In float32 sums, 1 + 1e-9 is 1. The last choice must still be drawn: 2^22 draws with p = 2^-20 make 4
    # expected ones; none or more than 30 come with probability 2 % and 1e-16 (the seed is fixed).
    row = torch.tensor([0.0, -20 * math.log(2.0)])
    actions, _, _ = ops.categorical_sample(row.expand(2**22, 2), seed=12, step=0)
    assert 1 <= int(actions.sum()) <= 30


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70),
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.integers(0, 2**62),
    st.booleans(),
)
def test_properties(rows: int, nvec: list[int], seed: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(seed % 2**31)
    logits = 30 * torch.randn(rows, sum(nvec), generator=generator)
    mask = mask_of(logits, tuple(nvec)) if masked else None
    actions, log_prob, entropy = ops.categorical_sample(logits, seed=seed, step=seed, mask=mask, nvec=nvec)
    assert (actions >= 0).all()
    assert (actions < torch.tensor(nvec)).all()
    assert (log_prob <= 1e-6).all()
    assert log_prob.isfinite().all(), "what was drawn is possible"
    assert (entropy >= 0).all()
    assert (entropy <= sum(math.log(n) for n in nvec) + 1e-5).all()
    leaf = logits.clone().requires_grad_()
    evaluated, _ = ops.categorical_evaluate(leaf, actions, mask=mask, nvec=nvec)
    (gradient,) = torch.autograd.grad(evaluated.sum(), leaf)
    for part in gradient.split(nvec, dim=1):
        assert part.sum(1).abs().max() < 1e-5, "a constant added to a head changes nothing"
    shifted = ops.categorical_evaluate(logits + 64.0, actions, mask=mask, nvec=nvec)[0]
    torch.testing.assert_close(shifted, evaluated.detach(), rtol=1e-4, atol=1e-4)


# -- numbers that are none -----------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [4, 50])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_logits_reach_the_results_and_nothing_else(columns: int, bad: float, isa: str) -> None:
    logits = logits_of(9, columns)
    logits[3, 1] = bad
    logits[5] = -math.inf
    actions, log_prob, entropy = ops.categorical_sample(logits, seed=0, step=0)
    assert ((actions >= 0) & (actions < columns)).all()
    rows = torch.tensor([3, 5])
    assert log_prob[rows].isnan().all()
    assert entropy[rows].isnan().all()
    fine = torch.ones(9, dtype=torch.bool)
    fine[rows] = False
    clean = ops.categorical_sample(logits_of(9, columns), seed=0, step=0)
    assert torch.equal(log_prob[fine], clean[1][fine])
    leaf = logits.clone().requires_grad_()
    evaluated, _ = ops.categorical_evaluate(leaf, actions)
    assert same(evaluated.detach(), log_prob)
    (gradient,) = torch.autograd.grad(evaluated.sum(), leaf)
    assert gradient[rows].isnan().any(1).all()
    assert gradient[fine].isfinite().all()


def test_a_forbidden_action_has_no_probability_and_no_nan() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    log_prob, entropy = ops.categorical_evaluate(logits, torch.tensor([2]), mask=mask)
    assert log_prob.item() == -math.inf
    assert entropy.item() == pytest.approx(math.log(2))
    (gradient,) = torch.autograd.grad(entropy.sum(), logits)
    assert gradient.tolist() == [[0.0, 0.0, 0.0]]


# -- arguments -----------------------------------------------------------------------------------------------


def test_out_and_action_dtypes() -> None:
    logits = logits_of(9, 4)
    expected = ops.categorical_sample(logits, seed=1, step=1)
    out = (torch.zeros(18, dtype=torch.int64)[::2], torch.zeros(9), torch.zeros(9))
    assert ops.categorical_sample(logits, seed=1, step=1, out=out) is not None
    assert torch.equal(out[0].int(), expected[0])
    assert torch.equal(out[1], expected[1])
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        for actions in (expected[0].to(dtype), expected[0].to(dtype)[:, None]):
            assert torch.equal(ops.categorical_evaluate(logits, actions)[0], expected[1])


def test_a_saved_tensor_that_changed_is_noticed() -> None:
    logits, actions = logits_of(4, 3).requires_grad_(), torch.zeros(4, dtype=torch.int64)
    log_prob, _ = ops.categorical_evaluate(logits, actions)
    actions += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        log_prob.sum().backward()


X = torch.zeros(3, 4)
A = torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"logits": torch.zeros(3)}, ValueError, r"logits must be \[N, A\], got float32 \[3\]"),
        ({"logits": X.int()}, TypeError, "logits must be of a floating dtype"),
        ({"logits": torch.zeros(3, 0)}, ValueError, r"logits must be \[N, A\] with A >= 1"),
        ({"logits": None}, TypeError, "logits must be a torch.Tensor, got NoneType"),
        ({"nvec": (2, 3)}, ValueError, r"logits must be \[N, sum\(nvec\)\] = \[N, 5\]"),
        ({"nvec": (4, 0)}, ValueError, r"nvec must be in \[1, "),
        ({"nvec": ()}, ValueError, "nvec must be of 1 to 2"),
        ({"mask": torch.ones(3, 4)}, TypeError, "mask must be bool"),
        ({"mask": torch.ones(3, 5, dtype=torch.bool)}, ValueError, r"mask must be \[N, A\] = \[3, 4\]"),
    ],
)
def test_errors(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"logits": X, **arguments}
    logits = arguments.pop("logits")
    actions = A if "nvec" not in arguments else torch.zeros(3, len(arguments["nvec"]), dtype=torch.int64)
    with pytest.raises(error, match=f"categorical_evaluate: {message}"):
        ops.categorical_evaluate(logits, actions, **arguments)
    with pytest.raises(error, match=f"categorical_sample: {message}"):
        ops.categorical_sample(logits, seed=0, step=0, **arguments)


@pytest.mark.cpu_only  # a device would have to be waited for, see tests/test_cuda_training.py
def test_what_must_be_looked_at_is_refused() -> None:
    with pytest.raises(IndexError, match=r"actions\[2\] must be in \[0, 4\), got 4"):
        ops.categorical_evaluate(X, torch.tensor([0, 3, 4]))
    with pytest.raises(IndexError, match=r"actions\[0, 1\] must be in \[0, 3\), got -1"):
        ops.categorical_evaluate(X, torch.tensor([[0, -1]] * 3), nvec=(1, 3))
    for nvec, mask, where in (
        (None, [[True] * 4, [False] * 4, [True] * 4], "row 1, head 0"),
        ((2, 2), [[True, True, False, False]] * 3, "row 0, head 1"),
    ):
        message = f"mask must be true for at least one choice of each head, got none in {where}"
        actions = torch.zeros(3, len(nvec or (4,)), dtype=torch.int64)
        with pytest.raises(ValueError, match=f"categorical_evaluate: {message}"):
            ops.categorical_evaluate(X, actions, mask=torch.tensor(mask), nvec=nvec)
        with pytest.raises(ValueError, match=f"categorical_sample: {message}"):
            ops.categorical_sample(X, seed=0, step=0, mask=torch.tensor(mask), nvec=nvec)


def test_errors_of_actions_and_numbers() -> None:
    with pytest.raises(TypeError, match="actions must be of an integer dtype, got float32"):
        ops.categorical_evaluate(X, A.float())
    with pytest.raises(ValueError, match=r"actions must be \[N\] = \[3\], got int64 \[4\]"):
        ops.categorical_evaluate(X, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="step must be in"):
        ops.categorical_sample(X, seed=0, step=-1)
    with pytest.raises(TypeError, match="seed must be an integer, got float"):
        ops.categorical_sample(X, seed=0.5, step=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="logits must be a tensor that does not require grad"):
        ops.categorical_sample(X.clone().requires_grad_(), seed=0, step=0)
    with pytest.raises(ValueError, match=r"log_probs must be \[N, A\] = \[3, 4\]"):
        ops.categorical_sample(X, seed=0, step=0, log_probs=torch.zeros(4, 3))
    with pytest.raises(
        ValueError, match="log_probs must be memory of its own, got a tensor that overlaps logits"
    ):
        ops.categorical_sample(X, seed=0, step=0, log_probs=X)
    with pytest.raises(TypeError, match=r"out\[0\] must be int32 or int64"):
        ops.categorical_sample(X, seed=0, step=0, out=(A.short(), torch.zeros(3), torch.zeros(3)))
    pool = torch.zeros(6)
    with pytest.raises(
        ValueError, match=r"out\[2\] must be memory of its own, got a tensor that overlaps out\[1\]"
    ):
        ops.categorical_sample(X, seed=0, step=0, out=(A.clone(), pool[:3], pool[2:5]))


@pytest.mark.parametrize("first_row", [0, 1, 63, 2**32 - 200])
@pytest.mark.parametrize("nvec", [None, (3, 4)])
def test_a_part_of_the_rows_draws_what_it_draws_in_a_call_for_all(
    first_row: int, nvec: tuple[int, ...] | None
) -> None:
    logits = logits_of(150, 7)
    key: dict[str, Any] = {"seed": 3, "step": 2**32 + 1, "nvec": nvec}
    whole = ops.categorical_sample(logits, **key, first_row=first_row)
    twin = reference.categorical_sample(logits, **key, first_row=first_row)
    assert torch.equal(whole[0], twin[0])
    assert not torch.equal(whole[0], ops.categorical_sample(logits, **key, first_row=first_row + 1)[0])
    for start, stop in ((0, 150), (1, 40), (37, 150), (64, 65)):
        part = ops.categorical_sample(logits[start:stop], **key, first_row=first_row + start)
        assert all(torch.equal(a, b[start:stop]) for a, b in zip(part, whole, strict=True))


def test_row_numbers_out_of_range_are_refused() -> None:
    for first_row in (-1, 2**32):
        with pytest.raises(ValueError, match="categorical_sample: first_row must be"):
            ops.categorical_sample(X, seed=0, step=0, first_row=first_row)
