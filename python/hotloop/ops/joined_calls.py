"""`join_calls`: native ops one after another without the interpreter between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hotloop import _core

#: a native function, and what it is called with
NativeCall = tuple[Any, ...]


class Slot:
    """Stands in the arguments of a call for what is only known when all are made."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Slot({self.name!r})"


def join_calls(op: str, calls: Sequence[NativeCall], slots: Sequence[Slot]) -> Callable[..., None]:
    """A function of as many positional arguments as there are `slots`, which makes the `calls` in order.

    After a network's pass all other code has left the processor's caches, and each line of Python between two
    ops costs as much as a small op.

    Args:
        op: names the whole in messages.
        calls: each a function of `hotloop._core` and its positional arguments, slots among them.

    Raises:
        TypeError: of the returned function, where a call's argument is a tensor subclass. Calls before it
            have been made.
    """
    native = _core.join_calls(tuple(calls), tuple(slots))

    def joined(*arguments: Any) -> None:
        refused = native(*arguments)
        if refused is not None:
            name = calls[refused][0].__name__
            raise TypeError(f"{op}: all tensors must be plain ones, got a subclass in {name}")

    return joined
