"""`CategoricalPPO`: PPO's loss of categorical choices differentiated by the logits and values themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hotloop import _core
from hotloop.ops.ppo_loss import PPO_STATISTICS


class CategoricalPPO:
    """`categorical_evaluate` and `ppo_loss`, forward and backward, without autograd between them.

    The gradient of the loss is made in memory that the next minibatch overwrites; pass it to
    `torch.autograd.backward` with the network's outputs. Bits are those of the two ops and their backward
    passes. Gradient mode must be off in calls, and all tensors plain ones in host memory.

    Args:
        rows, horizon: B and T of a minibatch.
        num_logits: A, logits of a row.
        dtype: float32 or float64, of logits and values.
        nvec: the number of choices of each head; None for a single one.

    Attributes:
        log_prob, entropy: `[B, T]`, of the actions evaluated last.
        grad_logits, grad_values: `[B * T, A]` and `[B * T]`, of the loss computed last.
    """

    def __init__(
        self, rows: int, horizon: int, num_logits: int, dtype: torch.dtype, nvec: Sequence[int] | None
    ) -> None:
        count, heads = rows * horizon, 1 if nvec is None else len(nvec)
        self.layout = rows, horizon, num_logits, dtype
        self._nvec = nvec
        self._actions_shape = (count,) if nvec is None else (count, heads)
        with torch.inference_mode(False):
            self.log_prob, self.entropy = torch.empty(2, rows, horizon, dtype=dtype).unbind()
            self._saved = torch.empty(count, 3 * heads, dtype=dtype)
            self._gradients = torch.empty(3, rows, horizon, dtype=dtype)
            self._loss = torch.empty((), dtype=dtype)
            self.grad_logits = torch.empty(count, num_logits, dtype=dtype)
        self._flat = self.log_prob.view(count), self.entropy.view(count)
        self._grad_log_prob, self.grad_values, self._grad_entropy = self._gradients.view(3, count).unbind()
        self._inputs: tuple[Tensor, Tensor] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies have memory of their own; pickled tensors would no longer be views of each other.
        return type(self), (*self.layout, self._nvec)

    def evaluate(self, logits: Tensor, actions: Tensor) -> None:
        """Log probabilities and entropies of integer `actions` `[B, T]` or `[B, T, k]`.

        Raises:
            TypeError, ValueError, IndexError: as `categorical_evaluate`.
        """
        actions = actions.reshape(self._actions_shape)
        log_prob, entropy = self._flat
        native = _core.categorical_evaluate(logits, actions, None, self._nvec, log_prob, entropy, self._saved)
        if native is NotImplemented:
            raise TypeError(
                "CategoricalPPO.evaluate: logits and actions must be plain tensors, got a subclass"
            )
        self._inputs = logits, actions

    def differentiate(
        self,
        old_log_prob: Tensor,
        advantages: Tensor,
        new_values: Tensor,
        old_values: Tensor,
        returns: Tensor,
        *,
        prio_weights: Tensor | None = None,
        valid: Tensor | None = None,
        clip_coef: float,
        vf_clip_coef: float | None,
        vf_coef: float,
        ent_coef: float,
        normalize_advantage: bool,
        eps: float = 1e-8,
    ) -> Tensor:
        """The gradients of the loss, in `grad_logits` and `grad_values`, and its statistics, a new tensor
        `[12]`: see `ppo_loss`, whose arguments these are, `[B, T]` each.

        Raises:
            TypeError, ValueError: as `ppo_loss`.
            RuntimeError: without `evaluate` before.
        """
        if self._inputs is None:
            raise RuntimeError("CategoricalPPO.differentiate: evaluate must be called before, got no logits")
        statistics = torch.empty(len(PPO_STATISTICS), dtype=torch.float64)
        native: Any = _core.ppo_loss(
            self.log_prob, old_log_prob, advantages, new_values, old_values, returns, self.entropy,
            prio_weights, valid, clip_coef, vf_clip_coef, vf_coef, ent_coef, normalize_advantage, eps,
            self._loss, statistics, self._gradients,
        )  # fmt: skip
        if native is NotImplemented:
            raise TypeError("CategoricalPPO.differentiate: all tensors must be plain ones, got a subclass")
        logits, actions = self._inputs
        self._inputs = None  # they are the caller's to free
        _core.categorical_evaluate_backward(
            self._grad_log_prob, self._grad_entropy, logits, actions, None, self._nvec, self._saved,
            self.grad_logits,
        )  # fmt: skip
        return statistics
