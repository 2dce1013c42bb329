"""`SamplePlan` gives the bits of `sample_segments` and `gather`; `join_calls` makes calls in order."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch

from hotloop import _core, ops
from hotloop.ops.joined_calls import Slot, join_calls

LAWS = ["sequential", "permutation", "successive", "with_replacement", "systematic"]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("segments", "count"), [(1, 1), (9, 3), (129, 33)])
def test_equals_the_two_ops(law: str, segments: int, count: int) -> None:
    torch.manual_seed(0)
    sources = [torch.randn(segments, 5, 2), torch.randint(0, 9, (segments, 7)), torch.randn(segments)]
    out = [torch.empty(count, *each.shape[1:], dtype=each.dtype) for each in sources]
    priorities = torch.rand(segments) if law in LAWS[2:] else None
    indices, weights = torch.empty(count, dtype=torch.int64), torch.empty(count)
    plan = ops.SamplePlan(sources, out, indices=indices, weights=weights, law=law)
    for minibatch in range(3):
        plan.gather(priorities, 3, 2, minibatch, 0.5)
        rows, expected = ops.sample_segments(
            priorities, segments, count, law=law, seed=3, epoch=2, minibatch=minibatch, beta=0.5
        )
        assert torch.equal(indices, rows)
        assert torch.equal(weights, expected)
        for mine, source in zip(out, sources, strict=True):
            assert torch.equal(mine, source[rows])


def test_a_copy_is_bound_to_its_own_tensors() -> None:
    source, out = torch.randn(9, 2), torch.zeros(3, 2)
    indices, weights = torch.empty(3, dtype=torch.int64), torch.empty(3)
    plan = ops.SamplePlan([source], [out], indices=indices, weights=weights, law="permutation")
    for copied in (copy.deepcopy((plan, out, indices)), pickle.loads(pickle.dumps((plan, out, indices)))):
        twin, its_out, its_indices = copied
        out.zero_()
        twin.gather(None, 0, 1, 0, 1.0)
        assert not out.any()
        assert torch.equal(its_out, source[its_indices])


def test_errors_are_those_of_the_ops() -> None:
    indices, weights = torch.empty(2, dtype=torch.int64), torch.empty(2)

    def plan(law: str, out: Any) -> ops.SamplePlan:
        return ops.SamplePlan([torch.zeros(4, 3)], [out], indices=indices, weights=weights, law=law)

    with pytest.raises(ValueError, match="sample_segments: law"):
        plan("none", torch.zeros(2, 3)).gather(None, 0, 0, 0, 1.0)
    with pytest.raises(ValueError, match="sample_segments: minibatch"):
        plan("permutation", torch.zeros(2, 3)).gather(None, 0, 0, -1, 1.0)
    with pytest.raises(ValueError, match="sample_segments: priorities"):
        plan("successive", torch.zeros(2, 3)).gather(None, 0, 0, 0, 1.0)
    with pytest.raises(ValueError, match="gather"):
        plan("permutation", torch.zeros(2, 4)).gather(None, 0, 0, 0, 1.0)
    with pytest.raises(ValueError, match="SamplePlan: sources must be one tensor at least"):
        ops.SamplePlan([], [], indices=indices, weights=weights, law="permutation")


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
