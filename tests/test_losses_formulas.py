"""Each formula against a slow one over plain numbers, with and without invalid entries that hold garbage."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hotloop.losses import formulas

SHAPE = (5, 7)
masked = pytest.mark.parametrize("with_mask", [False, True], ids=["all", "some_invalid"])


def draw(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask(with_mask: bool) -> Tensor | None:
    if not with_mask:
        return None
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(99)) > 0.4


def spoil(x: Tensor, valid: Tensor | None, garbage: float = math.nan) -> Tensor:
    """What the formula is given: garbage where it must not look."""
    return x.clone() if valid is None else torch.where(valid, x, garbage)


def kept(x: Tensor, valid: Tensor | None) -> list[float]:
    return (x.flatten() if valid is None else x[valid]).tolist()


def gradient(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(f(leaf), leaf)[0]


def assert_gradient_is_true(f: Callable[[Tensor], Tensor], x: Tensor, valid: Tensor | None) -> None:
    """Against central differences at valid entries; zero at invalid ones, though they hold garbage."""
    analytic = gradient(f, spoil(x, valid))
    for index in [(0, 0), (1, 3), (2, 2), (4, 6), (3, 1), (0, 5)]:
        step = torch.zeros(SHAPE, dtype=torch.float64)
        step[index] = 1e-6
        if valid is not None and not valid[index]:
            assert analytic[index] == 0
        else:
            numeric = (f(spoil(x + step, valid)) - f(spoil(x - step, valid))) / 2e-6
            assert float(analytic[index]) == pytest.approx(float(numeric), rel=1e-5, abs=1e-8)


@masked
def test_masked_mean(with_mask: bool) -> None:
    x, valid = draw(0), mask(with_mask)
    got = formulas.masked_mean(spoil(x, valid), valid)
    assert float(got) == pytest.approx(statistics.fmean(kept(x, valid)))
    if valid is not None:
        assert torch.equal(got, formulas.masked_mean(spoil(x, valid), valid, count=valid.sum()))


def test_masked_mean_of_nothing_is_zero_with_a_graph() -> None:
    for x, valid in ((torch.zeros(0, 4), None), (torch.full((2, 3), math.nan), torch.zeros(2, 3).bool())):
        leaf = x.requires_grad_()
        mean = formulas.masked_mean(leaf, valid)
        assert mean.item() == 0.0
        mean.backward()
        assert leaf.grad is not None
        assert not leaf.grad.any()


@masked
def test_normalize_advantages(with_mask: bool) -> None:
    x, valid = draw(1, 3.0) + 5.0, mask(with_mask)
    got = formulas.normalize_advantages(spoil(x, valid), valid)
    mean, std = statistics.fmean(kept(x, valid)), statistics.stdev(kept(x, valid))
    torch.testing.assert_close(kept(got, valid), [(a - mean) / (std + 1e-8) for a in kept(x, valid)])
    if valid is not None:
        assert bool((got[~valid] == 0).all())


def test_normalize_advantages_does_not_cancel_far_from_zero() -> None:
    # E[x^2] - E[x]^2 in float32 would lose every digit here.
    got = formulas.normalize_advantages(torch.tensor([10000.0, 10000.5, 10001.0]))
    torch.testing.assert_close(got, torch.tensor([-1.0, 0.0, 1.0]), rtol=1e-6, atol=0)


def test_normalize_advantages_of_equal_single_or_no_entries_is_zero() -> None:
    for x, valid in (
        (torch.full((2, 2), 3.0), None),
        (torch.tensor([[4.0]]), None),
        (torch.tensor([[4.0, 7.0]]), torch.tensor([[True, False]])),
        (torch.tensor([[4.0, 7.0]]), torch.tensor([[False, False]])),
        (torch.zeros(0, 3), None),
    ):
        got = formulas.normalize_advantages(x, valid)
        assert got.shape == x.shape
        assert not got.any()


@masked
def test_importance_ratio(with_mask: bool) -> None:
    new, old, valid = draw(2), draw(3), mask(with_mask)
    got = formulas.importance_ratio(spoil(new, valid), spoil(old, valid), valid)
    expected = [math.exp(a - b) for a, b in zip(kept(new, valid), kept(old, valid), strict=True)]
    torch.testing.assert_close(kept(got, valid), expected)
    if valid is not None:
        assert bool((got[~valid] == 1).all())
    assert_gradient_is_true(
        lambda x: (draw(4) * formulas.importance_ratio(x, spoil(old, valid), valid)).sum(), new, valid
    )


def test_importance_ratio_is_clamped() -> None:
    got = formulas.importance_ratio(torch.tensor([30.0, -30.0]), torch.zeros(2))
    torch.testing.assert_close(got, torch.tensor([math.exp(10.0), math.exp(-10.0)]))


@masked
def test_clipped_surrogate(with_mask: bool) -> None:
    ratio, advantages, valid = draw(5, 0.5).exp(), draw(6), mask(with_mask)
    total = 0.0
    for r, a in zip(kept(ratio, valid), kept(advantages, valid), strict=True):
        total += max(-a * r, -a * min(max(r, 0.8), 1.2))
    expected = total / len(kept(ratio, valid))

    def loss(x: Tensor) -> Tensor:
        return formulas.clipped_surrogate(x, spoil(advantages, valid), 0.2, valid)

    assert float(loss(spoil(ratio, valid))) == pytest.approx(expected)
    assert_gradient_is_true(loss, ratio, valid)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected_gradient"),
    [
        (1.5, 1.0, 0.0),
        (1.5, -1.0, 1.0),
        (0.5, 1.0, -1.0),
        (0.5, -1.0, 0.0),
        (1.1, 1.0, -1.0),
        (1.1, -1.0, 1.0),
    ],
)
def test_clipped_surrogate_only_stops_pushing_where_it_already_gained(
    ratio: float, advantage: float, expected_gradient: float
) -> None:
    got = gradient(
        lambda r: formulas.clipped_surrogate(r, torch.tensor([advantage]), 0.2), torch.tensor([ratio])
    )
    assert got.item() == expected_gradient


@masked
@pytest.mark.parametrize("clip", [None, 0.2])
def test_value_loss(with_mask: bool, clip: float | None) -> None:
    new, old, returns, valid = draw(7), draw(8), draw(9), mask(with_mask)
    total = 0.0
    for v, o, r in zip(kept(new, valid), kept(old, valid), kept(returns, valid), strict=True):
        error = (v - r) ** 2
        if clip is not None:
            error = max(error, (o + min(max(v - o, -clip), clip) - r) ** 2)
        total += 0.5 * error
    expected = total / len(kept(new, valid))

    def loss(x: Tensor) -> Tensor:
        return formulas.value_loss(x, spoil(old, valid), spoil(returns, valid), clip, valid)

    assert float(loss(spoil(new, valid))) == pytest.approx(expected)
    assert_gradient_is_true(loss, new, valid)


def test_kl_estimates_average_to_the_divergence_of_the_old_policy_from_the_new() -> None:
    old, new = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.3, 0.4, 0.3])
    # Weighted by old's probabilities: 10 draws in exactly its proportions.
    actions = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    new_log, old_log = new.log()[actions], old.log()[actions]
    got = formulas.kl_estimates((new_log - old_log).exp(), new_log, old_log)
    torch.testing.assert_close(got.mean(), (old * (old / new).log()).sum())
    assert bool((got >= 0).all())


@masked
def test_masked_means(with_mask: bool) -> None:
    xs, valid = [draw(10), draw(11), draw(12)], mask(with_mask)
    got = formulas.masked_means([spoil(x, valid) for x in xs], valid)
    torch.testing.assert_close([m.item() for m in got], [statistics.fmean(kept(x, valid)) for x in xs])


def test_masked_means_of_nothing_are_zero() -> None:
    for shape, valid in (((0, 4), None), ((2, 3), torch.zeros(2, 3).bool())):
        got = formulas.masked_means([torch.full(shape, math.nan)] * 2, valid)
        assert [m.item() for m in got] == [0.0, 0.0]


@masked
def test_explained_variance(with_mask: bool) -> None:
    values, returns, valid = draw(12), draw(13, 2.0) + 4.0, mask(with_mask)
    got = formulas.explained_variance(spoil(values, valid), spoil(returns, valid), valid)
    residuals = [r - v for r, v in zip(kept(returns, valid), kept(values, valid), strict=True)]
    expected = 1 - statistics.pvariance(residuals) / statistics.pvariance(kept(returns, valid))
    assert float(got) == pytest.approx(expected)


def test_explained_variance_of_perfect_constant_and_unvarying() -> None:
    returns = draw(14)
    assert formulas.explained_variance(returns + 3.0, returns).item() == pytest.approx(1.0)
    assert formulas.explained_variance(torch.full(SHAPE, 2.0), returns).item() == pytest.approx(0.0)
    assert formulas.explained_variance(returns, torch.full(SHAPE, 2.0)).item() == 0.0
