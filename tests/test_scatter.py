from __future__ import annotations

import pytest
import torch

from hotloop import ops
from hotloop.ops import reference
from test_gather import DTYPES, draw, leaf


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tail", [(), (1,), (7,), (8, 3), (127,)], ids=str)
def test_equals_reference(tail: tuple[int, ...], dtype: torch.dtype) -> None:
    for rows, count in ((1, 1), (9, 0), (9, 5), (33, 31), (129, 40)):
        indices = torch.randperm(rows, generator=torch.Generator().manual_seed(1))[:count]
        target, source = leaf((rows, *tail), dtype), leaf((count, *tail), dtype, seed=5)
        expected = target.clone()
        reference.scatter_([expected], indices, [source])
        ops.scatter_([target], indices, [source])
        assert torch.equal(target, expected)


def test_the_last_duplicate_wins_whatever_the_threads(threads: None) -> None:
    indices = draw(5, 200)
    source = torch.arange(200.0)[:, None].expand(200, 3000).contiguous()
    expected = torch.zeros(5, 3000)
    reference.scatter_([expected], indices, [source])
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        target = torch.zeros(5, 3000)
        ops.scatter_([target], indices, [source])
        assert torch.equal(target, expected)


def test_strided_targets_and_casts() -> None:
    wide = torch.zeros(10, 8, 6, dtype=torch.float64)
    target, source = wide[::2, 1::2, 2:5], leaf((3, 4, 3), torch.uint8)
    indices = torch.tensor([4, 0, 2])
    expected = wide.clone()
    expected[::2, 1::2, 2:5][indices] = source.double()
    ops.scatter_([target], indices, [source])
    assert torch.equal(wide, expected)


def test_gather_undoes_scatter() -> None:
    target = torch.zeros(20, 5)
    source, indices = torch.randn(6, 5), torch.tensor([3, 19, 0, 7, 8, 2])
    ops.scatter_([target], indices, [source])
    assert torch.equal(ops.gather([target], indices)[0], source)


@pytest.mark.ends_the_gpu
def test_indices_are_checked_before_anything_is_written() -> None:
    target = torch.full((4, 2), 7.0)
    with pytest.raises(IndexError, match=r"scatter_: indices\[1\] must be in \[0, 4\)"):
        ops.scatter_([target], torch.tensor([0, 4]), [torch.zeros(2, 2)])
    assert (target == 7.0).all()


def test_errors_before_anything_is_written() -> None:
    target = torch.full((4, 2), 7.0)
    with pytest.raises(
        ValueError, match=r"scatter_: sources\[0\] must be of shape \[2, 2\], got float32 \[2, 3\]"
    ):
        ops.scatter_([target], torch.tensor([0, 1]), [torch.zeros(2, 3)])
    with pytest.raises(ValueError, match=r"scatter_: sources must be as long as targets \(1\), got length 2"):
        ops.scatter_([target], torch.tensor([0, 1]), [torch.zeros(2, 2)] * 2)
    with pytest.raises(ValueError, match=r"scatter_: targets\[0\] must be memory of its own"):
        ops.scatter_([target], torch.tensor([0, 1]), [target[:2]])
    with pytest.raises(
        ValueError, match=r"scatter_: targets\[0\] must be a tensor whose elements do not overlap"
    ):
        ops.scatter_([torch.zeros(2).expand(4, 2)], torch.tensor([0, 1]), [torch.zeros(2, 2)])
    assert (target == 7.0).all()
