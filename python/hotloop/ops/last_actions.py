"""`LastActions`: what every agent did last, for policies that are fed their previous action."""

from __future__ import annotations

import torch
from torch import Tensor

from hotloop import _core
from hotloop.ops._register import register, register_in_place


def _allocate(last: Tensor, start: int, count: int, dones: Tensor | None = None) -> Tensor:
    return last.new_empty((count, last.shape[1]))


_READ_OUT_OP = register(
    "last_actions_read",
    "Tensor last, int start, int count, Tensor? dones=None",
    ("Tensor(a!) out",),
    _core.last_actions_read,
    _allocate,
)
_WRITE_OP = register_in_place(
    "last_actions_write_", "Tensor(a!) last, int start, Tensor actions", _core.last_actions_write_
)


class LastActions:
    """The last action of every agent, `[A, k]`.

    Args:
        num_agents: A.
        width: k, components of an action: 1 for discrete, len(nvec) for multi-discrete, the action's size for
            continuous spaces.
        dtype: int32 or int64 for integer actions, float32 for continuous ones.
        device: of `buffer`.

    Attributes:
        buffer: `[A, k]`, live; zeros before an agent's first action.
    """

    def __init__(
        self,
        num_agents: int,
        width: int = 1,
        dtype: torch.dtype = torch.int32,
        device: torch.device | str = "cpu",
    ) -> None:
        if num_agents < 1 or width < 1:
            raise ValueError(
                f"LastActions: num_agents and width must be at least 1, got {num_agents} and {width}"
            )
        self.buffer = torch.zeros(num_agents, width, dtype=dtype, device=device)

    def read(
        self, start: int, stop: int, *, dones: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """The last actions of agents `[start, stop)`, `[n, k]`; zeros where `dones [n]` is true.

        Raises:
            TypeError, ValueError: `dones` or `out` of a wrong kind, shape or dtype.
            IndexError: agents outside `[0, A)`.
        """
        if self.buffer.device.type != "cpu":
            return self._read_by_torch(start, stop, dones, out)
        if out is None:
            out = self.buffer.new_empty((max(stop - start, 0), self.buffer.shape[1]))
        if _core.last_actions_read(self.buffer, start, stop - start, dones, out) is NotImplemented:
            _READ_OUT_OP(self.buffer, start, stop - start, dones, out=out)
        return out

    def _read_by_torch(self, start: int, stop: int, dones: Tensor | None, out: Tensor | None) -> Tensor:
        actions = self.buffer[start:stop]
        if dones is not None:
            ended = (dones != 0).to(actions.device).unsqueeze(1)
            actions = actions.masked_fill(ended, 0)
        return actions.clone() if out is None else out.copy_(actions)

    def write_(self, actions: Tensor, start: int, stop: int) -> None:
        """Remembers `actions` (`[n]` or `[n, k]`, cast to the buffer's dtype) of agents `[start, stop)`.

        Raises:
            TypeError, ValueError: `actions` of a wrong kind, shape or dtype.
            IndexError: agents outside `[0, A)`.
        """
        if isinstance(actions, Tensor) and actions.shape[:1] != (stop - start,):
            raise ValueError(
                f"LastActions.write_: actions must be [n, k] = [{stop - start}, {self.buffer.shape[1]}], "
                f"got {list(actions.shape)}"
            )
        if self.buffer.device.type != "cpu":
            width = self.buffer.shape[1]
            self.buffer[start:stop] = actions.reshape(stop - start, width).to(self.buffer.device)
            return
        columns = actions.unsqueeze(1) if isinstance(actions, Tensor) and actions.ndim == 1 else actions
        if _core.last_actions_write_(self.buffer, start, columns) is NotImplemented:
            _WRITE_OP(self.buffer, start, columns)

    def reset_(self) -> None:
        """Forgets every action."""
        self.buffer.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        return {"buffer": self.buffer.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.buffer.copy_(state["buffer"])
