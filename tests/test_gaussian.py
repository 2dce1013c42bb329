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

# around a block of rows (64) and the lanes of the random numbers
SHAPES = [(n, k) for n in (0, 1, 7, 9, 33, 63, 64, 65, 129) for k in (0, 1, 2, 3, 6)] + [(3, 31)]


def inputs(
    rows: int, width: int, dtype: torch.dtype = torch.float32, shared: bool = False
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows * 1009 + width)
    mean = torch.randn(rows, width, dtype=torch.float64, generator=generator)
    log_std = 0.5 * torch.randn(
        (width,) if shared else (rows, width), dtype=torch.float64, generator=generator
    )
    return mean.to(dtype), log_std.to(dtype)


def check(mean: Tensor, log_std: Tensor, squash: bool) -> None:
    """Forward and backward of both ops against the twins."""
    close = {"rtol": 1e-6, "atol": 1e-6} if mean.dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    drawn = ops.gaussian_sample(mean, log_std, seed=11, step=2**33 + 5, squash=squash)
    twin = reference.gaussian_sample(mean, log_std, seed=11, step=2**33 + 5, squash=squash)
    torch.testing.assert_close(drawn[0], twin[0], **close)
    results = []
    for functions in (ops, reference):
        m, s = mean.clone().requires_grad_(), log_std.clone().requires_grad_()
        log_prob, entropy = functions.gaussian_evaluate(m, s, drawn[0], squash=squash)  # type: ignore[attr-defined]
        weights = torch.linspace(-1, 2, len(mean), dtype=log_prob.dtype)
        gradients = torch.autograd.grad((weights * log_prob + (1 - weights) * entropy).sum(), (m, s))
        results.append((log_prob.detach(), entropy.detach(), *gradients))
    assert torch.equal(results[0][0], drawn[1]), "ratio must be 1"
    assert torch.equal(results[0][1], drawn[2])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=close["rtol"] * 20, atol=close["atol"] * 20)


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_reference(
    shape: tuple[int, int], dtype: torch.dtype, shared: bool, squash: bool
) -> None:
    check(*inputs(*shape, dtype, shared), squash)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("squash", [False, True])
