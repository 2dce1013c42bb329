"""Whole runs, small: determinism, stopping, resuming, what is written."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hotloop.nonfinite import NonFiniteError
from hotloop.policies import GRUPolicy, LSTMPolicy, MLPPolicy
from hotloop.trainer import Trainer
from hotloop.trainer.checkpoint import load_checkpoint
from hotloop.trainer.metrics import LEADING_COLUMNS, read_metrics
from hotloop.trainer.progress import EpochReport
from trainer_support import Recorder, lasting, resumed, run, settings


def test_a_run_writes_what_it_promises(tmp_path: Path) -> None:
    progress = Recorder()
    output = {"tensorboard": True, "plot": True}
    result = run(settings(tmp_path / "r", output=output), progress=progress)
    made = {path.name for path in (tmp_path / "r").iterdir()}
    assert made == {
        *("config.yaml", "metrics.csv", "checkpoint.pt", "checkpoints", "curve.png", "tensorboard")
    }
    columns = read_metrics(tmp_path / "r" / "metrics.csv")
    assert tuple(columns)[: len(LEADING_COLUMNS)] == LEADING_COLUMNS
    assert {"policy_loss", "value_loss", "entropy"} <= set(columns)
    assert columns["epoch"] == list(range(1, len(columns["epoch"]) + 1))
    assert columns["agent_steps"][-1] == result.agent_steps >= 6 * 128 - 40
    assert [r.epoch for r in progress.reports] == columns["epoch"]
    assert progress.closed
    assert result.reason == "total_timesteps"
    assert result.exit_code == 0
    assert f"{result.agent_steps:,} agent steps" in result.summary()
    shares = progress.reports[-1].shares
    assert sum(shares.values()) == pytest.approx(1.0, abs=0.02)
    assert all(shares[name] > 0 for name in ("environment", "policy", "hotloop", "optimizer")), shares
    content = torch.load(tmp_path / "r" / "checkpoint.pt", weights_only=True)
    assert content["epoch"] == columns["epoch"][-1]


def test_tensorboard_events_hold_the_epochs(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = settings(tmp_path / "r", output={"tensorboard": True, "plot": False})
    run(config, progress=Recorder(stop_after=3))
    run(resumed(tmp_path / "r", output={"tensorboard": True, "plot": False}))
    events = EventAccumulator(str(tmp_path / "r" / "tensorboard"))
    events.Reload()
    written = [(event.step, event.value) for event in events.Scalars("losses/value_loss")]
    columns = read_metrics(tmp_path / "r" / "metrics.csv")
    expected = list(zip(columns["agent_steps"], columns["value_loss"], strict=True))
    assert [step for step, _ in written] == [step for step, _ in expected]
    assert [value for _, value in written] == pytest.approx([value for _, value in expected])


def test_the_same_seed_gives_the_same_curve(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(settings(tmp_path / name, seed=seed))
    assert lasting(tmp_path / "a") == lasting(tmp_path / "b")
    assert lasting(tmp_path / "a") != lasting(tmp_path / "c")


VARIANTS: dict[str, dict[str, Any]] = {
    "vector": {},
    "same_step": {"environment": {"vectorization": "sync"}},
    "prioritized": {"sampling": {"method": "prioritized", "prio_alpha": 0.7}},
    "sequential": {"sampling": {"method": "sequential"}},
    "schedule": {"schedules": {"learning_rate": {"kind": "linear"}}},
    "two rows an environment": {"rollout": {"horizon": 8, "batch_size": 128, "update_epochs": 1}},
    "continuous": {"env": "Pendulum-v1"},
    "lstm": {"policy": {"kind": "lstm", "hidden": [8], "core_size": 4, "burn_in": 2}},
    "gru": {
        "policy": {"kind": "gru", "hidden": [8], "core_size": 4},
        "environment": {"vectorization": "sync"},
    },
    "separate losses": {"fused_loss": False},
    "normalised": {"normalize": {"observations": True, "rewards": True}},
    "normalised continuous": {
        "env": "Pendulum-v1",
        "normalize": {"observations": True, "rewards": True},
        "environment": {"vectorization": "sync"},
    },
    "everything": {
        "normalize": {"observations": True, "rewards": True},
        "schedules": {
            "learning_rate": {"kind": "cosine", "warmup_steps": 200, "final_fraction": 0.1},
            "ent_coef": {"kind": "linear"},
        },
        "actor": {"ent_coef": 0.01, "target_kl": 0.05},
        "rollout": {"horizon": 16, "update_epochs": 2, "accumulate": 2},
        "evaluation": {"every": 200, "episodes": 3, "greedy": False},
    },
    "centred rewards": {"advantage": {"reward_centering": {"enabled": True, "beta": 0.1}}},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_resumed_run_equals_one_never_stopped(tmp_path: Path, variant: dict[str, Any]) -> None:
    run(settings(tmp_path / "whole", **variant))
    stopped = run(settings(tmp_path / "parts", **variant), progress=Recorder(stop_after=2))
    assert (stopped.reason, stopped.exit_code, stopped.epoch) == ("signal", 143, 2)
    interrupted = run(
        resumed(tmp_path / "parts", **variant), progress=Recorder(stop_after=4, signum=signal.SIGINT)
    )
    assert (interrupted.exit_code, interrupted.epoch) == (130, 4)
    assert f"--resume {tmp_path / 'parts'}" in interrupted.summary()
    finished = run(resumed(tmp_path / "parts", **variant))
    assert finished.reason == "total_timesteps"
    whole = lasting(tmp_path / "whole")
    assert len(whole) >= 6
    assert lasting(tmp_path / "parts") == whole
    final = [load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("whole", "parts")]
    for key, value in final[0]["policy"].items():
        assert torch.equal(value, final[1]["policy"][key]), key


def test_rows_behind_the_checkpoint_are_made_again(tmp_path: Path) -> None:
    """As after a kill: metrics.csv is ahead of checkpoint.pt."""
    run(settings(tmp_path / "r"), progress=Recorder(stop_after=2))
    early = (tmp_path / "r" / "checkpoint.pt").read_bytes()
    again = resumed(tmp_path / "r")
    run(again)
    whole = lasting(tmp_path / "r")
    (tmp_path / "r" / "checkpoint.pt").write_bytes(early)
    run(again)
    assert lasting(tmp_path / "r") == whole


def test_seconds_and_steps_count_on_after_a_resumption(tmp_path: Path) -> None:
    first = run(settings(tmp_path / "r"), progress=Recorder(stop_after=3))
    second = run(resumed(tmp_path / "r"))
    assert second.seconds > first.seconds
    assert second.agent_steps > first.agent_steps
    walls = read_metrics(tmp_path / "r" / "metrics.csv")["wall_time"]
    assert walls == sorted(walls)


def test_a_finished_run_that_is_resumed_makes_no_epoch(tmp_path: Path) -> None:
    run(settings(tmp_path / "r"))
    rows = lasting(tmp_path / "r")
    progress = Recorder()
    run(resumed(tmp_path / "r"), progress=progress)
    assert progress.reports == []
    assert lasting(tmp_path / "r") == rows


def test_a_resumed_run_may_go_on_for_longer(tmp_path: Path) -> None:
    run(settings(tmp_path / "r"))
    longer = resumed(tmp_path / "r", total_timesteps=10 * 128)
    longer.optimizer.learning_rate = 0.125
    longer.optimizer.beta1 = 0.5
    trainer = Trainer(longer, progress=Recorder())
    trainer.train()
    assert read_metrics(tmp_path / "r" / "metrics.csv")["agent_steps"][-1] >= 10 * 128
    assert trainer.optimizer.param_groups[0]["lr"] == 0.125
    assert trainer.optimizer.param_groups[0]["betas"][0] == 0.5
    assert yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["total_timesteps"] == 1280


def test_what_cannot_change_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    run(settings(tmp_path / "r"), progress=Recorder(stop_after=1))
    before = (tmp_path / "r" / "config.yaml").read_text()
    with pytest.raises(ValueError, match=r"policy, seed|seed.*policy"):
        Trainer(resumed(tmp_path / "r", seed=5, policy={"hidden": [4]}))
    assert (tmp_path / "r" / "config.yaml").read_text() == before


def test_an_environment_that_cannot_be_saved_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hotloop.envs import GymnasiumEnvironment

    monkeypatch.setattr(GymnasiumEnvironment, "why_unsavable", property(lambda self: "it is a secret"))
    run(settings(tmp_path / "r"), progress=Recorder(stop_after=2))
    first = load_checkpoint(tmp_path / "r" / "checkpoint.pt")
    assert first["environment"] is None
    progress = Recorder()
    trainer = Trainer(resumed(tmp_path / "r"), progress=progress)
    fresh = Trainer(settings(tmp_path / "other"), progress=Recorder())
    # Fresh episodes, and not those that the run began with.
    assert not torch.equal(trainer.environment.get_observations()[0], fresh.environment.get_observations()[0])
    fresh.environment.close()
    result = trainer.train()
    assert any("it is a secret" in message and "never stopped" in message for message in progress.messages)
    assert result.reason == "total_timesteps"


def test_fresh_episodes_after_a_resumption_begin_with_fresh_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hotloop.envs import GymnasiumEnvironment

    policy = {"kind": "gru", "hidden": [8], "core_size": 4}
    for why in (None, "it is a secret"):
        monkeypatch.setattr(GymnasiumEnvironment, "why_unsavable", property(lambda self, why=why: why))
        run(settings(tmp_path / str(why), policy=policy), progress=Recorder(stop_after=2))
        trainer = Trainer(resumed(tmp_path / str(why), policy=policy), progress=Recorder())
        states = trainer.loop.state_dict()["policy_states"]["states"]["h"]
        assert bool(states.any()) == (why is None)
        trainer.environment.close()


def test_the_goal_ends_the_run_once_100_episodes_are_known(tmp_path: Path) -> None:
    config = settings(tmp_path / "r", total_timesteps=10**6, stop_at_return=1.0)
    result = run(config)
    assert result.reason == "stop_at_return"
    assert result.episodes == 100
    assert result.return_mean >= 1.0
    assert result.epoch > 1  # 128 steps hold fewer than 100 episodes
    assert "reached 1" in result.summary()


def test_a_goal_that_is_never_met_leaves_the_steps_in_charge(tmp_path: Path) -> None:
    assert run(settings(tmp_path / "r", stop_at_return=1e9)).reason == "total_timesteps"


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    trainer = Trainer(settings(tmp_path / "r"), progress=Recorder())
    trainer.save()
    before = (tmp_path / "r" / "checkpoint.pt").read_bytes()
    with torch.no_grad():
        next(trainer.policy.critic.parameters()).fill_(float("nan"))  # type: ignore[union-attr]
    with pytest.raises(NonFiniteError, match=r"epoch 1, after .*critic.*checkpoint\.pt is from before"):
        trainer.train()
    assert (tmp_path / "r" / "checkpoint.pt").read_bytes() == before
    with pytest.raises(NonFiniteError, match="critic"):
        trainer.save()
    assert (tmp_path / "r" / "checkpoint.pt").read_bytes() == before


def test_a_nan_of_the_environment_stops_the_run_or_costs_a_minibatch(tmp_path: Path) -> None:
    from hotloop.envs import GymnasiumEnvironment

    class Broken(GymnasiumEnvironment):
        fetched = 0

        def get_observations(self) -> Any:
            step = super().get_observations()
            self.fetched += 1
            if self.fetched == 45:
                step[0][3, 1] = float("nan")
            return step

    def trainer(name: str, **changes: Any) -> Trainer:
        config = settings(tmp_path / name, **changes)
        return Trainer(config, environment=Broken("CartPole-v1", 8, seed=0), progress=Recorder())

    with pytest.raises(NonFiniteError, match=r"epoch 3.*env_obs.*agent 3, environment 3.*--on-nan skip"):
        trainer("raised").train()
    kept = load_checkpoint(tmp_path / "raised" / "checkpoint.pt")
    assert kept["epoch"] == 0
    assert all(tensor.isfinite().all() for tensor in kept["policy"].values())

    assert trainer("skipped", on_nan="skip").train().epoch == 6
    skipped = read_metrics(tmp_path / "skipped" / "metrics.csv")["skipped_minibatches"]
    assert skipped[2] > 0
    assert sum(skipped) == skipped[2]

    normalized = {"observations": True, "rewards": True}
    assert trainer("normalized", on_nan="skip", normalize=normalized).train().epoch == 6
    skipped = read_metrics(tmp_path / "normalized" / "metrics.csv")["skipped_minibatches"]
    assert skipped[2] > 0
    assert sum(skipped) == skipped[2]
    moments = load_checkpoint(tmp_path / "normalized" / "checkpoint.pt")["normalizers"]
    assert np.isfinite(moments["observations"]["mean"]).all()


def test_checkpoints_are_written_along_the_way(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watcher(Recorder):
        def update(self, report: EpochReport) -> None:
            path = tmp_path / "r" / "checkpoint.pt"
            seen.append(load_checkpoint(path)["epoch"] if path.exists() else 0)

    output = {"tensorboard": False, "plot": False, "checkpoint_seconds": 0}
    run(settings(tmp_path / "r", output=output), progress=Watcher())
    assert seen == list(range(len(seen)))


def test_a_mistake_leaves_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="NoSuchEnvironment"):
        Trainer(settings(tmp_path / "r", env="NoSuchEnvironment-v0"))
    assert not (tmp_path / "r").exists()


def test_an_existing_run_is_not_written_over(tmp_path: Path) -> None:
    run(settings(tmp_path / "r"), progress=Recorder(stop_after=1))
    with pytest.raises(FileExistsError, match="--resume"):
        Trainer(settings(tmp_path / "r"))


def test_own_environment_and_policy_are_used_and_left_open(tmp_path: Path) -> None:
    from hotloop.envs import GymnasiumEnvironment
    from hotloop.policies import MLPPolicy

    with GymnasiumEnvironment("CartPole-v1", 8, seed=0) as environment:
        policy = MLPPolicy.from_spaces(
            environment.single_observation_space, environment.single_action_space, hidden=(4,)
        )
        trainer = Trainer(
            settings(tmp_path / "r"), environment=environment, policy=policy, progress=Recorder()
        )
        trainer.train()
        assert trainer.policy is policy
        environment.get_observations()
        with pytest.raises(ValueError, match="8 agents"):
            Trainer(settings(tmp_path / "s", num_envs=4), environment=environment)


def test_a_trainer_runs_once(tmp_path: Path) -> None:
    trainer = Trainer(settings(tmp_path / "r"), progress=Recorder())
    trainer.train()
    with pytest.raises(RuntimeError, match="one run"):
        trainer.train()


@pytest.mark.parametrize(("boundary", "alive"), [("auto", True), ("exact", True), ("legacy", False)])
def test_the_last_column_of_a_segment(tmp_path: Path, boundary: str, alive: bool) -> None:
    rollout = {"horizon": 16, "update_epochs": 1, "boundary": boundary}
    trainer = Trainer(settings(tmp_path / "run", rollout=rollout))
    trainer.train()
    last = trainer.experience.buffer["advantages_full"][:, -1]
    assert bool(last.count_nonzero()) is alive


@pytest.mark.parametrize("kind", [LSTMPolicy, GRUPolicy, MLPPolicy])
def test_the_kind_of_policy_is_a_setting(kind: type[torch.nn.Module], tmp_path: Path) -> None:
    name = kind.__name__.removesuffix("Policy").lower()
    policy = {"kind": name, "hidden": [8, 6], "core_size": 4, "recurrent_check": "off"}
    trainer = Trainer(settings(tmp_path / "run", policy=policy), progress=Recorder())
    assert type(trainer.policy) is kind
    if kind is not MLPPolicy:
        assert (trainer.policy.core.input_size, trainer.policy.core_size) == (6, 4)
    trainer.environment.close()
    with pytest.raises(ValueError, match=r"policy\.kind"):
        settings(tmp_path / "other", policy={"kind": "rnn"})


FULL_DISK = """
import resource, sys
from hotloop.trainer import TrainConfig, Trainer
from pathlib import Path
sys.path.insert(0, "tests")
from trainer_support import settings
from hotloop import cli

