"""`CategoricalPPO`: PPO's loss of categorical choices differentiated by the logits and values themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hotloop import _core
from hotloop.ops.joined_calls import NativeCall, Slot, join_calls

_LOGITS, _VALUES, _FLAT_ACTIONS = Slot("logits"), Slot("values"), Slot("actions")
_INDICES, _WRITTEN, _STATISTICS = Slot("indices"), Slot("written"), Slot("statistics")


class PPORows(NamedTuple):
    """What the rollout stored of a minibatch, ``[B, T]`` each: memory that every minibatch overwrites.

    `advantages`: of the whole buffer's recursion, which with `values` give the returns; None where `returns`
    are given instead. `rewards`, `dones`, `next_*` (``[B]``): what the recursion over the minibatch sees, see
    `puff_advantage`; where `rewards` is None there is no such recursion, and the loss takes `advantages`.
    `prio_weights`: stride 0 along T is allowed. `valid`: bool.
    """

    log_prob: Tensor
    values: Tensor
    advantages: Tensor | None
    rewards: Tensor | None
    dones: Tensor | None
    prio_weights: Tensor
    valid: Tensor | None = None
    next_values: Tensor | None = None
    next_rewards: Tensor | None = None
    next_dones: Tensor | None = None
    returns: Tensor | None = None


class PPOSettings(NamedTuple):
    """The numbers of `puff_advantage` and of `ppo_loss`, under their names there."""

    gamma: float
    gae_lambda: float
    rho_clip: float
    c_clip: float
    clip_coef: float
    vf_clip_coef: float | None
    vf_coef: float
    ent_coef: float
    normalize_advantage: bool
    eps: float = 1e-8


class CategoricalPPO:
    """A minibatch from its logits and values to the loss's gradient by them, in one native call.

    It joins `gather`, `categorical_evaluate`, `importance_ratio`, `puff_advantage`, `ppo_loss` and the
    backward passes of the first and the last, without autograd between them, and gives their bits. The
    gradient is made in memory that the next minibatch overwrites; pass it to `torch.autograd.backward` with
    the network's outputs. Gradient mode must be off in calls, and all tensors plain ones in host memory.

    Args:
        rows, horizon: B and T of a minibatch.
        num_logits: A, logits of a row.
        dtype: float32 or float64, of logits and values.
        nvec: the number of choices of each head; None for a single one.

    Attributes:
        log_prob, entropy: `[B, T]`, of the actions of the last minibatch.
        importance: `[B, T]`, their ratios, see `importance_ratio`; 0 where a step does not count.
        advantages: `[B, T]`, its advantages, before they are normalised.
        returns: `[B, T]`, what its values were to be.
        grad_logits, grad_values: `[B * T, A]` and `[B * T]`, of its loss.
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
            self.importance = torch.empty(rows, horizon, dtype=dtype)
            self._saved = torch.empty(3 * heads, count, dtype=dtype).t()  # the kernels work in columns
            self._gradients = torch.empty(3, rows, horizon, dtype=dtype)
            self._loss = torch.empty((), dtype=dtype)
            self.grad_logits = torch.empty(count, num_logits, dtype=dtype)
            self.advantages = self.returns = torch.empty(0)
        self._flat = self.log_prob.view(count), self.entropy.view(count)
        self._grad_log_prob, self.grad_values, self._grad_entropy = self._gradients.view(3, count).unbind()
        self._grad_column = self.grad_values.unsqueeze(1)
        self._run: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies have memory of their own; pickled tensors would no longer be views of each other.
        return type(self), (*self.layout, self._nvec)

    def grad_of_values(self, dims: int) -> Tensor:
        """`grad_values` for values `[B * T]` or, with 2 dimensions, `[B * T, 1]`."""
        return self.grad_values if dims == 1 else self._grad_column

    def bind(
        self,
        stored: PPORows,
        settings: PPOSettings,
        write_to: Tensor | None,
        gathered: tuple[list[Tensor], list[Tensor]] | None = None,
        write_importance_to: Tensor | None = None,
    ) -> None:
        """Prepare for minibatches whose rows are put into `stored`.

        Args:
            gathered: tensors `[S, ...]` whose rows are first gathered into other ones, those of `stored`.
            write_to: `[S, T]`, whose rows get the new values; None: they go nowhere.
            write_importance_to: the same of the ratios.
        """
        like = stored.values
        if self.advantages.shape != like.shape or self.advantages.dtype != like.dtype:
            with torch.inference_mode(False):
                self.advantages = torch.empty_like(like)
        calls = self._calls(stored, settings, gathered)
        if gathered is not None:
            calls.insert(0, (_core.gather, gathered[0], _INDICES, gathered[1]))
        if write_importance_to is not None:
            calls.append((_core.scatter_, [write_importance_to], _INDICES, [self.importance]))
        if write_to is not None:
            calls.append((_core.scatter_, [write_to], _INDICES, _WRITTEN))
        slots = (_LOGITS, _VALUES, _FLAT_ACTIONS, _INDICES, _WRITTEN, _STATISTICS)
        self._run = join_calls("CategoricalPPO", calls, slots)

    def _calls(
        self, stored: PPORows, settings: PPOSettings, gathered: tuple[list[Tensor], list[Tensor]] | None
    ) -> list[NativeCall]:
        at, given = settings, stored.advantages
        recursion: NativeCall = (
            _core.puff_advantage, stored.values, stored.rewards, stored.dones, self.importance, at.gamma,
            at.gae_lambda, at.rho_clip, at.c_clip, stored.next_values, stored.next_rewards,
            stored.next_dones, None, None, None, self.advantages,
        )  # fmt: skip
        if stored.rewards is None:
            recursion = (Tensor.copy_, self.advantages, given)
        # Advantages that were gathered are gathered anew for the next minibatch: they may become the returns.
        own = gathered is not None and any(given is each for each in gathered[1])
        summed: list[NativeCall] = [(Tensor.add_, given, stored.values)]
        if stored.returns is not None:
            self.returns, summed = stored.returns, []
        elif own and given is not None and given.dtype == stored.values.dtype:
            self.returns = given
        else:
            with torch.inference_mode(False):
                self.returns = torch.empty_like(stored.values)
            summed = [(Tensor.copy_, self.returns, given), (Tensor.add_, self.returns, stored.values)]
        return [
            (_core.categorical_evaluate, _LOGITS, _FLAT_ACTIONS, None, self._nvec, *self._flat, self._saved),
            (_core.importance_ratio, self.log_prob, stored.log_prob, stored.valid, 0.0, self.importance),
            recursion,
            *summed,
            (
                _core.ppo_loss, self.log_prob, stored.log_prob, self.advantages, _VALUES, stored.values,
                self.returns, self.entropy, stored.prio_weights, stored.valid, at.clip_coef, at.vf_clip_coef,
                at.vf_coef, at.ent_coef, at.normalize_advantage, at.eps, self._loss, _STATISTICS,
                self._gradients,
            ),
            (
                _core.categorical_evaluate_backward, self._grad_log_prob, self._grad_entropy, _LOGITS,
                _FLAT_ACTIONS, None, self._nvec, self._saved, self.grad_logits,
            ),
        ]  # fmt: skip

    def differentiate(
        self, logits: Tensor, values: Tensor, actions: Tensor, indices: Tensor, statistics: Tensor
    ) -> None:
        """One minibatch.

        Args:
            logits, values: `[B * T, A]` and `[B * T]` or `[B * T, 1]`, contiguous.
            actions: integers `[B, T]` or `[B, T, k]`.
            indices: int64 `[B]`, which rows of `write_to` they are.
            statistics: float64 `[12]`, written: see `ppo_loss`.

        Raises:
            TypeError, ValueError, IndexError: as the ops. What they wrote before is left.
            RuntimeError: without `bind` before.
        """
        if self._run is None:
            raise RuntimeError("CategoricalPPO.differentiate: bind must be called before, got no stored rows")
        values = values.view(self.log_prob.shape)
        self._run(logits, values, actions.reshape(self._actions_shape), indices, [values], statistics)
