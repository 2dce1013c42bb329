"""Which environment and which policy a configuration makes, on adapters that write down what they got."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hotloop.envs import GymnasiumEnvironment
from hotloop.policies import MLPPolicy, NatureCNNPolicy, TokenPolicy
from hotloop.trainer.config import FIXED_ON_RESUME, TrainConfig
from hotloop.trainer.environments import make_environment, make_policy

CHOICES = SimpleNamespace(n=3, shape=(), dtype=np.dtype(np.int64), start=0)


def config(**settings: Any) -> TrainConfig:
    return TrainConfig.from_settings(settings, source="test")


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, **members: Any) -> None:
    made = ModuleType(module)
    made.__dict__.update(members)
    monkeypatch.setitem(sys.modules, module, made)


def written_down(name: str) -> Any:
    return lambda *arguments, **options: (name, arguments, options)


def test_gymnasium_is_the_default() -> None:
    env = make_environment(config(num_envs=3), seed=0)
    assert isinstance(env, GymnasiumEnvironment)
    assert env.total_parallel_agents == 3
    env.close()


def test_envpool_gets_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "hotloop.envs.envpool", EnvPoolEnvironment=written_down("envpool"))
    settings = {"slices": 2, "action_bounds": "scale", "kwargs": {"a": 1}}
    made = make_environment(
        config(env="Pong-v5", env_backend="envpool", num_envs=6, environment=settings), seed=4
    )
    options = {"seed": 4, "slices": 2, "env_kwargs": {"a": 1}, "action_bounds": "scale"}
    assert made == ("envpool", ("Pong-v5", 6), options)


def test_pufferlib_gets_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "hotloop.envs.pufferlib_make", make_puffer=written_down("vecenv"))
    stand_in(monkeypatch, "hotloop.envs.pufferlib", PufferEnvironment=written_down("puffer"))
    settings = {"slices": 2, "workers": 4, "kwargs": {"a": 1}}
    made = make_environment(
        config(env="module:create", env_backend="pufferlib", num_envs=8, environment=settings), seed=4
    )
    vecenv = ("vecenv", ("module:create", 8), {"workers": 4, "slices": 2, "env_kwargs": {"a": 1}})
    assert made == ("puffer", (vecenv,), {"seed": 4, "action_bounds": "clip"})


def test_mettagrid_counts_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    arena = SimpleNamespace(game=SimpleNamespace(num_agents=24))
    asked = []
    stand_in(monkeypatch, "hotloop.envs.mettagrid", MettaGridEnvironment=written_down("mettagrid"))
    stand_in(
        monkeypatch,
        "hotloop.envs.mettagrid_arenas",
        arena_config=lambda *arguments: asked.append(arguments) or arena,
    )
    settings = {"kwargs": {"tokens": 200, "max_steps": 7}}
    made = make_environment(
        config(env="hearts", env_backend="mettagrid", num_envs=72, environment=settings), seed=4
    )
    assert made == ("mettagrid", (arena, 3), {"seed": 4, "tokens": 200})
    assert asked == [("hearts", {"max_steps": 7})]
    for agents, fitting in ((64, "48 or 72"), (5, "24")):
        with pytest.raises(ValueError, match=f"multiple of the 24 agents .*, got {agents}: {fitting} would"):
            make_environment(config(env="hearts", env_backend="mettagrid", num_envs=agents), seed=0)


def test_atari_gets_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "hotloop.envs.atari", make_atari=written_down("atari"))

    def made(**settings: Any) -> Any:
        return make_environment(
            config(env="ALE/Pong-v5", env_backend="atari", num_envs=8, environment=settings), seed=4
        )

    assert made() == ("atari", ("ALE/Pong-v5", 8), {"seed": 4, "vectorization": "sync"})
    options = made(vectorization="async", kwargs={"clip_rewards": False})[2]
    assert options == {"seed": 4, "vectorization": "async", "clip_rewards": False}
    with pytest.raises(ValueError, match="vectorization must be auto, sync or async"):
        made(vectorization="vector_entry_point")


@pytest.mark.parametrize(
    ("backend", "settings", "message"),
    [
        ("gymnasium", {"slices": 2}, "environment.slices = 2 has no meaning for env_backend = 'gymnasium'"),
        ("gymnasium", {"workers": 1}, "environment.workers = 1 has no meaning .*: leave it at 0"),
        ("envpool", {"vectorization": "sync"}, "environment.vectorization = 'sync' has no meaning .* 'auto'"),
        ("envpool", {"autoreset": "same_step"}, "environment.autoreset = 'same_step' has no meaning"),
        ("pufferlib", {"vectorization": "async"}, "environment.vectorization = 'async' has no meaning"),
        ("mettagrid", {"action_bounds": "none"}, "environment.action_bounds = 'none' has no meaning"),
        ("atari", {"slices": 4}, "environment.slices = 4 has no meaning for env_backend = 'atari'"),
    ],
)
def test_settings_that_a_backend_would_ignore_are_refused(
    backend: Any, settings: dict[str, Any], message: str
) -> None:
    # Before anything is imported, so it does not matter what is installed.
    with pytest.raises(ValueError, match=message):
        make_environment(config(env_backend=backend, environment=settings), seed=0)


@pytest.mark.parametrize(
    ("backend", "missing", "extra"),
    [
        ("envpool", "envpool", "envpool"),
        ("pufferlib", "pufferlib.emulation", "docs/environments.md"),
        ("mettagrid", "mettagrid.builder", "mettagrid"),
        ("atari", "ale_py", "atari"),
    ],
)
def test_a_backend_that_is_missing_names_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, backend: Any, missing: str, extra: str
) -> None:
    for name in [n for n in sys.modules if n.startswith("hotloop.envs.") and backend[:5] in n]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing.split(".")[0], None)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=extra) as caught:
        make_environment(config(env_backend=backend), seed=0)
    assert "needs" in str(caught.value)


def test_an_environment_that_cannot_be_made_is_named() -> None:
    with pytest.raises(ValueError, match="env 'NoSuch-v0' cannot be made: "):
        make_environment(config(env="NoSuch-v0"), seed=0)
    with pytest.raises(ValueError, match=r"env 'CartPole-v1' cannot be made: .*no_such_argument"):
        make_environment(config(environment={"kwargs": {"no_such_argument": 1}}), seed=0)


def showing(shape: tuple[int, ...], dtype: Any) -> Any:
    space = SimpleNamespace(shape=shape, dtype=np.dtype(dtype))
    return SimpleNamespace(single_observation_space=space, single_action_space=CHOICES)


@pytest.mark.parametrize(
    ("shape", "dtype", "kind"),
    [
        ((4,), np.float32, MLPPolicy),
        ((200, 4), np.uint8, MLPPolicy),
        ((200, 3), np.float32, MLPPolicy),
        ((200, 3), np.uint8, TokenPolicy),
        ((4, 84, 84), np.uint8, NatureCNNPolicy),
        ((4, 84, 84), np.float32, MLPPolicy),
        ((4, 20, 20), np.uint8, MLPPolicy),
    ],
)
def test_the_policy_fits_the_observations(shape: tuple[int, ...], dtype: Any, kind: type) -> None:
    policy = make_policy(config(policy={"hidden": [8]}), showing(shape, dtype))
    assert type(policy) is kind
    assert policy.obs_shape == shape


def test_a_policy_may_be_chosen() -> None:
    tokens = showing((10, 3), np.uint8)
    assert type(make_policy(config(policy={"kind": "mlp"}), tokens)) is MLPPolicy
    policy = make_policy(config(policy={"kind": "token", "hidden": [7, 5]}), tokens)
    assert [layer.out_features for layer in policy.trunk[::2]] == [7, 5]
    with pytest.raises(TypeError, match=r"NatureCNNPolicy\.from_spaces: observation_space must be"):
        make_policy(config(policy={"kind": "nature_cnn"}), tokens)


def test_a_run_cannot_change_its_backend() -> None:
    assert "env_backend" in FIXED_ON_RESUME
