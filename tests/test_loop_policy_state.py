"""Where the states of a recurrent policy begin anew, what training gets to see of them, and resuming."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor

from hotloop.context import ComponentContext, LoopConfig
from hotloop.envs.recall import RecallEnvironment
from hotloop.experience import Experience
from hotloop.loop import CoreTrainingLoop
from hotloop.losses import ppo_losses
from hotloop.policies import GRUPolicy, LSTMPolicy, MLPPolicy, RecurrentActorCritic
from loop_support import BOOTSTRAPPED, RecordingLoss, ScriptedEnv, Setup
from recurrent_support import Counter, slow_unroll

AGENTS, HORIZON, SEGMENTS = 4, 5, 8
WINDOWS = [slice(0, 2), slice(2, 4)]


def terminal(agents: Tensor, t: int) -> Tensor:
    """Ends in the first, an inner and the last column of a row, twice in a row, and none (agent 3)."""
    ends = {0: (5, 6), 1: (4, 9), 2: (2,), 3: ()}
    return torch.tensor([t in ends[int(agent)] for agent in agents])


def truncation(agents: Tensor, t: int) -> Tensor:
    return torch.tensor([int(agent) == 2 and t == 7 for agent in agents])


class Env(ScriptedEnv):
    def __init__(self, autoreset: str | None, windows: list[slice] | None = None) -> None:
        attributes: dict[str, Any] = {} if autoreset is None else {"autoreset": autoreset}
        super().__init__(windows or WINDOWS, terminal=terminal, truncation=truncation, **attributes)
        if autoreset == "next_step":
            self.mask = lambda agents, t: ~(terminal(agents, t) | truncation(agents, t))

    def final_observations(self) -> tuple[Tensor, Tensor] | None:
        ids = self.agents[truncation(self.agents, self.t)]
        return (ids, torch.full((len(ids), 3), 7.0)) if len(ids) else None


def steps_by_hand(agent: int, steps: int, *, late: int) -> list[int]:
    """`Counter`'s count before each step, when it begins anew `late` steps after a flag's observation."""
    counts, count = [], 5
    for t in range(steps):
        before = torch.tensor([agent])
        if t >= late and bool(terminal(before, t - late) | truncation(before, t - late)):
            count = 5
        counts.append(count)
        count += 1
    return counts


def make(policy: Any = None, **options: Any) -> Setup:
    policy = Counter() if policy is None else policy
    return Setup(
        agents=AGENTS,
        segments=SEGMENTS,
        horizon=HORIZON,
        policy=policy,
        losses=lambda log, policy: {
            "actor": RecordingLoss(
                "actor",
                log,
                policy,
                acts=True,
                spec=BOOTSTRAPPED,
                loss=lambda shared: shared["policy_td"]["act_log_prob"].mean(),
            )
        },
        **options,
    )


@pytest.mark.parametrize("windows", [WINDOWS, [slice(0, 4)]], ids=["slices", "whole"])
@pytest.mark.parametrize("autoreset", ["same_step", "next_step", None])
def test_the_state_begins_anew_where_an_episode_does(autoreset: str | None, windows: list[slice]) -> None:
    setup = make()
    env = Env(autoreset, windows)
    setup.loop.rollout_phase(env, setup.context)
    late = int(autoreset == "next_step")
    # `final_observations` makes the policy run on two agents' finals as well; look at whole steps only.
    seen = [entry for entry in setup.policy.seen if len(entry[0]) == windows[0].stop]
    expected = {agent: steps_by_hand(agent, 2 * HORIZON, late=late) for agent in range(AGENTS)}
    for call, (steps, resets) in enumerate(seen):
        window, t = windows[call % len(windows)], call // len(windows)
        assert steps.tolist() == [expected[agent][t] for agent in range(window.start, window.stop)]
        began = [
            t >= late
            and bool(terminal(torch.tensor([a]), t - late) | truncation(torch.tensor([a]), t - late))
            for a in range(window.start, window.stop)
        ]
        assert resets.tolist() == began
    assert len(seen) == 2 * HORIZON * len(windows)
    # What is stored with the segments: the state with which column 0 was entered.
    starts = setup.loop._states.of_segments(torch.arange(SEGMENTS))["clock", "steps"]
    by_hand = [expected[agent][half * HORIZON] for half in (0, 1) for agent in range(AGENTS)]
    assert starts.tolist() == by_hand


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_final_observations_are_valued_in_the_episode_that_they_end(autoreset: str) -> None:
    setup = make()
    setup.loop.rollout_phase(Env(autoreset), setup.context)
    buffer = setup.experience.buffer
    row, column = 6, 2  # agent 2, step 7: begun anew at step 2 (3 under next_step)
    if autoreset == "next_step":
        assert buffer["truncation_values"][row, column] == buffer["values"][row, column]
        return
    steps = 5 + 5 + 1  # steps 2 to 6, and the final observation
    # Agent 2 has shown [2, t, 1] at steps 2 to 6; the final observation is [7, 7, 7].
    sums = 0.01 * torch.tensor([10.0 + 7.0, 2 + 3 + 4 + 5 + 6 + 7.0, 5.0 + 7.0])
    expected = sums.sum() + 0.1 * steps * 21.0
    torch.testing.assert_close(buffer["truncation_values"][row, column], expected)


def test_states_live_on_from_rollout_to_rollout() -> None:
    setup = make()
    env = Env("same_step")
    for _ in range(2):
        setup.loop.rollout_phase(env, setup.context)
        setup.loop.training_phase(setup.context, 1)
    starts = setup.loop._states.of_segments(torch.arange(SEGMENTS))["clock", "steps"]
    assert starts[3] == 5 + 2 * HORIZON  # agent 3's episode has not ended
    setup.loop.begin_episodes()
    assert setup.loop.state_dict()["policy_states"]["states"]["clock.steps"].tolist() == [5] * AGENTS


@pytest.mark.parametrize("method", ["sequential", "permutation", "prioritized"])
def test_minibatches_get_the_states_of_their_rows(method: str) -> None:
    class Spy(Counter):
        def forward(self, td: TensorDictBase, action: Tensor | None = None, **kw: Any) -> TensorDictBase:
            if action is not None and torch.is_grad_enabled():
                given.append(kw["state"]["clock", "steps"].tolist())
            return super().forward(td, action, **kw)

    given: list[list[int]] = []
    setup = make(Spy(), config={"sampling": {"method": method, "prio_alpha": 0.9}})
    setup.loop.rollout_phase(Env("same_step"), setup.context)
    setup.loop.training_phase(setup.context, 2)
    starts = setup.loop._states.of_segments(torch.arange(SEGMENTS))["clock", "steps"]
    drawn = [shared["indices"][:, 0] for shared in setup.losses["actor"].shared]
    assert given == [starts[rows].tolist() for rows in drawn]
    assert len(given) == 4
    if method != "sequential":
        assert drawn[0].tolist() != sorted(drawn[0].tolist())


class Slow(Env):
    """The second slice is served every third time only."""

    def get_observations(self) -> tuple[Any, ...]:
        self.turn = getattr(self, "turn", -1) + 1
        number = int(self.turn % 3 == 2)
        self.counts = getattr(self, "counts", [0, 0])
        self.calls = 2 * self.counts[number] + number
        self.counts[number] += 1
        return super().get_observations()


def test_a_slice_that_is_done_with_the_rollout_overwrites_no_segment_s_state() -> None:
    setup = make()
    env = Slow("same_step")
    setup.loop.rollout_phase(env, setup.context)
    assert setup.experience.skipped_steps > 0
    starts = setup.loop._states.of_segments(torch.arange(SEGMENTS))["clock", "steps"]
    for count, (agent, t, _) in zip(starts, setup.experience.buffer["env_obs"][:, 0].tolist(), strict=True):
        assert count == steps_by_hand(int(agent), int(t) + 1, late=0)[-1]
    # The slice stepped on all the same.
    now = setup.loop.state_dict()["policy_states"]["states"]["clock.steps"]
    assert now[1] == steps_by_hand(1, env.counts[0] + 1, late=0)[-1]


def test_training_gives_the_gradients_of_a_slow_loop() -> None:
    """The loss of one minibatch of every row, with resets inside."""
    torch.manual_seed(0)
    policy = LSTMPolicy((3,), 2, core_size=4, hidden=())
    setup = make(policy, minibatches=1, learning_rate=1.0)
    setup.loop.rollout_phase(Env("same_step"), setup.context)
    buffer = setup.experience.buffer
    assert bool(buffer["resets"].any())
    states = setup.loop._states.of_segments(torch.arange(SEGMENTS)).clone()
    twin = copy.deepcopy(policy)
    outputs, _ = slow_unroll(
        twin.core,
        buffer["env_obs"],
        tuple(states[key].transpose(0, 1) for key in ("h", "c")),
        buffer["resets"],
    )
    log_prob, _ = twin.head.evaluate(twin.actor(outputs.flatten(0, 1)), buffer["actions"].flatten())
    log_prob.mean().backward()
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    setup.loop.training_phase(setup.context, 1, max_grad_norm=1e9)
    for old, new, slow in zip(before, policy.parameters(), twin.parameters(), strict=True):
        gradient = torch.zeros_like(old) if slow.grad is None else slow.grad
        torch.testing.assert_close(old - new.detach(), gradient, rtol=1e-4, atol=1e-6)


def build(policy: RecurrentActorCritic, **options: Any) -> CoreTrainingLoop:
    config = LoopConfig(batch_size=8 * 2 * 6, minibatch_size=8 * 6, bptt_horizon=6)
    config.sampling.method = "permutation"
    losses = ppo_losses(policy)
    experience = Experience.from_losses(
        8,
        config.batch_size,
        6,
        config.minibatch_size,
        None,
        policy.get_agent_experience_spec(),
        losses,
        "cpu",
    )
    optimizer = torch.optim.Adam(policy.parameters(), 0.01)
    options.setdefault("recurrent_check", "always")
    return CoreTrainingLoop(
        policy, experience, losses, optimizer, "cpu", ComponentContext(config=config), **options
    )


def epochs(loop: CoreTrainingLoop, env: RecallEnvironment, count: int) -> None:
    for _ in range(count):
        loop.on_epoch_start(loop.context)
        loop.context.record_rollout(loop.rollout_phase(env, loop.context).agent_steps)
        loop.context.advance_epoch(loop.training_phase(loop.context, 2)[1])


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize("kind", [LSTMPolicy, GRUPolicy])
def test_a_resumed_run_equals_one_that_was_never_stopped(
    kind: type[RecurrentActorCritic], autoreset: Any
) -> None:
    def start() -> tuple[CoreTrainingLoop, RecallEnvironment]:
        env = RecallEnvironment(8, cues=3, delay=(1, 4), autoreset=autoreset)
        torch.manual_seed(0)
        policy = kind.from_spaces(env.single_observation_space, env.single_action_space, core_size=4)
        return build(policy), env

    whole, env = start()
    epochs(whole, env, 5)
    expected = [parameter.detach().clone() for parameter in whole.policy.parameters()]

    def resumed(*, with_states: bool) -> list[Tensor]:
        first, env = start()
        epochs(first, env, 2)
        parts = (first.policy, first.optimizer, first, env, first.context.state)
        saved = copy.deepcopy([part.state_dict() for part in parts])
        generator = torch.get_rng_state()
        second, env = start()
        epochs(second, env, 1)  # so that there is something to be overwritten
        parts = (second.policy, second.optimizer, second, env, second.context.state)
        for part, state in zip(parts, saved, strict=True):
            part.load_state_dict(state)
        if not with_states:
            second.begin_episodes()
        torch.set_rng_state(generator)
        epochs(second, env, 3)
        return [parameter.detach() for parameter in second.policy.parameters()]

    for ours, theirs in zip(resumed(with_states=True), expected, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(resumed(with_states=False)[0], expected[0])


class InPlace(LSTMPolicy):
    """Writes the new state over the one that it was given."""

    def forward(self, td: TensorDictBase, action: Tensor | None = None, **kw: Any) -> TensorDictBase:
        given = td.get("state", None)
        super().forward(td, action, **kw)
        if given is not None:
            given.update_(td["state"])
            td["state"] = given
        return td


@pytest.mark.parametrize("kind", [LSTMPolicy, InPlace])
@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_looking_at_the_end_of_a_rollout_uses_the_states_and_leaves_them(
    autoreset: Any, kind: type[LSTMPolicy]
) -> None:
    def start(boundary: str) -> tuple[CoreTrainingLoop, RecallEnvironment]:
        env = RecallEnvironment(8, cues=3, delay=(1, 4), autoreset=autoreset)
        torch.manual_seed(0)
        policy = kind.from_spaces(env.single_observation_space, env.single_action_space, core_size=4)
        return build(policy, boundary=boundary), env

    buffers, ends = {}, None
    for boundary in ("exact", "legacy"):
        loop, env = start(boundary)
        for _ in range(3):
            if boundary == "exact" and loop.experience.full_rows:
                ends = loop._boundary._kept["values"][8:].clone()
            loop.rollout_phase(env, loop.context)
            if ends is not None and boundary == "exact":
                torch.testing.assert_close(ends, loop.experience.buffer["values"][:8, 0])
            # Nor are the states that the segments started from disturbed.
            loop._recurrent_check(loop.policy, loop.experience, loop._policy_keys)
        buffers[boundary] = loop.experience.buffer.clone()
    assert ends is not None
    for key in ("values", "act_log_prob", "actions", "resets"):
        assert torch.equal(buffers["exact"][key], buffers["legacy"][key]), key


def test_burn_in_columns_enter_no_loss() -> None:
    env = RecallEnvironment(8, cues=3, delay=(1, 4))
    torch.manual_seed(0)
    policy = LSTMPolicy.from_spaces(env.single_observation_space, env.single_action_space, core_size=4)
    loop = build(policy, burn_in=2)
    seen = []
    train = loop.losses["ppo_actor"].train
    forward = policy.forward

    def spy(shared: TensorDictBase, *rest: Any) -> Any:
        seen.append(shared["sampled_mb"]["valid"].clone())
        return train(shared, *rest)

    def spy_forward(td: TensorDictBase, action: Tensor | None = None, **kw: Any) -> TensorDictBase:
        if kw.get("state") is not None and torch.is_grad_enabled():
            assert kw["burn_in"] == 2
        return forward(td, action, **kw)

    loop.losses["ppo_actor"].train = spy
    policy.forward = spy_forward  # type: ignore[method-assign]
    epochs(loop, env, 1)
    assert seen
    for valid in seen:
        assert not valid[:, :2].any()
        assert valid[:, 2:].all()
    assert loop.experience.buffer["valid"].all()


def test_burn_in_without_an_entry_valid_makes_one() -> None:
    env = RecallEnvironment(AGENTS, cues=2, delay=2)
    policy = LSTMPolicy.from_spaces(env.single_observation_space, env.single_action_space, core_size=4)
    setup = make(policy, burn_in=1)
    del setup.experience.buffer["valid"]
    minibatch = setup.experience.sample_sequential(0)[0]
    setup.loop._states.training_inputs(minibatch, torch.arange(4))
    assert minibatch["valid"].tolist() == [[False] + [True] * (HORIZON - 1)] * 4


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="burn_in needs a policy with get_state_spec"):
        Setup(burn_in=1)
    with pytest.raises(ValueError, match="burn_in = 1 needs a policy whose forward"):
        make(burn_in=1)
    policy = LSTMPolicy((3,), 2)
    with pytest.raises(ValueError, match=r"burn_in must lie in \[0, 5\), the horizon, got 5"):
        make(policy, burn_in=5)
    with pytest.raises(TypeError, match=r"burn_in must be an int, got 1\.5"):
        make(policy, burn_in=1.5)
    with pytest.raises(ValueError, match="needs sampling='loop', got 'losses'"):
        make(policy, sampling="losses")
    with pytest.raises(ValueError, match="recurrent_check must be one of"):
        make(policy, recurrent_check="sometimes")
    silent = Counter()
    spec = silent.get_agent_experience_spec()
    silent.get_agent_experience_spec = lambda: {k: spec[k] for k in ("env_obs", "actions")}  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="must ask for 'resets'"):
        make(silent)


def test_states_of_a_wrong_kind_are_refused() -> None:
    class Wrong(Counter):
        def forward(self, td: TensorDictBase, action: Tensor | None = None, **kw: Any) -> TensorDictBase:
            super().forward(td, action, **kw)
            td["state", "sums"] = wrong(td["state", "sums"])
            return td

    def wrong(sums: Tensor) -> Tensor:
        return sums[:, :2]

    setup = make(Wrong())
    with pytest.raises(
        ValueError, match=r"policy's state 'sums' must be torch.float32 \[2, 3\], got .* \[2, 2\]"
    ):
        setup.loop.rollout_phase(Env("same_step"), setup.context)

    class Forgetful(Counter):
        def forward(self, td: TensorDictBase, action: Tensor | None = None, **kw: Any) -> TensorDictBase:
            super().forward(td, action, **kw)
            del td["state", "sums"]
            return td

    setup = make(Forgetful())
    with pytest.raises(KeyError, match="the policy must leave td\\['state'\\] with 'sums'"):
        setup.loop.rollout_phase(Env("same_step"), setup.context)


def test_states_of_another_policy_cannot_be_loaded() -> None:
    state = make(LSTMPolicy((3,), 2, core_size=4)).loop.state_dict()
    for other in (LSTMPolicy((3,), 2, core_size=5), GRUPolicy((3,), 2, core_size=4), Counter()):
        with pytest.raises(ValueError, match="load_state_dict: the policy's states must be"):
            make(other).loop.load_state_dict(state)
    with pytest.raises(ValueError, match=r"states must be .* got None"):
        make().loop.load_state_dict(Setup().loop.state_dict() | {"last_actions": state["last_actions"]})
    feed_forward = make(MLPPolicy((3,), 2)).loop
    assert feed_forward.state_dict()["policy_states"] is None
    feed_forward.load_state_dict({"last_actions": state["last_actions"], "update_epochs": 1})
