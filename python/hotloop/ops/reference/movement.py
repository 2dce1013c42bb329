"""Slow, obvious twins of the ops that move data, and of the bookkeeping of rows and actions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gather(
    sources: Sequence[Tensor], indices: Tensor, *, out: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """`[s[indices] for s in sources]`, cast to the dtypes of `out` where given."""
    if out is None:
        return [source[indices] for source in sources]
    return [target.copy_(source[indices]) for target, source in zip(out, sources, strict=True)]


def scatter_(targets: Sequence[Tensor], indices: Tensor, sources: Sequence[Tensor]) -> None:
    """`target[indices] = source` for every pair, in the order of `indices` (the last duplicate wins)."""
    for target, source in zip(targets, sources, strict=True):
        for i, row in enumerate(indices.tolist()):
            target[row] = source[i].to(target.dtype)


def store_(buffers: Sequence[Tensor], sources: Sequence[Tensor], rows: Tensor, positions: Tensor) -> None:
    """`buffer[rows[i], positions[i]] = source[i]` for every pair and agent, cast to the buffer's dtype."""
    for buffer, source in zip(buffers, sources, strict=True):
        for i, (row, position) in enumerate(zip(rows.tolist(), positions.tolist(), strict=True)):
            buffer[row, position] = source[i].to(buffer.dtype)


class LastActions:
    """The last action of every agent, `[A, k]`; see `hotloop.ops.LastActions`."""

    def __init__(
        self, num_agents: int, width: int = 1, dtype: torch.dtype = torch.int32, device: str = "cpu"
    ) -> None:
        self.buffer = torch.zeros(num_agents, width, dtype=dtype, device=device)

    def read(
        self, start: int, stop: int, *, dones: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        actions = self.buffer[start:stop].clone()
        if dones is not None:
            actions[dones.bool()] = 0
        return actions if out is None else out.copy_(actions)

    def write_(self, actions: Tensor, start: int, stop: int) -> None:
        self.buffer[start:stop] = actions.reshape(stop - start, self.buffer.shape[1]).to(self.buffer.dtype)

    def reset_(self) -> None:
        self.buffer.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        return {"buffer": self.buffer.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.buffer.copy_(state["buffer"])


class RowCursors:
    """Which row and position each agent writes next; see `hotloop.ops.RowCursors`."""

    def __init__(self, total_agents: int, segments: int, horizon: int) -> None:
        self.segments, self.horizon = segments, horizon
        self.rows = torch.zeros(total_agents, dtype=torch.int64)
        self.positions = torch.zeros(total_agents, dtype=torch.int64)
        self.reset()

    def reset(self) -> None:
        agents = len(self.rows)
        self.rows.copy_(torch.arange(agents) % self.segments)
        self.positions.zero_()
        self.free_idx, self.full_rows = agents % self.segments, 0

    def position(self, start: int) -> int:
        return int(self.positions[start])

    def advance(self, start: int, stop: int) -> None:
        self.positions[start:stop] += 1
        for agent in range(start, stop):
            if self.positions[agent] >= self.horizon:
                self.rows[agent] = self.free_idx
                self.positions[agent] = 0
                self.free_idx = (self.free_idx + 1) % self.segments
                self.full_rows += 1
