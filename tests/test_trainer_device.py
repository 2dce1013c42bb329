"""The trainer's options of a device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from device_support import fake_device
from hotloop.cli import parse_train, train
from hotloop.losses.ppo_loss import PPOLoss
from hotloop.trainer import Trainer
from trainer_support import run, settings


@pytest.mark.parametrize("option", ["sync_audit", "capture_optimizer_step"])
def test_host_memory_is_refused_before_anything_is_written(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = f"--{option.replace('_', '-')}"
    assert getattr(parse_train([flag]), option)
    assert not getattr(parse_train([]), option)
    assert train([flag, "--run-dir", str(tmp_path / "run"), "--num-envs", "4"]) == 2
    assert f"error: CoreTrainingLoop: {option}=True needs a CUDA device, got cpu" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_audited_run_learns_the_same(tmp_path: Path) -> None:
    plain = Trainer(settings(tmp_path / "plain"))
    plain.train()
    with fake_device() as calls:
        audited = Trainer(settings(tmp_path / "audited", sync_audit=True))
        audited.train()
    assert calls.modes == [2, 0] * 6
    for mine, its in zip(plain.policy.parameters(), audited.policy.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_what_waits_ends_the_run_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PPOLoss, "on_mb_end", lambda self, context, mb: torch.ones(()).item())
    with fake_device(), pytest.raises(RuntimeError, match="sync_audit=True, and the host waited"):
        run(settings(tmp_path / "run", sync_audit=True))


def test_a_target_for_the_divergence_cannot_be_audited(tmp_path: Path) -> None:
    with fake_device(), pytest.raises(ValueError, match="target_kl of the loss 'ppo'"):
        Trainer(settings(tmp_path / "run", sync_audit=True, actor={"target_kl": 0.1}))
    assert not (tmp_path / "run").exists()


def test_a_captured_step_makes_a_capturable_optimizer(tmp_path: Path) -> None:
    with fake_device():
        trainer = Trainer(settings(tmp_path / "run", capture_optimizer_step=True))
        assert trainer.optimizer.param_groups[0]["capturable"]
        assert trainer.loop._on_device.captured is not None
        plain = Trainer(settings(tmp_path / "plain"))
        assert not plain.optimizer.param_groups[0]["capturable"]
