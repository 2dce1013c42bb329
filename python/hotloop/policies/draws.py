"""Keys of what policies draw while a loop acts, so that an agent's draws depend on nothing but the agent.

`CoreTrainingLoop` says for which agents a forward pass is. A head that draws then keys its numbers by (key of
the rollout, how often the agent acted in it, number of the agent): they depend neither on how the agents are
split into slices or over processes nor on the order in which slices are served.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, NamedTuple

from torch import Tensor

_CALL_BITS = 8  # of the number of a draw: which draw it is of one forward pass
_ASIDE = 1 << 62

# By what the head needs: new tensors at every step cost more than the draw.
DrawMemory = dict[Any, tuple[Tensor, Tensor, Tensor | None]]

_current: ContextVar[AgentDraws | None] = ContextVar("hotloop_agent_draws", default=None)


class DrawKey(NamedTuple):
    """Arguments of `hotloop.ops.categorical_sample` and `hotloop.ops.gaussian_sample`.

    `memory`: where the head may keep tensors for what such a draw gives besides actions, which the agents'
    next step overwrites; None where it must make new ones.
    """

    seed: int
    step: int
    first_row: int
    memory: DrawMemory | None = None


class AgentDraws:
    """The keys of one rollout, in force inside a ``with`` block.

    Args:
        seed: key of the rollout, any 63-bit number.
        first_agent: number of agent 0 among those of all processes.
        memory: kept by the caller from rollout to rollout; see `DrawKey`.

    Attributes: `seed`, `first_agent`, and `acted`: by the start of a slice how often it has acted; who acts
    for it without `act` counts there, and keys the draw of a step by ``acted * 256``.
    """

    def __init__(
        self, seed: int, first_agent: int = 0, memory: dict[tuple[int, int], DrawMemory] | None = None
    ) -> None:
        self.seed = seed
        self._memory = {} if memory is None else memory
        self._slice_memory: DrawMemory | None = None
        self.first_agent = first_agent
        self.acted: dict[int, int] = {}  # how often, by the start of a slice
        self._step = _ASIDE
        self._calls = 0
        self._first_row = first_agent
        self._rows: int | None = None
        self._token: Token[AgentDraws | None] | None = None

    def act(self, start: int, stop: int) -> None:
        """The next forward pass acts for the agents ``[start, stop)``."""
        acted = self.acted.get(start, 0)
        self.acted[start] = acted + 1
        self._step, self._calls = acted << _CALL_BITS, 0
        self._first_row, self._rows = self.first_agent + start, stop - start
        self._slice_memory = self._memory.setdefault((start, stop), {})

    def set_aside(self) -> None:
        """The next forward passes are for values alone: what they draw is thrown away, and must not move any
        other draw, since not every process makes them."""
        self._step, self._calls, self._rows = _ASIDE, 0, None
        self._slice_memory = None

    def key(self, rows: int) -> DrawKey | None:
        """The key of the next draw of `rows` rows; None where they are not the agents that act."""
        if self._rows is not None and rows != self._rows:
            return None
        call = self._calls
        self._calls = call + 1
        # A second draw in one forward pass must not overwrite what the first one gave.
        memory = self._slice_memory if call == 0 else None
        return DrawKey(self.seed, self._step + call, self._first_row, memory)

    def __enter__(self) -> AgentDraws:
        self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
            self._token = None


def agents_key(rows: int) -> DrawKey | None:
    """The key of a draw of `rows` rows that a loop has set; None outside of rollouts."""
    current = _current.get()
    return None if current is None else current.key(rows)
