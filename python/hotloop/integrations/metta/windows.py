"""The slices of agents that an environment serves, and their parts of what is kept for all agents."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]
_ARRAYS = frozenset(
    (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float32, torch.float64)
)


class Part:
    """A slice's part of a tensor: `whole[slice]` as a `view`, and its memory as NumPy's `array` where it is
    host memory.

    NumPy moves the few numbers of a step in a fraction of the time that it takes to find one's way through
    torch's dispatcher, which a network's pass has driven out of the processor's caches.
    """

    __slots__ = ("array", "view", "whole")

    def __init__(self, whole: Tensor, view: Tensor) -> None:
        self.whole = whole
        self.view = view
        self.array = as_array(view)


def as_array(tensor: Tensor) -> Array | None:
    """The memory of a tensor as NumPy's; None where there is none, or where autograd should hear of writes."""
    if type(tensor) is Tensor and tensor.is_cpu and not tensor.requires_grad and tensor.dtype in _ARRAYS:
        array: Array = tensor.numpy()
        return array
    return None


class Window:
    """What never changes about one slice of agents: `ids` int64 `[n, 1]`, `batch` and `bptt` int64 `[n]`.

    The tensors are shared by all steps of the slice, as in Metta: do not write into them.
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
        self._parts: dict[str, Part] = {}

    def of(self, name: str, tensor: Tensor, column: int | None = None) -> Part:
        """The slice's part of a tensor `[A, ...]`, or of a column of it: kept for as long as `name` stands
        for the same tensor."""
        known = self._parts.get(name)
        if known is None or known.whole is not tensor:
            view = tensor[self.slice] if column is None else tensor[self.slice, column]
            known = self._parts[name] = Part(tensor, view)
        return known


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
