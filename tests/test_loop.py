"""CoreTrainingLoop: hooks, accumulation, stopping, statistics, resuming."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop import ops
from hotloop.context import ComponentContext
from hotloop.loop import CoreTrainingLoop, RolloutResult
from loop_support import (
    OBS,
    STORED,
    Config,
    RecordingLoss,
    ScriptedEnv,
    Setup,
    TinyPolicy,
    squared_values,
)

ALL = [slice(0, 2)]


def two_losses(log: list[str], policy: Any) -> dict[str, Any]:
    a = RecordingLoss("a", log, policy, acts=True, spec=STORED, loss=squared_values, output_keys={"values"})
    return {"a": a, "b": RecordingLoss("b", log)}


def test_the_order_of_all_calls() -> None:
    setup = Setup(losses=two_losses, segments=2, horizon=2, minibatches=2)
    setup.loop.on_epoch_start(setup.context)
    setup.loop.rollout_phase(ScriptedEnv(ALL), setup.context)
    setup.loop.training_phase(context=setup.context, update_epochs=2, max_grad_norm=0.5)
    step = ["a.rollout", "policy.forward", "b.rollout"]

    def minibatch(number: int) -> list[str]:
        return [
            "policy.reset_memory",
            "policy.forward(action)",
            "a.policy_output_keys",
            f"a.train({number})",
            "b.policy_output_keys",
            f"b.train({number})",
            f"a.on_mb_end({number})",
            f"b.on_mb_end({number})",
        ]

    assert setup.log == [
        *("a.on_epoch_start", "b.on_epoch_start"),
        *("a.on_rollout_start", "b.on_rollout_start"),
        *step,
        *step,
        *("a.zero_loss_tracker", "b.zero_loss_tracker"),
        *minibatch(0),
        *minibatch(1),
        *minibatch(0),
        *minibatch(1),
        *("a.on_train_phase_end", "b.on_train_phase_end"),
        *("a.stats", "b.stats"),
    ]


def test_on_epoch_start_knows_the_older_name() -> None:
    class Old:
        called: Any = None

        def on_new_training_run(self, context: Any) -> None:
            self.called = context

    setup = Setup()
    old = Old()
    setup.losses["old"] = old
    setup.loop.on_epoch_start(setup.context)
    assert old.called is setup.context


def test_statistics_are_merged_in_the_order_of_the_losses() -> None:
    setup = Setup(losses=two_losses)
    setup.loop.rollout_phase(ScriptedEnv(ALL), setup.context)
    stats, epochs = setup.loop.training_phase(setup.context, 3)
    assert epochs == 3
    assert stats == {"a": 1.0, "b": 1.0, "shared_name": float(len(setup.log))}


def test_constructor_by_keywords_and_public_attributes() -> None:
    base = Setup()
    loop = CoreTrainingLoop(
        policy=base.policy,
        experience=base.experience,
        losses=base.losses,
        optimizer=base.optimizer,
        device=torch.device("cpu"),
        context=base.context,
    )
    assert loop.policy is base.policy
    assert loop.experience is base.experience
    assert loop.losses is base.losses
    assert loop.optimizer is base.optimizer
    assert loop.context is base.context
    assert loop.accumulate_minibatches == 1
    assert loop.policy_spec == base.policy.get_agent_experience_spec()
    assert loop._env_index_cache.dtype == torch.int64


@pytest.mark.parametrize("option", ["sampling", "accumulation", "truncation"])
def test_unknown_options(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be .*got 'odd'"):
        Setup(**{option: "odd"})


def trained(**options: Any) -> list[Tensor]:
    setup = Setup(segments=8, agents=2, minibatches=1, **options)
    setup.loop.rollout_phase(ScriptedEnv(ALL), setup.context)
    setup.loop.training_phase(setup.context, 2, max_grad_norm=1e9)
    return setup.parameters()


def test_accumulating_four_minibatches_equals_one_of_four_times_the_size() -> None:
    whole = trained(learning_rate=1e-4)
    four = trained(learning_rate=1e-4, max_minibatch_size=6)
    assert not torch.equal(whole[1], Setup().parameters()[1])
    for a, b in zip(whole, four, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_accumulation_sum_is_four_times_the_step() -> None:
    whole = trained(learning_rate=4e-4)
    summed = trained(learning_rate=1e-4, max_minibatch_size=6, accumulation="sum")
    for a, b in zip(whole, summed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_a_last_smaller_group_makes_a_step_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(minibatches=4)
    setup.loop.accumulate_minibatches = 3
    critic, step = setup.policy.critic, setup.optimizer.step
    steps: list[tuple[int, Tensor, Tensor]] = []

    def record() -> None:
        steps.append((setup.losses["actor"].trained, critic.detach().clone(), critic.grad.clone()))
        step()

    monkeypatch.setattr(setup.optimizer, "step", record)
    setup.loop.rollout_phase(ScriptedEnv(ALL), setup.context)
    setup.loop.training_phase(setup.context, 1, max_grad_norm=1e9)
    assert [after for after, _, _ in steps] == [3, 4]
    # each step's gradient is the mean over its own minibatches, of one row each
    for (_, weights, gradient), rows in zip(steps, ([0, 1, 2], [3]), strict=True):
        weights.requires_grad_()
        buffer = setup.experience.buffer[rows]
        (buffer["env_obs"] @ weights - buffer["rewards"]).square().mean().backward()
        torch.testing.assert_close(gradient, weights.grad)


def test_a_stop_drops_the_minibatch_and_ends_the_phase() -> None:
    def losses(log: list[str], policy: Any) -> dict[str, Any]:
        a = RecordingLoss("a", log, policy, acts=True, spec=STORED, loss=squared_values, stop_at=3)
        return {"a": a, "b": RecordingLoss("b", log)}

    setup = Setup(losses=losses)
    setup.loop.rollout_phase(ScriptedEnv(ALL), setup.context)
    before: list[list[Tensor]] = []
    hook = setup.losses["b"].train
    setup.losses["b"].train = lambda *a: (before.append(setup.parameters()), hook(*a))[1]
    _, epochs = setup.loop.training_phase(setup.context, 5)
    assert epochs == 2
    # the other losses still see the minibatch, but it is not applied
    assert setup.losses["b"].trained == 4
    assert [line for line in setup.log if line.startswith("a.on_mb_end")] == [
        "a.on_mb_end(0)",
        "a.on_mb_end(1)",
        "a.on_mb_end(0)",
    ]
    for a, b in zip(before[-1], setup.parameters(), strict=True):
        assert a.equal(b)
    assert not before[0][1].equal(before[-1][1])
    assert "a.on_train_phase_end" in setup.log


def test_a_stop_discards_half_accumulated_gradients() -> None:
    def losses(log: list[str], policy: Any) -> dict[str, Any]:
        return {"a": RecordingLoss("a", log, policy, acts=True, spec=STORED, loss=squared_values, stop_at=1)}

    setup = Setup(losses=losses, max_minibatch_size=3)
    assert setup.loop.accumulate_minibatches == 2
    setup.loop.rollout_phase(ScriptedEnv(ALL), setup.context)
    start = setup.parameters()
    setup.loop.training_phase(setup.context, 1)
    assert all(parameter.grad is None for parameter in setup.policy.parameters())
    assert all(a.equal(b) for a, b in zip(start, setup.parameters(), strict=True))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (Config(), Config(), 0.25),
        (Config(), Config(max_grad_norm=7.0), 7.0),
        (Config(max_grad_norm=3.0), Config(max_grad_norm=7.0), 3.0),
    ],
)
def test_max_grad_norm_is_that_of_the_first_loss_that_has_one(
    first: Config, second: Config, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    monkeypatch.setattr(ops, "clip_grad_norm_", lambda parameters, limit, **_: limits.append(limit))
    setup = Setup(losses=two_losses)
    setup.losses["a"].loss_cfg, setup.losses["b"].loss_cfg = first, second
    setup.loop.rollout_phase(ScriptedEnv(ALL), setup.context)
    setup.loop.training_phase(setup.context, 1, max_grad_norm=0.25)
    assert limits == [expected, expected]


def test_gradients_are_clipped() -> None:
    setup = Setup(minibatches=1, learning_rate=1.0)
    setup.loop.rollout_phase(ScriptedEnv(ALL), setup.context)
    before = setup.parameters()
    setup.loop.training_phase(setup.context, 1, max_grad_norm=1e-3)
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, setup.parameters(), strict=True)]).norm()
    assert float(moved) == pytest.approx(1e-3, rel=1e-3)


def test_parameters_of_unused_outputs_get_a_zero_gradient() -> None:
    setup = Setup(policy=TinyPolicy(extra_head=True))
    setup.losses["actor"].output_keys = {"values"}
    setup.loop.rollout_phase(ScriptedEnv(ALL), setup.context)
    setup.loop.training_phase(setup.context, 1)
    policy = setup.policy
    assert policy.extra.grad is not None
    assert policy.extra.grad.equal(torch.zeros(OBS))
    assert policy.actor.grad is not None
    assert policy.actor.grad.count_nonzero() == 0
    assert policy.critic.grad.count_nonzero() > 0


def test_a_closed_gate_claims_no_outputs() -> None:
    setup = Setup(losses=two_losses)
    setup.context.loss_run_gates = {"b": {"train": False}}
    setup.loop.rollout_phase(ScriptedEnv(ALL), setup.context)
    setup.loop.training_phase(setup.context, 1)
    assert "b.policy_output_keys" not in setup.log
    assert "a.policy_output_keys" in setup.log
    assert "b.train(0)" in setup.log  # the loss checks its own gate


def test_training_needs_a_loss_with_a_graph() -> None:
    setup = Setup(sampling="losses")
    setup.losses["actor"].loss = None
    setup.loop.rollout_phase(ScriptedEnv(ALL), setup.context)
    with pytest.raises(ValueError, match=r"without a graph from the losses \['actor'\]"):
        setup.loop.training_phase(setup.context, 1)


def test_values_need_rewards_beside_them() -> None:
    with pytest.raises(ValueError, match="'rewards', 'dones'"):
        Setup(spec={"values": ((), torch.float32)})


def test_a_step_of_training_reads_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(minibatches=2)
    setup.loop.rollout_phase(ScriptedEnv(ALL), setup.context)
    setup.loop.training_phase(setup.context, 1)

    def forbidden(*_: Any) -> Any:
        raise AssertionError("a tensor was read back")

    for name in ("item", "tolist", "__bool__", "__int__", "__float__"):
        monkeypatch.setattr(Tensor, name, forbidden)
    setup.loop._loop_minibatch(setup.experience.buffer["advantages_full"], setup.context, 0)


def test_rollout_result_is_a_checked_model() -> None:
    result = RolloutResult(raw_infos=[{"a": 1}], agent_steps=3, training_env_id=slice(0, 2))
    assert result.training_env_id == slice(0, 2)
    with pytest.raises(ValueError, match="agent_steps"):
        RolloutResult(raw_infos=[], agent_steps="many", training_env_id=slice(0, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="extra"):
        RolloutResult(raw_infos=[], agent_steps=1, training_env_id=slice(0, 2), extra=1)  # type: ignore[call-arg]


def test_a_resumed_loop_draws_and_shows_what_an_unbroken_one_does() -> None:
    def make() -> Setup:
        return Setup(config={"sampling": {"method": "permutation"}}, segments=8, minibatches=4)

    def rows(setup: Setup) -> list[list[int]]:
        shared = setup.losses["actor"].shared
        drawn = [shared["indices"][:, 0].tolist() for shared in shared]
        setup.losses["actor"].shared = []
        return drawn

    unbroken, broken, resumed = make(), make(), make()
    env = ScriptedEnv(ALL)
    unbroken.loop.rollout_phase(env, unbroken.context)
    unbroken.loop.training_phase(unbroken.context, 2)
    first = rows(unbroken)
    unbroken.loop.training_phase(unbroken.context, 2)
    second = rows(unbroken)
    assert first != second
    assert sorted(row for minibatch in first[:4] for row in minibatch) == list(range(8))
    assert first[:4] != first[4:]

    broken.loop.rollout_phase(ScriptedEnv(ALL), broken.context)
    broken.loop.training_phase(broken.context, 2)
    state = broken.loop.state_dict()
    resumed.loop.load_state_dict(state)
    assert resumed.loop.last_action.equal(unbroken.loop.last_action)
    assert resumed.loop.last_action.count_nonzero() > 0
    resumed.context.training_env_id = slice(0, 2)
    resumed.loop.training_phase(resumed.context, 2)
    assert rows(resumed) == second


def test_state_of_another_action_layout_is_refused() -> None:
    setup = Setup()
    state = setup.loop.state_dict()
    state["last_actions"]["width"] = 3
    with pytest.raises(ValueError, match=r"width 1.*got 3"):
        setup.loop.load_state_dict(state)


def test_a_foreign_context_without_our_state_fields_will_do() -> None:
    """Metta's older trainer state has no average rewards and refuses new attributes."""

    class State:
        __slots__ = ("training_env_window",)

    setup = Setup()
    context = ComponentContext(config=setup.config, state=State())  # type: ignore[arg-type]
    result = setup.loop.rollout_phase(ScriptedEnv(ALL), context)
    assert result.agent_steps == 12
    assert setup.experience.buffer["reward_baseline"].count_nonzero() == 0
