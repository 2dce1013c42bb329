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

from hotloop import ops
from hotloop.integrations.pufferlib_minibatch import Minibatch, Outcome
from hotloop.ops.ppo_loss import PPO_STATISTICS

_EPS = 1e-8  # PuffeRL's, beside the deviation of advantages
_HOW = 'install(losses="exact") keeps PufferLib\'s own arithmetic'


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
        self._returns, self._shape = returns, returns.shape
        self._weights = torch.empty(len(returns), 1)
        self._stored = ops.PPORows(
            found["logprobs"], found["values"], found["advantages"], None, None,
            self._weights.expand(self._shape), found.get("valid"),
        )  # fmt: skip
        self._statistics = torch.empty(len(PPO_STATISTICS), dtype=torch.float64)
        self._layout: tuple[Any, ...] | None = None
        self._ppo: ops.CategoricalPPO | None = None
        self._bound: tuple[Any, ...] = ()

    def evaluate(self, trainer: Any, minibatch: Minibatch, logits: Any, values: Tensor) -> Outcome:
        """Losses and what they are differentiated by; ratios and values are written into the rollout.

        Args:
            logits, values: what the policy gave.

        Raises:
            TypeError, ValueError: they are of a kind or shape that there is no native loss for.
        """
        values = _checked("values", values)
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
        nvec = sizes if minibatch.actions.dim() > 2 else None
        with torch.no_grad():
            self._weights.copy_(minibatch.weights)
            ppo = self._bound_to(trainer, sizes, nvec)
            joint = heads[0].detach() if len(heads) == 1 else torch.cat(heads, 1)
            ppo.differentiate(
                joint.contiguous(), values.detach(), minibatch.actions, minibatch.rows, self._statistics
            )
            of_logits = [ppo.grad_logits] if len(heads) == 1 else ppo.grad_logits.split(sizes, 1)
            gradients = [*of_logits, ppo.grad_values.view(values.shape)]
        both = zip([*heads, values], gradients, strict=True)
        learning = [(each, gradient) for each, gradient in both if each.requires_grad]
        return Outcome(self._told(), [each for each, _ in learning], [gradient for _, gradient in learning])

    def _bound_to(self, trainer: Any, sizes: list[int], nvec: list[int] | None) -> ops.CategoricalPPO:
        """The calculation for logits of these sizes and the trainer's numbers and buffers of now."""
        layout = sizes, nvec
        if self._ppo is None or self._layout != layout:
            rows, horizon = self._shape
            self._ppo = ops.CategoricalPPO(rows, horizon, sum(sizes), torch.float32, nvec)
            self._layout = layout
            self._bound = ()
        numbers, buffers = _numbers(trainer.config), (trainer.values, trainer.ratio)
        if (
            not self._bound
            or self._bound[0] != numbers
            or any(a is not b for a, b in zip(self._bound[1], buffers, strict=True))
        ):
            # without a recursion over the minibatch nobody reads the first four
            settings = ops.PPOSettings(1.0, 1.0, 1.0, 1.0, *numbers, True, _EPS)
            self._ppo.bind(self._stored, settings, buffers[0], write_importance_to=buffers[1])
            self._bound = numbers, buffers
        return self._ppo

    def _of_normal(self, trainer: Any, minibatch: Minibatch, normal: Any, values: Tensor) -> Outcome:
        values = values.view(self._shape)
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
        ratio = ops.importance_ratio(log_prob.detach(), minibatch.logprobs, minibatch.valid)
        ops.scatter_([trainer.ratio, trainer.values], minibatch.rows, [ratio, values.detach()])
        self._statistics = statistics
        return Outcome(self._told(), [loss])

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
