"""NaN and infinities on their way into training: found, named, and raised, skipped or ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor

from hotloop import ComponentContext, CoreTrainingLoop, Experience, LoopConfig, NonFiniteError
from hotloop.context import SamplingConfig
from hotloop.losses import ppo_losses
from hotloop.losses.statistics import StatisticTracker
from hotloop.nonfinite import NonFinite, first_non_finite
from hotloop.policies import MLPPolicy
from loop_support import OBS, ScriptedEnv, Setup

NAN, INF = float("nan"), float("inf")
AGENTS, SEGMENTS, HORIZON = 4, 8, 5
# agent 2 at step 6 writes its second row: row 4 + 2, column 1
STEP, AGENT, SEGMENT, COLUMN = 6, 2, 6, 1


class Discrete:
    """An action space as a policy sees it."""

    n, shape, dtype = 3, (), "int64"


class Continuous:
    shape, dtype, low, high = (2,), "float32", -torch.ones(2).numpy(), torch.ones(2).numpy()


class Observations:
    shape, dtype, low, high = (OBS,), "float32", -1.0, 1.0


class BrokenEnv(ScriptedEnv):
    """Serves finite numbers but for one, in the first rollout. `peek_observations` makes boundaries exact."""

    single_action_space: Any = Discrete()
    single_observation_space: Any = Observations()

    def __init__(self, where: str = "", value: float = NAN, step: int = STEP, **options: Any) -> None:
        super().__init__([slice(0, AGENTS)], **options)
        self.where, self.value, self.step = where, value, step
        self._newest: Any = None

    def get_observations(self) -> Any:
        if self._newest is None:
            observations, rewards, *rest = super().get_observations()
            observations.mul_(0.01)
            rewards = rewards * 0.01
            if self.t == self.step and self.where == "env_obs":
                observations[AGENT, 1] = self.value
            if self.t == self.step and self.where == "rewards":
                rewards[AGENT] = self.value
            self._newest = (observations, rewards, *rest)
        return self._newest

    def peek_observations(self) -> Any:
        yield self.get_observations()

    def send_actions(self, actions: Any) -> None:
        if actions.dtype.kind == "f" and not torch.from_numpy(actions).isfinite().all():
            raise ValueError("send_actions: actions contain NaN")
        super().send_actions(actions)
        self._newest = None


class Training:
    """PPO on a scripted environment."""

    def __init__(self, space: Any = None, *, fused: bool = True, accumulate: int = 1, **config: Any) -> None:
        torch.manual_seed(0)
        on_nan = config.pop("loop_on_nan", None)
        self.policy = MLPPolicy.from_spaces(Observations(), space or Discrete(), hidden=[8])
        self.losses = ppo_losses(self.policy, fused=fused)
        batch = SEGMENTS * HORIZON
        sizes = {"batch_size": batch, "bptt_horizon": HORIZON, "minibatch_size": batch // 2}
        self.experience = Experience.from_losses(
            total_agents=AGENTS,
            **sizes,
            max_minibatch_size=batch // 2 // accumulate,
            losses=self.losses,
            device="cpu",
            policy_experience_spec=self.policy.get_agent_experience_spec(),
        )
        self.context = ComponentContext(config=LoopConfig(**sizes, **config))
        self.optimizer = torch.optim.SGD(self.policy.parameters(), 0.1)
        self.loop = CoreTrainingLoop(
            self.policy, self.experience, self.losses, self.optimizer, "cpu", self.context, on_nan=on_nan
        )

    def epoch(self, env: Any, passes: int = 2) -> dict[str, float]:
        torch.manual_seed(1)  # of the draws of actions
        self.loop.on_epoch_start(self.context)
        self.loop.rollout_phase(env, self.context)
        stats, _ = self.loop.training_phase(self.context, passes)
        return stats

    def parameters(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.policy.parameters()]

    def finite(self) -> bool:
        return all(bool(parameter.isfinite().all()) for parameter in self.policy.parameters())


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("key", ["env_obs", "rewards"])
def test_raise_names_what_the_environment_sent(key: str, value: float, fused: bool) -> None:
    training = Training(fused=fused)
    with pytest.raises(NonFiniteError) as caught:
        training.epoch(BrokenEnv(key, value))
    report = caught.value.report
    assert (report.phase, report.key, report.count) == ("rollout", key, 1)
    assert (report.segment, report.step, report.agent, report.environment) == (SEGMENT, COLUMN, AGENT, AGENT)
    assert (report.update_epoch, report.minibatch) == (0, 1)
    assert str(report.value) == str(value)
    for part in (key, "segment 6, step 1", "agent 2, environment 2", "'rollout'", "update epoch 0"):
        assert part in str(caught.value)
    assert isinstance(caught.value, FloatingPointError)
    assert training.finite()


def test_raise_comes_before_the_bad_update() -> None:
    training = Training()
    env = BrokenEnv("rewards", step=2)  # row 2: the first minibatch
    before = training.parameters()
    with pytest.raises(NonFiniteError, match="minibatch 0"):
        training.epoch(env)
    assert all(torch.equal(a, b) for a, b in zip(before, training.parameters(), strict=True))


def test_several_agents_of_one_environment() -> None:
    class Count:
        num_envs = 2

    training = Training()
    with pytest.raises(NonFiniteError, match="agent 2, environment 1"):
        training.epoch(BrokenEnv("rewards", batch_info=Count()))


def test_what_arrives_after_a_row_is_named_with_the_horizon() -> None:
    training = Training()
    with pytest.raises(NonFiniteError) as caught:
        training.epoch(BrokenEnv("rewards", step=2 * HORIZON))
    report = caught.value.report
    assert (report.key, report.segment, report.step, report.agent) == ("rewards", SEGMENT, HORIZON, AGENT)


def test_values_of_the_rollout() -> None:
    training = Training()
    act = training.policy.act

    def broken(observations: Tensor, **options: Any) -> Any:
        value, *rest = act(observations, **options)
        value = value.clone()
        if float(observations[0, 1]) == pytest.approx(0.01 * STEP):
            value[AGENT] = INF
        return value, *rest

    training.policy.act = broken  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError) as caught:
        training.epoch(BrokenEnv())
    report = caught.value.report
    assert (report.phase, report.key, report.segment, report.step) == ("rollout", "values", SEGMENT, COLUMN)


def overflow(shared: TensorDictBase) -> Tensor:
    values: Tensor = shared["policy_td"]["values"]
    return ((values - shared["sampled_mb"]["rewards"]) * 1e30).square().mean()


def test_a_loss_that_overflows_names_the_gradient() -> None:
    setup = Setup()
    setup.losses["actor"].loss = overflow
    setup.loop.rollout_phase(ScriptedEnv([slice(0, 2)]), setup.context)
    before = setup.parameters()
    with pytest.raises(NonFiniteError) as caught:
        setup.loop.training_phase(setup.context, 1)
    report = caught.value.report
    assert (report.phase, report.key, report.minibatch) == ("backward", "critic", 0)
    assert all(torch.equal(a, b) for a, b in zip(before, setup.parameters(), strict=True))


def test_a_forward_pass_that_overflows_names_the_policys_output() -> None:
    setup = Setup()
    value = setup.policy.value
    setup.policy.value = lambda obs: value(obs) * (1.0 if len(obs) == 2 else NAN)
    setup.loop.rollout_phase(ScriptedEnv([slice(0, 2)]), setup.context)
    with pytest.raises(NonFiniteError) as caught:
        setup.loop.training_phase(setup.context, 1)
    assert (caught.value.report.phase, caught.value.report.key) == ("forward", "values")


def test_broken_parameters_are_named_before_what_they_made() -> None:
    training = Training()
    with torch.no_grad():
        dict(training.policy.named_parameters())["critic.0.weight"][1, 2] = NAN
    with pytest.raises(NonFiniteError) as caught:
        training.epoch(BrokenEnv())
    report = caught.value.report
    assert (report.phase, report.key, report.count) == ("parameters", "critic.0.weight", 1)


def test_rows_that_no_law_draws_are_found_all_the_same() -> None:
    """Prioritised sampling gives a row without finite priority no chance, so no gradient tells."""
    prioritized = SamplingConfig(method="prioritized", prio_alpha=1.0)
    training = Training(sampling=prioritized)
    training.loop.rollout_phase(BrokenEnv("rewards"), training.context)
    training.experience.buffer["values"].fill_(0.5)  # so that every other row has a priority
    with pytest.raises(NonFiniteError) as caught:
        training.loop.training_phase(training.context, 1)
    report = caught.value.report
    assert (report.key, report.segment, report.step, report.agent) == ("rewards", SEGMENT, COLUMN, AGENT)


# -- skip ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("key", ["env_obs", "rewards"])
def test_skip_drops_the_minibatch_and_counts_it(key: str, fused: bool, accumulate: int) -> None:
    training = Training(fused=fused, accumulate=accumulate, on_nan="skip")
    before = training.parameters()
    stats = training.epoch(BrokenEnv(key))
    # sequential minibatches: the second of each of the two passes holds the row
    assert stats["skipped_minibatches"] == 2.0 * accumulate
    assert training.finite()
    assert not all(torch.equal(a, b) for a, b in zip(before, training.parameters(), strict=True))
    wrong = {name for name, value in stats.items() if not torch.isfinite(torch.tensor(value))}
    assert wrong <= {"explained_variance"}  # of the whole buffer
    bad = ~training.experience.buffer["values"].isfinite()
    assert bad.sum() <= 1  # what the rollout stored; what training made of it is not written back
    later = training.epoch(BrokenEnv())
    assert later["skipped_minibatches"] == 0.0
    assert all(torch.isfinite(torch.tensor(value)) for value in later.values())


def test_a_skipped_minibatch_leaves_no_trace() -> None:
    """Two passes over a minibatch that is skipped equal none, to the last bit."""
    broken, whole = Training(on_nan="skip"), Training()
    broken.epoch(BrokenEnv("rewards"))
    whole.experience.num_minibatches = 1  # the second of each pass is the broken one
    whole.epoch(BrokenEnv())
    assert all(torch.equal(a, b) for a, b in zip(broken.parameters(), whole.parameters(), strict=True))


def test_skip_warns_once_a_phase(caplog: pytest.LogCaptureFixture) -> None:
    training = Training(on_nan="skip")
    training.epoch(BrokenEnv("rewards"))
    messages = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert len(messages) == 1
    assert "'rewards' is nan at segment 6, step 1" in messages[0]


def test_skip_sends_zeros_where_an_environment_refuses_the_actions() -> None:
    env = BrokenEnv("env_obs", single_action_space=Continuous())
    training = Training(Continuous(), on_nan="skip")
    stats = training.epoch(env)
    assert stats["skipped_minibatches"] == 2.0
    assert env.sent[STEP][AGENT].tolist() == [0.0, 0.0]
    assert training.finite()


def test_raise_in_the_rollout_says_where_refused_actions_came_from() -> None:
    training = Training(Continuous())
    with pytest.raises(NonFiniteError, match="actions contain NaN") as caught:
        training.epoch(BrokenEnv("env_obs", single_action_space=Continuous()))
    report = caught.value.report
    assert (report.phase, report.key, report.segment, report.step) == ("rollout", "env_obs", SEGMENT, COLUMN)
    assert (report.agent, report.update_epoch) == (AGENT, None)


def test_an_average_reward_recovers() -> None:
    centering = {"reward_centering": {"enabled": True, "beta": 0.5}}
    training = Training(on_nan="skip", advantage=centering)
    training.epoch(BrokenEnv("rewards"))
    assert training.context.state.avg_reward is not None
    assert training.context.state.avg_reward.isfinite().all()


# -- ignore, and which of the settings counts ----------------------------------------------------------------


def test_ignore_goes_on() -> None:
    training = Training(on_nan="ignore")
    training.epoch(BrokenEnv("rewards"))
    assert not training.finite()


def test_the_loops_own_setting_comes_first_and_the_default_raises() -> None:
    Training(on_nan="raise", loop_on_nan="skip").epoch(BrokenEnv("rewards"))
    with pytest.raises(NonFiniteError):
        Training(on_nan="skip", loop_on_nan="raise").epoch(BrokenEnv("rewards"))
    with pytest.raises(ValueError, match="on_nan must be one of"):
        Training(loop_on_nan="warn")
    with pytest.raises(ValueError, match="on_nan"):
        LoopConfig(on_nan="warn")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["raise", "skip"])
def test_finite_training_is_that_without_the_guard(mode: str) -> None:
    guarded, bare = Training(on_nan=mode), Training(on_nan="ignore")
    one, other = guarded.epoch(BrokenEnv()), bare.epoch(BrokenEnv())
    one.pop("skipped_minibatches", None)
    assert one == other
    assert all(torch.equal(a, b) for a, b in zip(guarded.parameters(), bare.parameters(), strict=True))


# -- nothing is paid, and small parts ------------------------------------------------------------------------


def test_nothing_is_searched_until_one_occurs(monkeypatch: pytest.MonkeyPatch) -> None:
    from hotloop import loop_nonfinite

    def refuse(*_: Any) -> Any:
        raise AssertionError("searched without need")

    for name in ("first_non_finite", "non_finite_parameter", "non_finite_gradient"):
        monkeypatch.setattr(loop_nonfinite, name, refuse)
    for mode in ("raise", "skip"):
        Training(on_nan=mode).epoch(BrokenEnv())
    with pytest.raises(AssertionError, match="without need"):
        Training().epoch(BrokenEnv("rewards"))


def test_another_error_of_the_clipping_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from hotloop import ops

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("something else")

    monkeypatch.setattr(ops, "clip_grad_norm_", fail)
    with pytest.raises(RuntimeError, match="something else"):
        Training().epoch(BrokenEnv())


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: torch.ones(2, 3), None),
        (lambda: torch.ones(2, 3, dtype=torch.int64), None),
        (lambda: torch.ones(0), None),
        (lambda: torch.full((4,), 3e38), None),  # whose sum is infinite
        (lambda: torch.tensor([[1.0, INF], [NAN, -INF]]), ((0, 1), INF, 3)),
        (lambda: torch.tensor(-INF), ((), -INF, 1)),
        (lambda: torch.tensor([1.0, -INF], dtype=torch.bfloat16), ((1,), -INF, 1)),
    ],
)
def test_first_non_finite(make: Callable[[], Tensor], expected: Any) -> None:
    assert first_non_finite(make()) == expected


def test_a_report_in_words() -> None:
    assert str(NonFinite("backward", "actor.weight", INF, 2, update_epoch=1, minibatch=3)) == (
        "'actor.weight' is inf (2 entries are not finite): phase 'backward', in the gradients, from finite "
        "losses; found in update epoch 1, minibatch 3"
    )


def test_a_tracker_forgets_what_came_after_its_mark() -> None:
    tracker = StatisticTracker()
    tracker.add({"a": 1.0})
    tracker.add_means(("b",), torch.tensor([2.0, 4.0]), (1.0,))
    mark = tracker.mark()
    tracker.add({"a": NAN, "c": NAN})
    tracker.add({"a": NAN})
    tracker.add_means(("b",), torch.tensor([NAN, 4.0]), (1.0,))
    tracker.total("b")  # settles
    tracker.rewind(mark)
    assert tracker.means() == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize("windows", [[slice(0, 4)], [slice(0, 2), slice(2, 4)]])
def test_the_agent_of_a_row(windows: list[slice]) -> None:
    setup = Setup(agents=4, segments=8)
    setup.loop.rollout_phase(ScriptedEnv(windows), setup.context)
    # observations are [agent, step, 1]
    agents = setup.experience.buffer["env_obs"][:, 0, 0].tolist()
    assert [setup.experience.agent_of(row) for row in range(8)] == agents
    fresh = Setup(agents=4, segments=8).experience
    assert [fresh.agent_of(row) for row in range(8)] == [0, 1, 2, 3, None, None, None, None]
