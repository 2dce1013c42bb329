"""skrl with hotloop's `compute_gae` and without.

skrl computes `r - V + gamma * (V' + lambda * A')`, hotloop `(r + gamma * V' - V) + (gamma * lambda) * A'`:
the same real number, rounded at other places. So results agree within 1e-5, not to the last bit.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sameness import assert_same, attributes, changed
from torch import Tensor, nn

pytest.importorskip("skrl", reason="skrl is missing: make test-peers")

import gymnasium
from skrl.agents.torch.a2c import A2C
from skrl.agents.torch.ppo import PPO
from skrl.agents.torch.ppo import ppo as host
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer

from hotloop import integrations, ops
from hotloop.integrations import hosts, skrl


@pytest.fixture(autouse=True)
def uninstalled() -> Iterator[None]:
    yield
    skrl.uninstall()


class Policy(CategoricalMixin, Model):
    def __init__(self, env: Any) -> None:
        Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space)
        CategoricalMixin.__init__(self)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))

    def compute(self, inputs: dict[str, Any], role: str) -> tuple[Tensor, dict[str, Any]]:
        return self.net(inputs["observations"]), {}


class Value(DeterministicMixin, Model):
    def __init__(self, env: Any) -> None:
        Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space)
        DeterministicMixin.__init__(self)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))

    def compute(self, inputs: dict[str, Any], role: str) -> tuple[Tensor, dict[str, Any]]:
        return self.net(inputs["observations"]), {}


def train(agent_class: type[Any] = PPO, iterations: int = 4, **options: Any) -> dict[str, Any]:
    """Parameters and the losses of each update."""
    torch.manual_seed(0)
    vector = gymnasium.make_vec("CartPole-v1", num_envs=4, max_episode_steps=15)
    vector.reset(seed=0)
    env = wrap_env(vector, verbose=False)
    models = {"policy": Policy(env), "value": Value(env)}
    silent = {"experiment": {"write_interval": 0, "checkpoint_interval": 0}}
    memory = RandomMemory(memory_size=32, num_envs=4)
    agent = agent_class(
        models=models, memory=memory, cfg={"rollouts": 32, **silent, **options},
        observation_space=env.observation_space, action_space=env.action_space,
    )  # fmt: skip
    losses: dict[str, Any] = {}
    original = agent.track_data

    def track(tag: str, value: Any) -> None:
        if tag.startswith("Loss"):
            losses[f"{len(losses)} {tag}"] = value
        original(tag, value)

    agent.track_data = track
    cfg = {"timesteps": 32 * iterations, "headless": True, "disable_progressbar": True}
    SequentialTrainer(env=env, agents=agent, cfg=cfg | {"close_environment_at_exit": False}).train()
    env.close()
    assert losses
    parameters = {
        f"{kind} {name}": value.detach().clone()
        for kind, model in models.items()
        for name, value in model.named_parameters()
    }
    return losses | parameters


@pytest.mark.parametrize("bootstrap", [False, True])
@pytest.mark.parametrize("agent_class", [PPO, A2C])
def test_training_agrees_within_1e_5(agent_class: type[Any], bootstrap: bool) -> None:
    theirs = train(agent_class, time_limit_bootstrap=bootstrap)
    skrl.install(verify=2)
    ours = train(agent_class, time_limit_bootstrap=bootstrap)
    assert_same(ours, theirs, 1e-5)


def arguments(steps: int = 20, envs: int = 5, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(steps, envs, 1, generator=generator, dtype=dtype) for _ in range(2))
    terminated, truncated = (torch.rand(steps, envs, 1, generator=generator) < 0.1 for _ in range(2))
    return {
        "rewards": rewards, "values": values, "terminated": terminated, "truncated": truncated,
        "last_values": torch.randn(envs, 1, generator=generator, dtype=dtype),
        "discount_factor": 0.97, "lambda_coefficient": 0.9,
    }  # fmt: skip


def recurrent(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments as agents with recurrent networks name them."""
    given = {key: value for key, value in given.items() if key != "truncated"}
    return given | {"next_values": given.pop("last_values")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", skrl._MODULES)
def test_every_modules_function_gives_what_its_own_gives(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(name)
    calls = []
    monkeypatch.setattr(ops, "gae", lambda *a, original=ops.gae, **k: calls.append(1) or original(*a, **k))
    for bootstrap in (False, True):
        given = arguments(dtype=dtype)
        given = recurrent(given) if "_rnn" in name else given | {"time_limit_bootstrap": bootstrap}
        theirs = module.compute_gae(**given)
        skrl.install()
        ours = module.compute_gae(**given)
        skrl.uninstall()
        tolerance = 1e-5 if dtype == torch.float32 else 1e-13
        assert_same(dict(enumerate(ours)), dict(enumerate(theirs)), tolerance)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"rewards": torch.ones(20, 5, 1, dtype=torch.float64)},
        {"values": torch.ones(20, 5, 1, requires_grad=True)},
        {"discount_factor": 1.5},
        {"rewards": torch.ones(20, 5, 1, dtype=torch.bfloat16)},
    ],
    ids=["dtypes", "gradient", "discount", "bfloat16"],
)
def test_calls_that_are_the_hosts(change: dict[str, Any]) -> None:
    given = arguments() | change
    assert skrl._compute_gae(**given) is None
    theirs = host.compute_gae(**given)
    skrl.install()
    assert_same(dict(enumerate(host.compute_gae(**given))), dict(enumerate(theirs)))


