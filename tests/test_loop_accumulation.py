"""Gradients accumulated over k minibatches equal those of one that is k times as large."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hotloop.losses import formulas
from hotloop.losses.ranks import join_moments
from hotloop.trainer import Trainer
from trainer_support import Recorder, settings


def trained(run_dir: Path, accumulate: int, *, lr: float = 1.0, **changes: Any) -> Trainer:
    """A trainer after one epoch: two passes of two optimizer steps each, by SGD, because Adam's first steps
    hide a wrong scale of the gradient."""
    rollout = {"horizon": 16, "update_epochs": 2, "minibatch_size": 256, "accumulate": accumulate}
    config = settings(run_dir, num_envs=32, rollout=rollout, **changes)
    trainer = Trainer(config, progress=Recorder())
    trainer.loop.optimizer = torch.optim.SGD(trainer.policy.parameters(), lr=lr)
    trainer.config.optimizer.max_grad_norm = 100.0  # nor must clipping
    trainer._run_epoch()
    trainer.environment.close()
    return trainer


VARIANTS: dict[str, dict[str, Any]] = {
    "fused": {},
    "separate losses": {"fused_loss": False},
    "not normalised": {"actor": {"norm_adv": False}},
    "sequential": {"sampling": {"method": "sequential"}},
    "clipped values": {"critic": {"clip_vloss": True}, "fused_loss": False},
    "continuous": {"env": "Pendulum-v1"},
    "entropy": {"actor": {"ent_coef": 0.1}},
    "recurrent, burn-in": {"policy": {"kind": "gru", "hidden": [8], "core_size": 8, "burn_in": 3}},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_four_quarters_equal_one_minibatch(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole, parts = trained(tmp_path / "1", 1, **changes), trained(tmp_path / "4", 4, **changes)
    assert parts.experience.num_minibatches == 4 * whole.experience.num_minibatches == 8
    fresh = Trainer(settings(tmp_path / "fresh", **changes), progress=Recorder())
    fresh.environment.close()
    for (name, expected), got, first in zip(
        whole.policy.named_parameters(), parts.policy.parameters(), fresh.policy.parameters(), strict=True
    ):
        moved = float((expected - first).detach().norm())
        assert moved > 1e-5, f"{name} has hardly moved: this would prove nothing"
        assert float((got - expected).detach().norm()) < 2e-3 * moved, name
    statistics = [trainer.context.latest_losses_stats for trainer in (whole, parts)]
    assert statistics[1] == pytest.approx(statistics[0], rel=1e-3, abs=1e-5)


def test_valid_entries_decide_the_weights(tmp_path: Path) -> None:
    """The vectorised CartPole has filler rows, so parts count differently; otherwise the test above would not
    see equal weights."""
    trainer = trained(tmp_path / "r", 4)
    valid = trainer.experience.buffer["valid"].sum(1)
    assert len(valid.unique()) > 1
    group = trainer.loop._group
    assert group is not None
    assert float(sum(group.weights)) == pytest.approx(1.0)
    assert len({float(weight) for weight in group.weights}) > 1


def test_a_kl_target_is_looked_at_between_optimizer_steps_only(tmp_path: Path) -> None:
    changes = {"actor": {"target_kl": 1e-3}, "lr": 30.0}
    whole, parts = trained(tmp_path / "1", 1, **changes), trained(tmp_path / "4", 4, **changes)
    # The second step is where the KL shows what the first one did, in its first quarter already; the second
    # pass ends before its first step.
    assert whole.context.latest_losses_stats["approx_kl"] > 1e-3
    assert whole.context.epoch == parts.context.epoch == 2
    for expected, got in zip(whole.policy.parameters(), parts.policy.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    numbers = torch.randn(6, 10, dtype=torch.float64) * 3 + 10
    valid = torch.rand(6, 10) < 0.7
    numbers[~valid] = torch.nan
    parts = torch.stack([formulas.advantage_moments(numbers[i : i + 2], valid[i : i + 2]) for i in (0, 2, 4)])
    kept = numbers[valid]
    count, mean, squares = join_moments(parts)
    assert (int(count), float(mean)) == (len(kept), pytest.approx(float(kept.mean())))
    assert float(squares) == pytest.approx(float((kept - kept.mean()).square().sum()))
    expected = torch.stack((kept.mean(), kept.std()))
    torch.testing.assert_close(formulas.mean_and_std(parts), expected)
    normal = formulas.normalize_advantages(numbers.float(), valid, moments=expected)
    torch.testing.assert_close(
        normal[valid], ((kept - kept.mean()) / kept.std()).float(), rtol=1e-4, atol=1e-5
    )
    assert (normal[~valid] == 0).all()
