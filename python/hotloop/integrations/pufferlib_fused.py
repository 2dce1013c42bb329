"""`install(losses="fused")`: the losses of `PuffeRL.train` by native calls.

Of discrete and multi-discrete actions one call leads from the logits and values to the gradient of the loss
by them, without a graph between. Of continuous ones log-probability and entropy stay PufferLib's, the rest of
the loss is one call. Sums are float64 and in another order than torch's, exponentials and logarithms
hotloop's own: results agree to about 1e-6, not to the last bit. Log-ratios are cut at -10 and 10.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from hotloop import _core, ops
from hotloop.integrations.pufferlib_minibatch import Minibatch, Outcome
from hotloop.ops.joined_calls import NativeCall, Slot, join_calls
from hotloop.ops.ppo_loss import PPO_STATISTICS

_EPS = 1e-8  # PuffeRL's, beside the deviation of advantages
_HOW = 'install(losses="exact") keeps PufferLib\'s own arithmetic'
_SLOTS = {
    name: Slot(name)
    for name in (
        "logits", "values", "actions", "rows", "weights", "targets", "written", "clip_coef", "vf_clip_coef",
        "vf_coef", "ent_coef",
    )
}  # fmt: skip


class FusedLosses:
    """The losses of one trainer.

    Args:
        trainer: a `PuffeRL`.
        found: the memory of its minibatches by name; `returns`: `[k, T]`, that of their returns.

    Raises:
        ValueError: the trainer's `precision` is not float32.
    """

    def __init__(self, trainer: Any, found: dict[Any, Tensor], returns: Tensor) -> None:
        precision = trainer.config["precision"]
        if precision != "float32":
            raise ValueError(
                "hotloop.integrations.pufferlib: losses='fused' computes in float32, where PuffeRL rounds to "
                f"its precision in between: precision must be 'float32', got {precision!r}; {_HOW}"
            )
        self._found, self._returns = found, returns
        self._shape = returns.shape
        self._statistics = torch.empty(len(PPO_STATISTICS), dtype=torch.float64)
        self._ratio = torch.empty(self._shape)
        self._layout: tuple[Any, ...] | None = None
        self._run: Any = None

    def evaluate(self, trainer: Any, minibatch: Minibatch, logits: Any, values: Tensor) -> Outcome:
        """Losses and what they are differentiated by; ratios and values are written into the rollout.

        Args:
            logits, values: what the policy gave.

        Raises:
            TypeError, ValueError: they are of a kind or shape that there is no native loss for.
        """
        values = _checked("values", values).view(self._shape)
        if isinstance(logits, torch.distributions.Normal):
            return self._of_normal(trainer, minibatch, logits, values)
        heads = [logits] if isinstance(logits, Tensor) else logits
        if not isinstance(heads, list | tuple):
            raise TypeError(
                "hotloop.integrations.pufferlib: losses='fused' needs logits as a tensor, a list of tensors "
                f"or a Normal distribution from the policy, got {type(logits).__name__}; {_HOW}"
            )
        return self._of_choices(trainer, minibatch, [_checked("logits", head, 2) for head in heads], values)

    def _of_choices(self, trainer: Any, minibatch: Minibatch, heads: list[Tensor], values: Tensor) -> Outcome:
        sizes = [head.shape[1] for head in heads]
        count, several = minibatch.values.numel(), minibatch.actions.dim() > 2
        with torch.no_grad():
            if self._layout != (sizes, several):
                self._layout = sizes, several
                self._run = self._joined(count, sizes if several else None, sum(sizes))
            joint = heads[0].detach() if len(heads) == 1 else torch.cat(heads, 1, out=self._logits)
            written = values.detach()
            actions = minibatch.actions.flatten(0, 1)
            self._run(
                joint, written, actions, minibatch.rows, minibatch.weights.expand(self._shape),
                [trainer.ratio, trainer.values], [self._ratio, written], *_numbers(trainer.config),
            )  # fmt: skip
            gradients = [*self._grad_logits.split(sizes, 1), self._grad_values]
        both = zip([*heads, values], gradients, strict=True)
        learning = [(each, gradient) for each, gradient in both if each.requires_grad]
        return Outcome(self._told(), [each for each, _ in learning], [gradient for _, gradient in learning])

    def _of_normal(self, trainer: Any, minibatch: Minibatch, normal: Any, values: Tensor) -> Outcome:
        sample_logits = importlib.import_module("pufferlib.pytorch").sample_logits
        _, log_prob, entropy = sample_logits(normal, action=minibatch.actions)
        log_prob = _checked("log-probabilities", log_prob).view(self._shape)
        clip, value_clip, value_coef, entropy_coef = _numbers(trainer.config)
        loss, statistics = ops.ppo_loss(
            log_prob, minibatch.logprobs, minibatch.advantages, values, minibatch.values, self._returns,
            entropy.view(self._shape), prio_weights=minibatch.weights.expand(self._shape),
            valid=minibatch.valid, clip_coef=clip, vf_clip_coef=value_clip, vf_coef=value_coef,
            ent_coef=entropy_coef, eps=_EPS,
        )  # fmt: skip
        ratio = ops.importance_ratio(log_prob.detach(), minibatch.logprobs, minibatch.valid, out=self._ratio)
        ops.scatter_([trainer.ratio, trainer.values], minibatch.rows, [ratio, values.detach()])
        self._statistics = statistics
        return Outcome(self._told(), [loss])

    def _joined(self, count: int, sizes: list[int] | None, num_logits: int) -> Any:
        """One native call of a minibatch of `count` steps."""
        found, valid, heads = self._found, self._found.get("valid"), 1 if sizes is None else len(sizes)
        log_prob, entropy, gradients = torch.empty(count), torch.empty(count), torch.empty(3, *self._shape)
        grad_log_prob, self._grad_values, grad_entropy = gradients.unbind()
        saved, loss = torch.empty(count, 3 * heads), torch.empty(())
        self._logits, self._grad_logits = torch.empty(2, count, num_logits).unbind()
        at, rows_of = _SLOTS, log_prob.view(self._shape)
        calls: list[NativeCall] = [
            (
                _core.categorical_evaluate, at["logits"], at["actions"], None, sizes, log_prob, entropy,
                saved,
            ),
            (_core.importance_ratio, rows_of, found["logprobs"], valid, 1.0, self._ratio),
            (_core.scatter_, at["targets"], at["rows"], at["written"]),
            (
                _core.ppo_loss, rows_of, found["logprobs"], found["advantages"], at["values"],
                found["values"], self._returns, entropy.view(self._shape), at["weights"], valid,
                at["clip_coef"], at["vf_clip_coef"], at["vf_coef"], at["ent_coef"], True, _EPS, loss,
                self._statistics, gradients,
            ),
            (
                _core.categorical_evaluate_backward, grad_log_prob.view(count), grad_entropy.view(count),
                at["logits"], at["actions"], None, sizes, saved, self._grad_logits,
            ),
        ]  # fmt: skip
        return join_calls("hotloop.integrations.pufferlib: losses='fused'", calls, tuple(at.values()))

    def _told(self) -> dict[str, float]:
        told = dict(zip(PPO_STATISTICS, self._statistics.tolist(), strict=True))
        # mean(-log r) from mean(r - 1 - log r) and mean(r)
        return {
            "policy_loss": told["policy_loss"],
            "value_loss": told["value_loss"],
            "entropy": told["entropy"],
            "old_approx_kl": told["approx_kl"] - told["importance"] + 1.0,
            "approx_kl": told["approx_kl"],
            "clipfrac": told["clipfrac"],
            "importance": told["importance"],
        }


def _checked(name: str, tensor: Any, dims: int | None = None) -> Tensor:
    if type(tensor) is not Tensor:
        raise TypeError(
            f"hotloop.integrations.pufferlib: losses='fused' needs {name} as plain tensors from the policy, "
            f"got {type(tensor).__name__}; {_HOW}"
        )
    if tensor.dtype != torch.float32 or (dims is not None and tensor.dim() != dims):
        shape = "" if dims is None else " [steps, choices]"
        raise ValueError(
            f"hotloop.integrations.pufferlib: losses='fused' needs {name} in float32{shape} from the policy, "
            f"got {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}; {_HOW}"
        )
    return tensor


def _numbers(config: Any) -> tuple[float, float, float, float]:
    return config["clip_coef"], config["vf_clip_coef"], config["vf_coef"], config["ent_coef"]
