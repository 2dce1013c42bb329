"""The fast lane of a rollout leaves behind what the ordinary way leaves behind, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hotloop import ComponentContext, CoreTrainingLoop, Experience, LoopConfig
from hotloop.envs import GymnasiumEnvironment
from hotloop.loop_direct import DirectActing
from hotloop.loop_lane import RolloutLane
from hotloop.loop_rollout import RolloutResult, RolloutTally, StepBuilder
from hotloop.losses import ppo_losses
from hotloop.policies import MLPPolicy, wrap_actor_critic
from hotloop.policies.draws import AgentDraws
from slices_support import EpisodicEnv

AGENTS = 4


class NoTeacher(EpisodicEnv):
    """Its steps have eight entries."""

    single_action_space: Any = gymnasium.spaces.Discrete(2)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.teacher = False


def cartpoles(autoreset: Any) -> Callable[[], Any]:
    return lambda: GymnasiumEnvironment(
        "CartPole-v1", AGENTS, seed=0, autoreset=autoreset, env_kwargs={"max_episode_steps": 7}
    )


def sliced(autoreset: str, order: list[int] | None = None) -> Callable[[], Any]:
    return lambda: NoTeacher([slice(0, 3), slice(3, 4)], autoreset, order, absent=True)


ENVIRONMENTS = {
    "next step": cartpoles("next_step"),
    "same step": cartpoles("same_step"),
    "slices, next step": sliced("next_step"),
    "slices, same step": sliced("same_step"),
}


class Network(nn.Module):
    """Logits and values in one of the shapes that a policy takes."""

    def __init__(self, inputs: int, choices: int, kind: str) -> None:
        super().__init__()
        self.body, self.kind = nn.Linear(inputs, 8), kind
        self.logits, self.value = nn.Linear(8, choices), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Any:
        hidden = self.body(x.float()).tanh()
        logits, value = self.logits(hidden), self.value(hidden)
        if self.kind == "list":
            return [logits, value.squeeze(-1)]
        if self.kind == "row":  # the plan does not take it, the policy does
            value = value.reshape(1, -1)
        return (logits.double() if self.kind == "double" else logits), value


def make_policy(env: Any, kind: str, action: Any = None) -> Any:
    torch.manual_seed(1)
    space = env.single_observation_space if hasattr(env, "single_observation_space") else None
    action = env.single_action_space if action is None else action
    shape = (3,) if space is None else space.shape
    if kind == "mlp":
        return MLPPolicy(shape, action, hidden=(8,))
    return wrap_actor_critic(
        Network(shape[0], int(np.sum(getattr(action, "nvec", getattr(action, "n", 0)))), kind),
        action,
        obs_shape=shape,
        obs_dtype=torch.float64 if kind == "float64" else torch.float32,
        inference_mode=kind != "no inference mode",
    )


def make_loop(
    env: Any,
    kind: str = "mlp",
    *,
    policy: Any = None,
    truncation: Any = "auto",
    horizon: int | None = None,
    **config: Any,
) -> CoreTrainingLoop:
    """Two rows of 12 steps for each agent, or one of `horizon`."""
    policy = make_policy(env, kind) if policy is None else policy
    losses = ppo_losses(policy, fused=True)
    sizes = {"batch_size": 96, "bptt_horizon": 12, "minibatch_size": 48}
    if horizon is not None:
        sizes = {"batch_size": 4 * horizon, "bptt_horizon": horizon, "minibatch_size": 2 * horizon}
    experience = Experience.from_losses(
        total_agents=AGENTS,
        **sizes,
        max_minibatch_size=None,
        policy_experience_spec=policy.get_agent_experience_spec(),
        losses=losses,
        device="cpu",
    )
    context = ComponentContext(config=LoopConfig(**sizes, **config), losses=losses)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    return CoreTrainingLoop(policy, experience, losses, optimizer, "cpu", context, truncation=truncation)


def lane_of(loop: CoreTrainingLoop) -> RolloutLane | None:
    steps, context = loop._steps, loop.context
    direct = DirectActing.of(loop.policy, loop.experience, loop.losses, steps, context)
    draws = AgentDraws(1)
    return RolloutLane.of(
        direct, loop.policy, loop.experience, steps, loop._truncation, loop._boundary, context, draws
    )


class Lived:
    """Three epochs, in the lane or not."""

    def __init__(
        self, env: Any, monkeypatch: pytest.MonkeyPatch, *, lane: bool, kind: str = "mlp", **options: Any
    ) -> None:
        self.sent: list[np.ndarray[Any, Any]] = []
        self.results: list[RolloutResult] = []
        self.in_lane = 0
        send = env.send_actions
        env.send_actions = lambda actions: (self.sent.append(actions), send(actions))[1]
        self.loop = make_loop(env, kind, **options)
        self.loop.context.state.avg_reward = torch.arange(4.0) / 8
        if lane:
            count = Experience.count_inner_steps
            monkeypatch.setattr(
                Experience, "count_inner_steps", lambda *args: (self._add(args[1]), count(*args))[1]
            )
        else:
            monkeypatch.setattr(RolloutLane, "of", classmethod(lambda *_: None))
        loop = self.loop
        self.stored = []
        for _ in range(3):
            self.results.append(loop.rollout_phase(env, loop.context))
            self.stored.append(loop.experience.stored_steps)
            loop.training_phase(loop.context, 2)
        self.random = torch.get_rng_state()
        monkeypatch.undo()

    def _add(self, steps: int) -> None:
        self.in_lane += steps


def assert_equal(one: Lived, other: Lived) -> None:
    for key, entry in other.loop.experience.buffer.items():
        assert torch.equal(one.loop.experience.buffer[key], entry), key
    assert torch.equal(one.loop.last_action, other.loop.last_action)
    assert one.results == other.results
    assert one.stored == other.stored
    assert torch.equal(one.random, other.random)
    assert len(one.sent) == len(other.sent)
    for mine, its in zip(one.sent, other.sent, strict=True):
        assert mine.dtype == its.dtype
        assert np.array_equal(mine, its)
    for mine, its in zip(one.loop.policy.parameters(), other.loop.policy.parameters(), strict=True):
        assert torch.equal(mine, its)
    for name in ("rows", "positions"):
        assert torch.equal(
            getattr(one.loop.experience.cursors, name), getattr(other.loop.experience.cursors, name)
        )


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_both_ways_are_the_same_to_the_last_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Lived(ENVIRONMENTS[name](), monkeypatch, lane=True)
    other = Lived(ENVIRONMENTS[name](), monkeypatch, lane=False)
    assert one.in_lane > (20 if "same step" in name else 50)
    assert other.in_lane == 0
    assert one.loop.experience.buffer["truncateds"].any()
    assert one.loop.experience.buffer["reward_baseline"].any()
    assert_equal(one, other)


@pytest.mark.parametrize("kind", ["list", "double", "float64", "no inference mode", "row"])
def test_kinds_of_networks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Lived(cartpoles("next_step")(), monkeypatch, lane=True, kind=kind)
    other = Lived(cartpoles("next_step")(), monkeypatch, lane=False, kind=kind)
    assert (one.in_lane > 50) is (kind != "row")
    assert_equal(one, other)


def test_legacy_knows_no_invalid_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        Lived(sliced("next_step")(), monkeypatch, lane=lane, truncation="legacy") for lane in (True, False)
    ]
    assert both[0].in_lane > 50
    assert both[0].loop.experience.buffer["valid"].all()
    assert_equal(*both)


class SeveralChoices(NoTeacher):
    single_action_space = gymnasium.spaces.MultiDiscrete([2, 3])


def test_several_choices_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        Lived(SeveralChoices([slice(0, 3), slice(3, 4)], "next_step"), monkeypatch, lane=lane)
        for lane in (True, False)
    ]
    assert both[0].in_lane > 50
    assert both[0].sent[-1].shape == (1, 2)
    assert_equal(*both)


def test_an_environment_may_keep_the_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    lived = Lived(cartpoles("next_step")(), monkeypatch, lane=True)
    memory = [(actions.__array_interface__["data"][0], actions) for actions in lived.sent]
    assert len({address for address, _ in memory}) == len(memory)


def test_slices_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """One slice is served three times while the other waits."""
    both = []
    for lane in (True, False):
        env = NoTeacher([slice(0, 2), slice(2, 4)], "next_step", [0, 0, 0, 1])
        both.append(Lived(env, monkeypatch, lane=lane))
    assert both[0].in_lane > 50
    assert_equal(*both)


def test_the_phases_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    env = cartpoles("next_step")()
    loop = make_loop(env)
    added: dict[str, float] = {}
    monkeypatch.setattr(
        type(loop.context.stopwatch),
        "add",
        lambda _, name, seconds: added.__setitem__(name, added.get(name, 0.0) + seconds),
    )
    loop.rollout_phase(env, loop.context)
    assert sorted(added) == ["_rollout.env_wait", "_rollout.inference", "_rollout.send"]
    assert all(seconds > 0 for seconds in added.values())


def test_what_an_environment_raises_leaves_the_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    env = cartpoles("next_step")()
    loop = make_loop(env)
    sent: list[int] = []
    send = env.send_actions

    def failing(actions: Any) -> None:
        sent.append(1)
        if len(sent) == 6:
            raise RuntimeError("the simulator broke")
        send(actions)

    env.send_actions = failing
    with pytest.raises(RuntimeError, match="the simulator broke"):
        loop.rollout_phase(env, loop.context)
    assert loop.experience.stored_steps == 6
    assert loop.experience.column_of(0) == 6
    env.send_actions = send
    loop.rollout_phase(env, loop.context)


class OwnAct(MLPPolicy):
    def act(self, obs: Tensor, *, all_choices: bool = True) -> Any:
        return super().act(obs, all_choices=all_choices)


class OwnStopwatch:
    def __call__(self, name: str) -> Any:
        return torch.no_grad()


def test_is_not_taken_where_a_step_needs_more() -> None:
    env = cartpoles("next_step")()
    assert lane_of(make_loop(env)) is not None
    assert lane_of(make_loop(env, advantage={"reward_centering": {"enabled": True}})) is None
    assert lane_of(make_loop(env, policy=OwnAct((4,), 2, hidden=(8,)))) is None

    patched = make_loop(env)
    patched.policy.head.sample = patched.policy.head.sample
    assert lane_of(patched) is None
    stored = make_loop(env)
    stored.experience.store = stored.experience.store
    assert lane_of(stored) is None
    timed = make_loop(env)
    timed.context.stopwatch = OwnStopwatch()
    assert lane_of(timed) is None
    fewer = make_loop(env)
    fewer.experience.set_store_keys(["env_obs", "actions", "rewards"])
    assert lane_of(fewer) is None
    pendulum = GymnasiumEnvironment("Pendulum-v1", AGENTS, seed=0)
    assert lane_of(make_loop(pendulum)) is None
    pendulum.close()
    env.close()


def test_a_replaced_network_is_the_one_that_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    env = cartpoles("next_step")()
    loop = make_loop(env, "list")
    calls: list[int] = []
    network = loop.policy.logits_and_value
    loop.policy.logits_and_value = lambda obs: (calls.append(1), network(obs))[1]
    loop.rollout_phase(env, loop.context)
    assert len(calls) >= 24
    env.close()


def test_a_tally_numbers_the_steps_of_infos() -> None:
    tally = RolloutTally()
    for infos, steps in (([{"a": 1}], 3), ([], 2), (None, 2), ([{"a": 2}, {"a": 3}], np.int64(1))):
        tally.count(infos, steps)  # type: ignore[arg-type]
    assert tally.raw_infos == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert tally.result(slice(0, 1)).info_steps == [0, 3, 3]
    assert tally.agent_steps == 8


def test_rows_begin_and_end_in_the_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is done by ordinary means where nobody asks for more, nor in the look at the newest step."""

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("a step took the ordinary way")

    for name in ("act", "store"):
        monkeypatch.setattr(DirectActing, name, refused)
    monkeypatch.setattr(StepBuilder, "build", refused)
    for horizon in (1, 2, 5):
        env = GymnasiumEnvironment("CartPole-v1", AGENTS, seed=0)
        loop = make_loop(env, horizon=horizon)
        for _ in range(3):
            result = loop.rollout_phase(env, loop.context)
            assert result.agent_steps == horizon * AGENTS
            assert result.training_env_id == slice(0, AGENTS)
            assert loop.experience.ready_for_training
            assert loop.experience.stored_steps == horizon
        env.close()