def test_layout_and_instruction_set_do_not_change_a_bit(layout: str, squash: bool, isa: str) -> None:
    mean, log_std = inputs(67, 5)
    before, results = _core.isa(), []
    for convert, name in ((LAYOUTS["contiguous"], "baseline"), (LAYOUTS[layout], before)):
        _core.set_isa(name)
        m, s = convert(mean), convert(log_std)
        actions, log_prob, entropy = ops.gaussian_sample(m, s, seed=1, step=2, squash=squash)
        m.requires_grad_(), s.requires_grad_()
        evaluated, _ = ops.gaussian_evaluate(m, s, convert(actions), squash=squash)
        results.append([actions, log_prob, entropy, *torch.autograd.grad(evaluated.sum(), (m, s))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_bits_do_not_depend_on_threads(threads: None) -> None:
    mean, log_std = inputs(5000, 4, shared=True)
    results = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        actions, log_prob, _ = ops.gaussian_sample(mean, log_std, seed=9, step=0)
        m, s = mean.clone().requires_grad_(), log_std.clone().requires_grad_()
        evaluated, _ = ops.gaussian_evaluate(m, s, actions)
        results.append([actions, log_prob, *torch.autograd.grad(evaluated.sum(), (m, s))])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    mean, log_std = (x.to(dtype) for x in inputs(19, 3))
    drawn = ops.gaussian_sample(mean, log_std, seed=1, step=2)
    wide = ops.gaussian_sample(mean.float(), log_std.float(), seed=1, step=2)
    assert all(torch.equal(a, b) for a, b in zip(drawn, wide, strict=True))
    m, s = mean.clone().requires_grad_(), log_std.clone().requires_grad_()
    log_prob, _ = ops.gaussian_evaluate(m, s, drawn[0])
    gradients = torch.autograd.grad(log_prob.sum(), (m, s))
    assert [g.dtype for g in gradients] == [dtype, dtype]


# -- oracles that are no second copy of the formula ----------------------------------------------------------


def test_agrees_with_torch_distributions() -> None:
    mean, log_std = inputs(50, 3, torch.float64)
    law = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)
    actions, log_prob, entropy = ops.gaussian_sample(mean, log_std, seed=5, step=0)
    torch.testing.assert_close(log_prob, law.log_prob(actions), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(entropy, law.entropy(), rtol=1e-12, atol=1e-12)
    tanh = torch.distributions.TanhTransform()
    squashed = torch.distributions.TransformedDistribution(law.base_dist, [tanh])
    actions, log_prob, _ = ops.gaussian_sample(mean, log_std, seed=5, step=0, squash=True)
    torch.testing.assert_close(log_prob, squashed.log_prob(actions).sum(1), rtol=1e-9, atol=1e-9)


def test_a_squashed_density_adds_up_to_one() -> None:
    a = torch.linspace(-1, 1, 400_001, dtype=torch.float64)[1:-1, None]
    log_prob, _ = ops.gaussian_evaluate(
        torch.full_like(a, 0.3), torch.tensor([-0.5], dtype=torch.float64), a, squash=True
    )
    assert torch.trapezoid(log_prob.exp(), a[:, 0]).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("squash", [False, True])
def test_gradcheck(shared: bool, squash: bool) -> None:
    mean, log_std = inputs(5, 3, torch.float64, shared)
    actions, _, _ = ops.gaussian_sample(mean, log_std, seed=0, step=0, squash=squash)
    leaves = (mean.requires_grad_(), log_std.requires_grad_())
    assert torch.autograd.gradcheck(lambda m, s: ops.gaussian_evaluate(m, s, actions, squash=squash), leaves)
    op = torch.ops.hotloop.gaussian_evaluate
    assert torch.autograd.gradcheck(lambda m, s: op(m, s, actions, squash), leaves)


def kolmogorov_smirnov(x: Tensor, cdf: Tensor) -> float:
    """sqrt(n) times the largest distance between empirical and given distribution function, the latter
    at the sorted sample. Beyond 2.9 with probability 2 exp(-2 * 2.9^2) = 1e-7."""
    steps = torch.arange(len(x) + 1, dtype=torch.float64) / len(x)
    return math.sqrt(len(x)) * max((steps[1:] - cdf).max().item(), (cdf - steps[:-1]).max().item())


@pytest.mark.parametrize("column", [0, 1, 2])
def test_draws_are_normal(column: int) -> None:
    n = 2**18
    actions, _, _ = ops.gaussian_sample(
        torch.full((n, 3), 0.5, dtype=torch.float64), torch.full((3,), math.log(2.0)), seed=21, step=4
    )
    x = actions[:, column].sort().values
    assert kolmogorov_smirnov(x, 0.5 * torch.erfc((0.5 - x) / (2 * math.sqrt(2)))) < 2.9
    z = (x - 0.5) / 2
    # mean, variance and fourth moment, each within 5.5 standard errors (4e-8 each; the seed is fixed)
    assert abs(z.mean().item()) * math.sqrt(n) < 5.5
    assert abs(z.square().mean().item() - 1) * math.sqrt(n / 2) < 5.5
    assert abs(z.pow(4).mean().item() - 3) * math.sqrt(n / 96) < 5.5


def test_components_rows_and_steps_are_independent() -> None:
    n = 2**16
    zero = torch.zeros(n, 4, dtype=torch.float64)
    draws = [ops.gaussian_sample(zero, zero[0], seed=3, step=s)[0] for s in (0, 1, 2**32)]
    columns = [d[:, j] for d in draws for j in range(4)]
    columns += [columns[0].roll(1), columns[1].roll(1)]
    for i, a in enumerate(columns):
        for b in columns[:i]:  # and of the squares: Box and Muller's pairs share a radius
            assert abs((a * b).mean().item()) * math.sqrt(n) < 5.5
            assert abs(((a * a - 1) * (b * b - 1)).mean().item()) / 2 * math.sqrt(n) < 5.5


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 70), st.integers(1, 6), st.integers(0, 2**62), st.booleans(), st.floats(-8.0, 3.0))
def test_properties(rows: int, width: int, seed: int, squash: bool, log_std: float) -> None:
    generator = torch.Generator().manual_seed(seed % 2**31)
    mean = 5 * torch.randn(rows, width, generator=generator)
    scale = torch.full((width,), log_std)
    actions, log_prob, entropy = ops.gaussian_sample(mean, scale, seed=seed, step=seed, squash=squash)
    assert log_prob.isfinite().all()
    assert (entropy == entropy[0]).all()
    if squash:
        assert (actions.abs() < 1).all()
    evaluated = ops.gaussian_evaluate(mean, scale.expand(rows, width), actions, squash=squash)
    assert torch.equal(evaluated[0], log_prob)
    if not squash:  # the law of u - mean does not depend on the mean
        centred = ops.gaussian_evaluate(
            torch.zeros_like(mean).double(), scale, actions.double() - mean.double()
        )
        torch.testing.assert_close(centred[0].float(), log_prob, rtol=1e-5, atol=1e-5)


# -- numbers that are none, and the ends ---------------------------------------------------------------------


