"""What is refused before training starts, and that the message says what would work."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hotloop.envs import GymnasiumEnvironment
from hotloop.policies import MLPPolicy
from hotloop.trainer import TrainConfig, Trainer
from hotloop.trainer.config import nearest_setting, setting_names
from trainer_support import Recorder, run, settings

# Settings, the field that the message must name, the value it must show, and what must work.
SIZES: list[tuple[dict[str, Any], str, str, list[int]]] = [
    ({"rollout": {"batch_size": 1000}}, "rollout.batch_size", "got 1000", [960, 1280]),
    ({"rollout": {"batch_size": 31}}, "rollout.batch_size", "got 31", [320]),
    ({"rollout": {"minibatch_size": 33}}, "rollout.minibatch_size", "got 33", [32, 64]),
    ({"rollout": {"minibatch_size": 96}}, "rollout.minibatch_size", "got 96", [64, 160]),
    ({"rollout": {"minibatch_size": 10**6}}, "rollout.minibatch_size", "got 1000000", [320]),
    ({"rollout": {"accumulate": 3}}, "rollout.accumulate", "got 3", [2, 5]),
    ({"rollout": {"accumulate": 64}}, "rollout.accumulate", "got 64", [10]),
    (
        {"rollout": {"accumulate": 2, "minibatch_size": 160}},
        "rollout.minibatch_size",
        "got 160",
        [64, 320],
    ),
]


@pytest.mark.parametrize(("changes", "field", "shown", "working"), SIZES)
def test_sizes_that_do_not_divide(
    tmp_path: Path, changes: dict[str, Any], field: str, shown: str, working: list[int]
) -> None:
    """With 10 environments and segments of 32 steps."""
    rollout = {"horizon": 32, **changes["rollout"]}
    with pytest.raises(ValueError, match=re.escape(field)) as caught:
        Trainer(settings(tmp_path / "r", num_envs=10, rollout=rollout))
    message = str(caught.value)
    assert shown in message
    assert message.endswith(f"{' or '.join(map(str, working))} would work")
    for size in working:
        fitting = {**rollout, field.removeprefix("rollout."): size}
        settings(tmp_path / "r", num_envs=10, rollout=fitting).resolved()
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"gama": 1}, "advantage.gamma"),
        ({"advantage": {"gama": 1}}, "advantage.gamma"),
        ({"optimiser": {"learning_rate": 1}}, "optimizer"),
        ({"optimizer": {"lerning_rate": 1}}, "optimizer.learning_rate"),
        ({"learning_rate": 1}, "learning_rate"),
        ({"num_env": 1}, "num_envs"),
        ({"schedules": {"learning_rate": {"warmup": 1}}}, "schedules.learning_rate.warmup_steps"),
        ({"advantage": {"reward_centering": {"enable": True}}}, "advantage.reward_centering.enabled"),
    ],
)
def test_an_unknown_setting_is_answered_with_a_known_one(written: dict[str, Any], meant: str) -> None:
    with pytest.raises(ValueError, match=r"my\.yaml: unknown setting .*, did you mean '") as caught:
        TrainConfig.from_settings(written, source="my.yaml")
    assert f"{meant}'?" in str(caught.value)


def test_a_setting_like_no_other_is_answered_with_none() -> None:
    assert nearest_setting("wobble.flux") is None
    with pytest.raises(ValueError, match=r"unknown setting 'wobble'$"):
        TrainConfig.from_settings({"wobble": 1}, source="f")
    names = setting_names()
    assert {"env", "optimizer", "optimizer.learning_rate", "schedules.ent_coef.kind"} <= set(names)
    assert len(names) == len(set(names))


class Serving:
    """An environment that serves something else than the one it wraps announces."""

    def __init__(self, change: Any) -> None:
        self._environment = GymnasiumEnvironment("CartPole-v1", 8, seed=0)
        self._change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environment, name)

    def get_observations(self) -> Any:
        observations, *rest = self._environment.get_observations()
        return self._change(observations), *rest


@pytest.mark.parametrize(
    ("change", "served"),
    [
        (lambda x: x[:, :3], "[3] of float32"),
        (lambda x: x.unsqueeze(1), "[1, 4] of float32"),
        (lambda x: x.double(), "[4] of float64"),
        (lambda x: x.to(torch.uint8), "[4] of uint8"),
    ],
)
def test_an_environment_that_changes_its_observations(tmp_path: Path, change: Any, served: str) -> None:
    environment = Serving(change)
    with pytest.raises(ValueError, match=r"env 'CartPole-v1'.*\[4\] of float32.*would work") as caught:
        Trainer(settings(tmp_path / "r"), environment=environment, progress=Recorder())
    assert f"serves {served}" in str(caught.value)
    assert not (tmp_path / "r").exists()
    environment.close()


def test_what_it_announces_is_accepted(tmp_path: Path) -> None:
    environment = Serving(lambda x: x)
    run(settings(tmp_path / "r", total_timesteps=128), environment=environment)
    environment.close()


def mlp(shape: tuple[int, ...]) -> MLPPolicy:
    return MLPPolicy(shape, 2, hidden=(4,))


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            lambda: mlp((4,)).to("meta"),
            r"device is 'cpu', but the policy's parameter 'actor\.0\.weight' is on 'meta': "
            r"policy\.to\('cpu'\), or device='meta', would work",
        ),
        (lambda: mlp((5,)), r"shape \[5\], the environment serves \[4\]: .*obs_shape=\(4,\) would work"),
    ],
)
def test_a_policy_that_does_not_fit(tmp_path: Path, policy: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trainer(settings(tmp_path / "r"), policy=policy(), progress=Recorder())
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "toaster"}, "device 'toaster' cannot be used"),
        ({"evaluation": {"video": True}}, r"evaluation\.every is None.*would work"),
        ({"env": "NoSuch-v0"}, "env 'NoSuch-v0' cannot be made"),
    ],
)
def test_settings_that_lead_nowhere(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trainer(settings(tmp_path / "r", **changes), progress=Recorder())
    assert not (tmp_path / "r").exists()


def test_a_number_of_agents_that_is_not_num_envs(tmp_path: Path) -> None:
    with (
        GymnasiumEnvironment("CartPole-v1", 6, seed=0) as environment,
        pytest.raises(ValueError, match=r"6 agents, num_envs says 8: num_envs=6 would work"),
    ):
        Trainer(settings(tmp_path / "r"), environment=environment)


# Weights & Biases

STAND_IN = """
calls = []
class Run:
    id = "the-id"
    def log(self, values, step):
        calls.append(("log", step, values))
    def finish(self):
        calls.append(("finish",))
