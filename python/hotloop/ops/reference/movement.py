"""Slow, obvious twins of the ops that move data, and of the bookkeeping of rows and actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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


def converted(source: Tensor, dtype: torch.dtype, scale: float) -> Tensor:
    """`source * scale` in `dtype`; the product in float32 (float64 where either side is), rounded once."""
    wide = torch.float64 if torch.float64 in (source.dtype, dtype) else torch.float32
    return source.to(dtype) if scale == 1.0 else (source.to(wide) * torch.tensor(scale, dtype=wide)).to(dtype)


def gather_plan(
    out: Mapping[Any, Tensor], source: Mapping[Any, Tensor], indices: Tensor, scales: Mapping[Any, float]
) -> None:
    """`out[key][j] = source[key][indices[j]]`, times the key's scale; see `hotloop.ops.GatherPlan`."""
    for key, target in out.items():
        for j, row in enumerate(indices.tolist()):
            target[j] = converted(source[key][row], target.dtype, scales.get(key, 1.0))


def stage_plan(
    targets: Mapping[str, Tensor],
    sources: Mapping[str, Tensor],
    ends: Sequence[Tensor],
    *,
    offsets: Mapping[str, int],
    scales: Mapping[str, float],
    cleared: Sequence[str],
) -> None:
    """Row i of every target from row offset + i of its source, zeros where it is cleared by a flag; see
    `hotloop.ops.StagePlan`."""
    for name, target in targets.items():
        for i in range(len(target)):
            row = sources[name][offsets.get(name, 0) + i].reshape(target[i].shape)
            target[i] = converted(row, target.dtype, scales.get(name, 1.0))
            if name in cleared and any(bool(flags[i] != 0) for flags in ends):
                target[i] = torch.zeros((), dtype=target.dtype)


def store_plan(
    buffer: Mapping[Any, Tensor],
    source: Mapping[Any, Tensor],
    cursors: RowCursors,
    start: int,
    stop: int,
    last_actions: LastActions | None = None,
    actions: Any = "actions",
) -> None:
    """One step of agents [start, stop) where their cursors point; see `hotloop.ops.StorePlan`."""
    for key, target in buffer.items():
        for i, agent in enumerate(range(start, stop)):
            row, position = int(cursors.rows[agent]), int(cursors.positions[agent])
            target[row, position] = source[key][i].to(target.dtype)
    cursors.advance(start, stop)
    if last_actions is not None and actions in source:
        last_actions.write_(source[actions], start, stop)


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