@pytest.mark.parametrize("squash", [False, True])
def test_bad_numbers_reach_their_row_and_nothing_else(squash: bool, isa: str) -> None:
    mean, log_std = inputs(9, 3)
    clean = ops.gaussian_sample(mean, log_std, seed=0, step=0, squash=squash)
    mean[2, 1], log_std[5, 0] = math.nan, math.nan
    actions, log_prob, _ = ops.gaussian_sample(mean, log_std, seed=0, step=0, squash=squash)
    fine = torch.tensor([n not in (2, 5) for n in range(9)])
    assert torch.equal(log_prob[fine], clean[1][fine])
    assert log_prob[~fine].isnan().all()
    assert same(ops.gaussian_evaluate(mean, log_std, actions, squash=squash)[0], log_prob)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_saturated_actions_have_a_finite_density(dtype: torch.dtype) -> None:
    actions = torch.tensor([[1.0], [-1.0], [2.0]], dtype=dtype)
    log_prob, _ = ops.gaussian_evaluate(torch.zeros(3, 1), torch.zeros(1), actions, squash=True)
    expected, _ = reference.gaussian_evaluate(torch.zeros(3, 1), torch.zeros(1), actions, squash=True)
    assert log_prob.isfinite().all()
    torch.testing.assert_close(log_prob, expected)
    far, _, _ = ops.gaussian_sample(torch.full((3, 1), 50.0), torch.zeros(1), seed=0, step=0, squash=True)
    assert (far == 1 - 2**-24).all()


# -- arguments -----------------------------------------------------------------------------------------------

M, S, A = torch.zeros(3, 2), torch.zeros(2), torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"mean": torch.zeros(3)}, ValueError, r"mean must be \[N, k\], got float32 \[3\]"),
        ({"mean": M.int()}, TypeError, "mean must be of a floating dtype"),
        ({"mean": None}, TypeError, "mean must be a torch.Tensor, got NoneType"),
        ({"log_std": torch.zeros(3)}, ValueError, r"log_std must be \[k\] = \[2\]"),
        ({"log_std": torch.zeros(2, 2)}, ValueError, r"log_std must be \[N, k\] or \[k\] = \[3, 2\]"),
        ({"log_std": 0.0}, TypeError, "log_std must be a torch.Tensor, got float"),
    ],
)
def test_errors(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"mean": M, "log_std": S} | changes
    with pytest.raises(error, match=f"gaussian_evaluate: {message}"):
        ops.gaussian_evaluate(**arguments, actions=A)
    with pytest.raises(error, match=f"gaussian_sample: {message}"):
        ops.gaussian_sample(**arguments, seed=0, step=0)


def test_errors_of_the_other_arguments() -> None:
    with pytest.raises(ValueError, match=r"gaussian_evaluate: actions must be \[N, k\] = \[3, 2\]"):
        ops.gaussian_evaluate(M, S, torch.zeros(3))
    with pytest.raises(TypeError, match="actions must be of a floating dtype, got int64"):
        ops.gaussian_evaluate(M, S, A.long())
    with pytest.raises(ValueError, match="actions must be a tensor that does not require grad"):
        ops.gaussian_evaluate(M, S, A.clone().requires_grad_())
    with pytest.raises(ValueError, match="actions must be a tensor that does not require grad"):
        torch.ops.hotloop.gaussian_evaluate(M, S, A.clone().requires_grad_(), False)
    with pytest.raises(ValueError, match="log_std must be a tensor that does not require grad"):
        ops.gaussian_sample(M, S.clone().requires_grad_(), seed=0, step=0)
    with pytest.raises(ValueError, match="step must be in"):
        ops.gaussian_sample(M, S, seed=0, step=-1)
    with pytest.raises(TypeError, match=r"out\[0\] must be float32, got float64"):
        ops.gaussian_sample(M, S, seed=0, step=0, out=(A.double(), torch.zeros(3), torch.zeros(3)))
    with pytest.raises(
        ValueError, match=r"out\[0\] must be memory of its own, got a tensor that overlaps mean"
    ):
        ops.gaussian_sample(M, S, seed=0, step=0, out=(M, torch.zeros(3), torch.zeros(3)))


@pytest.mark.parametrize("first_row", [0, 1, 63, 2**32 - 200])
def test_a_part_of_the_rows_draws_what_it_draws_in_a_call_for_all(first_row: int) -> None:
    mean, log_std = inputs(150, 3)
    key: dict[str, int] = {"seed": 3, "step": 2**32 + 1}
    whole = ops.gaussian_sample(mean, log_std, **key, first_row=first_row)
    twin = reference.gaussian_sample(mean, log_std, **key, first_row=first_row)
    torch.testing.assert_close(whole[0], twin[0], rtol=1e-6, atol=1e-6)
    assert not torch.equal(whole[0], ops.gaussian_sample(mean, log_std, **key, first_row=first_row + 1)[0])
    for start, stop in ((0, 150), (1, 40), (37, 150), (64, 65)):
        part = ops.gaussian_sample(mean[start:stop], log_std[start:stop], **key, first_row=first_row + start)
        assert all(torch.equal(a, b[start:stop]) for a, b in zip(part, whole, strict=True))


def test_row_numbers_out_of_range_are_refused() -> None:
    for first_row in (-1, 2**32):
        with pytest.raises(ValueError, match="gaussian_sample: first_row must be"):
            ops.gaussian_sample(M, S, seed=0, step=0, first_row=first_row)