def init(**options):
    calls.append(("init", options))
    return Run()
"""


def test_logging_to_wandb_without_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else found(name, *rest)
    )
    output = {"wandb": "mine", "plot": False, "tensorboard": False}
    with pytest.raises(ImportError, match=r"output\.wandb='mine' needs wandb: .*hotloop\[wandb\]"):
        Trainer(settings(tmp_path / "r", output=output), progress=Recorder())
    assert not (tmp_path / "r").exists()


def test_logging_to_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "wandb.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    import wandb

    progress = Recorder(stop_after=2)
    output = {"wandb": "mine", "plot": False, "tensorboard": False}
    changes: dict[str, Any] = {"output": output, "evaluation": {"every": 100, "episodes": 2}}
    run(settings(tmp_path / "r", **changes), progress=progress)
    kind, options = wandb.calls[0]
    assert kind == "init"
    assert (options["project"], options["name"], options["id"]) == ("mine", "r", None)
    assert options["config"]["env"] == "CartPole-v1"
    logs = [call[1:] for call in wandb.calls if call[0] == "log"]
    epochs = [(step, values) for step, values in logs if "losses/value_loss" in values]
    assert [step for step, _ in epochs] == [report.agent_steps for report in progress.reports]
    assert epochs[0][1]["losses/value_loss"] == progress.reports[0].losses["value_loss"]
    assert any("evaluation/return_mean" in values for _, values in logs)
    assert wandb.calls[-1] == ("finish",)
    wandb.calls.clear()
    resume = settings(tmp_path / "r", **changes)
    resume.run_dir, resume.resume = None, tmp_path / "r"
    run(resume)
    assert wandb.calls[0][1]["id"] == "the-id"
    monkeypatch.delitem(sys.modules, "wandb")
