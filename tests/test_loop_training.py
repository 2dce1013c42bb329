"""The training phase: what the losses share, both sides of sampling, ratios and advantages, write-back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tensordict import NonTensorData, TensorDict, TensorDictBase
from torch import Tensor

from hotloop import ops
from hotloop.context import AdvantageConfig
from hotloop.loop_training import Arrivals, clear_gradients, delta_lambda_advantages, importance_ratio
from loop_support import (
    BOOTSTRAPPED,
    F32,
    STORED,
    Config,
    RecordingLoss,
    ScriptedEnv,
    Setup,
    TinyPolicy,
    squared_values,
)

ALL = [slice(0, 2)]


def prepared(**options: Any) -> Setup:
    setup = Setup(**options)
    setup.loop.rollout_phase(
        ScriptedEnv(ALL, terminal=lambda agents, t: (agents + t) % 4 == 3), setup.context
    )
    return setup


def test_what_the_losses_share() -> None:
    setup = prepared(config={"advantage": {"gamma": 0.9, "gae_lambda": 0.8}})
    setup.loop.training_phase(setup.context, 1)
    first, second = setup.losses["actor"].shared
    buffer = setup.experience.buffer
    keys = {"prio_weights", "sampled_mb", "indices", "advantages", "policy_td", "advantages_pg"}
    keys |= {"importance_sampling_ratio"}
    assert set(second.keys()) == keys
    assert set(first.keys()) == keys | {"advantages_full"}
    assert isinstance(first.get("advantages_full"), NonTensorData)
    assert first["advantages_full"] is buffer["advantages_full"]
    assert first.batch_size == second.batch_size == (2, 3)
    assert second["indices"].tolist() == [[2] * 3, [3] * 3]
    assert second["sampled_mb", "rewards"].equal(buffer["rewards"][2:])
    assert second["advantages"].equal(buffer["advantages_full"][2:])
    full = ops.puff_advantage(
        buffer["values"], buffer["rewards"], buffer["dones"], torch.ones(4, 3), 0.9, 0.8
    )
    assert buffer["advantages_full"].equal(full)
    policy_td = second["policy_td"]
    assert policy_td.batch_size == (2, 3)
    assert policy_td["act_log_prob"].requires_grad
    inputs = setup.policy.seen[-1]
    assert list(inputs) == ["env_obs", "actions", "bptt", "batch"]
    assert inputs["env_obs"].equal(buffer["env_obs"][2:].reshape(6, 3))
    assert inputs["bptt"].tolist() == [3] * 6
    assert inputs["batch"].tolist() == [2] * 6
    assert inputs["bptt"].dtype == torch.int64


def test_advantages_are_corrected_by_the_ratio() -> None:
    setup = prepared(
        minibatches=1, config={"advantage": {"gamma": 0.9, "gae_lambda": 0.8, "vtrace_rho_clip": 1.1}}
    )
    setup.policy.actor.data.mul_(5)  # the policy is no longer the one that acted
    setup.loop.training_phase(setup.context, 1)
    shared = setup.losses["actor"].shared[0]
    minibatch, ratio = shared["sampled_mb"], shared["importance_sampling_ratio"]
    new = shared["policy_td", "act_log_prob"]
    torch.testing.assert_close(ratio, (new - minibatch["act_log_prob"]).exp())
    assert ratio.requires_grad
    assert not shared["advantages_pg"].requires_grad
    assert (ratio > 1.1).any()
    expected = ops.puff_advantage(
        minibatch["values"], minibatch["rewards"], minibatch["dones"], ratio.detach(), 0.9, 0.8, 1.1, 1.0
    )
    assert shared["advantages_pg"].equal(expected)
    assert not shared["advantages_pg"].allclose(shared["advantages"])


def test_rewards_are_centred_by_the_stored_baseline() -> None:
    setup = prepared(minibatches=1)
    setup.experience.buffer["reward_baseline"].fill_(7.0)
    setup.loop.training_phase(setup.context, 1)
    buffer, config = setup.experience.buffer, setup.config.advantage
    expected = ops.puff_advantage(
        buffer["values"],
        buffer["rewards"] - 7,
        buffer["dones"],
        torch.ones(4, 3),
        config.gamma,
        config.gae_lambda,
    )
    assert buffer["advantages_full"].equal(expected)
    torch.testing.assert_close(setup.losses["actor"].shared[0]["advantages_pg"], expected)


def test_configuration_is_read_at_every_use() -> None:
    setup = prepared(minibatches=1)
    setup.config.advantage.gamma = 0.0
    setup.loop.training_phase(setup.context, 1)
    buffer = setup.experience.buffer
    expected = buffer["rewards"][:, 1:] - buffer["values"][:, :-1]
    torch.testing.assert_close(buffer["advantages_full"][:, :-1], expected)
    setup.config.sampling.method = "permutation"
    setup.config.advantage = setup.config.advantage.model_copy(update={"gamma": 0.5, "gae_lambda": 0.0})
    setup.loop.training_phase(setup.context, 1)
    expected = expected + 0.5 * buffer["values"][:, 1:] * (1 - buffer["dones"][:, 1:])
    torch.testing.assert_close(buffer["advantages_full"][:, :-1], expected)
    assert setup.losses["actor"].shared[-1]["indices"][:, 0].tolist() != [0, 1, 2, 3]


def test_the_seed_of_the_draws() -> None:
    def rows(**options: Any) -> list[int]:
        setup = prepared(segments=16, minibatches=1, **options)
        setup.config.sampling.method = "permutation"
        setup.loop.training_phase(setup.context, 1)
        drawn: list[int] = setup.losses["actor"].shared[0]["indices"][:, 0].tolist()
        return drawn

    assert rows() == rows() == rows(config={"seed": 0})
    assert rows(config={"seed": 5}) != rows()
    assert rows(config={"seed": 1}, seed=5) == rows(config={"seed": 5})


def test_the_experiences_own_sampling_configuration_wins() -> None:
    setup = prepared(segments=16, minibatches=1, experience={"sampling_config": Config(method="permutation")})
    setup.loop.training_phase(setup.context, 1)
    assert setup.losses["actor"].shared[0]["indices"][:, 0].tolist() != list(range(16))


def test_without_values_advantages_are_zero() -> None:
    spec = {key: leaf for key, leaf in STORED.items() if key != "values"}
    setup = prepared(spec=spec)
    setup.losses["actor"].loss = lambda shared: shared["policy_td"]["act_log_prob"].sum()
    setup.loop.training_phase(setup.context, 1)
    shared = setup.losses["actor"].shared[0]
    assert shared["advantages_pg"].equal(torch.zeros(2, 3))
    assert shared["advantages"].equal(torch.zeros(2, 3))


def test_values_of_several_heads_are_averaged() -> None:
    setup = Setup(spec={**STORED, "values": ((2,), F32)}, minibatches=1)
    setup.losses["actor"].acts = False
    buffer = setup.experience.buffer
    buffer["values"].copy_(torch.arange(24.0).reshape(4, 3, 2))
    buffer["rewards"].fill_(1.0)
    setup.losses["actor"].loss = lambda shared: shared["policy_td"]["values"].sum()
    setup.loop.training_phase(setup.context, 1)
    expected = ops.puff_advantage(
        buffer["values"].mean(-1), buffer["rewards"], buffer["dones"], torch.ones(4, 3), 0.99, 0.95
    )
    assert buffer["advantages_full"].equal(expected)


def test_a_sliced_shared_reaches_the_later_losses() -> None:
    def losses(log: list[str], policy: Any) -> dict[str, Any]:
        class Slicing(RecordingLoss):
            def train(self, shared: TensorDictBase, context: Any, mb_idx: int) -> Any:
                value, shared, stop = super().train(shared, context, mb_idx)
                return value, shared[torch.tensor([True, False])], stop

        first = Slicing("a", log, policy, acts=True, spec=STORED, loss=squared_values)
        return {"a": first, "b": RecordingLoss("b", log, loss=squared_values)}

    setup = prepared(losses=losses)
    setup.loop.training_phase(setup.context, 1)
    assert [shared.batch_size for shared in setup.losses["b"].shared] == [(1, 3), (1, 3)]
    assert setup.losses["b"].shared[0]["indices"].tolist() == [[0] * 3]
    assert setup.losses["a"].shared[1].batch_size == (2, 3)  # a fresh one for each minibatch


class SelfSampling(RecordingLoss):
    """A loss of the older kind: samples, runs the policy, leaves what it did in `shared`."""

    def train(self, shared: TensorDictBase, context: Any, mb_idx: int) -> Any:
        self.log.append(f"{self.name}.train({mb_idx})")
        self.shared.append(shared)
        self.left_behind = getattr(self, "left_behind", [])
        self.left_behind.append("mine" in shared)
        minibatch, indices = self.replay.sample_sequential(mb_idx)
        policy_td = TensorDict({"env_obs": minibatch["env_obs"].flatten(0, 1)}, [6])
        self.policy.forward(policy_td, action=minibatch["actions"].reshape(6, -1))
        shared["mine"] = torch.full((2, 3), float(mb_idx))
        shared["indices"] = NonTensorData(indices)
        loss = (policy_td["values"].reshape(2, 3) - minibatch["rewards"]).square().mean()
        return loss, shared, False


def test_losses_that_sample_for_themselves() -> None:
    def losses(log: list[str], policy: Any) -> dict[str, Any]:
        first = SelfSampling("a", log, policy, acts=True, spec=STORED)
        return {"a": first, "b": RecordingLoss("b", log)}

    setup = prepared(losses=losses, sampling="losses")
    setup.log.clear()
    before = setup.parameters()
    stats, epochs = setup.loop.training_phase(setup.context, 2)
    assert epochs == 2
    assert set(stats) == {"a", "b", "shared_name"}
    a, b = setup.losses["a"], setup.losses["b"]
    # one TensorDict for the whole phase, with an empty one for each loss
    assert all(shared is a.shared[0] for shared in a.shared + b.shared)
    assert a.left_behind == [False, True, True, True]
    assert a.shared[0].batch_size == (2, 3)
    assert set(a.shared[0].keys()) == {"a", "b", "mine", "indices"}
    assert list(a.shared[0]["b"].keys()) == []
    assert "advantages_full" not in setup.experience.buffer
    minibatch = [
        "a.train({0})",
        "policy.forward(action)",
        "b.train({0})",
        "a.on_mb_end({0})",
        "b.on_mb_end({0})",
    ]
    passes = [line.format(mb) for mb in (0, 1, 0, 1) for line in minibatch]
    assert setup.log[2:-4] == passes
    assert not before[1].equal(setup.parameters()[1])


def test_losses_that_sample_for_themselves_need_a_rollout() -> None:
    setup = Setup(sampling="losses")
    with pytest.raises(ValueError, match="rollout_phase first"):
        setup.loop.training_phase(setup.context, 1)


def test_values_written_back_are_seen_by_the_next_update_epoch() -> None:
    sampled: list[list[list[float]]] = []

    class WritingLoss(RecordingLoss):
        def train(self, shared: TensorDictBase, context: Any, mb_idx: int) -> Any:
            result = super().train(shared, context, mb_idx)
            sampled.append(shared["sampled_mb", "values"].tolist())  # the next minibatch overwrites it
            new = torch.full((2, 3), 50.0)
            self.replay.update(shared["indices"][:, 0], TensorDict({"values": new}, [2, 3]))
            return result

    def losses(log: list[str], policy: Any) -> dict[str, Any]:
        return {"a": WritingLoss("a", log, policy, acts=True, spec=STORED, loss=squared_values)}

    setup = prepared(losses=losses)
    setup.loop.training_phase(setup.context, 2)
    assert not any(value == 50 for row in sampled[0] for value in row)
    assert sampled[2] == [[50.0] * 3] * 2
    buffer = setup.experience.buffer
    again = ops.puff_advantage(
        torch.full((4, 3), 50.0), buffer["rewards"], buffer["dones"], torch.ones(4, 3), 0.99, 0.95
    )
    assert buffer["advantages_full"].equal(again)


def test_ratio_is_reset_to_one_at_the_start_of_a_phase() -> None:
    setup = Setup(spec={**STORED, "ratio": ((), F32)})
    setup.experience.buffer["ratio"].fill_(3.0)
    setup.loop.training_phase(setup.context, 0)
    assert setup.experience.buffer["ratio"].unique().tolist() == [1]


# The arithmetic


def test_importance_ratio_is_clamped_and_keeps_invalid_steps_out_of_the_gradient() -> None:
    new = torch.tensor([[0.5, 100.0, float("nan")]], requires_grad=True)
    old = torch.tensor([[0.0, 0.0, 0.0]])
    minibatch = TensorDict({"act_log_prob": old, "valid": torch.tensor([[True, True, False]])}, [1, 3])
    ratio = importance_ratio(minibatch, TensorDict({"act_log_prob": new}, [1, 3]))
    assert ratio is not None
    torch.testing.assert_close(ratio, torch.tensor([[0.5, 10.0, 0.0]]).exp())
    ratio.sum().backward()
    assert new.grad is not None
    assert new.grad.isfinite().all()
    assert importance_ratio(TensorDict({}, [1, 3]), TensorDict({"act_log_prob": new}, [1, 3])) is None


def test_delta_lambda_equals_the_op_and_differentiates() -> None:
    generator = torch.Generator().manual_seed(0)
    values, rewards = (torch.randn(5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    dones = (torch.rand(5, 7, generator=generator) < 0.3).double()
    ones = torch.ones_like(values)
    expected = ops.puff_advantage(values, rewards, dones, ones, 0.9, 0.8)
    result = delta_lambda_advantages(values, rewards, dones, 0.9, 0.8)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    valid = torch.rand(5, 7, generator=generator) < 0.7
    masked = delta_lambda_advantages(values, rewards, dones, 0.9, 0.8, valid)
    torch.testing.assert_close(masked, ops.puff_advantage(values, rewards, dones, valid.double(), 0.9, 0.8))
    values.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v: delta_lambda_advantages(v, rewards, dones, 0.9, 0.8, valid), values
    )


@pytest.mark.parametrize("spec", [STORED, BOOTSTRAPPED])
@pytest.mark.parametrize("open_gate", [True, False])
def test_gtd_lambda_gives_advantages_with_a_graph(spec: dict[str, Any], open_gate: bool) -> None:
    def losses(log: list[str], policy: Any) -> dict[str, Any]:
        cfg = Config(critic_update="gtd_lambda")
        critic = RecordingLoss("ppo_critic", log, policy, acts=True, spec=spec, cfg=cfg)
        critic.loss = lambda shared: shared["advantages_pg"].square().mean() + 0.0 * squared_values(shared)
        return {"ppo_critic": critic}

    setup = Setup(losses=losses, minibatches=1)
    env = ScriptedEnv(ALL, autoreset="next_step", truncation=lambda agents, t: agents == t)
    setup.context.loss_run_gates = {"ppo_critic": {"train": open_gate}}
    setup.loop.rollout_phase(env, setup.context)
    before = setup.parameters()
    setup.loop.training_phase(setup.context, 1)
    shared = setup.losses["ppo_critic"].shared[0]
    assert shared["advantages_pg"].requires_grad is open_gate
    torch.testing.assert_close(shared["advantages_pg"].detach(), setup.experience.buffer["advantages_full"])
    assert before[1].equal(setup.parameters()[1]) is not open_gate


def test_the_policy_needs_actions_to_evaluate() -> None:
    class NoActions(TinyPolicy):
        def get_agent_experience_spec(self) -> dict[str, Any]:
            return {"env_obs": ((3,), F32)}

    setup = Setup(policy=NoActions())
    with pytest.raises(KeyError, match="must hold 'actions'"):
        setup.loop.training_phase(setup.context, 1)


def test_policies_may_return_a_new_tensordict() -> None:
    class Returning(TinyPolicy):
        def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
            return super().forward(td if action is None else td.copy(), action)

    setup = prepared(policy=Returning())
    setup.loop.training_phase(setup.context, 1)
    assert "entropy" in setup.losses["actor"].shared[0]["policy_td"]


def test_gradients_are_cleared_as_the_optimizer_would() -> None:
    class Own(torch.optim.SGD):
        def zero_grad(self, set_to_none: bool = True) -> None:
            seen.append(set_to_none)

    seen: list[bool] = []
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    for parameter in parameters:
        parameter.grad = torch.ones(2)
    clear_gradients(torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:2]}], lr=0.1))
    assert [parameter.grad is None for parameter in parameters] == [True, True, False]
    clear_gradients(Own(parameters, lr=0.1))
    assert seen == [True]
    assert parameters[2].grad is not None


def stored_steps() -> TensorDict:
    """A buffer `[3, 5]` with everything that advantages are made of."""
    keys = ("values", "rewards", "reward_baseline", "truncation_values")
    entries = {key: torch.randn(3, 5) for key in keys}
    entries |= {key: torch.randint(0, 2, (3, 5)).float() for key in ("dones", "truncateds")}
    return TensorDict({**entries, "valid": torch.rand(3, 5) < 0.7}, [3, 5])


@pytest.mark.parametrize("bootstrap", [False, True])
@pytest.mark.parametrize("left_out", ["", "reward_baseline", "valid"])
def test_advantages_of_the_whole_buffer(bootstrap: bool, left_out: str) -> None:
    """Also of flags of another dtype, and after the buffer was written to in place."""
    buffer, arrivals, config = stored_steps(), Arrivals(), AdvantageConfig(gamma=0.9, gae_lambda=0.8)
    if left_out:
        del buffer[left_out]
    for change in ("", "values", "rewards", "valid", "dones", "dtypes"):
        if change == "dtypes":
            buffer["dones"], buffer["truncateds"] = buffer["dones"].bool(), buffer["truncateds"].bool()
        elif change and change != left_out:
            buffer[change].copy_(buffer[change].flip(0))
        cuts, rewards = buffer["dones"].float(), buffer["rewards"] - buffer.get("reward_baseline", 0.0)
        if bootstrap:
            truncated = buffer["truncateds"].float()
            rewards = rewards + 0.9 * buffer["truncation_values"] * truncated * (1.0 - cuts)
            cuts = torch.maximum(cuts, truncated)
        weights = buffer.get("valid", torch.ones(3, 5)).float()
        expected = ops.puff_advantage(buffer["values"], rewards, cuts, weights, 0.9, 0.8)
        torch.testing.assert_close(arrivals.compute(buffer, config, bootstrap), expected)
        columns = arrivals.columns
        torch.testing.assert_close(columns[0], rewards)
        assert columns[1].equal(cuts)


def test_a_copy_of_what_arrived_remembers_no_changes() -> None:
    """A copied tensor has changed 0 times: after as many changes as the one that it was copied from it would
    pass for unchanged."""
    buffer, arrivals = stored_steps(), Arrivals()
    config = AdvantageConfig(gamma=0.9, gae_lambda=0.8)
    expected = arrivals.compute(buffer, config, False).clone()
    again = copy.deepcopy(arrivals)
    assert arrivals._mask is not None
    assert arrivals._arrived._made_of is not None
    assert again._mask is None
    assert again._arrived._made_of is None
    assert again.compute(buffer, config, False).equal(expected)
