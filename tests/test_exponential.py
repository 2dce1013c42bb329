"""The vectorised exponential, seen through the ops that are made of it."""

from __future__ import annotations

import pytest
import torch

from hotloop import ops


def softmax_weight(x: torch.Tensor) -> torch.Tensor:
    """`e^x` for x <= 0, as the gradient of a logit sees it: with two choices, logits 0 and x, the gradient
    of log_prob[0] with respect to x is -e^x / (1 + e^x)."""
    logits = torch.stack((torch.zeros_like(x), x), dim=1).requires_grad_()
    log_prob, _ = ops.categorical_evaluate(logits, torch.zeros(len(x), dtype=torch.int64))
    (gradient,) = torch.autograd.grad(log_prob.sum(), logits)
    return -gradient[:, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_error_is_within_the_bound(dtype: torch.dtype, isa: str) -> None:
    # below -40 the sum rounds to 1, so that what is seen is the exponential itself
    low = -87.0 if dtype == torch.float32 else -700.0
    x = torch.linspace(low, -40.0, 200_001, dtype=torch.float64).to(dtype)
    seen = softmax_weight(x)
    if dtype == torch.float32:
        exact = x.double().exp()
        spacing = torch.nextafter(exact.float(), torch.tensor(torch.inf)).double() - exact.float().double()
    else:
        exact = x.exp()  # itself within 1 ulp: the bound is one wider
        spacing = torch.nextafter(exact, torch.tensor(torch.inf, dtype=dtype)) - exact
    error = ((seen.double() - exact).abs() / spacing).max().item()
    assert error <= (2.0 if dtype == torch.float32 else 3.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_ends_of_the_range(dtype: torch.dtype, isa: str) -> None:
    x = torch.tensor([-88.0, -710.0, -1e30, -torch.inf], dtype=dtype)
    zero = softmax_weight(x)
    assert zero[1:].tolist() == [0.0, 0.0, 0.0]
    assert zero[0].item() == (0.0 if dtype == torch.float32 else pytest.approx(x[0].exp().item(), rel=1e-15))
    assert softmax_weight(torch.tensor([torch.nan], dtype=dtype)).isnan().all()
