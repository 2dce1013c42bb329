"""The last column of a row, against the departure-indexed definition on what the agents really lived."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor

from hotloop import ops
from hotloop.envs import PeeksObservations
from hotloop.loop_direct import DirectActing
from hotloop.loop_lane import RolloutLane
from hotloop.losses import ppo_losses
from hotloop.policies import MLPPolicy
from loop_support import BOOTSTRAPPED, OBS, STORED, Config, RecordingLoss, ScriptedEnv, Setup, TinyPolicy
from slices_support import EpisodicEnv, PeekingEnv, SlicedEnv, noise

GAMMA, LAMBDA = 0.9, 0.8
SPEC = {**BOOTSTRAPPED, "teacher_actions": ((), torch.int64)}
ALL = [slice(0, 4)]
HALVES = [slice(0, 2), slice(2, 4)]
UNEVEN = [slice(0, 1), slice(1, 3), slice(3, 4)]
# Slices, the order in which they are served, rows of the buffer.
LAYOUTS: dict[str, tuple[list[slice], list[int] | None, int]] = {
    "one row an agent": (ALL, None, 4),
    "three rows an agent": (ALL, None, 12),
    "rows that start over": (ALL, None, 6),
    "two slices": (HALVES, None, 4),
    "two slices, two rows": (HALVES, None, 8),
    "out of order": (UNEVEN, [2, 0, 0, 1, 2, 0, 1], 8),
    "one slice four times as fast": (HALVES, [1, 1, 1, 1, 0], 8),
}


def make(segments: int, horizon: int = 5, **options: Any) -> Setup:
    config = {"advantage": {"gamma": GAMMA, "gae_lambda": LAMBDA}}
    options = {"minibatches": 2, "spec": SPEC, "config": config, "learning_rate": 0.0} | options
    return Setup(agents=4, segments=segments, horizon=horizon, **options)


def train(setup: Setup, env: Any) -> Tensor:
    """A rollout and a pass over it; advantages of the whole buffer."""
    setup.loop.rollout_phase(env, setup.context)
    setup.loop.training_phase(setup.context, 1)
    advantages: Tensor = setup.experience.buffer["advantages_full"].clone()
    return advantages


def lived(setup: Setup, env: EpisodicEnv) -> Tensor:
    """What `train` should return."""
    rows = []
    for stamps in setup.experience.buffer["teacher_actions"]:
        agent, first = divmod(int(stamps[0]), 1000)
        horizon = len(stamps)
        assert stamps.tolist() == [1000 * agent + first + t for t in range(horizon)]
        critic = setup.policy.critic.detach()
        rows.append(env.departure_advantages(agent, first, horizon, lambda x: x @ critic, GAMMA, LAMBDA))  # noqa: B023
    return torch.stack(rows)


@pytest.mark.parametrize(("horizon", "absent"), [(1, False), (2, True), (6, False), (6, True)])
@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_advantages_are_those_of_the_definition(
    layout: str, autoreset: str, horizon: int, absent: bool
) -> None:
    windows, order, segments = LAYOUTS[layout]
    setup = make(segments, horizon, boundary="exact")
    env = EpisodicEnv(windows, autoreset, order, absent=absent)
    last, minibatches = [], []

    def check(shared: TensorDictBase) -> Tensor:
        """Of a minibatch, whose memory is the next one's. Its ratios are 1: nothing is learnt."""
        expected = whole[shared["indices"][:, 0]]
        torch.testing.assert_close(shared["advantages_pg"], expected, rtol=1e-5, atol=1e-5)
        minibatches.append(len(expected))
        return shared["policy_td"]["values"].mean()

    setup.losses["actor"].loss = check
    for _ in range(3):
        setup.loop.rollout_phase(env, setup.context)
        whole = lived(setup, env)
        setup.loop.training_phase(setup.context, 1)
        torch.testing.assert_close(setup.experience.buffer["advantages_full"], whole, rtol=1e-5, atol=1e-5)
        last.append(whole[:, -1])
    assert minibatches == [segments // 2] * 6
    assert torch.cat(last).count_nonzero() > segments  # most columns are alive


def test_a_row_that_was_given_to_another_agent_is_that_agents() -> None:
    """Agent 0 finishes row 0 and is done; agent 3 writes it anew before agent 0's next step arrives."""
    setup = make(6, horizon=2, minibatches=1, boundary="exact")
    env = EpisodicEnv([slice(0, 1), slice(1, 4)], "next_step", [1, 1, 0, 0, 1, 1])
    for _ in range(3):
        torch.testing.assert_close(train(setup, env), lived(setup, env), rtol=1e-5, atol=1e-5)
        assert setup.experience.buffer["teacher_actions"][0, 0] // 1000 == 3


def test_slices_may_be_shown_together() -> None:
    """What a fast slice's last rows led to came long before; what it shows at the end is of later steps."""

    class Together(EpisodicEnv):
        def peek_observations(self) -> Any:
            columns = list(zip(*super().peek_observations(), strict=True))
            both = [column if self.number == 0 else column[::-1] for column in columns]
            yield *(torch.cat(column) for column in both[:5]), [], slice(0, 4), torch.cat(both[7]), 0

    setup = make(8, horizon=3, boundary="exact")
    env = Together(HALVES, "next_step", [1, 1, 1, 1, 0])
    for _ in range(3):
        torch.testing.assert_close(train(setup, env), lived(setup, env), rtol=1e-5, atol=1e-5)
        assert setup.experience.skipped_steps > 0


@pytest.mark.parametrize("enabled", [False, True])
def test_rewards_are_centred_beyond_the_last_column_too(enabled: bool) -> None:
    """By the average that the next rollout's first step stores with the very same reward."""
    centering = {"enabled": enabled, "beta": 0.3, "initial_reward_mean": 0.25}
    setup = make(4, config={"advantage": {"gae_lambda": 0.0, "gamma": 0.0, "reward_centering": centering}})
    env = EpisodicEnv(ALL, "same_step")
    last = train(setup, env)[:, -1].clone()
    values = setup.experience.buffer["values"][:, -1].clone()
    train(setup, env)
    first = {key: setup.experience.buffer[key][:, 0] for key in ("rewards", "reward_baseline")}
    assert len(first["reward_baseline"].unique()) == (4 if enabled else 1)
    # A truncated step also brings the value of its final observation; at gamma 0 that counts nothing.
    torch.testing.assert_close(last, first["rewards"] - first["reward_baseline"] - values)


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize("lane", [True, False])
def test_steps_that_are_stored_without_a_tensordict(
    lane: bool, autoreset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ordinary policy and losses: only the steps that rows wait for are made TensorDicts of."""
    if not lane:
        monkeypatch.setattr(RolloutLane, "of", classmethod(lambda *_: None))
    acted: list[int] = []
    act = DirectActing.act
    monkeypatch.setattr(DirectActing, "act", lambda *args: (acted.append(1), act(*args))[1])
    policy = sampler()
    losses = ppo_losses(policy, fused=True)
    setup = make(8, horizon=6, policy=policy, losses=lambda *_: losses)
    env = EpisodicEnv(ALL, autoreset)
    env.teacher = False
    env.truncation = lambda agents, t: noise(agents, t, 2) > (0.8 if t % 3 == 0 else 2.0)
    env.terminal = lambda agents, t: noise(agents, t, 2) < (0.2 if t % 3 == 0 else -1.0)
    for rollout in range(3):
        setup.loop.rollout_phase(env, setup.context)
        whole = [
            env.departure_advantages(
                row % 4, 12 * rollout + 6 * (row // 4), 6, value_of(policy), GAMMA, LAMBDA
            )
            for row in range(8)
        ]
        setup.loop.training_phase(setup.context, 1)
        advantages = setup.experience.buffer["advantages_full"]
        torch.testing.assert_close(advantages, torch.stack(whole), rtol=1e-5, atol=1e-4)
    assert bool(acted) is not lane  # in the lane it is done without that
    assert len(acted) < 36 - 2


def value_of(policy: MLPPolicy) -> Any:
    return torch.no_grad()(lambda observations: policy.logits_and_value(observations)[1])


class Two(TinyPolicy):
    """Two value heads, the mean of which is the critic's."""

    def value(self, obs: Tensor) -> Tensor:
        value = obs @ self.critic
        return torch.stack((0.5 * value, 1.5 * value), dim=-1)


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_values_of_several_heads_are_averaged(autoreset: str) -> None:
    spec = {**SPEC, "values": ((2,), torch.float32)}
    setup = make(8, spec=spec, policy=Two(), losses=None)
    setup.losses["actor"].loss = lambda shared: shared["policy_td"]["values"].mean()
    env = EpisodicEnv(HALVES, autoreset)
    torch.testing.assert_close(train(setup, env), lived(setup, env), rtol=1e-5, atol=1e-5)


def longer(setup: Setup, env: EpisodicEnv, shared: TensorDictBase) -> dict[str, Tensor]:
    """A minibatch with one more column, as a rollout of longer rows would have stored it."""
    minibatch = shared["sampled_mb"]
    columns = {"values": minibatch["values"], "rewards": minibatch["rewards"], "dones": minibatch["dones"]}
    last: dict[str, list[Tensor]] = {key: [] for key in columns}
    for stamp in minibatch["teacher_actions"][:, -1].tolist():
        agent, t = torch.tensor([stamp // 1000]), stamp % 1000 + 1
        last["values"].append(env.observation(agent, t) @ setup.policy.critic.detach())
        last["rewards"].append(env.reward(agent, t))
        last["dones"].append(env.terminal(agent, t).float())
    return {key: torch.cat((column, torch.stack(last[key])), dim=1) for key, column in columns.items()}


def test_corrected_advantages_of_a_minibatch_are_those_of_a_longer_row() -> None:
    """With ratios that differ, and rows drawn at random."""
    setup = make(
        8,
        boundary="exact",
        truncation="legacy",
        experience={"sampling_config": Config(method="prioritized", prio_alpha=0.8, prio_beta0=0.5)},
    )
    env = EpisodicEnv(HALVES, "same_step")
    setup.loop.rollout_phase(env, setup.context)
    setup.policy.actor.data.mul_(-9.0)
    drawn: list[int] = []

    def check(shared: TensorDictBase) -> Tensor:  # a minibatch's memory is the next one's
        columns = longer(setup, env, shared)
        ratio = torch.nn.functional.pad(shared["importance_sampling_ratio"].detach(), (0, 1), value=1.0)
        assert ratio.std() > 0.05
        expected = ops.puff_advantage(*columns.values(), ratio, GAMMA, LAMBDA)
        torch.testing.assert_close(shared["advantages_pg"], expected[:, :-1], rtol=1e-5, atol=1e-5)
        drawn.extend(shared["indices"][:, 0].tolist())
        return shared["policy_td"]["values"].mean()

    setup.losses["actor"].loss = check
    setup.loop.training_phase(setup.context, 2)
    assert len(drawn) == 16
    assert drawn != sorted(drawn)


def test_delta_lambda_is_that_of_a_longer_row_and_differentiates() -> None:
    setup = make(8, boundary="exact", truncation="legacy")
    env = EpisodicEnv(HALVES, "same_step")

    def check(shared: TensorDictBase) -> Tensor:
        columns = longer(setup, env, shared)
        expected = ops.delta_lambda(*columns.values(), GAMMA, LAMBDA)[:, :-1]
        advantages = shared["advantages_pg"]
        torch.testing.assert_close(advantages.detach(), expected, rtol=1e-5, atol=1e-5)
        (gradient,) = torch.autograd.grad(
            advantages[:, -1].sum(), shared["policy_td"]["values"], retain_graph=True
        )
        assert gradient.tolist() == [[0.0] * 4 + [-1.0]] * 4  # what came after is a number
        return advantages.square().mean()

    cfg = Config(critic_update="gtd_lambda")
    setup.losses["ppo_critic"] = RecordingLoss("ppo_critic", setup.log, cfg=cfg, loss=check)
    setup.loop.rollout_phase(env, setup.context)
    setup.loop.training_phase(setup.context, 1)
    assert setup.losses["ppo_critic"].trained == 2


def test_legacy_is_the_reference_formula_bit_for_bit() -> None:
    setup = make(8, boundary="legacy", truncation="legacy")
    env = EpisodicEnv(HALVES, "same_step")
    advantages = train(setup, env)
    buffer = setup.experience.buffer
    values, rewards, live = buffer["values"], buffer["rewards"], 1.0 - buffer["dones"]
    expected = torch.zeros_like(values)
    for t in range(values.shape[1] - 2, -1, -1):
        delta = rewards[:, t + 1] + GAMMA * values[:, t + 1] * live[:, t + 1] - values[:, t]
        expected[:, t] = delta + GAMMA * LAMBDA * expected[:, t + 1] * live[:, t + 1]
    torch.testing.assert_close(advantages, expected, rtol=1e-6, atol=1e-6)
    plain = ops.puff_advantage(values, rewards, buffer["dones"], torch.ones_like(values), GAMMA, LAMBDA)
    assert advantages.equal(plain)
    assert advantages[:, -1].count_nonzero() == 0
    assert {name for name, *_ in env.log} == {"get", "send"}


def sampler() -> MLPPolicy:
    torch.manual_seed(3)
    return MLPPolicy((OBS,), 3, hidden=(8,))


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_looking_changes_nothing(layout: str, autoreset: str) -> None:
    """Draws, steps, infos, last actions, averages and the buffer are those of a loop that never looks."""
    windows, order, segments = LAYOUTS[layout]
    results = {}
    for mode in ("exact", "legacy"):
        centering = {"enabled": True, "beta": 0.3, "initial_reward_mean": 1.0}
        setup = make(
            segments,
            policy=sampler(),
            boundary=mode,
            reset_last_actions=True,
            config={"advantage": {"reward_centering": centering}},
        )
        env = EpisodicEnv(windows, autoreset, order)
        torch.manual_seed(11)
        rollouts = [setup.loop.rollout_phase(env, setup.context) for _ in range(3)]
        results[mode] = (
            [sent.tolist() for sent in env.sent],
            [entry for entry in env.log if entry[0] != "peek"],
            [(result.raw_infos, result.agent_steps, result.training_env_id) for result in rollouts],
            setup.loop.last_action.tolist(),
            setup.context.state.avg_reward.tolist(),  # type: ignore[union-attr]
            {key: value.tolist() for key, value in setup.experience.buffer.items()},
            torch.get_rng_state().tolist(),
        )
        assert len({tuple(sent) for sent in results[mode][0]}) > 2
    for exact, legacy in zip(results["exact"], results["legacy"], strict=True):
        assert exact == legacy


def test_only_slices_that_still_wait_are_looked_at() -> None:
    """The fast slice came back with what its last row led to before the slow one was done."""
    setup = make(8, horizon=3, boundary="exact")
    env = EpisodicEnv(HALVES, "next_step", [1, 1, 1, 1, 0])
    setup.loop.rollout_phase(env, setup.context)
    assert setup.experience.skipped_steps > 0
    sent = sum(name == "send" for name, *_ in env.log)
    assert setup.log.count("policy.forward") == sent + 1
    assert setup.policy.seen[-1]["training_env_ids"].flatten().tolist() == [0, 1]


def test_looking_builds_no_graph() -> None:
    graphs: list[bool] = []

    class Watching(TinyPolicy):
        def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
            if action is None:
                graphs.append(torch.is_grad_enabled())
            return super().forward(td, action)

    setup = make(8, policy=Watching(), boundary="exact")
    setup.loop.rollout_phase(EpisodicEnv(HALVES, "same_step"), setup.context)
    assert set(graphs) == {False}


def test_values_written_back_are_seen_across_rows_within_the_rollout() -> None:
    """The next row's first value is the buffer's; what the rollout's end was worth stays."""
    setup = make(8, boundary="exact", truncation="legacy")
    env = EpisodicEnv(ALL, "same_step")
    train(setup, env)
    setup.experience.buffer["values"].add_(1.0)
    setup.loop.training_phase(setup.context, 1)
    buffer = setup.experience.buffer
    ends = [1000 * agent + env.clocks[0] for agent in range(4)]
    last = torch.stack(
        [env.observation(torch.tensor([stamp // 1000]), stamp % 1000)[0] for stamp in ends]
    ) @ (setup.policy.critic.detach())
    rewards = torch.stack([env.reward(torch.tensor([stamp // 1000]), stamp % 1000)[0] for stamp in ends])
    dones = torch.stack([env.terminal(torch.tensor([stamp // 1000]), stamp % 1000)[0] for stamp in ends])
    expected = ops.puff_advantage(
        buffer["values"],
        buffer["rewards"],
        buffer["dones"],
        buffer["valid"].float(),
        GAMMA,
        LAMBDA,
        next_values=torch.cat((buffer["values"][4:, 0], last)),
        next_rewards=torch.cat((buffer["rewards"][4:, 0], rewards)),
        next_dones=torch.cat((buffer["dones"][4:, 0], dones.float())),
    )
    torch.testing.assert_close(buffer["advantages_full"], expected, rtol=1e-5, atol=1e-5)


# Which environments can be looked at


def test_exact_takes_one_slice_at_its_word() -> None:
    class Once(EpisodicEnv):
        peek_observations = None  # type: ignore[assignment]

    setup = make(8, boundary="exact")
    env = Once(ALL, "same_step")
    for _ in range(2):
        torch.testing.assert_close(train(setup, env), lived(setup, env), rtol=1e-5, atol=1e-5)
    assert [name for name, *_ in env.log].count("get") == len(env.sent) + 2


def test_exact_refuses_slices_that_cannot_be_looked_at_before_anything_is_stored() -> None:
    setup = make(8, boundary="exact", truncation="legacy", spec=BOOTSTRAPPED)
    env = SlicedEnv(HALVES)
    assert not isinstance(env, PeeksObservations)
    with pytest.raises(ValueError, match=r"must have peek_observations\(\).*got agents slice\(0, 2"):
        setup.loop.rollout_phase(env, setup.context)
    assert env.sent == []
    assert setup.experience.stored_steps == 0


@pytest.mark.parametrize("windows", [ALL, HALVES])
def test_auto_without_the_method_is_legacy_and_says_so_once(
    windows: list[slice], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        setup = make(8, truncation="legacy", spec=BOOTSTRAPPED)
        env = SlicedEnv(windows)
        assert [train(setup, env)[:, -1].count_nonzero() for _ in range(3)] == [0, 0, 0]
    assert len([record for record in caplog.records if "last column" in record.message]) == 1
    assert [name for name, *_ in env.log].count("get") == len(env.sent)


def test_auto_is_exact_where_it_can_be_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        env = PeekingEnv(HALVES)
        assert isinstance(env, PeeksObservations)
        advantages = train(make(8, truncation="legacy", spec=BOOTSTRAPPED), env)
    assert advantages[:, -1].count_nonzero() == 8
    assert caplog.records == []


def test_an_environment_that_could_be_looked_at_and_then_one_that_cannot() -> None:
    """What was kept of the first must not be taken for the second's."""
    setup = make(8, truncation="legacy", spec=BOOTSTRAPPED)
    assert train(setup, PeekingEnv(HALVES))[:, -1].count_nonzero() == 8
    assert train(setup, SlicedEnv(HALVES))[:, -1].count_nonzero() == 0


def test_a_slice_that_is_not_shown() -> None:
    class Half(PeekingEnv):
        def peek_observations(self) -> Any:
            return list(super().peek_observations())[:1]

    setup = make(8, boundary="exact", truncation="legacy", spec=BOOTSTRAPPED)
    with pytest.raises(RuntimeError, match=r"peek_observations\(\) must return.*agents \[2, 3\]"):
        setup.loop.rollout_phase(Half(HALVES), setup.context)


def test_where_no_advantages_are_computed_nothing_is_looked_at() -> None:
    without = {key: leaf for key, leaf in STORED.items() if key != "values"}
    for options in ({"spec": without}, {"spec": STORED, "sampling": "losses"}):
        setup = make(8, **options)  # type: ignore[arg-type]
        env = PeekingEnv(HALVES)
        setup.loop.rollout_phase(env, setup.context)
        assert {name for name, *_ in env.log} == {"get", "send"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"boundary": "sharp"}, "boundary must be 'auto', 'exact' or 'legacy', got 'sharp'"),
        ({"boundary": "exact", "sampling": "losses"}, "needs sampling='loop'"),
        (
            {"boundary": "exact", "spec": {key: leaf for key, leaf in STORED.items() if key != "values"}},
            r"must hold \['values'\]",
        ),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(8, **options)


def test_a_policy_that_writes_no_values() -> None:
    class Mute(TinyPolicy):
        def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
            super().forward(td, action)
            del td["values"]
            return td

    setup = make(4, policy=Mute(), boundary="exact", truncation="legacy", spec=STORED)
    setup.experience.set_store_keys(["rewards", "actions"])
    with pytest.raises(ValueError, match="policy must write 'values'"):
        setup.loop.rollout_phase(PeekingEnv(ALL), setup.context)


def test_the_plain_scripted_environment_is_not_looked_at() -> None:
    """It steps whenever it is asked; the default must leave such environments alone."""
    setup = make(8, spec=BOOTSTRAPPED)
    env = ScriptedEnv(ALL)
    setup.loop.rollout_phase(env, setup.context)
    assert env.calls == len(env.sent)
