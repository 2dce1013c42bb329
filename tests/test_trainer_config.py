"""Settings of a run: defaults, files, sizes that do not fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hotloop.trainer.config import FIXED_ON_RESUME, TrainConfig, changed_on_resume


def test_sizes_are_derived_from_the_number_of_environments() -> None:
    sizes = TrainConfig(num_envs=12, rollout={"horizon": 10}).resolved().rollout  # type: ignore[arg-type]
    assert (sizes.batch_size, sizes.minibatch_size) == (120, 30)


@pytest.mark.parametrize("num_envs", [1, 2, 3, 7, 64, 97])
def test_derived_sizes_always_fit(num_envs: int) -> None:
    config = TrainConfig(num_envs=num_envs).resolved()
    batch, minibatch, horizon = (
        config.rollout.batch_size,
        config.rollout.minibatch_size,
        config.rollout.horizon,
    )
    assert batch is not None
    assert minibatch is not None
    assert batch == num_envs * horizon
    assert batch % minibatch == 0
    assert minibatch % horizon == 0
    assert config.resolved() == config


@pytest.mark.parametrize(
    ("rollout", "field"),
    [
        ({"horizon": 32, "batch_size": 1000}, "rollout.batch_size"),
        ({"horizon": 32, "batch_size": 320 * 3 + 32}, "rollout.batch_size"),
        ({"horizon": 32, "batch_size": 320, "minibatch_size": 33}, "rollout.minibatch_size"),
        ({"horizon": 32, "batch_size": 320, "minibatch_size": 96}, "rollout.minibatch_size"),
        ({"horizon": 32, "minibatch_size": 640}, "rollout.minibatch_size"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_with_what_would_work(
    rollout: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(field)) as caught:
        TrainConfig(num_envs=10, rollout=rollout).resolved()  # type: ignore[arg-type]
    message = str(caught.value)
    offered = re.search(r": ([\d or]+) would work", message)
    assert offered is not None
    for size in offered[1].split(" or "):
        TrainConfig(num_envs=10, rollout={**rollout, field.split(".")[1]: int(size)}).resolved()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gama": 1}, "unknown setting 'gama'"),
        ({"advantage": {"gama": 1}}, "unknown setting 'advantage.gama'"),
        ({"advantage": {"reward_centering": {"x": 1}}}, "unknown setting 'advantage.reward_centering.x'"),
        ({"advantage": {"gamma": 1.5}}, "advantage.gamma: Input should be less than or equal to 1, got 1.5"),
        ({"rollout": {"horizon": "long"}}, "rollout.horizon"),
        ({"sampling": {"method": "random"}}, "sampling.method"),
        ({"optimizer": 3}, "optimizer"),
    ],
)
def test_wrong_settings_name_file_and_field(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        TrainConfig.from_settings(settings, source="my.yaml")
    assert str(caught.value).startswith("my.yaml: ")


def test_a_file_changes_what_it_names_and_nothing_else() -> None:
    base = TrainConfig()
    base.optimizer.eps = 1e-3
    config = TrainConfig.from_settings({"optimizer": {"beta1": 0.5}, "seed": 4}, source="f", base=base)
    assert (config.optimizer.beta1, config.optimizer.eps, config.seed) == (0.5, 1e-3, 4)
    # The trainer's own defaults survive a section that is named in part.
    partial = TrainConfig.from_settings({"critic": {"vf_coef": 1.0}, "actor": {"clip_coef": 0.1}}, source="f")
    assert partial.critic.clip_vloss is TrainConfig().critic.clip_vloss
    assert partial.actor.ent_coef == TrainConfig().actor.ent_coef


def test_environment_arguments_are_replaced_as_a_whole() -> None:
    base = TrainConfig.from_settings({"environment": {"kwargs": {"a": 1}}}, source="f")
    config = TrainConfig.from_settings(
        {"environment": {"kwargs": {"b": 2.5, "c": True}}}, source="f", base=base
    )
    assert config.environment.kwargs == {"b": 2.5, "c": True}
    assert config.environment.kwargs["c"] is True


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = TrainConfig(num_envs=8, stop_at_return=3.5, run_dir=tmp_path, quiet=True).resolved()
    config.policy.hidden = (16, 8)
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    back = TrainConfig.from_file(path)
    assert back == config.model_copy(update={"run_dir": None, "quiet": False})
    # Every setting is written, so that later defaults do not change the run.
    written = yaml.safe_load(path.read_text())
    assert set(written) == set(TrainConfig.model_fields) - {"run_dir", "resume", "quiet"}


def test_loop_config_takes_every_number_over() -> None:
    config = TrainConfig(num_envs=4, seed=9, total_timesteps=77)
    config.advantage.reward_centering.beta = 0.25
    config.sampling.method = "prioritized"
    loop = config.loop_config()
    assert (loop.batch_size, loop.minibatch_size, loop.bptt_horizon) == (4 * config.rollout.horizon,
                                                                         config.rollout.horizon,
                                                                         config.rollout.horizon)  # fmt: skip
    assert (loop.seed, loop.total_timesteps, loop.update_epochs) == (9, 77, config.rollout.update_epochs)
    assert loop.advantage.reward_centering.beta == 0.25
    assert loop.advantage.gamma == config.advantage.gamma
    assert loop.sampling.method == "prioritized"


@pytest.mark.parametrize(
    "settings",
    [
        {"env": "Acrobot-v1"},
        {"seed": 1},
        {"num_envs": 128},
        {"environment": {"vectorization": "sync"}},
        {"rollout": {"horizon": 16}},
        {"rollout": {"batch_size": 1 << 16}},
        {"policy": {"hidden": [8]}},
    ],
)
def test_what_a_checkpoint_depends_on_cannot_change(settings: dict[str, Any]) -> None:
    base = TrainConfig().resolved()
    over = TrainConfig.from_settings(settings, source="f").resolved()
    changed = changed_on_resume(base, over)
    assert changed
    assert set(changed) <= set(FIXED_ON_RESUME)
    assert changed_on_resume(base, base) == []


def test_what_may_change_on_resume() -> None:
    base = TrainConfig().resolved()
    over = TrainConfig(total_timesteps=10**6, stop_at_return=1.0, quiet=True).resolved()
    over.optimizer.learning_rate = 1e-4
    assert changed_on_resume(base, over) == []


def test_assignments_are_checked() -> None:
    config = TrainConfig()
    with pytest.raises(ValueError, match="learning_rate"):
        config.optimizer.learning_rate = -1.0
    with pytest.raises(ValueError, match="unknown"):
        config.unknown = 1  # type: ignore[attr-defined]
