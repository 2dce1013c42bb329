"""`ppo_loss`, forward and backward, beside the formulas of `hotloop.losses` and autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from hotloop import ops
from hotloop.losses import formulas
from interleave import Timing, interleaved, report, save

SHAPES = [(16, 64), (64, 64), (256, 64), (1024, 64)]
NAMES = ("new_log_prob", "old_log_prob", "advantages", "new_values", "old_values", "returns", "entropy")
LEAVES = ("new_log_prob", "new_values", "entropy")
GROUPS: dict[str, dict[str, Timing]] = {}


def by_formulas(
    *, prio_weights: Tensor, valid: Tensor, clip_coef: float, vf_clip_coef: float, **x: Any
) -> Tensor:
    """What `PPOActor` and `PPOCritic` compute, statistics included."""
    count = valid.sum()
    ratio = formulas.importance_ratio(x["new_log_prob"], x["old_log_prob"], valid)
    advantages = prio_weights * formulas.normalize_advantages(x["advantages"], valid)
    policy = formulas.clipped_surrogate(ratio, advantages, clip_coef, valid, count=count)
    entropy = formulas.masked_mean(x["entropy"], valid, count=count)
    value = formulas.value_loss(
        x["new_values"], x["old_values"], x["returns"], vf_clip_coef, valid, count=count
    )
    with torch.no_grad():
        kl = formulas.kl_estimates(ratio, x["new_log_prob"], x["old_log_prob"])
        clipped = ((ratio - 1.0).abs() > clip_coef).to(ratio.dtype)
        formulas.masked_means((kl, clipped, ratio, x["new_log_prob"]), valid, count=count)
    return policy - 0.01 * entropy + 0.5 * value


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_ppo_loss(benchmark: BenchmarkFixture, shape: tuple[int, int], one_thread: None) -> None:
    g = torch.Generator().manual_seed(0)
    tensors: dict[str, Any] = {name: torch.randn(shape, generator=g) for name in NAMES}
    tensors["new_log_prob"] = tensors["old_log_prob"] + 0.1 * tensors["new_log_prob"]
    tensors = {name: x.requires_grad_(name in LEAVES) for name, x in tensors.items()}
    leaves = [tensors[name] for name in LEAVES]
    options: dict[str, Any] = {
        "prio_weights": torch.rand(shape, generator=g) + 0.5,
        "valid": torch.rand(shape, generator=g) < 0.9,
        "clip_coef": 0.2,
        "vf_clip_coef": 0.2,
    }
    source, target = torch.randn(12, *shape), torch.empty(12, *shape)

    def native() -> tuple[Tensor, ...]:
        return torch.autograd.grad(ops.ppo_loss(**tensors, **options, ent_coef=0.01)[0], leaves)

    def plain() -> tuple[Tensor, ...]:
        return torch.autograd.grad(by_formulas(**tensors, **options), leaves)

    contestants: dict[str, Callable[[], object]] = {
        "copy of what is read and written": lambda: target.copy_(source),
        "hotloop.ops.ppo_loss": native,
        "formulas and autograd": plain,
    }
    timings = interleaved(contestants, rounds=100)
    group = f"{shape[0]}x{shape[1]}, 1 thread"
    GROUPS[group] = timings
    print("\n" + report(group, timings, "copy of what is read and written"))
    torch.testing.assert_close(native(), plain(), rtol=1e-3, atol=1e-7)
    benchmark.pedantic(native, rounds=20)
    if len(GROUPS) == len(SHAPES):
        print(f"written to {save('ppo_loss', GROUPS)}")
