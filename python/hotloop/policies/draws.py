"""Keys of what policies draw while a loop acts, so that an agent's draws depend on nothing but the agent.

`CoreTrainingLoop` says for which agents a forward pass is. A head that draws then keys its numbers by (key of
the rollout, how often the agent acted in it, number of the agent): they depend neither on how the agents are
split into slices or over processes nor on the order in which slices are served.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType
from typing import NamedTuple

_CALL_BITS = 8  # of the number of a draw: which draw it is of one forward pass
_ASIDE = 1 << 62

_current: ContextVar[AgentDraws | None] = ContextVar("hotloop_agent_draws", default=None)


class DrawKey(NamedTuple):
    """Arguments of `hotloop.ops.categorical_sample` and `hotloop.ops.gaussian_sample`."""

    seed: int
    step: int
    first_row: int


class AgentDraws:
    """The keys of one rollout, in force inside a ``with`` block.

    Args:
        seed: key of the rollout, any 63-bit number.
        first_agent: number of agent 0 among those of all processes.
    """

    def __init__(self, seed: int, first_agent: int = 0) -> None:
        self._seed = seed
        self._first_agent = first_agent
        self._acted: dict[int, int] = {}  # by the start of a slice
        self._step = _ASIDE
        self._calls = 0
        self._first_row = first_agent
        self._rows: int | None = None
        self._token: Token[AgentDraws | None] | None = None

    def act(self, start: int, stop: int) -> None:
        """The next forward pass acts for the agents ``[start, stop)``."""
        acted = self._acted.get(start, 0)
        self._acted[start] = acted + 1
        self._step, self._calls = acted << _CALL_BITS, 0
        self._first_row, self._rows = self._first_agent + start, stop - start

    def set_aside(self) -> None:
        """The next forward passes are for values alone: what they draw is thrown away, and must not move any
        other draw, since not every process makes them."""
        self._step, self._calls, self._rows = _ASIDE, 0, None

    def key(self, rows: int) -> DrawKey | None:
        """The key of the next draw of `rows` rows; None where they are not the agents that act."""
        if self._rows is not None and rows != self._rows:
            return None
        self._calls += 1
        return DrawKey(self._seed, self._step + self._calls - 1, self._first_row)

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
