"""MLPPolicy and wrap_actor_critic: what they write, what the network sees, what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from hotloop.policies import ActionSpec, MLPPolicy, Policy, wrap_actor_critic

N = 6
KINDS = [ActionSpec.discrete(4), ActionSpec.multidiscrete([2, 3]), ActionSpec.continuous(2, -1.0, 1.0)]
kinds = pytest.mark.parametrize("spec", KINDS, ids=lambda spec: spec.kind)


def step(obs: Tensor, **entries: Tensor) -> TensorDict:
    return TensorDict({"env_obs": obs, **entries}, batch_size=[obs.shape[0]])


class Net(nn.Module):
    """Returns (logits, value) and remembers what it was given."""

    def __init__(self, outputs: int, keep_value_column: bool = False) -> None:
        super().__init__()
        self.body = nn.Linear(3, outputs + 1)
        self.keep_value_column = keep_value_column
        self.resets = 0

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        self.seen = obs
        out = self.body(obs.float())
        return out[:, :-1], out[:, -1:] if self.keep_value_column else out[:, -1]

    def reset_memory(self) -> None:
        self.resets += 1


@kinds
def test_acting_writes_actions_log_probabilities_and_values(spec: ActionSpec) -> None:
    policy = MLPPolicy((3,), spec)
    td = step(torch.randn(N, 3))
    assert policy.forward(td) is td
    expected = {"env_obs", "values", "actions", "act_log_prob"}
    assert set(td.keys()) == expected | ({"full_log_probs"} if spec.kind == "discrete" else set())
    assert td["actions"].shape == (N, *spec.shape)
    assert td["actions"].dtype == spec.dtype
    assert td["act_log_prob"].shape == td["values"].shape == (N,)
    if spec.kind == "discrete":
        chosen = td["full_log_probs"].gather(1, td["actions"].long().unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(td["act_log_prob"], chosen)
        torch.testing.assert_close(td["full_log_probs"].exp().sum(1), torch.ones(N))


@kinds
def test_evaluating_gives_the_rollout_s_log_probabilities_and_gradients(spec: ActionSpec) -> None:
    policy = MLPPolicy((3,), spec)
    td = step(torch.randn(N, 3))
    with torch.no_grad():
        policy.forward(td)
    action = td["actions"].reshape(N, -1)  # [B * T, k], the stored dtype
    again = policy.forward(td.select("env_obs", "actions"), action=action)
    assert set(again.keys()) == {"env_obs", "actions", "values", "act_log_prob", "entropy"}
    torch.testing.assert_close(again["act_log_prob"], td["act_log_prob"])
    torch.testing.assert_close(again["values"], td["values"])
    assert again["entropy"].shape == (N,)

    (again["act_log_prob"].sum() + again["entropy"].sum() + again["values"].sum()).backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in policy.parameters())


def test_the_spec_names_what_training_reads() -> None:
    policy = MLPPolicy((5, 2), ActionSpec.multidiscrete([2, 2]), obs_dtype=torch.uint8)
    assert policy.get_agent_experience_spec() == {
        "env_obs": (torch.Size([5, 2]), torch.uint8),
        "actions": (torch.Size([2]), torch.int32),
    }
    assert isinstance(policy, Policy)
    assert isinstance(wrap_actor_critic(Net(2), 2, (3,)), Policy)


def test_mlp_initialisation_is_orthogonal_with_the_stated_gains() -> None:
    policy = MLPPolicy((8,), 3, hidden=(16, 16))
    for network, last_gain in ((policy.actor, 0.01), (policy.critic, 1.0)):
        layers = [layer for layer in network if isinstance(layer, nn.Linear)]
        assert [layer.in_features for layer in layers] == [8, 16, 16]
        assert all(isinstance(layer, nn.Tanh) for layer in network if not isinstance(layer, nn.Linear))
        for layer, squared in zip(layers, (2.0, 2.0, last_gain**2), strict=True):
            weight, rows = layer.weight.detach(), min(layer.weight.shape)
            gram = weight @ weight.T if rows == weight.shape[0] else weight.T @ weight
            torch.testing.assert_close(gram, squared * torch.eye(rows), atol=1e-5, rtol=1e-5)
            assert not layer.bias.any()


def test_mlp_scales_bytes_and_flattens() -> None:
    policy = MLPPolicy((2, 2), 3, obs_dtype=torch.uint8)
    obs = torch.randint(0, 256, (N, 2, 2), dtype=torch.uint8)
    logits, value = policy.logits_and_value(obs)
    x = obs.reshape(N, 4) / 255.0
    torch.testing.assert_close(logits, policy.actor(x))
    torch.testing.assert_close(value, policy.critic(x).squeeze(-1))


def test_mlp_log_standard_deviation_is_learnt_and_starts_as_asked() -> None:
    policy = MLPPolicy((3,), ActionSpec.continuous(2), log_std_init=-0.5)
    assert policy.log_std is not None
    assert policy.log_std.tolist() == [-0.5, -0.5]
    assert "log_std" in dict(policy.named_parameters())
    logits, _ = policy.logits_and_value(torch.zeros(N, 3))
    assert torch.equal(logits[:, 2:], torch.full((N, 2), -0.5))


def test_mlp_from_gymnasium_spaces() -> None:
    spaces = pytest.importorskip("gymnasium").spaces
    box = MLPPolicy.from_spaces(spaces.Box(-1.0, 1.0, (3,), dtype="float64"), spaces.Discrete(2))
    assert box.get_agent_experience_spec()["env_obs"] == (torch.Size([3]), torch.float32)
    image = MLPPolicy.from_spaces(spaces.Box(0, 255, (4, 4), dtype="uint8"), spaces.MultiDiscrete([2, 3]))
    assert image.get_agent_experience_spec()["env_obs"] == (torch.Size([4, 4]), torch.uint8)
    hidden = MLPPolicy.from_spaces(spaces.MultiBinary(5), spaces.Box(-1.0, 1.0, (2,)), hidden=(8,))
    assert hidden.get_agent_experience_spec()["env_obs"] == (torch.Size([5]), torch.int8)
    assert hidden.actor[0].weight.shape == (8, 5)
    for space in (spaces.Dict({"a": spaces.Discrete(2)}), spaces.Discrete(7)):
        with pytest.raises(TypeError, match=f"must be a Box or the like.* got {type(space).__name__}"):
            MLPPolicy.from_spaces(space, spaces.Discrete(2))


def test_mlp_refuses_impossible_settings() -> None:
    with pytest.raises(ValueError, match=r"hidden must be widths of at least 1, got \(8, 0\)"):
        MLPPolicy((3,), 2, hidden=(8, 0))
    with pytest.raises(TypeError, match=r"obs_dtype must be a torch\.dtype, got 'float32'"):
        MLPPolicy((3,), 2, obs_dtype="float32")  # type: ignore[arg-type]


def test_observations_are_cast_to_the_stored_dtype_before_the_network() -> None:
    net = Net(2)
    policy = wrap_actor_critic(net, 2, (3,), torch.float32)
    policy.forward(step(torch.randn(N, 3, dtype=torch.float64)))
    assert net.seen.dtype == torch.float32
    raw = wrap_actor_critic(net, 2, (3,), torch.uint8)
    raw.forward(step(torch.zeros(N, 3, dtype=torch.uint8)))
    assert net.seen.dtype == torch.uint8


@pytest.mark.parametrize("column", [False, True])
@kinds
def test_wrapped_modules_are_policies(spec: ActionSpec, column: bool) -> None:
    net = Net(spec.num_logits, keep_value_column=column)
    policy = wrap_actor_critic(net, spec, (3,))
    td = step(torch.randn(N, 3))
    policy.forward(td)
    assert td["actions"].shape == (N, *spec.shape)
    assert td["values"].shape == (N,)
    torch.testing.assert_close(td["values"], net.body(td["env_obs"])[:, -1])
    again = policy.forward(td.clone(), action=td["actions"].reshape(N, -1))
    torch.testing.assert_close(again["act_log_prob"], td["act_log_prob"])
    assert {id(p) for p in policy.parameters()} == {id(p) for p in net.parameters()}


def test_wrapped_continuous_modules_may_return_mean_and_log_std() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.log_std = nn.Linear(3, 2), nn.Parameter(torch.tensor([-0.3, 0.2]))

        def forward(self, obs: Tensor) -> Any:
            return (self.mean(obs), self.log_std), obs.sum(-1)

    net = Pair()
    policy = wrap_actor_critic(net, ActionSpec.continuous(2), (3,))
    td = step(torch.randn(N, 3))
    actions = torch.randn(N, 2)
    policy.forward(td, action=actions)
    peer = torch.distributions.Normal(net.mean(td["env_obs"]), net.log_std.exp())
    torch.testing.assert_close(td["act_log_prob"], peer.log_prob(actions).sum(-1))
    td["act_log_prob"].sum().backward()
    assert net.log_std.grad is not None


def test_memory_is_reset_where_there_is_some() -> None:
    net = Net(2)
    wrap_actor_critic(net, 2, (3,)).reset_memory()
    assert net.resets == 1
    wrap_actor_critic(nn.Linear(3, 2), 2, (3,)).reset_memory()


class Returns(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, obs: Tensor) -> Any:
        return self.output


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (torch.zeros(N, 2), TypeError, r"module must return \(logits, value\), got a tensor \[6, 2\]"),
        ((torch.zeros(N, 2),), TypeError, r"module must return \(logits, value\), got tuple"),
        ((torch.zeros(N, 3), torch.zeros(N)), ValueError, r"logits must be \[6, 2\] for nvec=\[2\], got a"),
        ((torch.zeros(2), torch.zeros(N)), ValueError, r"logits must be \[6, 2\].* got a tensor \[2\]"),
        ((torch.zeros(N, 2), torch.zeros(N, 2)), ValueError, r"value must be \[6\] or \[6, 1\], got a"),
        ((torch.zeros(N, 2), None), ValueError, r"value must be \[6\] or \[6, 1\], got NoneType"),
    ],
)
def test_modules_that_return_something_else_are_refused(output: Any, error: type, message: str) -> None:
    with pytest.raises(error, match="wrap_actor_critic: " + message):
        wrap_actor_critic(Returns(output), 2, (3,)).forward(step(torch.zeros(N, 3)))


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TypeError, match=r"module must be a torch.nn.Module, got function"):
        wrap_actor_critic(lambda obs: obs, 2, (3,))  # type: ignore[arg-type]
    policy = MLPPolicy((3,), ActionSpec.multidiscrete([2, 2]))
    with pytest.raises(ValueError, match=r"MLPPolicy.forward: env_obs must be \[n, 3\], got \[6, 4\]"):
        policy.forward(step(torch.zeros(N, 4)))
    with pytest.raises(ValueError, match=r"MLPPolicy.forward: action must be \[6, 2\], got \[6\]"):
        policy.forward(step(torch.zeros(N, 3)), action=torch.zeros(N, dtype=torch.int32))
