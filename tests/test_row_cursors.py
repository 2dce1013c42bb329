from __future__ import annotations

import copy
import pickle

import pytest
import torch

from hotloop import ops
from hotloop.ops import reference


def assert_equal(a: ops.RowCursors, b: ops.RowCursors | reference.RowCursors) -> None:
    assert a.rows.tolist() == b.rows.tolist()
    assert a.positions.tolist() == b.positions.tolist()
    assert (a.free_idx, a.full_rows) == (b.free_idx, b.full_rows)


@pytest.mark.parametrize(
    ("agents", "segments", "horizon"), [(1, 1, 1), (4, 8, 3), (6, 7, 2), (8, 8, 4), (5, 3, 2)]
)
def test_equals_reference(agents: int, segments: int, horizon: int) -> None:
    ours = ops.RowCursors(agents, segments, horizon)
    theirs = reference.RowCursors(agents, segments, horizon)
    assert_equal(ours, theirs)
    half = (agents + 1) // 2
    for step in range(3 * horizon + 1):
        slices = [(0, agents)] if step % 2 else [(half, agents), (0, half)]
        for start, stop in slices:
            ours.advance(start, stop)
            theirs.advance(start, stop)
            assert_equal(ours, theirs)
    assert ours.position(0) == theirs.position(0)
    ours.reset()
    theirs.reset()
    assert_equal(ours, theirs)


def test_slices_out_of_step_get_rows_of_their_own() -> None:
    cursors = ops.RowCursors(4, 8, 2)
    for _ in range(4):
        cursors.advance(0, 2)  # a fast slice finishes twice before the slow one moves
    assert cursors.rows.tolist() == [6, 7, 2, 3]
    assert cursors.full_rows == 4
    cursors.advance(2, 4)
    assert cursors.positions.tolist() == [0, 0, 1, 1]


def test_the_tensors_are_live() -> None:
    cursors = ops.RowCursors(2, 4, 3)
    rows, positions = cursors.rows, cursors.positions
    cursors.advance(0, 1)
    assert positions.tolist() == [1, 0]
    cursors.advance(0, 1)
    cursors.advance(0, 1)
    assert (rows.tolist(), positions.tolist()) == ([2, 1], [0, 0])


@pytest.mark.parametrize("through", ["state_dict", "pickle", "deepcopy"])
def test_state_survives(through: str) -> None:
    cursors = ops.RowCursors(3, 5, 2)
    for _ in range(3):
        cursors.advance(0, 2)
    if through == "state_dict":
        other = ops.RowCursors(3, 5, 2)
        other.load_state_dict(cursors.state_dict())
    else:
        other = pickle.loads(pickle.dumps(cursors)) if through == "pickle" else copy.deepcopy(cursors)
    assert_equal(other, cursors)
    other.advance(0, 3)
    assert other.positions.tolist() != cursors.positions.tolist(), "the copy shares memory with the original"


def test_errors() -> None:
    cursors = ops.RowCursors(3, 5, 2)
    for start, stop in ((-1, 2), (2, 1), (0, 4)):
        with pytest.raises(IndexError, match=rf"RowCursors: agents \[{start}, {stop}\) must lie in \[0, 3\)"):
            cursors.advance(start, stop)
    with pytest.raises(IndexError, match="RowCursors"):
        cursors.position(3)
    with pytest.raises(ValueError, match="RowCursors: horizon must be in"):
        ops.RowCursors(3, 5, 0)
    with pytest.raises(
        ValueError, match=r"RowCursors: rows and positions must be \[3\], got \[2\] and \[2\]"
    ):
        cursors.load_state_dict(ops.RowCursors(2, 5, 2).state_dict())
    state = cursors.state_dict()
    state["rows"][0] = 5
    with pytest.raises(ValueError, match=r"RowCursors: rows must lie in \[0, 5\)"):
        cursors.load_state_dict(state)
    assert cursors.rows.tolist() == torch.arange(3).tolist()


def test_numbers_at_the_end_of_their_range_are_refused() -> None:
    cursors = ops.RowCursors(3, 4, 5)
    for agent in (3, 2**63 - 1, -1, -(2**63)):
        with pytest.raises(IndexError, match="must lie in"):
            cursors.position(agent)
    with pytest.raises(ValueError, match="full_rows"):
        cursors.native.set_counters(0, 2**63 - 1)
