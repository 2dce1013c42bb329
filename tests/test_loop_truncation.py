"""Truncated episodes: advantages against a computation by hand and the departure-indexed definition."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor

from hotloop import ops
from loop_support import BOOTSTRAPPED, STORED, ScriptedEnv, Setup, TinyPolicy


class Restless(TinyPolicy):
    """Always takes action 1."""

    def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
        super().forward(td, action)
        if action is None:
            td["actions"] = torch.ones_like(td["actions"])
        return td


ALL = [slice(0, 2)]
GAMMA, LAMBDA = 0.9, 0.8
HORIZON, STEPS = 6, 12
FINAL = 100.0  # what a final observation shows in its second component


class SameStepEnv(ScriptedEnv):
    """Agent 0 is truncated at steps 2 and 9, terminated at 4; agent 1 is truncated and terminated at 3."""

    autoreset = "same_step"

    def __init__(self, **attributes: Any) -> None:
        super().__init__(
            ALL,
            terminal=lambda agents, t: ((agents == 0) & (t == 4)) | ((agents == 1) & (t == 3)),
            truncation=lambda agents, t: ((agents == 0) & (t in (2, 9))) | ((agents == 1) & (t == 3)),
            **attributes,
        )

    def final_observations(self) -> tuple[Tensor, Tensor] | None:
        ids = self.truncation(self.agents, self.t).bool().nonzero().flatten()
        if not len(ids):
            return None
        observations = self.observation(ids, self.t)
        observations[:, 1] = FINAL + self.t
        return ids, observations


class NextStepEnv(ScriptedEnv):
    """The same episodes; the flagged step shows the final observation, its action is ignored (mask False)."""

    autoreset = "next_step"

    def __init__(self, **attributes: Any) -> None:
        same = SameStepEnv()
        super().__init__(
            ALL,
            terminal=same.terminal,
            truncation=same.truncation,
            mask=lambda agents, t: ~(same.terminal(agents, t) | same.truncation(agents, t)),
            **attributes,
        )

    def observation(self, agents: Tensor, t: int) -> Tensor:
        observations = super().observation(agents, t)
        observations[~self.mask(agents, t), 1] = FINAL + t
        return observations


def make(**options: Any) -> Setup:
    config = {"advantage": {"gamma": GAMMA, "gae_lambda": LAMBDA}}
    options = {
        "segments": 4,
        "horizon": HORIZON,
        "minibatches": 1,
        "spec": BOOTSTRAPPED,
        "config": config,
    } | options
    return Setup(**options)


def advantages(setup: Setup, env: ScriptedEnv) -> Tensor:
    """Rows of both agents one after the other: [2 rollout halves x 2 agents, T]."""
    setup.loop.rollout_phase(env, setup.context)
    critic = setup.policy.critic.detach().clone()
    setup.loop.training_phase(setup.context, 1)
    setup.policy.critic.data.copy_(critic)
    return setup.experience.buffer["advantages_full"]


def by_hand(setup: Setup, env: ScriptedEnv, agent: int, half: int, *, filler: bool) -> list[float]:
    """Walk through one row backwards, in the words of the definition."""
    critic = setup.policy.critic.detach()

    def value(t: int, final: bool = False) -> float:
        observation = ScriptedEnv.observation(env, torch.tensor([agent]), t)[0]
        if final:
            observation[1] = FINAL + t
        return float(observation @ critic)

    def flag(f: Any, t: int) -> bool:
        return bool(f(torch.tensor([agent]), t))

    row = range(half * HORIZON, (half + 1) * HORIZON)
    result = [0.0] * HORIZON
    trace = 0.0
    for column in range(HORIZON - 2, -1, -1):
        t = row[column]
        arrived = t + 1
        terminated, truncated = flag(env.terminal, arrived), flag(env.truncation, arrived)
        here_ended = flag(env.terminal, t) or flag(env.truncation, t)
        if filler and here_ended:
            trace = 0.0  # the action here was ignored
            continue
        if terminated:
            after = 0.0
        elif truncated:
            after = value(arrived, final=True)
        else:
            after = value(arrived)
        reward = agent + 10.0 * arrived
        delta = reward + GAMMA * after - value(t)
        trace = delta + (0.0 if terminated or truncated else GAMMA * LAMBDA * trace)
        result[column] = trace
    return result


@pytest.mark.parametrize("mode", ["auto", "bootstrap"])
@pytest.mark.parametrize("kind", [SameStepEnv, NextStepEnv])
def test_advantages_by_hand(kind: type[ScriptedEnv], mode: str) -> None:
    setup = make(truncation=mode)
    env = kind(ALL) if kind is ScriptedEnv else kind()  # type: ignore[call-arg]
    result = advantages(setup, env)
    filler = kind is NextStepEnv
    expected = [by_hand(setup, env, agent, half, filler=filler) for half in range(2) for agent in range(2)]
    torch.testing.assert_close(result, torch.tensor(expected), rtol=2e-6, atol=2e-4)


def test_same_step_agrees_with_the_departure_indexed_definition() -> None:
    """What arrives at column t + 1 is the outcome of the action at column t."""
    setup = make()
    result = advantages(setup, SameStepEnv())
    buffer = setup.experience.buffer
    departing, _ = ops.gae(
        buffer["rewards"][:, 1:].contiguous(),
        buffer["values"][:, :-1].contiguous(),
        buffer["dones"][:, 1:].contiguous(),
        buffer["truncateds"][:, 1:].contiguous(),
        last_values=buffer["values"][:, -1].contiguous(),
        truncation_values=buffer["truncation_values"][:, 1:].contiguous(),
        gamma=GAMMA,
        gae_lambda=LAMBDA,
    )
    torch.testing.assert_close(result[:, :-1], departing, rtol=2e-6, atol=2e-4)


def test_stored_truncation_values_same_step() -> None:
    setup = make()
    env = SameStepEnv()
    setup.loop.rollout_phase(env, setup.context)
    critic = setup.policy.critic.detach()
    stored = setup.experience.buffer["truncation_values"]
    expected = torch.zeros(4, HORIZON)
    for row, column, agent, t in ((0, 2, 0, 2), (2, 3, 0, 9), (1, 3, 1, 3)):
        expected[row, column] = torch.tensor([agent, FINAL + t, 1.0]) @ critic
    torch.testing.assert_close(stored, expected)
    assert setup.experience.buffer["valid"].all()


def test_the_forward_on_final_observations() -> None:
    """Before the step's own, for truncated agents only, with the actions that led there and no flags."""
    setup = make(reset_last_actions=True, policy=Restless())
    env = SameStepEnv()
    setup.loop.rollout_phase(env, setup.context)
    extra = [i for i, seen in enumerate(setup.policy.seen) if len(seen["batch"]) == 1]
    assert len(extra) == 3
    seen, after = setup.policy.seen[extra[0]], setup.policy.seen[extra[0] + 1]
    assert seen["env_obs"].tolist() == [[0, FINAL + 2, 1]]
    assert seen["training_env_ids"].tolist() == [[0]]
    assert seen["batch"].tolist() == [1]
    for i in extra:
        assert setup.policy.seen[i]["dones"].tolist() == setup.policy.seen[i]["truncateds"].tolist() == [0]
    assert seen["last_actions"].tolist() == [[1]] == [[int(env.sent[1][0])]]
    assert seen["rewards"].tolist() == [20]
    assert after["env_obs"].tolist() == [[0, 2, 1], [1, 2, 1]]
    assert after["last_actions"][0].tolist() == [0]


