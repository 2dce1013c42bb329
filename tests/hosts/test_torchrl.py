"""TorchRL with hotloop's estimators and without.

Its loops over time (`generalized_advantage_estimate`, `vtrace_advantage_estimate`) round as hotloop does:
equal to the last bit. Its vectorised functions are convolutions, which sum the same terms in another order
and leave out those below 1e-7: within 1e-5.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("torchrl", reason="torchrl is missing: make test-peers")

from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.envs import GymEnv, SerialEnv
from torchrl.modules import OneHotCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import A2CLoss, ClipPPOLoss
from torchrl.objectives.value import GAE, MultiAgentGAE, TDLambdaEstimator, VTrace, functional

from hotloop import integrations
from hotloop.integrations import hosts, torchrl, torchrl_estimators
from hotloop.integrations.torchrl import HotGAE

FUNCTIONS = (
    "generalized_advantage_estimate", "vec_generalized_advantage_estimate", "vec_td_lambda_return_estimate",
    "vtrace_advantage_estimate",
)  # fmt: skip
EXACT = ("generalized_advantage_estimate", "vtrace_advantage_estimate")
SHAPES = [((5, 7, 1), -2), ((5, 7, 3), -2), ((7, 4), -2), ((2, 3, 9, 1), -2), ((5, 7, 1), 1), ((7, 5, 1), 0)]
SHAPES += [((7, 5, 2), 0), ((5, 7), -1), ((6,), -1), ((3, 1, 1), -2), ((1, 1), -2), ((2, 7, 3, 1), 1)]


@pytest.fixture(autouse=True)
def uninstalled() -> Iterator[None]:
    yield
    torchrl.uninstall()


def arguments(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Random ones; a third of the episodes that end are truncated."""
    generator = torch.Generator().manual_seed(len(shape))

    def floats() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    done = torch.rand(shape, generator=generator) < 0.3
    given = {
        "gamma": 0.97, "next_state_value": floats(), "reward": floats(), "done": done,
        "terminated": done & (torch.rand(shape, generator=generator) < 0.7),
    }  # fmt: skip
    if name == "vtrace_advantage_estimate":
        given |= {"log_pi": floats() / 3, "log_mu": floats() / 3, "rho_thresh": 1.2, "c_thresh": 0.9}
    else:
        given |= {"lmbda": 0.91}
    if "td_lambda" not in name:
        given |= {"state_value": floats()}
    return given


def assert_close(ours: Any, theirs: Any, tolerance: float) -> None:
    ours, theirs = (each if isinstance(each, tuple) else (each,) for each in (ours, theirs))
    assert len(ours) == len(theirs)
    for each, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(each, other, rtol=tolerance, atol=tolerance)


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("the host's function was called")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("shape", "time_dim"), SHAPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_give_what_the_hosts_give(
    name: str, shape: tuple[int, ...], time_dim: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, host = arguments(name, shape, dtype), getattr(functional, name)
    copies = {key: value.clone() for key, value in given.items() if isinstance(value, Tensor)}
    monkeypatch.setattr(functional, name, refuse)
    native = torchrl._estimator(name)  # would call what refuses
    for optional in ({"terminated": given["terminated"]}, {"terminated": None}):
        wanted = host(**{**given, **optional}, time_dim=time_dim)
        assert_close(
            native(**{**given, **optional}, time_dim=time_dim), wanted, 0.0 if name in EXACT else 1e-5
        )
    for key, value in copies.items():
        assert bool((given[key] == value).all()), f"{key} was written to"


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("factors", [(1.0, 1.0), (0.0, 0.5), (0.9, 0.0), (0.52338984, 0.19686075)])
def test_any_discounts(name: str, factors: tuple[float, float]) -> None:
    given = arguments(name, (6, 20, 1)) | {"gamma": torch.tensor(factors[0])}
    if "lmbda" in given:
        given["lmbda"] = torch.tensor(factors[1])
    ours = getattr(torchrl, name)(**given)
    # beside the loops over time: the convolutions fail where gamma * lambda is 0
    host = {
        "vec_generalized_advantage_estimate": functional.generalized_advantage_estimate,
        "vec_td_lambda_return_estimate": functional.td_lambda_return_estimate,
    }.get(name, getattr(functional, name))
    assert_close(ours, host(**given), 1e-5 if "td_lambda" in name else 0.0)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(5, 7, 1), (5, 7, 3)])
