"""LSTMPolicy and GRUPolicy: acting step by step and evaluating segments say the same; what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from hotloop.envs.recall import Choices, Vector
from hotloop.policies import (
    ActionSpec,
    GRUPolicy,
    LSTMPolicy,
    MLPPolicy,
    Policy,
    RecurrentActorCritic,
    RecurrentPolicy,
    has_state,
    initial_states,
    state_spec,
)
from recurrent_support import Counter

B, T = 4, 7
POLICIES = [LSTMPolicy, GRUPolicy]
policies = pytest.mark.parametrize("kind", POLICIES, ids=lambda kind: kind.__name__)
ACTIONS = [ActionSpec.discrete(3), ActionSpec.multidiscrete([2, 3]), ActionSpec.continuous(2)]


def rollout(policy: RecurrentActorCritic, obs: Tensor, resets: Tensor, start: TensorDict) -> TensorDict:
    """Act column by column, `[B, T]`."""
    state, columns = start, []
    for t in range(obs.shape[1]):
        began = resets[:, t].reshape(-1, 1, 1)
        state = state.apply(lambda leaf, began=began: torch.where(began, 0.0, leaf))
        td = TensorDict({"env_obs": obs[:, t], "state": state}, batch_size=[len(obs)])
        with torch.no_grad():
            policy.forward(td)
        state = td["state"]
        columns.append(td.select("actions", "act_log_prob", "values"))
    return torch.stack(columns, dim=1)


def evaluate(
    policy: RecurrentActorCritic,
    obs: Tensor,
    resets: Tensor,
    start: TensorDict,
    actions: Tensor,
    **options: Any,
) -> TensorDict:
    count = obs.shape[0] * obs.shape[1]
    td = TensorDict({"env_obs": obs.flatten(0, 1), "resets": resets.flatten()}, batch_size=[count])
    assert policy.forward(td, actions.reshape(count, -1), state=start, **options) is td
    return td.reshape(*obs.shape[:2])


def data(policy: RecurrentActorCritic) -> tuple[Tensor, Tensor, TensorDict]:
    obs, resets = torch.randn(B, T, *policy.obs_shape), torch.rand(B, T) < 0.3
    start = initial_states(policy, B).apply(torch.randn_like)
    return obs, resets, start


@policies
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("action", ACTIONS, ids=lambda spec: spec.kind)
def test_evaluating_segments_repeats_the_rollout(
    kind: type[RecurrentActorCritic], action: ActionSpec, layers: int
) -> None:
    torch.manual_seed(0)
    policy = kind((3,), action, core_size=5, layers=layers)
    with torch.no_grad():
        policy.actor.weight.mul_(100.0)  # so that the policy depends on what it sees
    obs, resets, start = data(policy)
    acted = rollout(policy, obs, resets, start)
    again = evaluate(policy, obs, resets, start, acted["actions"])
    torch.testing.assert_close(again["act_log_prob"], acted["act_log_prob"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again["values"], acted["values"], rtol=1e-5, atol=1e-5)
    assert again["entropy"].shape == (B, T)
    # A reset that is taken away shows.
    other = evaluate(policy, obs, torch.zeros_like(resets), start, acted["actions"])
    assert not torch.allclose(other["values"], acted["values"], atol=1e-3)


@policies
def test_burn_in_changes_no_output_but_stops_gradients(kind: type[RecurrentActorCritic]) -> None:
    torch.manual_seed(0)
    policy = kind((3,), 3, core_size=5)
    obs, resets, start = data(policy)
    resets[:, 3], resets[1, 3] = False, True
    obs.requires_grad_()
    actions = torch.zeros(B, T, dtype=torch.int32)
    whole = evaluate(policy, obs, resets, start, actions)
    burnt = evaluate(policy, obs, resets, start, actions, burn_in=3)
    for key in ("values", "act_log_prob", "entropy"):
        torch.testing.assert_close(burnt[key], whole[key])
    for result, reaches in ((whole, True), (burnt, False)):
        (gradient,) = torch.autograd.grad(result["values"][:, 3:].sum(), obs)
        assert bool(gradient[:, 2].abs().sum()) == reaches
        assert (gradient[:, 3:].abs().sum(-1) > 0).all()


@policies
def test_an_encoder_of_one_s_own(kind: type[RecurrentActorCritic]) -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, obs: Tensor) -> Tensor:
            assert obs.dtype == torch.uint8
            return self.conv(obs.float()).flatten(1)

    policy = kind((1, 4, 4), 3, encoder=Encoder(), obs_dtype=torch.uint8)
    assert policy.core.input_size == 8
    td = TensorDict(
        {"env_obs": torch.zeros(2, 1, 4, 4, dtype=torch.uint8), "state": initial_states(policy, 2)}, [2]
    )
    assert policy.forward(td)["values"].shape == (2,)
    with pytest.raises(ValueError, match=r"encoder must turn \[n, \*obs_shape\] into \[n, F\]"):
        kind((1, 4, 4), 3, encoder=nn.Identity())


@policies
def test_from_spaces_and_protocols(kind: type[RecurrentActorCritic]) -> None:
    policy = kind.from_spaces(Vector((5,), "float64"), Choices(4), hidden=(), core_size=6, layers=2)
    assert policy.obs_dtype == torch.float32
    assert policy.core.input_size == 5
    assert isinstance(policy, Policy)
    assert isinstance(policy, RecurrentPolicy)
    assert not isinstance(MLPPolicy((3,), 2), RecurrentPolicy)
    keys = {"h", "c"} if kind is LSTMPolicy else {"h"}
    assert state_spec(policy) == {key: (torch.Size((2, 6)), torch.float32) for key in keys}
    assert policy.get_agent_experience_spec()["resets"] == (torch.Size(()), torch.bool)
    with pytest.raises(TypeError, match=f"{kind.__name__}.from_spaces: observation_space must be a Box"):
        kind.from_spaces(Choices(4), Choices(4))


def test_the_forget_gate_begins_open() -> None:
    bias = LSTMPolicy((3,), 2, core_size=2).core.bias_ih_l0
    assert bias.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


@policies
def test_what_is_refused(kind: type[RecurrentActorCritic]) -> None:
    name = kind.__name__
    with pytest.raises(
        ValueError, match=f"{name}: core_size, layers and hidden must be at least 1, got 0, 1"
    ):
        kind((3,), 2, core_size=0)
    policy = kind((3,), 2)
    with pytest.raises(KeyError, match=f"{name}.forward: td must hold 'state'"):
        policy.forward(TensorDict({"env_obs": torch.zeros(2, 3)}, [2]))
    with pytest.raises(KeyError, match=f"{name}.forward: td must hold 'resets'"):
        policy.forward(
            TensorDict({"env_obs": torch.zeros(2, 3)}, [2]),
            torch.zeros(2, 1),
            state=initial_states(policy, 1),
        )
    with pytest.raises(ValueError, match=r"env_obs must be \[n, 3\], got \[2, 4\]"):
        policy.forward(TensorDict({"env_obs": torch.zeros(2, 4)}, [2]))


def test_initial_states() -> None:
    policy = Counter()
    assert has_state(policy)
    assert not has_state(MLPPolicy((3,), 2))
    states = initial_states(policy, 3)
    assert states["clock", "steps"].tolist() == [5, 5, 5]
    assert states["sums"].tolist() == [[0.0] * 3] * 3
    policy.initial_state = lambda: {"sums": torch.zeros(3)}  # type: ignore[method-assign]
    with pytest.raises(KeyError, match=r"Counter.initial_state: must return 'clock.steps'"):
        initial_states(policy, 3)
    policy.initial_state = lambda: {"clock": {"steps": torch.zeros(1)}, "sums": torch.zeros(3)}  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"'clock.steps' must be \[\], got \[1\]"):
        initial_states(policy, 3)
    policy.get_state_spec = lambda: {}  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="get_state_spec: expected at least one entry"):
        state_spec(policy)