class Filling:
    # From the end of epoch 3 on no file can grow beyond 2000 bytes: metrics.csv is smaller.
    def update(self, report):
        if report.epoch == 3:
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    def message(self, text): pass
    def close(self): pass

build = cli.Trainer
cli.Trainer = lambda config: build(config, progress=Filling())
output = {"tensorboard": False, "plot": False, "checkpoint_seconds": 0}
raise SystemExit(cli._carry_out(settings(Path(sys.argv[1]), output=output)))
"""


def test_a_full_disk_ends_the_run_with_one_line_and_the_last_checkpoint(tmp_path: Path) -> None:
    run_dir = tmp_path / "r"
    command = [sys.executable, "-c", FULL_DISK, str(run_dir)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 1, result.stderr
    assert result.stderr.count("\n") == 1
    assert "could not be written (File too large); the one that was there is kept" in result.stderr
    assert load_checkpoint(run_dir / "checkpoint.pt")["epoch"] == 2
    assert not list(run_dir.glob(".*"))
    # with room again the run goes on as if it had never stopped
    assert run(resumed(run_dir)).epoch == 6
    run(settings(tmp_path / "whole"))
    assert lasting(run_dir) == lasting(tmp_path / "whole")


def test_a_damaged_checkpoint_is_refused_and_another_one_named(tmp_path: Path) -> None:
    output = {"tensorboard": False, "plot": False, "checkpoint_seconds": 0, "keep_checkpoints": 2}
    run_dir = tmp_path / "r"
    run(settings(run_dir, output=output))
    path = run_dir / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    middle = slice(len(content) // 2, len(content) // 2 + 400)
    content[middle] = bytes(255 - byte for byte in content[middle])
    path.write_bytes(content)  # in place: epoch-00000006.pt is another name of the same file
    earlier = run_dir / "checkpoints" / "epoch-00000005.pt"
    with pytest.raises(
        ValueError, match=rf"checkpoint\.pt is not.*checksum.*go on from {earlier}, copy it to {path}"
    ):
        Trainer(resumed(run_dir))
    shutil.copyfile(earlier, path)
    assert run(resumed(run_dir)).epoch == 6
