"""The arithmetic between a minibatch and its losses: policy forward, importance ratio, advantages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor

from hotloop import ops
from hotloop.devices import runs_ops
from hotloop.entries import flat_tensordict, plain_entries, unflattened
from hotloop.losses import formulas, ranks
from hotloop.losses.base import valid_mask
from hotloop.spec import Key

if TYPE_CHECKING:
    from hotloop.context import ComponentContext
    from hotloop.policies import Policy


class AfterRows(NamedTuple):
    """What arrived after the last step of k rows, as the advantage recursion sees it: `[k]` each."""

    values: Tensor
    rewards: Tensor
    cuts: Tensor

    def rows(self, indices: Tensor) -> AfterRows:
        """That of the rows `indices`."""
        if runs_ops(indices.device):
            return AfterRows(*ops.gather(self, indices))
        return AfterRows(*(column.index_select(0, indices) for column in self))


class ArrivedColumns:
    """Rewards and cuts that the recursion sees, arrival-indexed, in memory that is reused.

    Rewards are relative to `reward_baseline` where that is stored; cuts are 1 where the trace ends. With
    `bootstrap`, a truncated step brings the discounted value of the observation at which the episode was cut,
    and cuts the trace like a terminated one: ``r + gamma * truncation_values``. Without, only `dones` cut and
    truncation is ignored.
    """

    def __init__(self) -> None:
        self.memory: dict[str, Tensor] = {}
        self.has_columns = False
        self._made_of: tuple[Any, ...] | None = None
        self._sources: list[Tensor] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_made_of": None, "_sources": []}  # a copy's tensors count their changes anew

    def compute(self, data: TensorDictBase, config: Any, bootstrap: bool) -> tuple[Tensor, Tensor]:
        """Rewards and cuts of the size of `data`; the next call overwrites them. `config` is an
        `AdvantageConfig`."""
        names = ["rewards", "dones", "reward_baseline"]
        names += ["truncateds", "truncation_values"] if bootstrap else []
        entries: Any = plain_entries(data) or data
        found: dict[str, Tensor] = {name: x for name in names if (x := entries.get(name, None)) is not None}
        sources = list(found.values())
        # Within a phase nobody writes to them: the second update epoch finds all as it was.
        made_of: tuple[Any, ...] | None = None
        if not any(map(Tensor.is_inference, sources)):  # these do not count their changes
            made_of = (float(config.gamma), bootstrap, [source._version for source in sources])
        known = self._sources
        same = made_of is not None and made_of == self._made_of and len(known) == len(sources)
        if not same or not all(map(is_, known, sources)):
            self.forget()
            self._fill(found, float(config.gamma), bootstrap)
            self._made_of, self._sources, self.has_columns = made_of, sources, True
        return self.memory["rewards"], self.memory["cuts"]

    def forget(self) -> None:
        """There are no columns any more."""
        self.has_columns = False
        self._made_of, self._sources = None, []

    def _fill(self, found: Mapping[str, Tensor], gamma: float, bootstrap: bool) -> None:
        like = found["rewards"]

        def take(name: str) -> Tensor:
            return kept(self.memory, name, like.shape, like.dtype, like.device)

        def flags(name: str) -> Tensor:
            stored = found[name]
            return stored if stored.dtype == like.dtype else take(name).copy_(stored)

        dones, rewards, baseline = flags("dones"), take("rewards"), found.get("reward_baseline")
        relative = like if baseline is None else torch.sub(like, baseline, out=rewards)
        if bootstrap:
            truncateds = flags("truncateds")
            ends = torch.mul(found["truncation_values"], truncateds, out=take("ends"))
            ends.addcmul_(ends, dones, value=-1.0)  # what terminated has no future
            torch.add(relative, ends, alpha=gamma, out=rewards)
            torch.maximum(dones, truncateds, out=take("cuts"))
            return
        if baseline is None:
            rewards.copy_(like)
        take("cuts").copy_(dones)


class Arrivals:
    """What the advantage recursion sees of a rollout, `[S, T]` each, in memory that is reused.

    `rewards` and `cuts`: see `ArrivedColumns`. `importance`: 1, and 0 on invalid steps, which makes their
    advantage 0 and stops the trace there. `advantages`: of the whole buffer.
    """

    def __init__(self) -> None:
        self._arrived = ArrivedColumns()
        self._mask: tuple[Tensor, Tensor, int] | None = None  # what `importance` was made of, and where

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_mask": None}  # a copy's tensors count their changes anew

    @property
    def columns(self) -> list[Tensor]:
        """`rewards` and `cuts`, of which each minibatch needs its rows; none where there are no values."""
        arrived = self._arrived
        return [arrived.memory[name] for name in ("rewards", "cuts")] if arrived.has_columns else []

    def compute(
        self, buffer: TensorDictBase, config: Any, bootstrap: bool, after: AfterRows | None = None
    ) -> Tensor:
        """Read the buffer and return its advantages `[S, T]` with importance 1; zeros where it holds no
        `values`, and in the last column without `after`. `config` is an `AdvantageConfig`."""
        entries: Any = plain_entries(buffer) or buffer
        values = _values(entries)
        if values is None:
            self._arrived.forget()
            return self._take("advantages", buffer, torch.float32).zero_()
        rewards, cuts = self._arrived.compute(buffer, config, bootstrap)
        importance = self._importance(buffer, entries.get("valid", None), values.dtype)
        out = self._take("advantages", buffer, values.dtype)
        return puff(values, rewards, cuts, importance, config, out, after)

    def _importance(self, buffer: TensorDictBase, valid: Tensor | None, dtype: torch.dtype) -> Tensor:
        out = self._take("importance", buffer, dtype)
        if valid is None:
            return out.fill_(1.0)
        # As the columns: a phase's later update epochs find the mask as it was.
        version = None if valid.is_inference() else valid._version
        known = self._mask
        if known is None or known[0] is not valid or known[1] is not out or known[2] != version:
            out.copy_(valid)
            self._mask = None if version is None else (valid, out, version)
        return out

    def _take(self, name: str, buffer: TensorDictBase, dtype: torch.dtype) -> Tensor:
        return kept(self._arrived.memory, name, buffer.batch_size, dtype, buffer.device)


def kept(
    memory: dict[str, Tensor],
    name: str,
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device | None,
) -> Tensor:
    """The tensor of that name in `memory`, made anew where it does not fit: fresh memory costs more than the
    arithmetic on it."""
    tensor = memory.get(name)
    if tensor is None or tensor.shape != shape or tensor.dtype != dtype or tensor.device != device:
        tensor = memory[name] = torch.empty(shape, dtype=dtype, device=device)
    return tensor


def policy_gradient_advantages(
    shared: TensorDictBase,
    columns: Sequence[Tensor],
    config: Any,
    memory: dict[str, Tensor],
    *,
    delta_lambda: bool,
    after: AfterRows | None = None,
) -> Tensor:
    """Advantages `[B, T]` for the policy gradient.

    `columns` are the minibatch's rows of `Arrivals.columns`, `after` is that of the whole buffer. The
    advantages are corrected by the importance ratios of the minibatch (V-trace, Espeholt et al. 2018, with
    the stored values); with `delta_lambda` they come instead from the recursion over the new values, through
    which the critic differentiates; without stored values they are those of the whole buffer. What is not
    differentiated lies in `memory`.
    """
    minibatch = shared["sampled_mb"]
    values = _values(minibatch)
    if after is not None and values is not None:
        after = after.rows(shared["indices"][:, 0])
    if delta_lambda:
        if values is None:
            raise ValueError("CoreTrainingLoop: critic_update 'gtd_lambda' needs 'values' in the experience")
        rewards, cuts = columns
        new_values = shared["policy_td"]["values"].reshape(minibatch["values"].shape)
        return delta_lambda_advantages(
            new_values,
            rewards,
            cuts,
            float(config.gamma),
            float(config.gae_lambda),
            minibatch.get("valid", None),
            after,
        )
    if values is None:
        advantages: Tensor = shared["advantages"]
        return advantages
    importance = _importance(shared, values, memory)
    rewards, cuts = columns
    out = kept(memory, "advantages_pg", values.shape, values.dtype, values.device)
    return puff(values, rewards, cuts, importance, config, out, after)


def delta_lambda_advantages(
    values: Tensor,
    rewards: Tensor,
    cuts: Tensor,
    gamma: float,
    gae_lambda: float,
    valid: Tensor | None = None,
    after: AfterRows | None = None,
) -> Tensor:
    """Arrival-indexed lambda-weighted sums of TD errors `[B, T]`, differentiable in `values`.

    An invalid step has none, and nothing crosses it. The value in `after` is a number: it was the rollout's.
    """
    return ops.delta_lambda(
        values, rewards, cuts, gamma, gae_lambda, **_next_columns(after, values), valid=valid
    )


def forward_policy_for_training(
    policy: Policy,
    minibatch: TensorDictBase,
    keys: Sequence[Key],
    recurrent: Mapping[str, Any] | None = None,
) -> TensorDictBase:
    """Run the policy on the entries `keys` of a minibatch `[B, T]`; its outputs (and inputs) as `[B, T]`.

    The policy sees flat entries `[B * T]`, row by row, with `bptt` = T and `batch` = B, and evaluates the
    stored actions, `[B * T, k]`. Its memory is reset before. `recurrent`: the keywords that a policy with a
    state gets (see `hotloop.policies.RecurrentPolicy`).
    """
    rows, horizon = minibatch.batch_size
    count = rows * horizon
    if "actions" not in minibatch:
        raise KeyError("CoreTrainingLoop: the experience must hold 'actions' for the policy to evaluate")
    inputs: dict[Key, Any] = {key: minibatch[key].flatten(0, 1) for key in keys}
    inputs["bptt"], inputs["batch"] = _sizes(rows, horizon, minibatch.device)
    td = flat_tensordict(inputs, (count,), minibatch.device)
    policy.reset_memory()
    result = policy.forward(td, action=minibatch["actions"].reshape(count, -1), **(recurrent or {}))
    return unflattened(td if result is None else result, (rows, horizon), inputs, minibatch)


@cache
def _sizes(rows: int, horizon: int, device: torch.device | None) -> tuple[Tensor, Tensor]:
    """T and B, for every entry of a flat minibatch; they cannot be written to."""
    with torch.inference_mode(False):
        # Filled by the device: a tensor of a list would be copied to it, and waited for.
        bptt, batch = (torch.full((), size, dtype=torch.int64, device=device) for size in (horizon, rows))
        return bptt.expand(rows * horizon), batch.expand(rows * horizon)


def importance_ratio(minibatch: TensorDictBase, policy_td: TensorDictBase) -> Tensor | None:
    """``exp(clamp(new - old, -10, 10))`` of the log probabilities `[B, T]`, with its graph; 1 on invalid
    steps.

    None where either side has no log probabilities.
    """
    old = minibatch.get("act_log_prob", None)
    new = policy_td.get("act_log_prob", None)
    if old is None or new is None:
        return None
    if new.shape != old.shape:
        new = new.reshape(old.shape)
    return formulas.importance_ratio(new, old, valid_mask(minibatch))


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


def sum_losses(
    losses: Mapping[str, Any],
    shared: TensorDictBase,
    context: ComponentContext,
    mb_idx: int,
    used: set[str] | None,
    zero: Tensor,
) -> tuple[Tensor, TensorDictBase, bool]:
    """Total loss, the `shared` that the last loss returned, and whether any loss asked to stop.

    `used` collects the policy outputs that the losses differentiate; `zero` is the total of no loss.
    """
    total = zero
    policy_td = None if used is None else shared["policy_td"]
    stop = False
    for loss in losses.values():
        if used is not None and gate_allows(loss, "train", context):
            keys = getattr(loss, "policy_output_keys", None)
            used.update(keys(policy_td) if keys is not None else ())
        value, shared, wants_stop = loss.train(shared, context, mb_idx)
        total = value if total is zero else total + value
        stop = bool(wants_stop) or stop
    return total, shared, stop


def wants_ratio(losses: Mapping[str, Any], buffer: TensorDictBase) -> bool:
    """Whether any loss reads ``shared["importance_sampling_ratio"]``, or it goes back into the buffer."""
    return "ratio" in buffer or any(getattr(loss, "reads_ratio", True) for loss in losses.values())


def clear_gradients(optimizer: torch.optim.Optimizer) -> None:
    """`optimizer.zero_grad(set_to_none=True)`, without torch's profiler region and its guard against tracing,
    which take as long as the optimizer's step for a small network."""
    if type(optimizer).zero_grad is not torch.optim.Optimizer.zero_grad or "zero_grad" in vars(optimizer):
        return optimizer.zero_grad(set_to_none=True)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def max_grad_norm_of(losses: Mapping[str, Any], default: float) -> float:
    """`max_grad_norm` of the first loss whose `loss_cfg` (or `cfg`) has one, else `default`."""
    for loss in losses.values():
        config = getattr(loss, "loss_cfg", None) or getattr(loss, "cfg", None)
        limit = getattr(config, "max_grad_norm", None)
        if limit is not None:
            return float(limit)
    return default


