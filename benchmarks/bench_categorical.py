"""The categorical ops beside `torch.distributions` and the plain formulas on `log_softmax`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from hotloop import ops
from interleave import Timing, interleaved, report, save

SHAPES = [(64, 2), (1024, 2), (1024, 16), (16384, 16), (4096, 512)]
GROUPS: dict[str, dict[str, Timing]] = {}


def by_log_softmax(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    log_probs = torch.log_softmax(logits, dim=-1)
    log_prob = log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    return log_prob, -(log_probs * log_probs.exp()).sum(-1)


def by_distributions(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    law = torch.distributions.Categorical(logits=logits, validate_args=False)
    actions = law.sample()
    return actions, law.log_prob(actions), law.entropy()


def by_race(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An exponential race: what `CategoricalHead` does where the native op does not serve."""
    log_probs = torch.log_softmax(logits, dim=-1)
    probs = log_probs.exp()
    actions = (probs / torch.empty_like(probs).exponential_().clamp_min_(1e-30)).argmax(-1)
    log_prob = log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    return actions, log_prob, -(log_probs * probs).sum(-1)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_categorical(benchmark: BenchmarkFixture, shape: tuple[int, int], one_thread: None) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    leaf = logits.clone().requires_grad_()
    actions, log_prob, entropy = ops.categorical_sample(logits, seed=0, step=0)
    choices, ones = actions.long(), torch.ones(shape[0])
    source, target = logits.clone(), torch.empty(shape)

    def both_passes(evaluate: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        return torch.autograd.grad(evaluate(leaf, choices), leaf, (ones, ones))[0]

    contestants: dict[str, Callable[[], object]] = {
        "copy of the logits": lambda: target.copy_(source),
        "sample: hotloop": lambda: ops.categorical_sample(logits, seed=0, step=0),
        "sample: torch.distributions": lambda: by_distributions(logits),
        "sample: exponential race": lambda: by_race(logits),
        "evaluate: hotloop": lambda: ops.categorical_evaluate(logits, choices),
        "evaluate: log_softmax": lambda: by_log_softmax(logits, choices),
        "evaluate and gradient: hotloop": lambda: both_passes(ops.categorical_evaluate),
        "evaluate and gradient: log_softmax": lambda: both_passes(by_log_softmax),
    }
    timings = interleaved(contestants, rounds=200 if logits.numel() < 10**5 else 20)
    group = f"{shape[0]}x{shape[1]}, 1 thread"
    GROUPS[group] = timings
    print("\n" + report(group, timings, "copy of the logits"))
    torch.testing.assert_close(by_log_softmax(logits, choices), (log_prob, entropy), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        both_passes(ops.categorical_evaluate), both_passes(by_log_softmax), rtol=1e-4, atol=1e-5
    )
    benchmark.pedantic(contestants["sample: hotloop"], rounds=20)
    if len(GROUPS) == len(SHAPES):
        print(f"written to {save('categorical', GROUPS)}")