def test_results_that_somebody_holds_are_never_written_again(name: str, shape: tuple[int, ...]) -> None:
    given = [arguments(name, shape) | {"gamma": gamma} for gamma in (0.9, 0.8, 0.7, 0.6, 0.5)]
    held = [getattr(torchrl, name)(**each) for each in given]
    for ours, each in zip(held, given, strict=True):
        assert_close(ours, getattr(functional, name)(**each), 0.0 if name in EXACT else 1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_long_row(name: str) -> None:
    given = arguments(name, (2, 3000, 1)) | {"gamma": 0.999}
    given["done"] &= False
    given["terminated"] &= False
    ours, theirs = getattr(torchrl, name)(**given), getattr(functional, name)(**given)
    ours, theirs = (each if isinstance(each, tuple) else (each,) for each in (ours, theirs))
    for each, other in zip(ours, theirs, strict=True):
        atol = 0.0 if name in EXACT else 1e-5 * float(other.abs().max())
        torch.testing.assert_close(each, other, rtol=0, atol=atol)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_come_from_the_host(name: str) -> None:
    gradients = []
    for module in (torchrl, functional):
        given = arguments(name, (5, 7, 1))
        given["reward"].requires_grad_()
        result = getattr(module, name)(**given)
        (result[0] if isinstance(result, tuple) else result).square().sum().backward()
        gradients.append(given["reward"].grad)
    assert torch.equal(*gradients)
    with torch.no_grad():
        assert torchrl._NATIVE[name](**given) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"gamma": torch.full((5, 7, 1), 0.9)},
        {"gamma": 1.5},
        {"gamma": torch.tensor(0.9, dtype=torch.float64)},
        {"reward": torch.ones(5, 7, 1, dtype=torch.float64)},
        {"reward": torch.ones(5, 7, 1, dtype=torch.bfloat16)},
        {"reward": nn.Parameter(torch.ones(5, 7, 1))},
    ],
    ids=["gamma a step", "gamma above 1", "gamma of another dtype", "dtypes", "bfloat16", "Parameter"],
)
def test_calls_that_are_the_hosts(change: dict[str, Any]) -> None:
    given = arguments(FUNCTIONS[0], (5, 7, 1)) | change
    assert torchrl_estimators.gae(**given) is None
    ours, theirs = (module.generalized_advantage_estimate(**given) for module in (torchrl, functional))
    assert_close(ours, theirs, 0.0)


