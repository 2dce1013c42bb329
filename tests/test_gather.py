from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hotloop import ops
from hotloop.ops import reference

DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
)  # fmt: skip


def leaf(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 100, shape, generator=g).to(dtype)


def draw(rows: int, count: int) -> Tensor:
    return torch.randint(0, rows, (count,), generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(1,), (9,), (9, 1), (9, 7), (33, 8, 3), (9, 127), (9, 0), (129, 2, 1, 5)], ids=str
)
def test_equals_indexing(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    source = leaf(shape, dtype)
    for count in (0, 1, 7, 33, 129):
        indices = draw(shape[0], count)
        (result,) = ops.gather([source], indices)
        assert result.dtype == dtype
        assert torch.equal(result, source[indices])


def test_many_leaves_of_different_kinds_at_once() -> None:
    sources = [leaf((40, *tail), dtype) for tail in ((), (3,), (2, 5)) for dtype in DTYPES]
    indices = draw(40, 17)
    for result, source in zip(ops.gather(sources, indices), sources, strict=True):
        assert torch.equal(result, source[indices])


def test_no_leaves() -> None:
    assert ops.gather([], torch.zeros(0, dtype=torch.int64)) == []


def test_strided_sources_outputs_and_indices() -> None:
    base = leaf((40, 12, 10), torch.float32)
    indices = draw(20, 18)[::2]
    for source in (base[::2], base[:20, :, ::3], base[:20].transpose(1, 2), base[1:21, 2:9, 4:7]):
        expected = source[indices]
        (result,) = ops.gather([source], indices)
        assert torch.equal(result, expected)
        wide = torch.full((9, *[2 * n + 1 for n in expected.shape[1:]]), 7.0)
        out = wide[:, 1::2, 1::2]
        ops.gather([source], indices, out=[out])
        assert torch.equal(out, expected)
        out.fill_(7.0)
        assert (wide == 7.0).all(), "wrote outside of out"


@pytest.mark.parametrize("source_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("out_dtype", DTYPES, ids=str)
def test_casts_on_the_way_like_torch(source_dtype: torch.dtype, out_dtype: torch.dtype) -> None:
    source, indices = leaf((9, 33), source_dtype), draw(9, 12)
    out = torch.empty(12, 33, dtype=out_dtype)
    ops.gather([source], indices, out=[out])
    assert torch.equal(out, source[indices].to(out_dtype))


@pytest.mark.parametrize("out_dtype", [torch.float16, torch.bfloat16])
def test_rounding_to_half_precision_like_torch(out_dtype: torch.dtype) -> None:
    special = [
        0.0,
        -0.0,
        65504.0,
        65519.0,
        65520.0,
        1e30,
        6e-5,
        5.97e-8,
        2.9e-8,
        1e-40,
        float("inf"),
        float("nan"),
    ]
    g = torch.Generator().manual_seed(0)
    values = torch.cat(
        [torch.tensor(special), torch.randn(5000, generator=g) * 10 ** torch.randint(-8, 6, (5000,))]
    )
    source = torch.cat([values, -values])[None]
    out = torch.empty(1, source.shape[1], dtype=out_dtype)
    ops.gather([source], torch.tensor([0]), out=[out])
    torch.testing.assert_close(out, source.to(out_dtype), rtol=0, atol=0, equal_nan=True)
    back = torch.empty(1, source.shape[1])
    ops.gather([out], torch.tensor([0]), out=[back])
    torch.testing.assert_close(back, out.float(), rtol=0, atol=0, equal_nan=True)


def test_every_half_precision_number_widens_exactly() -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)[None]
    for dtype in (torch.float16, torch.bfloat16):
        source = bits.view(dtype)
        out = torch.empty(1, 2**16)
        ops.gather([source], torch.tensor([0]), out=[out])
        torch.testing.assert_close(out, source.float(), rtol=0, atol=0, equal_nan=True)


def test_bits_do_not_depend_on_threads(threads: None) -> None:
    sources = [leaf((300, 64, 60), torch.uint8), leaf((300, 64), torch.float32)]
    indices = draw(300, 100)
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        for result, expected in zip(
            ops.gather(sources, indices), reference.gather(sources, indices), strict=True
        ):
            assert torch.equal(result, expected)


@settings(max_examples=100, deadline=None)
@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    order=st.randoms(use_true_random=False),
    count=st.integers(0, 10),
)
def test_property_any_permuted_view(shape: list[int], order: object, count: int) -> None:
    dims = list(range(len(shape)))
    order.shuffle(dims)  # type: ignore[attr-defined]
    source = leaf(tuple(shape), torch.int32).permute(dims)
    indices = draw(source.shape[0], count)
    assert torch.equal(ops.gather([source], indices)[0], source[indices])


@pytest.mark.parametrize("bad", [-1, 9, 2**40, -(2**63)])
@pytest.mark.ends_the_gpu
def test_indices_are_checked_before_anything_is_written(bad: int) -> None:
    out = torch.full((3, 2), 7.0)
    with pytest.raises(IndexError, match=rf"gather: indices\[2\] must be in \[0, 9\) \(.*\), got {bad}"):
        ops.gather([torch.zeros(9, 2)], torch.tensor([0, 1, bad]), out=[out])
    assert (out == 7.0).all()


FIRST = torch.tensor([0])
zeros = torch.zeros


@pytest.mark.parametrize(
    ("sources", "indices", "out", "error", "message"),
    [
        (zeros(3, 2), [0], None, TypeError, "indices must be a torch.Tensor, got list"),
        ([zeros(3, 2)], torch.tensor([0.0]), None, TypeError, "indices must be int64, got float32"),
        ([zeros(3, 2)], FIRST[None], None, ValueError, r"indices must be \[k\], got int64 \[1, 1\]"),
        ([zeros(3), zeros(4)], FIRST, None, ValueError, r"sources\[1\] must be of size 3"),
        ([zeros(())], FIRST, [zeros(1)], ValueError, r"sources\[0\] must be of at least 1"),
        ([zeros(3)], FIRST, [], ValueError, r"out must be as long as sources \(1\), got length 0"),
        ([zeros(3, 2)], FIRST, [zeros(1, 3)], ValueError, r"out\[0\] must be of shape \[1, 2\]"),
    ],
)  # fmt: skip
def test_errors(sources: object, indices: object, out: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"gather: {message}"):
        ops.gather(sources, indices, out=out)  # type: ignore[arg-type]


def test_out_may_not_overlap_sources_or_another_leaf() -> None:
    pool = torch.zeros(6, 2)
    with pytest.raises(
        ValueError, match=r"out\[0\] must be memory of its own, got a tensor that overlaps sources\[0\]"
    ):
        ops.gather([pool[:3]], torch.tensor([0, 1]), out=[pool[2:4]])
    with pytest.raises(
        ValueError, match=r"out\[1\] must be memory of its own, got a tensor that overlaps out\[0\]"
    ):
        ops.gather([torch.zeros(3, 2)] * 2, torch.tensor([0, 1]), out=[pool[:2], pool[1:3]])
