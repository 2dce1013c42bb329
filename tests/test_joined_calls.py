"""`join_calls` makes calls in order, without the interpreter between them."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from hotloop import _core
from hotloop.ops.joined_calls import Slot, join_calls


def test_joined_calls_are_made_in_order_until_one_fails() -> None:
    made: list[Any] = []
    first, second = Slot("first"), Slot("second")

    def fail(value: Any) -> None:
        raise KeyError(value)

    joined = join_calls(
        "all", [(made.append, second), (made.append, 7), (made.append, first)], (first, second)
    )
    assert joined(1, 2) is None
    assert made == [2, 7, 1]
    failing = join_calls("all", [(made.append, first), (fail, "why"), (made.append, 9)], (first,))
    with pytest.raises(KeyError, match="why"):
        failing(3)
    assert made == [2, 7, 1, 3]
    refusing = join_calls("all", [(made.append, 4), (lambda: NotImplemented,), (made.append, 9)], ())
    with pytest.raises(TypeError, match="all: all tensors must be plain ones, got a subclass in <lambda>"):
        refusing()
    assert made == [2, 7, 1, 3, 4]
    assert join_calls("nothing", (), ())() is None


def test_joined_calls_refuse_what_is_no_call() -> None:
    with pytest.raises(TypeError, match="calls must be a tuple, got list"):
        _core.join_calls([], ())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="slots must be a tuple, got list"):
        _core.join_calls((), [])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="each call must be a tuple, got int"):
        _core.join_calls((3,), ())  # type: ignore[arg-type]
    for call in ((), (3,)):
        with pytest.raises(TypeError, match="each call must be a function and its arguments"):
            _core.join_calls((call,), ())
    with pytest.raises(TypeError, match="expected 2 positional arguments, got 1"):
        _core.join_calls(())  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="expected 1 positional arguments, got 2"):
        _core.join_calls((), (Slot("one"),))(1, 2)


def test_joined_calls_let_go_of_their_arguments() -> None:
    class Held:
        pass

    held = Held()
    gone = weakref.ref(held)
    joined = _core.join_calls(((print, held),), ())
    del held
    gc.collect()
    assert gone() is not None
    del joined
    gc.collect()
    assert gone() is None
