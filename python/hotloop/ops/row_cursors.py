"""`RowCursors`: which row and position of the buffer each agent writes next, kept in native code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotloop import _core


class RowCursors:
    """The write position of every agent in an experience buffer `[segments, horizon]`.

    Agent a starts at row `a % segments`. After `horizon` steps it gets the next free row, in the order of
    agents, and `full_rows` counts the row it finished. No call reads a tensor back, so none waits for a
    device.

    Args:
        total_agents: A.
        segments: S, rows of the buffer.
        horizon: T, steps a row.

    Attributes:
        rows: `[A]` int64 on the CPU, live: the row of each agent.
        positions: `[A]` int64 on the CPU, live: its next step there, 0 ... T-1.
    """

    def __init__(self, total_agents: int, segments: int, horizon: int) -> None:
        self.segments = segments
        self.horizon = horizon
        self.rows = torch.zeros(total_agents, dtype=torch.int64)
        self.positions = torch.zeros(total_agents, dtype=torch.int64)
        self._native = _core.RowCursors(self.rows, self.positions, segments, horizon)

    @property
    def native(self) -> _core.RowCursors:
        """The native state, for plans that advance it."""
        return self._native

    @property
    def free_idx(self) -> int:
        """The row that the next finished agent gets."""
        return self._native.free_idx

    @property
    def full_rows(self) -> int:
        """Rows finished since the last `reset`."""
        return self._native.full_rows

    def position(self, agent: int) -> int:
        """The next step of one agent, without a tensor read."""
        return self._native.position(agent)

    def reset(self) -> None:
        """Every agent back to the start of its own row."""
        self._native.reset()

    def advance(self, start: int, stop: int) -> None:
        """Agents `[start, stop)` have stored one step.

        Raises:
            IndexError: agents outside `[0, A)`.
        """
        self._native.advance(start, stop)

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows.clone(),
            "positions": self.positions.clone(),
            "free_idx": self.free_idx,
            "full_rows": self.full_rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rows: Tensor = state["rows"]
        positions: Tensor = state["positions"]
        if rows.shape != self.rows.shape or positions.shape != self.positions.shape:
            raise ValueError(
                f"RowCursors: rows and positions must be [{len(self.rows)}], "
                f"got {list(rows.shape)} and {list(positions.shape)}"
            )
        if not (int(rows.min()) >= 0 and int(rows.max()) < self.segments):
            raise ValueError(f"RowCursors: rows must lie in [0, {self.segments})")
        if not (int(positions.min()) >= 0 and int(positions.max()) < self.horizon):
            raise ValueError(f"RowCursors: positions must lie in [0, {self.horizon})")
        self._native.set_counters(state["free_idx"], state["full_rows"])
        self.rows.copy_(rows)
        self.positions.copy_(positions)

    def __getstate__(self) -> dict[str, Any]:
        return {"segments": self.segments, "horizon": self.horizon, **self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        RowCursors.__init__(self, len(state["rows"]), state["segments"], state["horizon"])
        self.load_state_dict(state)