def test_bad_input_is_refused_by_the_host() -> None:
    given = arguments(FUNCTIONS[0], (5, 7, 1))
    with pytest.raises(RuntimeError, match="must share a unique shape"):
        torchrl.generalized_advantage_estimate(**(given | {"reward": torch.ones(5, 6, 1)}))
    with pytest.raises(RuntimeError, match="time dimension are not compatible"):
        torchrl.vec_generalized_advantage_estimate(**given, time_dim=5)


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def rollout(reward: Any = "reward", agents: int = 0) -> TensorDict:
    torch.manual_seed(1)
    batch = (4, 12)
    done = torch.rand(*batch, 1) < 0.2
    ends = {"done": done, "terminated": done & (torch.rand(*batch, 1) < 0.6)}
    ends["truncated"] = done & ~ends["terminated"]
    obs = torch.randn(4, 13, *((agents,) if agents else ()), 3)
    next_obs = obs[:, 1:].clone()
    next_obs[done.squeeze(-1)] = 0.5
    data = TensorDict({"obs": obs[:, :-1], "task": torch.arange(4)[:, None].expand(4, 12) % 2}, batch)
    data["next"] = TensorDict({"obs": next_obs, **ends}, batch)
    data["next", reward] = torch.randn(*batch, 1)
    data.names = [None, "time"]
    return data


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"vectorized": False},
        {"average_gae": True},
        {"average_gae": True, "group_key": "task"},
        {"shifted": True},
        {"shifted": True, "shifted_budget": 3, "average_gae": True},
        {"differentiable": True},
        {"auto_reset_env": True},
        {"deactivate_vmap": True, "num_chunks": 2},
        {"time_dim": -1},
        {"gamma": torch.tensor(0.9), "lmbda": torch.tensor(0.8)},
        {"vectorized": True},
        {"vectorized": True, "average_gae": True},
    ],
    ids=str,
)
def test_hot_gae_writes_what_gae_writes(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    critic = TensorDictModule(Critic(), in_keys=["obs"], out_keys=["state_value"])
    results = []
    for kind in (HotGAE, GAE):
        module = kind(**({"gamma": 0.97, "lmbda": 0.93, "value_network": critic} | options))
        data = module(rollout())
        target = module.value_estimate(rollout())
        results.append(data.set("value_estimate", target))
    ours, theirs = results
    assert set(ours.keys(True, True)) == set(theirs.keys(True, True))
    tolerance = 1e-5 if options.get("vectorized") else 0.0
    for key in set(theirs.keys(True, True)) - {"value_estimate"}:
        torch.testing.assert_close(ours[key], theirs[key], rtol=tolerance, atol=tolerance, msg=str(key))
    torch.testing.assert_close(ours["value_estimate"], theirs["value_estimate"], rtol=1e-5, atol=1e-5)
    assert ours["advantage"].requires_grad == theirs["advantage"].requires_grad


def test_hot_gae_knows_nested_keys_missing_networks_and_plain_tensors() -> None:
    data = rollout(("agents", "gain"))
    data["value"], data["next", "value"] = torch.randn(4, 12, 1), torch.randn(4, 12, 1)
    results = []
    for kind in (HotGAE, GAE):
        module = kind(gamma=0.97, lmbda=0.93, value_network=None)
        module.set_keys(
            reward=("agents", "gain"), value="value", advantage=("out", "a"), value_target=("out", "v")
        )
        results.append(module(data.clone())["out"])
    assert bool((results[0] == results[1]).all())

    critic = TensorDictModule(Critic(), in_keys=["obs"], out_keys=["state_value"])
    ours, theirs = (kind(gamma=0.97, lmbda=0.93, value_network=critic) for kind in (HotGAE, GAE))
    assert (ours.in_keys, ours.out_keys) == (theirs.in_keys, theirs.out_keys)
    names = {"obs": "obs", "next_reward": ("next", "reward"), "next_done": ("next", "done")}
    names |= {"next_terminated": ("next", "terminated"), "next_obs": ("next", "obs")}
    plain = {name: rollout()[key] for name, key in names.items()}
    assert_close(ours(**plain), theirs(**plain), 0.0)


def test_hot_gae_gives_gradients() -> None:
    gradients = []
    for kind in (HotGAE, GAE):
        torch.manual_seed(0)
        critic = Critic()
        data = rollout()
        data["state_value"], data["next", "state_value"] = critic(data["obs"]), critic(data["next", "obs"])
        kind(gamma=0.97, lmbda=0.93, value_network=None, differentiable=True)(data)
        data["advantage"].square().sum().backward()
        gradients.append(critic.net.weight.grad)
    assert torch.equal(*gradients)


def test_gamma_for_each_step_is_the_hosts() -> None:
    results = []
    for kind in (HotGAE, GAE):
        data = rollout()
        data["steps_to_next_obs"] = torch.randint(1, 4, (4, 12, 1))
        data["state_value"], data["next", "state_value"] = torch.randn(4, 12, 1), torch.randn(4, 12, 1)
        results.append(kind(gamma=0.97, lmbda=0.93, value_network=None)(data)["advantage"])
    assert torch.equal(*results)


def test_a_copy_of_hot_gae_works() -> None:
    module = HotGAE(gamma=0.97, lmbda=0.93, value_network=None, verify=2)
    data = rollout()
    data["state_value"], data["next", "state_value"] = torch.randn(4, 12, 1), torch.randn(4, 12, 1)
    assert torch.equal(copy.deepcopy(module)(data.clone())["advantage"], module(data)["advantage"])


def train(
    estimator: Callable[[Any, Any], Any], loss_class: type[Any] = ClipPPOLoss, iterations: int = 3
) -> dict[str, Tensor]:
    """A few iterations on CartPole; parameters and losses."""
    torch.manual_seed(0)
    env = SerialEnv(4, lambda: GymEnv("CartPole-v1"))
    env.set_seed(0)
    body = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
    actor = ProbabilisticActor(
        TensorDictModule(body, ["observation"], ["logits"]), in_keys=["logits"], spec=env.action_spec,
        distribution_class=OneHotCategorical, return_log_prob=True,
    )  # fmt: skip
    critic = ValueOperator(nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)), ["observation"])
    loss = loss_class(actor, critic)
    advantage = estimator(actor, critic)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    results = {}
    for iteration in range(iterations):
        with torch.no_grad():
            data = env.rollout(64, actor, break_when_any_done=False)
        for epoch in range(2):
            advantage(data)
            for each in data.reshape(-1).split(128):
                losses = loss(each.clone())
                total = sum(value for key, value in losses.items() if key.startswith("loss_"))
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
            results |= {f"{iteration} {epoch} {k}": v.detach() for k, v in losses.items()}
    env.close()
    return results | {name: value.detach() for name, value in loss.named_parameters()}


