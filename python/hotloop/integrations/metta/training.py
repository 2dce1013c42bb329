"""The training phase that both layouts share: minibatches, optimizer steps, hooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase
from torch import Tensor

from hotloop.integrations.metta.steps import StepMemory
from hotloop.integrations.metta.windows import Windows
from hotloop.loop_training import max_grad_norm_of


class TrainingLoop(ABC):
    """Attributes: `policy`, `experience`, `losses`, `optimizer`, `device`, `context`,
    `accumulate_minibatches`, `policy_spec`."""

    #: Whether each rollout step gets memory of its own. `install(copy=True)` sets it.
    copies: ClassVar[bool] = False

    def __init__(
        self,
        policy: Any,
        experience: Any,
        losses: dict[str, Any],
        optimizer: Any,
        device: torch.device,
        context: Any,
    ) -> None:
        self.policy = policy
        self.experience = experience
        self.losses = losses
        self.optimizer = optimizer
        self.device = device
        self.accumulate_minibatches: int = experience.accumulate_minibatches
        self.context = context
        self.policy_spec = policy.get_agent_experience_spec()
        self._env_index_cache: Tensor = experience._range_tensor.to(device=device, dtype=torch.int64)
        self._windows = Windows(self._env_index_cache, experience.buffer.device)
        self._memory = StepMemory(experience.bptt_horizon, experience.buffer.device, self.copies)
        self._zero = torch.zeros((), dtype=torch.float32, device=device)

    @abstractmethod
    def _begin_phase(self, context: Any) -> None:
        """Before the first update epoch; the losses' trackers are empty."""

    @abstractmethod
    def _begin_update_epoch(self, context: Any) -> None:
        """Before the first minibatch of an update epoch."""

    @abstractmethod
    def _clear_gradients(self) -> None:
        """Before the first minibatch of an optimizer step."""

    @abstractmethod
    def _total_loss(self, context: Any, mb_idx: int) -> tuple[Tensor, bool]:
        """The losses of a minibatch, and whether one of them asked to stop."""

    def training_phase(
        self, context: Any, update_epochs: int, max_grad_norm: float = 0.5
    ) -> tuple[dict[str, float], int]:
        """Pass over the experience `update_epochs` times; the losses' statistics and the passes made.

        When a loss asks to stop, its minibatch is dropped before `backward` and without `on_mb_end`, and the
        pass under way is the last, which counts. `accumulate_minibatches` gradients are summed for a step, as
        in Metta; those of an unfinished step stay in `.grad`.
        """
        losses, experience, accumulate = self.losses, self.experience, self.accumulate_minibatches
        self._begin_phase(context)
        epochs_trained, stop = 0, False
        while epochs_trained < update_epochs and not stop:
            self._begin_update_epoch(context)
            for mb_idx in range(experience.num_minibatches):
                if mb_idx % accumulate == 0:
                    self._clear_gradients()
                total, stop = self._total_loss(context, mb_idx)
                if stop:
                    break
                total.backward()
                if (mb_idx + 1) % accumulate == 0:
                    limit = max_grad_norm_of(losses, max_grad_norm)
                    torch.nn.utils.clip_grad_norm_(self.policy.parameters(), limit)
                    self.optimizer.step()
                for loss in losses.values():
                    loss.on_mb_end(context, mb_idx)
            epochs_trained += 1

        for loss in losses.values():
            loss.on_train_phase_end(context)
        stats: dict[str, float] = {}
        for loss in losses.values():
            stats.update(loss.stats())
        self._end_phase()
        return stats, epochs_trained

    def _end_phase(self) -> None:
        """After the losses' statistics: what only the phase needed is let go, as local variables are."""
        return

    # For those who want to look: `hotloop.integrations.metta.checks`.

    def _built(self, td: TensorDictBase, step: tuple[Any, ...], env: Any, context: Any) -> None:
        """A step's TensorDict is complete; no loss has seen it."""
        return

    def _built_hook(self) -> Callable[..., None] | None:
        """`_built`, where somebody has made something of it."""
        return None if type(self)._built is TrainingLoop._built else self._built

    def _prepared(self, shared: TensorDictBase) -> None:
        """What the losses share for a minibatch is complete; no loss has seen it."""
        return

    def _reset_losses(self) -> None:
        self.experience.reset_importance_sampling_ratios()
        for loss in self.losses.values():
            loss.zero_loss_tracker()