def test_stored_truncation_values_next_step_are_the_rows_own() -> None:
    setup = make()
    setup.loop.rollout_phase(NextStepEnv(), setup.context)
    buffer = setup.experience.buffer
    assert buffer["truncation_values"].equal(buffer["values"] * buffer["truncateds"])
    assert buffer["truncation_values"].count_nonzero() == 3
    assert (
        ~buffer["valid"]
    ).sum() == 4  # three truncations, one of them a termination too, and one termination
    assert len([seen for seen in setup.policy.seen if len(seen["batch"]) == 1]) == 0


@pytest.mark.parametrize("kind", [SameStepEnv, NextStepEnv])
def test_minibatch_advantages_see_the_same_boundaries(kind: Any) -> None:
    """With importance 1 (the policy has not changed yet) corrected advantages are those of the full pass."""
    setup = make()
    full = advantages(setup, kind())
    shared = setup.losses["actor"].shared[0]
    assert shared["importance_sampling_ratio"].allclose(torch.ones(4, HORIZON))
    torch.testing.assert_close(shared["advantages_pg"], full, rtol=1e-5, atol=1e-4)


def test_legacy_ignores_truncation_and_mask() -> None:
    reference = make(spec=STORED)
    expected = advantages(reference, NextStepEnv())
    assert "valid" not in reference.experience.buffer
    legacy = make(truncation="legacy")
    assert advantages(legacy, NextStepEnv()).equal(expected)
    assert legacy.experience.buffer["truncation_values"].count_nonzero() == 0
    assert legacy.experience.buffer["valid"].all()
    assert not advantages(make(), NextStepEnv()).equal(expected)
    buffer = reference.experience.buffer
    plain = ops.puff_advantage(
        buffer["values"], buffer["rewards"], buffer["dones"], torch.ones(4, HORIZON), GAMMA, LAMBDA
    )
    assert plain.equal(expected)


