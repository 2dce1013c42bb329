"""The fast lane of training: update epochs of a categorical policy under `PPOLoss` alone.

Nobody looks at such a minibatch between the buffer and the optimizer. So its rows need no TensorDict, and the
loss no graph: one native call differentiates it by the network's outputs (`hotloop.ops.CategoricalPPO`), from
where autograd goes on. What is the same for all minibatches of an update epoch is looked up once: after a
network's pass all other code has left the processor's caches, so what counts is how many things are called.
Parameters, buffers and statistics are to the last bit those of the ordinary way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from hotloop import ops
from hotloop.context import SamplingConfig
from hotloop.entries import plain_entries
from hotloop.experience import Experience
from hotloop.experience_sampling import law_of
from hotloop.loop_nonfinite import NonFiniteGuard
from hotloop.loop_training import (
    AfterRows,
    Arrivals,
    check_graph,
    gate_allows,
    kept,
    max_grad_norm_of,
    sampling_arguments,
    uses_delta_lambda,
)
from hotloop.losses import PPOLoss, ranks
from hotloop.policies.actor_critic import ActorCriticBase, ActorCriticPolicy
from hotloop.policies.heads import CategoricalHead

if TYPE_CHECKING:
    from hotloop.context import ComponentContext
    from hotloop.experience_epoch import EpochRows

_REAL = (torch.float32, torch.float64)
_INTEGERS = (torch.int32, torch.int64)
# What is taken of a row beside the buffer's entries, whose names these are not.
_ADVANTAGES = ("", "advantages")
_RETURNS = ("", "returns")
# Laws of drawing under which no row comes twice in an update epoch.
_EACH_ROW_ONCE = ("sequential", "permutation")
_ARRIVED = (("", "rewards"), ("", "cuts"))
_AFTER = (("", "next values"), ("", "next rewards"), ("", "next cuts"))
# Methods that the lane goes past: who replaces one on an object wants it called.
_OF_THE_LOSS = {
    "train",
    "run_train",
    "_fused",
    "_write_back",
    "_track_explained_variance",
    "policy_output_keys",
}
_OF_THE_POLICY = {"forward", "_checked", "_write_evaluated"}
_OF_THE_EXPERIENCE = {"sample", "sample_columns", "update"}


class TrainingLane:
    """Update epochs of one loop."""

    def __init__(self, experience: Experience, arrivals: Arrivals, guard: NonFiniteGuard) -> None:
        self._experience, self._arrivals, self._guard = experience, arrivals, guard
        self._ppo: ops.CategoricalPPO | None = None
        self._memory: dict[str, Tensor] = {}
        self._bound_to: tuple[EpochRows, ops.PPOSettings, Tensor | None] | None = None
        self._seen = False  # whether the last minibatch showed outputs that the native calls take

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_bound_to": None}  # a copy has other tensors

    def see(self, policy_td: TensorDictBase) -> None:
        """Look at what the policy gave in the ordinary way."""
        values, log_prob = policy_td.get("values", None), policy_td.get("act_log_prob", None)
        shape = (self._experience.minibatch_segments, self._experience.bptt_horizon)
        self._seen = (
            type(values) is type(log_prob) is Tensor
            and values.shape == log_prob.shape == shape
            and values.dtype == log_prob.dtype
            and values.dtype in _REAL
        )

    def opens(self, policy: Any, losses: Mapping[str, Any], context: ComponentContext) -> bool:
        """Whether the next update epoch may go through `run`."""
        experience, kind = self._experience, type(policy)
        buffer: Any = plain_entries(experience.buffer) or experience.buffer
        loss = next(iter(losses.values()), None)
        return (
            self._seen
            and len(losses) == 1
            and type(loss) is PPOLoss
            and loss.policy is policy
            and loss.replay is experience
            and vars(loss).keys().isdisjoint(_OF_THE_LOSS)
            and gate_allows(loss, "train", context)
            and not uses_delta_lambda(losses, context)
            and type(experience) is Experience
            and vars(experience).keys().isdisjoint(_OF_THE_EXPERIENCE)
            and experience.device.type == "cpu"
            and isinstance(policy, ActorCriticPolicy)
            and kind.forward is ActorCriticPolicy.forward
            and kind._checked is ActorCriticBase._checked
            and kind._write_evaluated is ActorCriticBase._write_evaluated
            and vars(policy).keys().isdisjoint(_OF_THE_POLICY)
            and type(policy.head) is CategoricalHead
            and "evaluate" not in vars(policy.head)
            and "ratio" not in buffer
            and all(key in buffer and buffer[key].dim() == 2 for key in ("values", "act_log_prob"))
            and "env_obs" in buffer
            and "actions" in buffer
            and buffer["actions"].dtype in _INTEGERS
            and ("valid" not in buffer or buffer["valid"].dtype == torch.bool)
            and callable(getattr(context.stopwatch, "add", None))
            and not ranks.several_ranks()
            and torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and not torch._C._are_functorch_transforms_active()
        )

    def run(
        self,
        policy: Any,
        losses: Mapping[str, Any],
        optimizer: torch.optim.Optimizer,
        advantages: Tensor,
        context: ComponentContext,
        after: AfterRows | None,
        seed: int | None,
        draw: int,
        parameters: Sequence[Tensor],
        max_grad_norm: float,
    ) -> tuple[int, bool]:
        """One update epoch. Arguments as of `sampling_arguments` and the loop's.

        Returns how many minibatches were trained on, which is less than all where the network's outputs are
        not what they were; and whether the loss asks to stop.
        """
        loss, guard, clock = next(iter(losses.values())), self._guard, perf_counter
        sampled = forward = lost = backward = stepped = 0.0
        now = clock()
        columns = self._arrivals.columns
        sampling = sampling_arguments(self._experience, context, columns, advantages, 0, seed, draw)
        rows = self._rows_of(sampling, after)
        settings = loss.settings(context.config.advantage)
        limit, count = max_grad_norm_of(losses, max_grad_norm), self._experience.num_minibatches
        statistics = torch.empty(count, len(ops.PPO_STATISTICS), dtype=torch.float64).unbind()
        network, observations, forget = policy._acting_network(), None, policy._memory_reset()
        ppo: ops.CategoricalPPO | None = None
        checked: Tensor | None = None
        sampled += clock() - now
        try:
            for mb_idx in range(count):
                began = clock()
                guard.begin_step(optimizer)
                now = clock()
                rows.take(mb_idx)
                ready = clock()
                if forget is not None:
                    forget()
                if observations is None or rows.views:  # else in the same memory as those before
                    observations, checked = rows.leaves["env_obs"].flatten(0, 1), None
                if checked is not observations:
                    checked = policy._checked(observations)
                output = network(checked)
                passed = clock()
                sampled, forward = sampled + ready - now, forward + passed - ready
                torch._C._set_grad_enabled(False)
                try:
                    if ppo is None:
                        ppo = self._bound(policy.head, output, rows, settings)
                    if ppo is None or not _fits(ppo, output):
                        self._seen = False
                        return mb_idx, False
                    if loss.stops_before(mb_idx, advantages):
                        return mb_idx, True
                    logits, value = output
                    actions = rows.leaves["actions"]
                    ppo.differentiate(logits, value, actions, rows.indices, statistics[mb_idx])
                finally:
                    torch._C._set_grad_enabled(True)
                loss.track_statistics(statistics[mb_idx])
                gradients = [ppo.grad_logits, ppo.grad_of_values(value.dim())]
                if not (logits.requires_grad and value.requires_grad):
                    gradients = [
                        gradient
                        for root, gradient in zip(output, gradients, strict=True)
                        if root.requires_grad
                    ]
                    output = [root for root in output if root.requires_grad]
                    if not output:
                        check_graph(logits, losses)
                computed = clock()
                torch.autograd.backward(output, gradients)
                del output, logits, value  # the memory of their graph is free for the next minibatch
                ended = clock()
                if guard.clip(parameters, limit):
                    optimizer.step()
                done = clock()
                lost, backward = lost + computed - passed, backward + ended - computed
                stepped += done - ended + now - began
                loss.on_mb_end(context, mb_idx)
        finally:
            add = context.stopwatch.add
            add("_train.sample", sampled)
            add("_train.forward", forward)
            add("_train.losses", lost)
            add("_train.backward", backward)
            add("_train.optimizer", stepped)
        return count, False

    def _rows_of(self, sampling: dict[str, Any], after: AfterRows | None) -> EpochRows:
        """The rows of an update epoch's minibatches."""
        buffer: Any = plain_entries(self._experience.buffer) or self._experience.buffer
        keys = ("env_obs", "actions", "act_log_prob", "values", *(("valid",) if "valid" in buffer else ()))
        leaves: dict[Any, Tensor] = {key: buffer[key] for key in keys}
        if law_of(sampling["sampling_config"] or SamplingConfig()) in _EACH_ROW_ONCE:
            leaves[_RETURNS] = self._returns(sampling["advantages"], buffer["values"])
        else:  # values that were written back meanwhile belong to the returns of a row that comes again
            leaves[_ADVANTAGES] = sampling["advantages"]
        leaves.update(zip(_ARRIVED, sampling.pop("columns"), strict=True))
        if after is not None:
            leaves.update(zip(_AFTER, after, strict=True))
        del sampling["mb_idx"], sampling["reuse"]
        return self._experience.epoch_rows(leaves, "env_obs", **sampling)

    def _returns(self, advantages: Tensor, values: Tensor) -> Tensor:
        """Of the whole buffer, in memory that is used again."""
        dtype = torch.promote_types(advantages.dtype, values.dtype)
        out = kept(self._memory, "returns", values.shape, dtype, values.device)
        return torch.add(advantages, values, out=out)

    def _bound(
        self, head: CategoricalHead, output: Any, rows: EpochRows, settings: ops.PPOSettings
    ) -> ops.CategoricalPPO | None:
        """The calculation for outputs of this kind; None where there is none."""
        experience, size = self._experience, head.spec.num_logits
        dtype = output[0].dtype if isinstance(output, tuple | list) and type(output[0]) is Tensor else None
        if dtype not in _REAL:
            return None
        layout = (experience.minibatch_segments, experience.bptt_horizon, size, dtype)
        if self._ppo is None or self._ppo.layout != layout:
            nvec = None if head.spec.kind == "discrete" else head.spec.nvec
            self._ppo, self._bound_to = ops.CategoricalPPO(*layout, nvec), None
        values = rows.given["values"] if experience.write_back else None
        bound = rows, settings, values
        known = self._bound_to
        if known is None or known[0] is not rows or known[1] != settings or known[2] is not values:
            taken = rows.leaves
            stored = ops.PPORows(
                taken["act_log_prob"],
                taken["values"],
                taken.get(_ADVANTAGES),
                taken[_ARRIVED[0]],
                taken[_ARRIVED[1]],
                rows.weights,
                taken.get("valid"),
                *(taken.get(key) for key in (*_AFTER, _RETURNS)),
            )
            self._ppo.bind(stored, settings, values, rows.later)
            self._bound_to = bound
        return self._ppo


def _fits(ppo: ops.CategoricalPPO, output: Any) -> bool:
    rows, horizon, size, dtype = ppo.layout
    if not isinstance(output, tuple | list) or len(output) != 2:
        return False
    logits, value = output
    count = rows * horizon
    return (
        type(logits) is type(value) is Tensor
        and logits.is_cpu
        and value.is_cpu
        and logits.dtype == value.dtype == dtype
        and logits.shape == (count, size)
        and value.shape in ((count,), (count, 1))
        and value.is_contiguous()
    )
