"""TokenPolicy against the sum that its documentation describes, one token at a time."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from hotloop.policies import ActionSpec, TokenPolicy
from hotloop.policies.token_policy import EMPTY, reads_tokens


def observation(rng: np.random.Generator, agents: int, tokens: int) -> Tensor:
    """Random tokens with random gaps, an agent that sees nothing among them."""
    obs = rng.integers(0, 256, (agents, tokens, 3), dtype=np.uint8)
    obs[..., 0] = np.where(rng.random((agents, tokens)) < 0.4, EMPTY, obs[..., 0] % EMPTY)
    obs[1, :, 0] = EMPTY
    return torch.from_numpy(obs)


def summed_by_hand(policy: TokenPolicy, obs: Tensor) -> Tensor:
    rows = []
    for agent in obs.tolist():
        total = policy.amounts.bias.clone()
        for location, feature, value in agent:
            if location == EMPTY:
                continue
            keys = policy._hash.tolist()
            total = total + policy.table[keys[0][location] ^ keys[1][feature] ^ keys[2][value]]
            total = total + policy.amounts.weight[:, feature] * math.log1p(value) / math.log(256)
        rows.append(total)
    return torch.stack(rows)


def test_sums_a_vector_per_token_that_is_there() -> None:
    torch.manual_seed(0)
    policy = TokenPolicy((20, 3), 5, width=8, rows=64)
    obs = observation(np.random.default_rng(0), 6, 20)
    expected = summed_by_hand(policy, obs)
    torch.testing.assert_close(policy.summary(obs), expected, rtol=1e-5, atol=1e-5)
    gradient = torch.randn_like(expected)
    parameters = [policy.table, policy.amounts.weight, policy.amounts.bias]
    for ours, theirs in zip(
        torch.autograd.grad(policy.summary(obs), parameters, gradient),
        torch.autograd.grad(expected, parameters, gradient),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_order_and_gaps_do_not_matter() -> None:
    torch.manual_seed(0)
    policy = TokenPolicy((12, 3), 3)
    obs = observation(np.random.default_rng(1), 4, 12)
    shuffled = obs[:, torch.randperm(12)]
    for ours, theirs in zip(policy.logits_and_value(obs), policy.logits_and_value(shuffled), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    changed = obs.clone()
    changed[0, (obs[0, :, 0] != EMPTY).nonzero()[0], 2] ^= 1  # one value of one token
    assert not torch.allclose(policy.logits_and_value(changed)[1][0], policy.logits_and_value(obs)[1][0])


def test_nothing_seen_by_anyone_is_no_error() -> None:
    policy = TokenPolicy((7, 3), 4)
    obs = torch.full((3, 7, 3), EMPTY, dtype=torch.uint8)
    logits, values = policy.logits_and_value(obs)
    assert (logits.shape, values.shape) == ((3, 4), (3,))
    (logits.sum() + values.sum()).backward()
    assert policy.table.grad is not None
    assert not policy.table.grad.any()


def test_a_large_value_is_more_than_a_small_one() -> None:
    """The sum of amounts carries over to values that were never seen: it is monotonous in the value."""
    policy = TokenPolicy((1, 3), 2, width=1, rows=1)
    with torch.no_grad():
        policy.amounts.weight.fill_(1.0)
    obs = torch.tensor([[[254, 12, value]] for value in range(256)], dtype=torch.uint8)
    assert (policy.summary(obs).diff(dim=0) > 0).all()


@pytest.mark.parametrize(
    ("space", "width"),
    [
        (ActionSpec.discrete(5), 5),
        (ActionSpec.multidiscrete([2, 3]), 5),
        (ActionSpec.continuous(2), 4),
    ],
)
def test_acts_and_evaluates_every_kind_of_action(space: ActionSpec, width: int) -> None:
    torch.manual_seed(0)
    policy = TokenPolicy((9, 3), space, width=8, rows=16, hidden=(6, 5), log_std_init=-1.0)
    obs = observation(np.random.default_rng(2), 4, 9)
    assert policy.logits_and_value(obs)[0].shape == (4, width)
    td = policy(TensorDict({"env_obs": obs}, batch_size=[4]))
    again = TensorDict({"env_obs": obs}, batch_size=[4])
    policy(again, td["actions"])
    torch.testing.assert_close(again["act_log_prob"], td["act_log_prob"], rtol=1e-4, atol=1e-5)
    assert policy.get_agent_experience_spec()["env_obs"] == (torch.Size([9, 3]), torch.uint8)


def test_a_saved_policy_acts_the_same_in_another() -> None:
    torch.manual_seed(0)
    policy = TokenPolicy((9, 3), 3)
    with torch.no_grad():
        policy._hash ^= 1  # as another version might draw it
    torch.manual_seed(1)
    other = TokenPolicy((9, 3), 3)
    obs = observation(np.random.default_rng(3), 4, 9)
    assert not torch.equal(other.logits_and_value(obs)[1], policy.logits_and_value(obs)[1])
    other.load_state_dict(policy.state_dict())
    assert torch.equal(other.logits_and_value(obs)[1], policy.logits_and_value(obs)[1])


def test_learns_where_something_is() -> None:
    """Which of four locations holds a tag, among tokens that say nothing: no sum over features alone can."""
    torch.manual_seed(0)
    rng = np.random.default_rng(4)
    obs = observation(rng, 512, 16)
    label = torch.from_numpy(rng.integers(0, 4, 512))
    places = torch.tensor([0x56, 0x65, 0x67, 0x76])
    obs[:, 3] = torch.stack([places[label], torch.full((512,), 6), torch.ones(512)], dim=1).to(torch.uint8)
    policy = TokenPolicy((16, 3), 4)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for step in range(60):
        part = slice(step % 4 * 64, step % 4 * 64 + 64)
        logits, _ = policy.logits_and_value(obs[part])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, label[part]).backward()
        optimizer.step()
    guessed = policy.logits_and_value(obs[256:])[0].argmax(dim=1)
    assert (guessed == label[256:]).float().mean() > 0.7  # of scenes that it was not trained on


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs_shape": (200, 4)}, r"obs_shape must be \(tokens, 3\), got \(200, 4\)"),
        ({"obs_shape": (3,)}, r"obs_shape must be \(tokens, 3\), got \(3,\)"),
        ({"rows": 100}, "rows must be a power of two, got 100"),
        ({"rows": 0}, "rows must be a power of two, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenPolicy(**{"obs_shape": (200, 3), "action": 5, **change})


def space(shape: tuple[int, ...], dtype: str) -> Any:
    return SimpleNamespace(shape=shape, dtype=np.dtype(dtype))


def test_spaces_are_recognised_by_behaviour() -> None:
    assert reads_tokens(space((200, 3), "uint8"))
    assert TokenPolicy.from_spaces(space((5, 3), "uint8"), 4, width=8).obs_shape == (5, 3)
    for other in (space((200, 3), "float32"), space((200, 4), "uint8"), space((3,), "uint8"), object()):
        assert not reads_tokens(other)
        with pytest.raises(TypeError, match="observation_space must be a Box of uint8"):
            TokenPolicy.from_spaces(other, 4)
