"""The Gaussian ops beside `torch.distributions` and the plain formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from hotloop import ops
from interleave import Timing, interleaved, report, save

SHAPES = [(64, 6), (1024, 6), (16384, 6), (4096, 32)]
HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
GROUPS: dict[str, dict[str, Timing]] = {}


def by_formulas(mean: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    deviation = (actions - mean) * torch.exp(-log_std)
    log_prob = (-0.5 * deviation.square() - log_std - HALF_LOG_TWO_PI).sum(-1)
    return log_prob, (log_std + (0.5 + HALF_LOG_TWO_PI)).expand_as(mean).sum(-1)


def by_noise(mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    actions = mean + log_std.exp() * torch.randn_like(mean)
    return actions, *by_formulas(mean, log_std, actions)


def by_distributions(mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    normal = torch.distributions.Normal(mean, log_std.exp(), validate_args=False)
    law = torch.distributions.Independent(normal, 1)
    actions = law.sample()
    return actions, law.log_prob(actions), law.entropy()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_gaussian(benchmark: BenchmarkFixture, shape: tuple[int, int], one_thread: None) -> None:
    mean = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    log_std = torch.full(shape[1:], -0.3)
    leaves = mean.clone().requires_grad_(), log_std.clone().requires_grad_()
    actions, log_prob, entropy = ops.gaussian_sample(mean, log_std, seed=0, step=0)
    ones = torch.ones(shape[0])
    source, target = torch.randn(3, *shape), torch.empty(3, *shape)

    def both_passes(evaluate: Callable[..., tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(evaluate(*leaves, actions), leaves, (ones, ones))

    contestants: dict[str, Callable[[], object]] = {
        "copy of means, actions and gradients": lambda: target.copy_(source),
        "sample: hotloop": lambda: ops.gaussian_sample(mean, log_std, seed=0, step=0),
        "sample, squashed: hotloop": lambda: ops.gaussian_sample(mean, log_std, seed=0, step=0, squash=True),
        "sample: torch.distributions": lambda: by_distributions(mean, log_std),
        "sample: formulas": lambda: by_noise(mean, log_std),
        "evaluate and gradients: hotloop": lambda: both_passes(ops.gaussian_evaluate),
        "evaluate and gradients: formulas": lambda: both_passes(by_formulas),
    }
    timings = interleaved(contestants, rounds=200 if mean.numel() < 5 * 10**4 else 30)
    group = f"{shape[0]}x{shape[1]}, 1 thread"
    GROUPS[group] = timings
    print("\n" + report(group, timings, "copy of means, actions and gradients"))
    torch.testing.assert_close(by_formulas(mean, log_std, actions), (log_prob, entropy), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        both_passes(ops.gaussian_evaluate), both_passes(by_formulas), rtol=1e-3, atol=1e-3
    )
    benchmark.pedantic(contestants["sample: hotloop"], rounds=20)
    if len(GROUPS) == len(SHAPES):
        print(f"written to {save('gaussian', GROUPS)}")