def assert_trained(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=tolerance, atol=tolerance, msg=name)


def gae(kind: type[Any], **options: Any) -> Callable[[Any, Any], Any]:
    return lambda actor, critic: kind(
        gamma=0.99, lmbda=0.95, value_network=critic, average_gae=True, **options
    )


def test_hot_gae_trains_to_the_same_bits() -> None:
    assert_trained(train(gae(HotGAE)), train(gae(GAE)), 0.0)


def test_gae_trains_to_the_same_bits_when_installed() -> None:
    theirs = train(gae(GAE))
    torchrl.install()
    assert_trained(train(gae(GAE)), theirs, 0.0)


@pytest.mark.parametrize(
    ("name", "tolerance"), [("vectorised GAE", 1e-5), ("TD(lambda)", 1e-5), ("V-trace", 0.0)]
)
def test_other_estimators_train_alike_when_installed(name: str, tolerance: float) -> None:
    estimators: dict[str, Callable[[Any, Any], Any]] = {
        "vectorised GAE": gae(GAE, vectorized=True),
        "TD(lambda)": lambda actor, critic: TDLambdaEstimator(
            gamma=0.99, lmbda=0.95, value_network=critic, vectorized=True, differentiable=False
        ),
        "V-trace": lambda actor, critic: VTrace(gamma=0.99, actor_network=actor, value_network=critic),
    }
    theirs = train(estimators[name], A2CLoss)
    torchrl.install(verify=True)
    assert_trained(train(estimators[name], A2CLoss), theirs, tolerance)


def test_multi_agent_gae_when_installed() -> None:
    critic = TensorDictModule(Critic(), in_keys=["obs"], out_keys=["state_value"])
    results = []
    for install in (False, True):
        if install:
            torchrl.install()
        module = MultiAgentGAE(gamma=0.97, lmbda=0.93, value_network=critic, average_gae=True)
        results.append(module(rollout(agents=3))["advantage"])
    assert torch.equal(*results)


def attributes() -> dict[tuple[str, str], Any]:
    return {
        (name, key): value
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "torchrl" and isinstance(module, ModuleType)
        for key, value in list(vars(module).items())
    }


def test_uninstall_puts_the_same_objects_back() -> None:
    before = attributes()
    torchrl.install()
    changed = {at for at, value in attributes().items() if before.get(at) is not value}
    assert {key for _, key in changed} == set(FUNCTIONS)
    assert ("torchrl.objectives.value.advantages", "vtrace_advantage_estimate") in changed
    patched = next(each["patched"] for each in integrations.status() if each["name"] == "torchrl")
    assert set(patched) == {".".join(at) for at in changed}
    torchrl.install(verify=3)  # again, instead
    torchrl.uninstall()
    after = attributes()
    assert {at for at, value in before.items() if after[at] is not value} == set()
    torchrl.uninstall()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_verify_passes_and_catches_a_difference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(name, (5, 7, 1))
    torchrl.install(verify=2)
    getattr(functional, name)(**given)
    monkeypatch.setattr(torchrl_estimators, "_number", lambda scalar: 0.999 * float(scalar))
    with pytest.raises(integrations.VerificationError, match=rf"torchrl: {name}: .* differs from the host's"):
        getattr(functional, name)(**given)
    getattr(functional, name)(**given)  # only two calls were to be compared


def test_hot_gae_verifies(monkeypatch: pytest.MonkeyPatch) -> None:
    data = rollout()
    data["state_value"], data["next", "state_value"] = torch.randn(4, 12, 1), torch.randn(4, 12, 1)
    module = HotGAE(gamma=0.97, lmbda=0.93, value_network=None, verify=True)
    module(data)
    module.value_estimate(data)
    assert module._verifier.left == 14
    monkeypatch.setattr(torchrl_estimators, "_number", lambda scalar: 0.999 * float(scalar))
    with pytest.raises(integrations.VerificationError, match="advantage differs"):
        module(data)
    HotGAE(gamma=0.97, lmbda=0.93, value_network=None)(data)


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts.Host, "version", property(lambda self: "0.3.0"))
    before = attributes()
    with pytest.raises(integrations.UntestedHostError, match=r"tested with torchrl 0\.14\.1, got 0\.3\.0"):
        torchrl.install()
    with pytest.raises(integrations.UntestedHostError):
        HotGAE(gamma=0.9, lmbda=0.9, value_network=None)
    assert {at for at, value in attributes().items() if before.get(at) is not value} == set()
    HotGAE(gamma=0.9, lmbda=0.9, value_network=None, force=True)
    torchrl.install(force=True)
