"""The layout of an Experience: its sizes, where every agent writes next, and when a rollout is over."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hotloop import ops
from hotloop.devices import in_host_memory


def slice_bounds(env_id: object, total_agents: int, where: str) -> tuple[int, int]:
    """`(start, stop)` of a slice of agents.

    Raises TypeError when it is no slice, ValueError when it is empty or its step is not 1, IndexError when
    it exceeds the agents. `where` names the caller in the message.
    """
    if not isinstance(env_id, slice):
        raise TypeError(f"{where}: the agents served must be a slice, got {type(env_id).__name__}")
    start = 0 if env_id.start is None else env_id.start
    stop = total_agents if env_id.stop is None else env_id.stop
    if env_id.step not in (None, 1):
        raise ValueError(f"{where}: the slice of agents must be contiguous (step 1), got {env_id}")
    if not isinstance(start, int) or not isinstance(stop, int):
        raise TypeError(f"{where}: the slice of agents must have int ends, got {env_id}")
    if start < 0 or stop > total_agents:
        raise IndexError(f"{where}: the slice of agents must lie in [0, {total_agents}), got {env_id}")
    if start >= stop:
        raise ValueError(f"{where}: the slice of agents must not be empty, got {env_id}")
    return start, stop


def check_sizes(
    *, total_agents: int, batch_size: int, bptt_horizon: int, minibatch_size: int, max_minibatch_size: int
) -> None:
    """TypeError or ValueError when the sizes of an Experience do not fit each other."""
    for name, size in locals().items():
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(f"Experience: {name} must be an int, got {size!r}")
        if size < 1:
            raise ValueError(f"Experience: {name} must be positive, got {size}")
    minibatch = min(minibatch_size, max_minibatch_size)
    segments = batch_size // bptt_horizon
    if total_agents > segments:
        raise ValueError(
            "Experience: batch_size must be at least total_agents * bptt_horizon = "
            f"{total_agents} * {bptt_horizon} = {total_agents * bptt_horizon}, so that each agent has a row, "
            f"got {batch_size}"
        )
    if minibatch_size % minibatch:
        raise ValueError(
            f"Experience: minibatch_size must be a multiple of max_minibatch_size {max_minibatch_size}, "
            f"got {minibatch_size}"
        )
    if minibatch % bptt_horizon:
        raise ValueError(
            f"Experience: minibatch_size must be a multiple of bptt_horizon {bptt_horizon}, got {minibatch}"
        )
    if segments % (minibatch // bptt_horizon):
        raise ValueError(
            f"Experience: segments (batch_size // bptt_horizon = {batch_size} // {bptt_horizon}) must be a "
            f"multiple of the {minibatch // bptt_horizon} segments of a minibatch (of {minibatch} steps), "
            f"got {segments}"
        )


class RowViews(NamedTuple):
    """The live trackers of one slice, int64 [n] each."""

    rows: Tensor
    positions: Tensor


class RowBook:
    """Native row cursors, their mirrors on the buffer's device, and the bookkeeping of the rollout's end.

    `rows` and `positions`: int64 [A] on `device`, live. Rows are handed out in order, so what has been
    handed out so far is the A rows of the start plus those given for finished ones. Once that is S, a slice
    that finishes a row gets none that this rollout still needs (an asynchronous environment served it more
    often than others): it is done. A slice that gets the last rows and needs more goes on in rows 0, 1, ...,
    which the rollout then has to wait for once more.
    """

    def __init__(self, total_agents: int, segments: int, horizon: int, device: torch.device) -> None:
        self.total_agents = total_agents
        self.segments = segments
        self.horizon = horizon
        self.cursors = ops.RowCursors(total_agents, segments, horizon)
        self._mirrored = not in_host_memory(device)
        self.rows: Tensor = self.cursors.rows.to(device, copy=self._mirrored)
        self.positions: Tensor = self.cursors.positions.to(device, copy=self._mirrored)
        self.stored_steps = 0
        self.skipped_steps = 0
        self._needed = segments  # rows to finish, those that are written twice counted twice
        self._bounds: dict[tuple[object, object, object], tuple[int, int]] = {}
        self._views: dict[tuple[int, int], RowViews] = {}
        self._done = bytearray(total_agents)  # agents whose slice is done with this rollout
        self._finished = bytearray(total_agents)  # agents with at least one finished row
        self._given: list[tuple[int, int, int]] = []  # first of the rows that a slice went on in, start, stop
        self._wrapped: dict[int, int] = {}  # slice start -> rows 0 .. w-1 that it is about to write once more

    def reset(self) -> None:
        """Agent i to row i, column 0."""
        self.cursors.reset()
        if self._mirrored:
            torch.arange(self.total_agents, out=self.rows)
            self.positions.zero_()
        self.stored_steps = self.skipped_steps = 0
        self._needed = self.segments
        self._done = bytearray(self.total_agents)
        self._finished = bytearray(self.total_agents)
        self._given.clear()
        self._wrapped.clear()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy's cursors have memory of their own, which the live tensors must be again.
        self.__dict__.update(state)
        self._views = {}
        if not self._mirrored:
            self.rows, self.positions = self.cursors.rows, self.cursors.positions

    @property
    def complete(self) -> bool:
        """Whether every row is finished."""
        return self.cursors.full_rows >= self._needed

    def bounds(self, env_id: object, where: str) -> tuple[int, int]:
        """`slice_bounds`, remembered."""
        if not isinstance(env_id, slice):
            return slice_bounds(env_id, self.total_agents, where)
        key = (env_id.start, env_id.stop, env_id.step)
        known = self._bounds.get(key)
        if known is None:
            known = self._bounds[key] = slice_bounds(env_id, self.total_agents, where)
        return known

    def views(self, start: int, stop: int) -> RowViews:
        """The live trackers of the agents `[start, stop)`."""
        views = self._views.get((start, stop))
        if views is None:
            views = self._views[start, stop] = RowViews(self.rows[start:stop], self.positions[start:stop])
        return views

    def takes_next_step(self, agent: int) -> bool:
        """Whether the agent's slice is not done with this rollout."""
        return not self._done[agent]

    def begin_store(self, start: int, stop: int) -> int | None:
        """The column that the slice writes now; None when it is done with this rollout."""
        cursors = self.cursors.native
        if cursors.full_rows >= self._needed:
            raise RuntimeError(
                f"Experience.store: the rollout is complete (all {self.segments} rows are full); call "
                "reset_for_rollout first"
            )
        position = cursors.position(start)
        if position != cursors.position(stop - 1):
            raise ValueError(
                f"Experience.store: the agents [{start}, {stop}) must stand at one column (slices must not "
                f"overlap in part), got columns {position} and {cursors.position(stop - 1)}"
            )
        if self._done[start]:
            self.skipped_steps += 1
            return None
        if position == 0 and start in self._wrapped:
            self._check_wrap(start, stop, self._wrapped[start])
        return position

    def end_store(self, start: int, stop: int, column: int) -> None:
        """After the slice wrote `column` and its cursors moved on."""
        self.stored_steps += 1
        finishes = column + 1 >= self.horizon
        if self._mirrored:
            views = self.views(start, stop)
            if finishes:
                # The cursors hand out rows in order, so the device can count them itself: nothing is sent.
                count = stop - start
                first = (self.cursors.free_idx - count) % self.segments
                torch.arange(first, first + count, out=views.rows)
                if first + count > self.segments:
                    views.rows.remainder_(self.segments)
                views.positions.zero_()
            else:
                views.positions.add_(1)
        if column == 0:
            self._wrapped.pop(start, None)
        if finishes:
            count = stop - start
            handed_out = self.total_agents + self.cursors.full_rows  # its next rows included
            self._finished[start:stop] = b"\1" * count
            self._given.append((handed_out - count, start, stop))
            if handed_out - count >= self.segments:
                self._done[start:stop] = b"\1" * count
            elif handed_out > self.segments:
                self._wrapped[start] = handed_out - self.segments
                self._needed = handed_out

    def count_inner_steps(self, steps: int) -> None:
        """Steps were stored by others, who moved the cursors on, none of them in a row's first or last
        column: there is nothing else to note about them."""
        self.stored_steps += steps

    def agent_of(self, row: int) -> int | None:
        """The agent that was given a row last in this rollout; None where no agent was."""
        agent = row if row < self.total_agents else None
        for first, start, stop in self._given:
            if first < self.segments and (row - first) % self.segments < stop - start:
                agent = start + (row - first) % self.segments
        return agent

    def _check_wrap(self, start: int, stop: int, count: int) -> None:
        """Rows 0 .. count-1 are written a second time: fine if their first owners are past them."""
        if not all(self._finished[:count]):
            raise RuntimeError(
                f"Experience.store: the agents [{start}, {stop}) would overwrite rows that slower agents "
                f"have not finished. Where slices run at different speeds they must be of equal size, and "
                f"segments a multiple of total_agents ({self.total_agents}), got {self.segments}"
            )
