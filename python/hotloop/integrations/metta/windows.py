"""The slices of agents that an environment serves, and their parts of what is kept for all agents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotloop import ops


class Window:
    """What never changes about one slice of agents.

    Attributes:
        ids, batch, bptt: int64 `[n, 1]`, `[n]` and `[n]`, shared by all steps of the slice, as in Metta: do
            not write into them.
        end: remembers what the slice did.
    """

    def __init__(self, env_slice: slice, agent_ids: Tensor, device: torch.device | None) -> None:
        ids = agent_ids[env_slice]
        self.slice = env_slice
        self.start: int = env_slice.start
        self.stop: int = env_slice.stop
        self.agents = len(ids)
        self.ids = ids.to(device=device).unsqueeze(1)
        self.batch = torch.full((self.agents,), self.agents, dtype=torch.int64, device=device)
        self.bptt = torch.ones(self.agents, dtype=torch.int64, device=device)
        self.end = ops.StepEndPlan(self.start, self.stop)
        self._views: dict[tuple[str, int | None], tuple[Tensor, Tensor]] = {}

    def of(self, name: str, tensor: Tensor, column: int | None = None) -> Tensor:
        """The slice's part of a tensor `[A, ...]`, or of a column of it: a view, which is kept for as long as
        `name` stands for the same tensor."""
        known = self._views.get((name, column))
        if known is None or known[0] is not tensor:
            view = tensor[self.slice] if column is None else tensor[self.slice, column]
            known = self._views[name, column] = (tensor, view)
        return known[1]


class Windows:
    """The slices that an environment has served."""

    def __init__(self, agent_ids: Tensor, device: torch.device | None) -> None:
        self._agent_ids = agent_ids
        self._device = device
        self._known: dict[tuple[Any, Any], Window] = {}

    def __getitem__(self, env_slice: slice) -> Window:
        key = (env_slice.start, env_slice.stop)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Window(env_slice, self._agent_ids, self._device)
        return known
