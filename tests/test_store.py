from __future__ import annotations

import pytest
import torch

from hotloop import ops
from hotloop.ops import reference
from test_gather import DTYPES, leaf


def cursors(agents: int, segments: int, horizon: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(agents)
    return torch.randperm(segments, generator=g)[:agents], torch.randint(0, horizon, (agents,), generator=g)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tail", [(), (1,), (7,), (200, 3)], ids=str)
@pytest.mark.parametrize("agents", [0, 1, 8, 33])
def test_equals_reference(agents: int, tail: tuple[int, ...], dtype: torch.dtype) -> None:
    rows, positions = cursors(agents, 40, 9)
    buffer, source = leaf((40, 9, *tail), dtype), leaf((agents, *tail), dtype, seed=3)
    expected = buffer.clone()
    reference.store_([expected], [source], rows, positions)
    ops.store_([buffer], [source], rows, positions)
    assert torch.equal(buffer, expected)


def test_many_leaves_with_casts_and_strides() -> None:
    rows, positions = cursors(6, 10, 4)
    buffers = [
        torch.zeros(10, 4),
        torch.zeros(4, 10, 3, dtype=torch.int32).transpose(0, 1),  # time-major memory
        torch.zeros(20, 4, 5, dtype=torch.float64)[::2, :, 1:4],
        torch.zeros(10, 4, dtype=torch.bool),
    ]
    sources = [
        leaf((6,), torch.float64),
        leaf((6, 3), torch.int64),
        leaf((6, 3), torch.uint8),
        leaf((6,), torch.int64),
    ]
    expected = [buffer.clone() for buffer in buffers]
    reference.store_(expected, sources, rows, positions)
    ops.store_(buffers, sources, rows, positions)
    for buffer, wanted in zip(buffers, expected, strict=True):
        assert torch.equal(buffer, wanted)


@pytest.mark.ends_the_gpu
def test_errors_before_anything_is_written() -> None:
    buffer = torch.full((4, 3, 2), 7.0)
    zero, source = torch.zeros(2, dtype=torch.int64), torch.zeros(2, 2)
    with pytest.raises(
        IndexError, match=r"store_: rows\[1\] must be in \[0, 4\) \(segments of buffers\), got 4"
    ):
        ops.store_([buffer], [source], torch.tensor([0, 4]), zero)
    with pytest.raises(
        IndexError, match=r"store_: positions\[0\] must be in \[0, 3\) \(horizon of buffers\), got -1"
    ):
        ops.store_([buffer], [source], zero, torch.tensor([-1, 0]))
    with pytest.raises(ValueError, match=r"store_: positions must be \[n\] = \[2\], got int64 \[3\]"):
        ops.store_([buffer], [source], zero, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(
        ValueError, match=r"store_: sources\[0\] must be of shape \[2, 2\], got float32 \[3, 2\]"
    ):
        ops.store_([buffer], [torch.zeros(3, 2)], zero, zero)
    with pytest.raises(ValueError, match=r"store_: buffers\[1\] must be of size 3 in dimension 1"):
        ops.store_([buffer, torch.zeros(4, 5)], [source, torch.zeros(2)], zero, zero)
    with pytest.raises(ValueError, match=r"store_: buffers\[0\] must be memory of its own"):
        ops.store_([buffer], [buffer[:2, 0]], zero, zero)
    with pytest.raises(TypeError, match=r"store_: sources\[0\] must be a torch.Tensor, got numpy.ndarray"):
        ops.store_([buffer], [source.numpy()], zero, zero)  # type: ignore[list-item]
    assert (buffer == 7.0).all()
