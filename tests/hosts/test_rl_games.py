"""rl_games with hotloop's `discount_values` and without: the same training, to the last bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sameness import assert_same, attributes, changed

pytest.importorskip("rl_games", reason="rl-games is missing: make test-peers")

from gymnasium import spaces
from rl_games.common import env_configurations, vecenv
from rl_games.common.a2c_common import A2CBase
from rl_games.common.ivecenv import IVecEnv
from rl_games.torch_runner import Runner

from hotloop import integrations, ops
from hotloop.integrations import hosts, rl_games

METHODS = ("discount_values", "discount_values_masks")


@pytest.fixture(autouse=True)
def uninstalled() -> Iterator[None]:
    yield
    rl_games.uninstall()


class Walk(IVecEnv):
    """Random observations and rewards; some episodes end, some of these by a time limit."""

    def __init__(self, config_name: str, num_actors: int, continuous: bool = False, seed: int = 0) -> None:
        self.count, self.rng = num_actors, np.random.default_rng(seed)
        self.space = spaces.Box(-1.0, 1.0, (2,), np.float32) if continuous else spaces.Discrete(3)

    def observe(self) -> Any:
        return self.rng.normal(size=(self.count, 4)).astype(np.float32)

    def reset(self) -> Any:
        return self.observe()

    def step(self, actions: Any) -> tuple[Any, ...]:
        rewards = np.asarray(actions).reshape(self.count, -1).mean(1) + self.rng.normal(size=self.count)
        dones = self.rng.random(self.count) < 0.15
        time_outs = dones & (self.rng.random(self.count) < 0.4)
        return self.observe(), rewards.astype(np.float32), dones, {"time_outs": time_outs}

    def get_env_info(self) -> dict[str, Any]:
        observations = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        return {"action_space": self.space, "observation_space": observations, "agents": 1}


vecenv.register("WALK", lambda name, actors, **kwargs: Walk(name, actors, **kwargs))
env_configurations.register("walk", {"vecenv_type": "WALK", "env_creator": None})

CONFIG: dict[str, Any] = {
    "name": "walk", "env_name": "walk", "reward_shaper": {"scale_value": 0.1}, "normalize_advantage": True,
    "gamma": 0.99, "tau": 0.95, "learning_rate": 1e-3, "lr_schedule": None, "kl_threshold": 0.01,
    "grad_norm": 1.0, "truncate_grads": True, "entropy_coef": 0.01, "critic_coef": 1, "e_clip": 0.2,
    "clip_value": True, "num_actors": 8, "horizon_length": 16, "minibatch_size": 64, "mini_epochs": 3,
    "normalize_input": True, "normalize_value": True, "value_bootstrap": True, "device": "cpu",
    "max_epochs": 4, "print_stats": False, "score_to_win": 1e9, "bounds_loss_coef": 1e-4,
}  # fmt: skip


def train(folder: Path, kind: str, **config: Any) -> dict[str, Any]:
    """Parameters, buffers and the losses of each epoch."""
    mlp = {"units": [16], "activation": "elu", "initializer": {"name": "default"}}
    network: dict[str, Any] = {
        "name": "actor_critic",
        "separate": False,
        "space": {"discrete": None},
        "mlp": mlp,
    }
    continuous = kind == "continuous"
    if continuous:
        plain = {"name": "default"}
        network["space"] = {
            "continuous": {
                "mu_activation": "None", "sigma_activation": "None", "mu_init": plain,
                "sigma_init": {"name": "const_initializer", "val": 0}, "fixed_sigma": True,
            }
        }  # fmt: skip
    if kind == "recurrent":
        network["rnn"] = {"name": "lstm", "units": 8, "layers": 1}
    model, algo = (
        ("continuous_a2c_logstd", "a2c_continuous") if continuous else ("discrete_a2c", "a2c_discrete")
    )
    params = {
        "seed": 7, "algo": {"name": algo}, "model": {"name": model}, "network": network,
        "load_checkpoint": False,
        "config": CONFIG | {"train_dir": str(folder), "env_config": {"continuous": continuous}} | config,
    }  # fmt: skip
    runner = Runner()
    runner.load(copy.deepcopy({"params": params}))
    agent = runner.algo_factory.create(runner.algo_name, base_name="run", params=runner.params)
    losses: dict[str, Any] = {}
    original = agent.train_epoch

    def train_epoch() -> Any:
        result = original()
        for part in (4, 5):
            losses[f"{agent.epoch_num} {part}"] = torch.stack([each.detach() for each in result[part]])
        return result

    agent.train_epoch = train_epoch
    agent.train()
    agent.writer.close()
    assert len(losses) == 2 * CONFIG["max_epochs"]
    return losses | {key: value.clone() for key, value in agent.model.state_dict().items()}


@pytest.mark.parametrize("kind", ["discrete", "continuous", "recurrent"])
def test_training_is_the_same_to_the_last_bit(kind: str, tmp_path: Path) -> None:
    theirs = train(tmp_path, kind)
    rl_games.install(verify=2)
    calls: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "gae", lambda *a, original=ops.gae, **k: calls.append(1) or original(*a, **k))
        ours = train(tmp_path, kind)
    assert len(calls) == CONFIG["max_epochs"]
    assert_same(ours, theirs)


def arguments(width: int = 1, dtype: torch.dtype = torch.float32, masks: bool = False) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    steps, count = 20, 5

    def flags(*shape: int) -> torch.Tensor:
        return (torch.rand(*shape, generator=generator) < 0.2).to(dtype)

    def floats(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    given = {
        "fdones": flags(count), "last_extrinsic_values": floats(count, width),
        "mb_fdones": flags(steps, count), "mb_extrinsic_values": floats(steps, count, width),
        "mb_rewards": floats(steps, count, width),
    }  # fmt: skip
    return given | ({"mb_masks": 1 - flags(steps, count)} if masks else {})


def agent(gamma: float = 0.99, tau: float = 0.95) -> Any:
    return SimpleNamespace(gamma=gamma, tau=tau, horizon_length=20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_methods_give_what_their_own_give(name: str, width: int, dtype: torch.dtype) -> None:
    given = arguments(width, dtype, masks="masks" in name)
    assert rl_games._discount_values(agent(), **given) is not None
    theirs = getattr(A2CBase, name)(agent(), **given)
    rl_games.install()
    assert_same({"": getattr(A2CBase, name)(agent(), **given)}, {"": theirs})


def test_a_factor_off_by_one_unit_stays_within_1e_5() -> None:
    """gamma 0.52 and lambda 0.197: no float32 lambda gives their product as rl_games rounds it."""
    odd = agent(0.5233898429783992, 0.19686075756080945)
    theirs = A2CBase.discount_values(odd, **arguments())
    ours = rl_games._discount_values(odd, **arguments())
    assert ours is not None
    assert not torch.equal(ours, theirs)
    assert_same({"": ours}, {"": theirs}, 1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"mb_rewards": torch.ones(20, 5, 1, dtype=torch.float64)},
        {"mb_extrinsic_values": torch.ones(20, 5, 1, requires_grad=True)},
        {"mb_rewards": torch.ones(20, 1, 1)},
    ],
    ids=["dtypes", "gradient", "broadcast"],
)
def test_calls_that_are_the_hosts(change: dict[str, Any]) -> None:
    given = arguments() | change
    assert rl_games._discount_values(agent(), **given) is None
    if change.get("mb_rewards", given["mb_fdones"]).shape[1] == 1:
        return  # the host fails there
    theirs = A2CBase.discount_values(agent(), **given)
    rl_games.install()
    assert_same({"": A2CBase.discount_values(agent(), **given)}, {"": theirs})


def test_results_that_somebody_holds_are_never_written_again() -> None:
    agents = [agent(gamma) for gamma in (0.9, 0.8, 0.7, 0.6, 0.5)]
    theirs = [A2CBase.discount_values(each, **arguments()) for each in agents]
    rl_games.install()
    ours = [A2CBase.discount_values(each, **arguments())[1:] for each in agents]
    for each, other in zip(ours, theirs, strict=True):
        assert_same({"": each}, {"": other[1:]}, 1e-5)


def test_bad_input_is_refused_by_the_host() -> None:
    rl_games.install()
    with pytest.raises(RuntimeError, match="must match the size"):
        A2CBase.discount_values(agent(), **(arguments() | {"mb_extrinsic_values": torch.ones(20, 4, 1)}))
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        A2CBase.discount_values(agent(), **arguments(), reward=1)


def test_uninstall_puts_the_same_objects_back() -> None:
    before = attributes("rl_games")
    rl_games.install()
    rl_games.install(verify=1)
    exchanged = changed(before, attributes("rl_games"))
    assert exchanged == {("rl_games.common.a2c_common.A2CBase", name) for name in METHODS}
    patched = next(each["patched"] for each in integrations.status() if each["name"] == "rl_games")
    assert set(patched) == {".".join(at) for at in exchanged}
    rl_games.uninstall()
    assert changed(before, attributes("rl_games")) == set()
    rl_games.uninstall()


def test_verify_catches_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rl_games.install(verify=2)
    A2CBase.discount_values(agent(), **arguments())
    monkeypatch.setattr(rl_games, "matching_lambda", lambda gamma, tau, dtype: tau * 0.999)
    with pytest.raises(integrations.VerificationError, match="rl_games: discount_values: advantages differs"):
        A2CBase.discount_values(agent(), **arguments())
    A2CBase.discount_values(agent(), **arguments())


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts.Host, "version", property(lambda self: "1.6.1"))
    before = attributes("rl_games")
    with pytest.raises(integrations.UntestedHostError, match=r"tested with rl-games 1\.6\.5, got 1\.6\.1"):
        rl_games.install()
    assert changed(before, attributes("rl_games")) == set()
    rl_games.install(force=True)
