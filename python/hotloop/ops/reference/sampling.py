"""Slow, obvious twins of the sampling ops, and the random numbers under them."""

from __future__ import annotations

import bisect
import itertools

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF
# Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, sec. 4.
_PHILOX_M0, _PHILOX_M1 = 0xD2511F53, 0xCD9E8D57
_PHILOX_W0, _PHILOX_W1 = 0x9E3779B9, 0xBB67AE85
#: last counter word of each consumer of random numbers, so that no two ever share a block
STREAM_PERMUTATION, STREAM_RACE, STREAM_REPLACEMENT, STREAM_ORDER, STREAM_OFFSET = 1, 2, 3, 4, 5
#: added to every priority, so that a segment of priority 0 stays reachable (PufferLib's and Metta's constant)
PRIORITY_FLOOR = 1e-6


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """One Philox4x32-10 block: four 32-bit words from a 128-bit counter and a 64-bit key."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _PHILOX_M0 * c0, _PHILOX_M1 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _MASK32, (p0 >> 32) ^ c3 ^ k1, p0 & _MASK32
        k0, k1 = (k0 + _PHILOX_W0) & _MASK32, (k1 + _PHILOX_W1) & _MASK32
    return c0, c1, c2, c3


def random_bits64(index: int, *, seed: int, epoch: int, minibatch: int, stream: int) -> int:
    """The 64 random bits number `index` of a stream; each Philox block yields two of them."""
    counter = (index >> 1, minibatch & _MASK32, epoch & _MASK32, stream)
    block = philox4x32(counter, (seed & _MASK32, (seed >> 32) & _MASK32))
    low, high = block[2 * (index & 1)], block[2 * (index & 1) + 1]
    return (high << 32) | low


def permutation(size: int, *, seed: int, epoch: int) -> list[int]:
    """A uniformly random permutation of `range(size)` for one epoch (Fisher and Yates, from the top down)."""
    order = list(range(size))
    for i in range(size - 1, 0, -1):
        bits = random_bits64(i, seed=seed, epoch=epoch, minibatch=0, stream=STREAM_PERMUTATION)
        j = (bits * (i + 1)) >> 64
        order[i], order[j] = order[j], order[i]
    return order


def inclusion_probabilities(weights: Tensor, count: int) -> Tensor:
    """`min(1, c * weights)`, float64 `[S]`, with the one c for which they add up to `count`: those that reach
    1 are set apart and the others scaled again until none does."""
    if count == len(weights):
        return torch.ones_like(weights)
    scale = 0.0
    capped = torch.zeros(len(weights), dtype=torch.bool)
    while True:
        scale = max(scale, float((count - capped.sum()) / weights[~capped].sum()))
        reached = weights * scale >= 1.0
        if reached.equal(capped) or int(reached.sum()) >= count:
            return torch.where(reached, 1.0, weights * scale)
        capped = reached


def _successive(w: Tensor, count: int, key: dict[str, int]) -> list[int]:
    bits = [random_bits64(i, stream=STREAM_RACE, **key) for i in range(len(w))]
    uniform = torch.tensor([((b >> 11) + 1) * 2.0**-53 for b in bits], dtype=torch.float64)
    arrival = -torch.log(uniform) / w  # exponential race: the first `count` arrivals win
    order: list[int] = torch.sort(arrival, stable=True).indices[:count].tolist()
    return order


def _with_replacement(w: Tensor, count: int, key: dict[str, int]) -> list[int]:
    ends = list(itertools.accumulate(w.tolist()))
    drawn = []
    for j in range(count):
        uniform = (random_bits64(j, stream=STREAM_REPLACEMENT, **key) >> 11) * 2.0**-53
        drawn.append(min(bisect.bisect_right(ends, uniform * ends[-1]), len(ends) - 1))
    return drawn


def _systematic(w: Tensor, count: int, key: dict[str, int]) -> list[int]:
    included = inclusion_probabilities(w, count).tolist()
    words = [
        random_bits64(i // 2, stream=STREAM_ORDER, **key) >> (32 * (i % 2)) & _MASK32 for i in range(len(w))
    ]
    offset = (random_bits64(0, stream=STREAM_OFFSET, **key) >> 11) * 2.0**-53
    drawn, end, points = [], 0.0, 0
    for i in sorted(range(len(w)), key=lambda i: (words[i], i)):
        if included[i] >= 1.0:
            drawn.append(i)
            continue
        end += included[i]
        if end > offset + points:  # a point lies in this segment; none is long enough for two
            drawn.append(i)
            points += 1
    return drawn


def sample_segments(
    priorities: Tensor | None,
    num_segments: int,
    count: int,
    *,
    law: str,
    seed: int,
    epoch: int,
    minibatch: int,
    beta: float = 1.0,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """`count` of `num_segments` segments and their importance weights; see `hotloop.ops.sample_segments`."""
    key = {"seed": seed, "epoch": epoch, "minibatch": minibatch}
    first = minibatch * count
    drawn: list[int]
    correction = torch.ones(num_segments, dtype=torch.float64)  # what beta is the exponent of
    if law == "sequential":
        drawn = [(first + i) % num_segments for i in range(count)]
    elif law == "permutation":
        order = permutation(num_segments, seed=seed, epoch=epoch)
        drawn = [order[(first + i) % num_segments] for i in range(count)]
    elif law in ("successive", "with_replacement", "systematic"):
        if priorities is None:
            raise ValueError(f"sample_segments: law {law!r} needs priorities, got None")
        total = priorities.to(torch.float64).sum()
        w = priorities.to(torch.float64) + PRIORITY_FLOOR
        if law == "successive":
            drawn = _successive(w, count, key)
            correction = (
                num_segments * w / (total + PRIORITY_FLOOR)
            )  # adds up to more than it should, as published
        elif law == "with_replacement":
            drawn = _with_replacement(w, count, key)
            correction = num_segments * w / w.sum()
        elif count > 0:
            drawn = _systematic(w, count, key)
            correction = num_segments / count * inclusion_probabilities(w, count)
        else:
            drawn = []
    else:
        raise ValueError(
            "sample_segments: law must be 'sequential', 'permutation', 'successive', 'with_replacement' or "
            f"'systematic', got {law!r}"
        )
    indices = torch.tensor(drawn, dtype=torch.int64)
    weights = (correction[indices] ** -beta).to(torch.float32)
    if out is not None:
        return out[0].copy_(indices), out[1].copy_(weights)
    return indices, weights