def shared_of_phase(experience: Any, losses: Mapping[str, Any], context: ComponentContext) -> TensorDictBase:
    """The TensorDict `[B, T]` that lives through a whole phase where losses sample for themselves, with an
    empty one for each of them. ValueError before the first rollout."""
    if context.training_env_id is None:
        raise ValueError(
            "CoreTrainingLoop.training_phase: context.training_env_id must be a slice, got None: "
            "call rollout_phase first"
        )
    shared: TensorDictBase = experience.give_me_empty_md_td()
    for name in losses:
        shared[name] = experience.give_me_empty_md_td()
    return shared


def sampling_arguments(
    experience: Any,
    context: ComponentContext,
    columns: Sequence[Tensor],
    advantages: Tensor,
    mb_idx: int,
    seed: int | None,
    draw: int,
) -> dict[str, Any]:
    """Arguments of `Experience.sample_columns` for one minibatch. Key of the draw is the
    loop's own `seed`, else the configuration's, else the experience's."""
    config = context.config
    if seed is None:
        seed = getattr(config, "seed", None)
    return {
        "columns": columns,
        "mb_idx": mb_idx,
        "epoch": context.epoch,
        "total_timesteps": config.total_timesteps,
        "batch_size": config.batch_size,
        "advantages": advantages,
        "sampling_config": experience.sampling_config or getattr(config, "sampling", None),
        "seed": experience.seed if seed is None else int(seed),
        "draw": draw,
        "reuse": True,
    }