def test_auto_without_a_word_from_the_environment_is_the_reference_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Mute(SameStepEnv):
        autoreset = None  # type: ignore[assignment]

    expected = advantages(make(spec=STORED), SameStepEnv())
    setup = make()
    with caplog.at_level(logging.WARNING):
        result = advantages(setup, Mute())
        advantages(setup, Mute())
    assert result.equal(expected)
    assert len([record for record in caplog.records if "not bootstrapped" in record.message]) == 1


def test_invalid_steps_stop_the_trace() -> None:
    """An absent agent: its advantage is 0, and what lies behind does not leak into what lies before."""
    setup = make()
    env = ScriptedEnv(ALL, mask=lambda agents, t: ~((agents == 0) & (t == 3)), autoreset="next_step")
    result = advantages(setup, env)
    values = setup.experience.buffer["values"]
    assert result[0, 3] == 0
    one_step = 30.0 + GAMMA * float(values[0, 3]) - float(values[0, 2])
    assert float(result[0, 2]) == pytest.approx(one_step, rel=1e-5)
    assert result[1].count_nonzero() == HORIZON - 1


@pytest.mark.parametrize("missing", ["truncation_values", "truncateds", "values"])
def test_bootstrap_needs_its_entries(missing: str) -> None:
    spec = {key: leaf for key, leaf in BOOTSTRAPPED.items() if key != missing}
    with pytest.raises(ValueError, match=f"must hold.*{missing}"):
        make(spec=spec, truncation="bootstrap")


def test_bootstrap_needs_an_environment_that_says_how_it_resets() -> None:
    setup = make(truncation="bootstrap")
    with pytest.raises(ValueError, match="autoreset"):
        setup.loop.rollout_phase(ScriptedEnv(ALL), setup.context)
    with pytest.raises(ValueError, match="got 'sometimes'"):
        setup.loop.rollout_phase(ScriptedEnv(ALL, autoreset="sometimes"), setup.context)
    with pytest.raises(ValueError, match="must have final_observations"):
        setup.loop.rollout_phase(ScriptedEnv(ALL, autoreset="same_step"), setup.context)


def test_final_observations_must_cover_the_truncated_agents() -> None:
    env = SameStepEnv()
    env.final_observations = lambda: None  # type: ignore[method-assign]
    setup = make()
    with pytest.raises(ValueError, match=r"got none for the agents \[0\]"):
        setup.loop.rollout_phase(env, setup.context)
    other = SameStepEnv()
    other.final_observations = lambda: (torch.tensor([2]), torch.zeros(1, 3))  # type: ignore[method-assign]
    setup = make()
    with pytest.raises(IndexError, match=r"got \[2\]"):
        setup.loop.rollout_phase(other, setup.context)
