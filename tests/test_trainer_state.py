"""One state of everything: whoever loads it goes on to the same bits."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hotloop.trainer import Trainer
from hotloop.trainer.checkpoint import load_checkpoint, save_checkpoint
from hotloop.trainer.random_state import rng_state, seed_everything, separate_draws, set_rng_state
from trainer_support import Recorder, lasting, resumed, run, settings

EVERYTHING: dict[str, Any] = {
    "normalize": {"observations": True, "rewards": True},
    "schedules": {
        "learning_rate": {"kind": "cosine", "warmup_steps": 200, "final_fraction": 0.1},
        "ent_coef": {"kind": "linear"},
    },
    "actor": {"ent_coef": 0.01, "target_kl": 0.05},
    "rollout": {"horizon": 16, "update_epochs": 2, "accumulate": 2},
    "sampling": {"method": "prioritized", "prio_alpha": 0.5},
    "advantage": {"reward_centering": {"enabled": True, "beta": 0.1}},
    "evaluation": {"every": 200, "episodes": 3, "greedy": False},
}


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_stopped_after_every_epoch_equals_never_stopped(tmp_path: Path, env: str) -> None:
    changes = {**EVERYTHING, "env": env}
    epochs = run(settings(tmp_path / "whole", **changes)).epoch
    run(settings(tmp_path / "parts", **changes), progress=Recorder(stop_after=1))
    for epoch in range(2, epochs + 1):
        stopped = run(resumed(tmp_path / "parts", **changes), progress=Recorder(stop_after=epoch))
        assert stopped.epoch == epoch
    assert epochs > 5
    assert lasting(tmp_path / "parts") == lasting(tmp_path / "whole")
    evaluations = [(tmp_path / name / "evaluations.csv").read_text() for name in ("parts", "whole")]
    assert evaluations[0] == evaluations[1]
    ends = [load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("parts", "whole")]
    for end in ends:
        del end["seconds"]
    assert_same(ends[0], ends[1], "checkpoint")


def assert_same(one: Any, other: Any, where: str) -> None:
    """Equal to the bit, all the way down."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other, err_msg=where)
    else:
        assert one == other, where


class DrawsEverywhere(torch.nn.Module):
    """Adds noise from all three generators to the values, as a policy of somebody else's might."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, td: Any, action: Any = None) -> Any:
        td = self.inner(td, action=action)
        noise = random.random() + float(np.random.rand()) + float(torch.rand(()))
        td["values"] = td["values"] + noise
        return td


def noisy(run_dir: Path) -> Trainer:
    from hotloop.policies import MLPPolicy

    config = settings(run_dir, **EVERYTHING)
    seed_everything(5)
    return Trainer(config, policy=DrawsEverywhere(MLPPolicy((4,), 2, hidden=(8,))), progress=Recorder())


def test_a_state_moves_from_one_trainer_to_another(tmp_path: Path) -> None:
    first, second = noisy(tmp_path / "first"), noisy(tmp_path / "second")
    for _ in range(3):
        first._run_epoch()
    save_checkpoint(tmp_path / "state.pt", first.state_dict())
    expected = [dict(first._run_epoch().losses) for _ in range(3)]
    second.load_state_dict(load_checkpoint(tmp_path / "state.pt"))
    assert [dict(second._run_epoch().losses) for _ in range(3)] == expected
    for trainer in (first, second):
        trainer.environment.close()


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_all_generators_go_on_where_they_were(tmp_path: Path) -> None:
    seed_everything(3)
    draws()
    save_checkpoint(tmp_path / "rng.pt", {"rng": rng_state()})
    expected = draws()
    set_rng_state(load_checkpoint(tmp_path / "rng.pt")["rng"])
    assert draws() == expected
    seed_everything(3)
    again = draws()
    seed_everything(4)
    assert all(a != b for a, b in zip(again, draws(), strict=True))


def test_separate_draws_leave_no_trace() -> None:
    def fails() -> None:
        with separate_draws(9):
            draws()
            raise KeyError

    seed_everything(1)
    draws()
    state = rng_state()
    expected = draws()
    set_rng_state(state)
    with separate_draws(9):
        inside = draws()
    with pytest.raises(KeyError):
        fails()
    assert draws() == expected
    with separate_draws(9):
        assert draws() == inside
