"""The arithmetic between a minibatch and its losses: policy forward, importance ratio, advantages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from hotloop import ops
from hotloop.losses import ranks
from hotloop.spec import Key, nest

if TYPE_CHECKING:
    from hotloop.context import ComponentContext
    from hotloop.policies import Policy


def full_advantages(buffer: TensorDictBase, config: Any, bootstrap: bool) -> Tensor:
    """Advantages of the whole buffer `[S, T]` with importance 1; zeros where it holds no `values`.

    `config` is an `AdvantageConfig`. See `arrivals` for `bootstrap`.
    """
    values = _values(buffer)
    if values is None:
        return torch.zeros(buffer.batch_size, dtype=torch.float32, device=buffer.device)
    rewards, cuts = arrivals(buffer, config, bootstrap)
    return _puff(values, rewards, cuts, _importance(buffer, None, values), config)


def policy_gradient_advantages(
    shared: TensorDictBase, config: Any, bootstrap: bool, *, delta_lambda: bool
) -> Tensor:
    """Advantages `[B, T]` for the policy gradient.

    Corrected by the importance ratios of the minibatch (V-trace, Espeholt et al. 2018, with the stored
    values); with `delta_lambda` instead by the recursion over the new values, through which the critic
    differentiates; without stored values those of the whole buffer.
    """
    minibatch = shared["sampled_mb"]
    values = _values(minibatch)
    if delta_lambda:
        if values is None:
            raise ValueError("CoreTrainingLoop: critic_update 'gtd_lambda' needs 'values' in the experience")
        new_values = shared["policy_td"]["values"].reshape(minibatch["values"].shape)
        rewards, cuts = arrivals(minibatch, config, bootstrap)
        return delta_lambda_advantages(
            new_values,
            rewards,
            cuts,
            float(config.gamma),
            float(config.gae_lambda),
            minibatch.get("valid", None),
        )
    if values is None:
        advantages: Tensor = shared["advantages"]
        return advantages
    rewards, cuts = arrivals(minibatch, config, bootstrap)
    ratio = shared.get("importance_sampling_ratio", None)
    return _puff(values, rewards, cuts, _importance(minibatch, ratio, values), config)


def arrivals(data: TensorDictBase, config: Any, bootstrap: bool) -> tuple[Tensor, Tensor]:
    """Rewards and cuts `[*, T]` that the recursion sees, arrival-indexed.

    Rewards are taken relative to `reward_baseline` where that is stored. With `bootstrap`, a truncated step
    brings the discounted value of the observation at which the episode was cut, and cuts the trace like a
    terminated one: ``r + gamma * truncation_values``. Without, only `dones` cut and truncation is ignored.
    """
    rewards = data["rewards"]
    cuts = data["dones"].to(rewards.dtype)
    baseline = data.get("reward_baseline", None)
    if baseline is not None:
        rewards = rewards - baseline
    if bootstrap:
        truncateds = data["truncateds"].to(rewards.dtype)
        ends = float(config.gamma) * data["truncation_values"] * truncateds * (1.0 - cuts)
        rewards, cuts = rewards + ends, torch.maximum(cuts, truncateds)
    return rewards, cuts


def delta_lambda_advantages(
    values: Tensor,
    rewards: Tensor,
    cuts: Tensor,
    gamma: float,
    gae_lambda: float,
    valid: Tensor | None = None,
) -> Tensor:
    """Arrival-indexed lambda-weighted sums of TD errors `[B, T]`, differentiable in `values`.

    An invalid step has none, and nothing crosses it.
    """
    return ops.delta_lambda(values, rewards, cuts, gamma, gae_lambda, valid=valid)


def forward_policy_for_training(
    policy: Policy, minibatch: TensorDictBase, keys: Sequence[Key]
) -> TensorDictBase:
    """Run the policy on the entries `keys` of a minibatch `[B, T]`; its outputs (and inputs) as `[B, T]`.

    The policy sees flat entries `[B * T]`, row by row, with `bptt` = T and `batch` = B, and evaluates the
    stored actions, `[B * T, k]`. Its memory is reset before.
    """
    rows, horizon = minibatch.batch_size
    count = rows * horizon
    if "actions" not in minibatch:
        raise KeyError("CoreTrainingLoop: the experience must hold 'actions' for the policy to evaluate")
    inputs: dict[Key, Any] = {key: minibatch[key].flatten(0, 1) for key in keys}
    inputs["bptt"] = torch.full((count,), horizon, device=minibatch.device)
    inputs["batch"] = torch.full((count,), rows, device=minibatch.device)
    td = TensorDict(nest(inputs), batch_size=[count], device=minibatch.device)
    policy.reset_memory()
    result = policy.forward(td, action=minibatch["actions"].reshape(count, -1))
    return (td if result is None else result).reshape(rows, horizon)


def importance_ratio(minibatch: TensorDictBase, policy_td: TensorDictBase) -> Tensor | None:
    """``exp(clamp(new - old, -10, 10))`` of the log probabilities `[B, T]`, with its graph; 1 on invalid
    steps.

    None where either side has no log probabilities.
    """
    old = minibatch.get("act_log_prob", None)
    new = policy_td.get("act_log_prob", None)
    if old is None or new is None:
        return None
    difference = new.reshape(old.shape) - old
    valid = minibatch.get("valid", None)
    if valid is not None:
        # Before exp: whatever an invalid step holds must not reach the gradient.
        difference = torch.where(valid.bool(), difference, 0.0)
    ratio: Tensor = difference.clamp(-10.0, 10.0).exp()
    return ratio


def add_unused_outputs(total: Tensor, policy_td: TensorDictBase, used: set[str]) -> Tensor:
    """Add ``0 * sum`` of every policy output that no loss uses, so that every parameter gets a gradient.

    Data-parallel training needs one for each: a parameter without a gradient would stall its all-reduce.
    """
    outputs: Any = policy_td.items(include_nested=True, leaves_only=True)
    for key, output in outputs:
        name = key if isinstance(key, str) else key[0]
        if name not in used and isinstance(output, Tensor) and output.requires_grad:
            total = total + 0.0 * output.sum()
    return total


def rank_weight(minibatch: TensorDictBase) -> Tensor | None:
    """What this rank's losses, means over its own valid entries, count among those of all ranks: 1 on
    average, in proportion to the number of valid entries. None where all count alike."""
    valid = minibatch.get("valid", None) if ranks.several_ranks() else None
    if valid is None:
        return None
    count = valid.bool().sum(dtype=torch.float64)
    weight: Tensor = count / ranks.rank_mean(count).clamp_min(1.0 / ranks.rank_and_size()[1])
    return weight


def max_grad_norm_of(losses: Mapping[str, Any], default: float) -> float:
    """`max_grad_norm` of the first loss whose `loss_cfg` (or `cfg`) has one, else `default`."""
    for loss in losses.values():
        config = getattr(loss, "loss_cfg", None) or getattr(loss, "cfg", None)
        limit = getattr(config, "max_grad_norm", None)
        if limit is not None:
            return float(limit)
    return default


def gate_allows(loss: Any, phase: str, context: ComponentContext) -> bool:
    """Whether the loss takes part in ``"rollout"`` or ``"train"``; one that knows no gates always does."""
    gate = getattr(loss, "_loss_gate_allows", None)
    return True if gate is None else bool(gate(phase, context))


def uses_delta_lambda(losses: Mapping[str, Any], context: ComponentContext) -> bool:
    """Whether a loss named ``ppo_critic`` asks for ``critic_update = "gtd_lambda"`` and its gate is open."""
    critic = losses.get("ppo_critic")
    update = getattr(getattr(critic, "cfg", None), "critic_update", None)
    return update == "gtd_lambda" and gate_allows(critic, "train", context)


def _values(data: TensorDictBase) -> Tensor | None:
    """Stored values `[*, T]`, several heads averaged."""
    values: Tensor | None = data.get("values", None)
    return values if values is None or values.dim() == 2 else values.mean(dim=-1)


def _importance(data: TensorDictBase, ratio: Tensor | None, values: Tensor) -> Tensor:
    """Importance weights; 0 on invalid steps, which makes their advantage 0 and stops the trace there."""
    valid = data.get("valid", None)
    if ratio is None:
        return torch.ones_like(values) if valid is None else valid.to(values.dtype)
    ratio = ratio.detach()
    return ratio if valid is None else torch.where(valid.bool(), ratio, 0.0)


def _puff(values: Tensor, rewards: Tensor, cuts: Tensor, importance: Tensor, config: Any) -> Tensor:
    return ops.puff_advantage(
        values.detach(),
        rewards,
        cuts,
        importance,
        float(config.gamma),
        float(config.gae_lambda),
        float(config.vtrace_rho_clip),
        float(config.vtrace_c_clip),
    )
