"""Tensors in every memory layout that a user may hand to an op, and sizes that straddle its block sizes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# around the vector widths (8, 16), the tile (8 rows, 128 steps) and a lane block (256 rows)
SIZES = (0, 1, 7, 8, 9, 31, 33, 127, 129, 257)
SHAPES = [(s, t) for s in (0, 1, 7, 8, 9, 33) for t in SIZES] + [(257, 3), (300, 1), (256, 129)]
FLAG_DTYPES = (torch.bool, torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


HALF_DTYPES = (torch.bfloat16, torch.float16)


def contiguous(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def transposed(x: Tensor) -> Tensor:
    """Time-major memory seen as `[S, T]`."""
    return x.t().contiguous().t()


def strided(x: Tensor) -> Tensor:
    """Every third column of a wider buffer, at an offset."""
    wide = torch.full((x.shape[0] + 1, 3 * x.shape[1] + 2), 7, dtype=x.dtype)
    view = wide[1:, 2::3][:, : x.shape[1]]
    return view.copy_(x)


def row_strided(x: Tensor) -> Tensor:
    """Contiguous rows, every second row of a buffer, rows at an odd offset."""
    wide = torch.full((2 * x.shape[0] + 1, x.shape[1] + 3), 7, dtype=x.dtype)
    view = wide[1::2, 1 : x.shape[1] + 1][: x.shape[0]]
    return view.copy_(x)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": contiguous,
    "transposed": transposed,
    "strided": strided,
    "row_strided": row_strided,
}


def random_flags(shape: tuple[int, int], generator: torch.Generator, rate: float = 0.15) -> Tensor:
    return torch.rand(shape, generator=generator) < rate


def same(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit, NaN counting as equal to NaN."""
    return torch.equal(torch.nan_to_num(a, nan=12345.0), torch.nan_to_num(b, nan=12345.0)) and torch.equal(
        a.isnan(), b.isnan()
    )
