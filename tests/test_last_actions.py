from __future__ import annotations

import pytest
import torch

from hotloop import ops
from hotloop.ops import reference
from layouts import FLAG_DTYPES


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32], ids=str)
@pytest.mark.parametrize("width", [1, 2, 7])
def test_equals_reference(width: int, dtype: torch.dtype) -> None:
    ours, theirs = ops.LastActions(33, width, dtype), reference.LastActions(33, width, dtype)
    g = torch.Generator().manual_seed(0)
    for start, stop in ((0, 33), (5, 9), (32, 33), (4, 4)):
        actions = torch.randint(0, 50, (stop - start, width), generator=g)
        dones = torch.rand(stop - start, generator=g) < 0.4
        ours.write_(actions, start, stop)
        theirs.write_(actions, start, stop)
        assert torch.equal(ours.buffer, theirs.buffer)
        assert torch.equal(ours.read(start, stop), theirs.read(start, stop))
        assert torch.equal(ours.read(start, stop, dones=dones), theirs.read(start, stop, dones=dones))


def test_flat_actions_fill_the_single_column() -> None:
    last = ops.LastActions(4)
    last.write_(torch.tensor([3, 4]), 1, 3)
    assert last.buffer.tolist() == [[0], [3], [4], [0]]
    last.reset_()
    assert last.buffer.count_nonzero() == 0


@pytest.mark.parametrize("flag_dtype", FLAG_DTYPES, ids=str)
def test_done_agents_read_zeros_and_the_memory_stays(flag_dtype: torch.dtype) -> None:
    last = ops.LastActions(3, 2, torch.int64)
    last.write_(torch.tensor([[1, 2], [3, 4], [5, 6]]), 0, 3)
    out = torch.full((3, 4), 9)[:, ::2]
    last.read(0, 3, dones=torch.tensor([0, 1, 0]).to(flag_dtype), out=out)
    assert out.tolist() == [[1, 2], [0, 0], [5, 6]]
    assert last.buffer.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_reading_casts_to_the_dtype_of_out() -> None:
    last = ops.LastActions(2)
    last.write_(torch.tensor([7, 8]), 0, 2)
    assert last.read(0, 2, out=torch.zeros(2, 1)).tolist() == [[7.0], [8.0]]


def test_state_dict_restores() -> None:
    last, other = ops.LastActions(3), ops.LastActions(3)
    last.write_(torch.tensor([1, 2, 3]), 0, 3)
    state = last.state_dict()
    last.reset_()
    other.load_state_dict(state)
    assert other.buffer.tolist() == [[1], [2], [3]]


def test_errors() -> None:
    last = ops.LastActions(4, 2)
    with pytest.raises(IndexError, match=r"last_actions_read: agents \[2, 6\) must lie in \[0, 4\)"):
        last.read(2, 6, out=torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"last_actions_read: count must be in \[0, 4\], got 9"):
        last.read(0, 9)
    with pytest.raises(
        ValueError, match=r"last_actions_write_: actions must be \[n, k\] = \[2, 2\], got int64 \[2, 3\]"
    ):
        last.write_(torch.zeros(2, 3, dtype=torch.int64), 0, 2)
    with pytest.raises(
        ValueError, match=r"LastActions.write_: actions must be \[n, k\] = \[2, 2\], got \[3, 2\]"
    ):
        last.write_(torch.zeros(3, 2), 0, 2)
    with pytest.raises(ValueError, match=r"last_actions_read: dones must be \[n\] = \[2\], got bool \[3\]"):
        last.read(0, 2, dones=torch.zeros(3, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"last_actions_write_: actions must be a torch\.Tensor, got list"):
        last.write_([[1, 2]], 0, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_agents and width must be at least 1, got 0 and 1"):
        ops.LastActions(0)
    assert last.buffer.count_nonzero() == 0
