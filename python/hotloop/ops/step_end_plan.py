"""`StepEndPlan`: what a rollout step leaves behind for the next one, in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hotloop import _core
from hotloop.ops._leaves import require_tensors


class StepEndPlan:
    """Remembers the actions of agents `[start, stop)` and moves their average rewards.

    Args:
        start, stop: the slice of agents; n = stop - start.

    Attributes:
        try_finish: `finish` without a line of Python, of all six arguments by position; False, and nothing is
            written, where it must be called instead.

    Raises:
        ValueError: a slice that is empty or begins below 0.
    """

    def __init__(self, start: int, stop: int) -> None:
        if not 0 <= start < stop:
            raise ValueError(
                f"StepEndPlan: agents must be [start, stop) with 0 <= start < stop, got [{start}, {stop})"
            )
        self.start = start
        self.stop = stop
        self._native = _core.StepEndPlan(start, stop)
        self.try_finish: Callable[..., bool] = self._native.finish

    def finish(
        self,
        last_actions: Tensor,
        actions: Tensor,
        averages: Tensor | None = None,
        rewards: Tensor | None = None,
        baseline: Tensor | None = None,
        beta: float = 0.0,
    ) -> None:
        """Write a slice's part of `last_actions` and, where they are given, of `averages`.

        Args:
            last_actions: `[A, k]`, which gets `actions`: `[n, k]`, or `[n]` for k = 1, cast to its dtype.
            averages: float32 `[A]`, which becomes ``baseline + beta * (rewards - baseline)``, rounded after
                each of the three operations (the average of Naik et al. 2024, "Reward Centering").
            rewards, baseline: float32 `[n]`.

        Raises:
            TypeError, ValueError: a tensor of a wrong kind, dtype or shape, or memory that is shared between
                what is read and what is written; nothing is written then.
        """
        if not self.try_finish(last_actions, actions, averages, rewards, baseline, beta):
            self._finish_by_torch(last_actions, actions, averages, rewards, baseline, beta)

    def _finish_by_torch(
        self,
        last_actions: Tensor,
        actions: Tensor,
        averages: Tensor | None,
        rewards: Tensor | None,
        baseline: Tensor | None,
        beta: float,
    ) -> None:
        """For tensor subclasses, which torch's dispatcher must see. Checks come before writes here too."""
        require_tensors("StepEndPlan.finish: last_actions and actions", [last_actions, actions])
        count, width = self.stop - self.start, last_actions.shape[-1]
        columns = actions.unsqueeze(-1) if actions.ndim == 1 and width == 1 else actions
        self._check("actions", columns, "[n, k]", (count, width))
        if averages is not None:
            require_tensors("StepEndPlan.finish: averages", [averages])
            require_tensors("StepEndPlan.finish: rewards and baseline", [rewards, baseline])
            assert rewards is not None
            assert baseline is not None
            self._check("rewards", rewards, "[n]", (count,))
            self._check("baseline", baseline, "[n]", (count,))
            averages[self.start : self.stop] = torch.sub(rewards, baseline).mul_(beta) + baseline
        last_actions[self.start : self.stop] = columns

    @staticmethod
    def _check(name: str, tensor: Tensor, layout: str, shape: tuple[int, ...]) -> None:
        if tensor.shape != shape:
            raise ValueError(
                f"StepEndPlan.finish: {name} must be {layout} = {list(shape)}, got {list(tensor.shape)}"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return StepEndPlan, (self.start, self.stop)