def check_graph(total: Tensor, losses: Mapping[str, Any]) -> None:
    """Raises ValueError for a total loss that no parameter can learn from."""
    if not total.requires_grad:
        raise ValueError(
            "CoreTrainingLoop.training_phase: the total loss must depend on the policy's parameters, "
            f"got one without a graph from the losses {list(losses)}"
        )


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError for a `value` that is none of the choices."""
    if value not in choices:
        raise ValueError(f"CoreTrainingLoop: {name} must be one of {choices}, got {value!r}")


def check_entries(buffer: TensorDictBase) -> None:
    """Raises ValueError where a buffer holds values but not what advantages are made of besides."""
    missing = [key for key in ("rewards", "dones") if "values" in buffer and key not in buffer]
    if missing:
        raise ValueError(f"CoreTrainingLoop: advantages need {missing} in the experience beside 'values'")


def gate_allows(loss: Any, phase: str, context: ComponentContext) -> bool:
    """Whether the loss takes part in ``"rollout"`` or ``"train"``; one that knows no gates always does."""
    gate = getattr(loss, "_loss_gate_allows", None)
    return True if gate is None else bool(gate(phase, context))


def uses_delta_lambda(losses: Mapping[str, Any], context: ComponentContext) -> bool:
    """Whether a loss named ``ppo_critic`` asks for ``critic_update = "gtd_lambda"`` and its gate is open."""
    critic = losses.get("ppo_critic")
    update = getattr(getattr(critic, "cfg", None), "critic_update", None)
    return update == "gtd_lambda" and gate_allows(critic, "train", context)


def _values(data: TensorDictBase | Mapping[Any, Tensor]) -> Tensor | None:
    """Stored values `[*, T]`, several heads averaged."""
    values: Tensor | None = data.get("values", None)
    return values if values is None or values.dim() == 2 else values.mean(dim=-1)


def _importance(shared: TensorDictBase, values: Tensor, memory: dict[str, Tensor]) -> Tensor:
    """Importance weights `[B, T]`; 0 on invalid steps, which makes their advantage 0 and stops the trace
    there."""
    minibatch, policy_td = shared["sampled_mb"], shared["policy_td"]
    valid = minibatch.get("valid", None)
    old, new = minibatch.get("act_log_prob", None), policy_td.get("act_log_prob", None)
    if old is None or new is None:
        weights = kept(memory, "importance", values.shape, values.dtype, values.device)
        return weights.fill_(1.0) if valid is None else weights.copy_(valid)
    new = new.detach()
    if new.shape != old.shape:
        new = new.reshape(old.shape)
    if runs_ops(new.device) and new.dtype in (torch.float32, torch.float64):
        out = kept(memory, "importance", old.shape, new.dtype, new.device)
        return ops.importance_ratio(new, old, valid, 0.0, out=out)
    ratio = formulas.importance_ratio(new, old)
    return ratio if valid is None else torch.where(valid.bool(), ratio, 0.0)


def _next_columns(after: AfterRows | None, values: Tensor) -> dict[str, Tensor]:
    """What the ops call what arrived at step T."""
    if after is None:
        return {}
    return {
        "next_values": after.values.to(values.dtype),
        "next_rewards": after.rewards,
        "next_dones": after.cuts,
    }


def puff(
    values: Tensor,
    rewards: Tensor,
    cuts: Tensor,
    importance: Tensor,
    config: Any,
    out: Tensor,
    after: AfterRows | None,
) -> Tensor:
    """`ops.puff_advantage` with the settings of an `AdvantageConfig`."""
    return ops.puff_advantage(
        values.detach() if values.requires_grad else values,
        rewards,
        cuts,
        importance,
        float(config.gamma),
        float(config.gae_lambda),
        float(config.vtrace_rho_clip),
        float(config.vtrace_c_clip),
        **_next_columns(after, values),
        out=out,
    )