def test_results_that_somebody_holds_are_never_written_again() -> None:
    given = [arguments() | {"discount_factor": gamma} for gamma in (0.9, 0.8, 0.7, 0.6, 0.5)]
    theirs = [host.compute_gae(**each) for each in given]
    skrl.install()
    ours = [host.compute_gae(**each) for each in given]
    for each, other in zip(ours, theirs, strict=True):
        assert_same(dict(enumerate(each)), dict(enumerate(other)), 1e-5)


def test_not_a_number_gives_what_the_host_gives() -> None:
    given = arguments()
    given["rewards"][3, 2] = torch.nan
    theirs = host.compute_gae(**given)
    skrl.install()
    ours = host.compute_gae(**given)
    assert bool(ours[1].isnan().all())
    assert_same(dict(enumerate(ours)), dict(enumerate(theirs)), 1e-5)


def test_bad_input_is_refused_by_the_host() -> None:
    skrl.install()
    with pytest.raises(RuntimeError, match="must match the size"):
        host.compute_gae(**(arguments() | {"values": torch.ones(20, 4, 1)}))
    with pytest.raises(TypeError, match="unexpected keyword argument 'reward'"):
        host.compute_gae(**arguments(), reward=1)


def test_uninstall_puts_the_same_objects_back() -> None:
    skrl.install()  # loads the modules
    skrl.uninstall()
    before = attributes("skrl")
    skrl.install()
    skrl.install(verify=1)
    exchanged = changed(before, attributes("skrl"))
    assert exchanged == {(name, "compute_gae") for name in skrl._MODULES}
    assert exchanged == {at for at in before if at[1] == "compute_gae"}
    patched = next(each["patched"] for each in integrations.status() if each["name"] == "skrl")
    assert set(patched) == {".".join(at) for at in exchanged}
    skrl.uninstall()
    assert changed(before, attributes("skrl")) == set()
    skrl.uninstall()


def test_verify_catches_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    skrl.install(verify=2)
    host.compute_gae(**arguments())
    original = ops.gae
    monkeypatch.setattr(ops, "gae", lambda *a, gamma, **k: original(*a, gamma=gamma * 0.999, **k))
    with pytest.raises(integrations.VerificationError, match="skrl: compute_gae: returns differs from the"):
        host.compute_gae(**arguments())
    host.compute_gae(**arguments())


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts.Host, "version", property(lambda self: "1.4.3"))
    before = attributes("skrl")
    with pytest.raises(integrations.UntestedHostError, match=r"tested with skrl 2\.1\.1, got 1\.4\.3"):
        skrl.install()
    assert changed(before, attributes("skrl")) == set()
    skrl.install(force=True)
