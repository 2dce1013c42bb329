"""What a training phase does otherwise on a CUDA device where it is asked to: `sync_audit` and
`capture_optimizer_step` of `CoreTrainingLoop`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hotloop.devices import DeviceCalls, device_calls
from hotloop.loop_audit import SyncAudit, check_auditable
from hotloop.loop_captured_step import CapturedStep
from hotloop.loop_nonfinite import NonFiniteGuard
from hotloop.loop_recurrent_check import RecurrentSelfCheck

if TYPE_CHECKING:
    from hotloop.context import ComponentContext


class TrainingOnDevice:
    """The options of one loop.

    Raises ValueError for one that its device or its optimizer cannot have.
    """

    def __init__(
        self,
        device: torch.device,
        optimizer: torch.optim.Optimizer,
        losses: Mapping[str, Any],
        guard: NonFiniteGuard,
        recurrent_check: RecurrentSelfCheck,
        sync_audit: bool,
        capture_optimizer_step: bool,
    ) -> None:
        self._losses, self._guard = losses, guard
        self._recurrent_check = recurrent_check
        self._audit = SyncAudit(_calls(device, "sync_audit")) if sync_audit else None
        self.captured: CapturedStep | None = None
        if capture_optimizer_step:
            self.captured = CapturedStep(optimizer, device, _calls(device, "capture_optimizer_step"))
            guard.keeps_gradients = True

    def begin_phase(self) -> None:
        """ValueError for settings, as they are now, that the options cannot be with."""
        if self._audit is not None:
            check_auditable(
                self._losses, may_undo=self._guard.may_undo, checks_always=self._recurrent_check.always
            )
        if self.captured is not None and self._guard.may_undo:
            raise ValueError(
                "CoreTrainingLoop.training_phase: capture_optimizer_step=True cannot be with on_nan='skip': "
                "a recorded step is made whatever the gradients are"
            )

    def audited(self, context: ComponentContext) -> AbstractContextManager[None]:
        """Around what may not wait for the device."""
        return nullcontext() if self._audit is None else self._audit(context)

    def step(self, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], limit: float) -> None:
        """Clip the gradients and let the optimizer step with them, unless the guard objects."""

        def clip_and_step() -> None:
            if self._guard.clip(parameters, limit):
                optimizer.step()

        if self.captured is None:
            clip_and_step()
            return
        if self.captured.optimizer is not optimizer:
            self.captured = self.captured.for_another(optimizer)
        self.captured(parameters, clip_and_step, limit)
        self._guard.end_step()  # which a replay has not heard of


def _calls(device: torch.device, option: str) -> DeviceCalls:
    calls = device_calls(device)
    if calls is None:
        why = "in host memory nothing waits" if option == "sync_audit" else "there are no graphs elsewhere"
        raise ValueError(f"CoreTrainingLoop: {option}=True needs a CUDA device, got {device}: {why}")
    return calls
