"""The fast lane of training: a minibatch of a categorical policy under `PPOLoss` alone.

Nobody looks at such a minibatch between the buffer and the optimizer. So its rows need no TensorDict, and the
loss no graph: native calls differentiate it by the network's outputs (`hotloop.ops.CategoricalPPO`), from
where autograd goes on. Parameters, buffers and statistics are to the last bit those of the ordinary way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor

from hotloop import ops
from hotloop.experience import Experience
from hotloop.loop_training import AfterRows, gate_allows, kept, puff
from hotloop.losses import PPOLoss, ranks
from hotloop.losses.base import valid_mask
from hotloop.policies.actor_critic import ActorCriticBase, ActorCriticPolicy
from hotloop.policies.heads import CategoricalHead

if TYPE_CHECKING:
    from hotloop.context import ComponentContext
    from hotloop.experience_sampling import SampledRows

_REAL = (torch.float32, torch.float64)
_INTEGERS = (torch.int32, torch.int64)
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


class Differentiated(NamedTuple):
    """A loss whose gradient at the network's outputs is known: what of a tensor's face the loop needs."""

    roots: list[Tensor]
    gradients: list[Tensor]

    @property
    def requires_grad(self) -> bool:
        """Whether there is anything to differentiate."""
        return bool(self.roots)

    def backward(self) -> None:
        """Add to the gradients of the parameters."""
        torch.autograd.backward(self.roots, self.gradients)


class TrainingLane:
    """Minibatches of one loop."""

    def __init__(self, experience: Experience) -> None:
        self._experience = experience
        self._policy: Any = None
        self._loss: Any = None
        self._memory: dict[str, Tensor] = {}
        self._ppo: ops.CategoricalPPO | None = None
        self._seen = False  # whether the last minibatch showed outputs that the native calls take

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
        """Whether the next minibatches may go through `minibatch`; asked once an update epoch."""
        experience, kind, buffer = self._experience, type(policy), self._experience.buffer
        loss = next(iter(losses.values()), None)
        self._policy, self._loss = policy, loss
        return (
            self._seen
            and len(losses) == 1
            and type(loss) is PPOLoss
            and loss.policy is policy
            and loss.replay is experience
            and vars(loss).keys().isdisjoint(_OF_THE_LOSS)
            and gate_allows(loss, "train", context)
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
            and not ranks.several_ranks()
            and torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and not torch._C._are_functorch_transforms_active()
        )

    def minibatch(
        self,
        rows: SampledRows,
        advantages: Tensor,
        context: ComponentContext,
        mb_idx: int,
        after: AfterRows | None,
    ) -> tuple[Differentiated, bool] | None:
        """Run the policy on rows of the buffer and differentiate the loss; whether the loss asks to stop.

        None where the network's outputs are not what they were: the minibatch must go the ordinary way.
        """
        stopwatch, policy, leaves = context.stopwatch, self._policy, rows.leaves
        with stopwatch("_train.forward"):
            policy.reset_memory()
            observations = leaves["env_obs"].flatten(0, 1)
            logits, value = policy.logits_and_value(policy._checked(observations))
            ppo = self._fitting(logits, value)
            if ppo is None:
                self._seen = False
                return None
        recording = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        try:
            with stopwatch("_train.forward"):
                ppo.evaluate(logits, leaves["actions"])
                values = value.view(ppo.log_prob.shape)
            with stopwatch("_train.advantage"):
                advantages_pg = self._advantages_pg(ppo.log_prob, rows, context.config.advantage, after)
            with stopwatch("_train.losses"):
                full = advantages if mb_idx == 0 else None
                if self._loss.differentiate(ppo, rows, values, advantages_pg, full, mb_idx):
                    return Differentiated([], []), True
        finally:
            torch._C._set_grad_enabled(recording)
        both = ((logits, ppo.grad_logits), (value, ppo.grad_values))
        wanted = [(root, gradient) for root, gradient in both if root.requires_grad]
        return Differentiated([root for root, _ in wanted], [gradient for _, gradient in wanted]), False

    def _fitting(self, logits: Any, value: Any) -> ops.CategoricalPPO | None:
        experience, head = self._experience, self._policy.head
        rows, horizon = experience.minibatch_segments, experience.bptt_horizon
        size = head.spec.num_logits
        fits = (
            type(logits) is type(value) is Tensor
            and logits.is_cpu
            and logits.dtype in _REAL
            and value.dtype == logits.dtype
            and logits.shape == (rows * horizon, size)
            and value.shape == (rows * horizon,)
            and value.is_contiguous()
        )
        if not fits:
            return None
        if self._ppo is None or self._ppo.layout != (rows, horizon, size, logits.dtype):
            nvec = None if head.spec.kind == "discrete" else head.spec.nvec
            self._ppo = ops.CategoricalPPO(rows, horizon, size, logits.dtype, nvec)
        return self._ppo

    def _advantages_pg(
        self, log_prob: Tensor, rows: SampledRows, config: Any, after: AfterRows | None
    ) -> Tensor:
        """See `hotloop.loop_training.policy_gradient_advantages`."""
        leaves = rows.leaves
        old, values = leaves["act_log_prob"], leaves["values"]
        out = kept(self._memory, "importance", old.shape, log_prob.dtype, old.device)
        importance = ops.importance_ratio(log_prob, old, valid_mask(leaves), 0.0, out=out)
        rewards, cuts = rows.columns
        out = kept(self._memory, "advantages_pg", values.shape, values.dtype, values.device)
        if after is not None:
            after = after.rows(rows.indices)
        return puff(values, rewards, cuts, importance, config, out, after)
