"""Slow, obvious twins of the sampling ops, and the random numbers under them."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF
# Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, sec. 4.
_PHILOX_M0, _PHILOX_M1 = 0xD2511F53, 0xCD9E8D57
_PHILOX_W0, _PHILOX_W1 = 0x9E3779B9, 0xBB67AE85
#: last counter word of each consumer of random numbers, so that no two ever share a block
STREAM_PERMUTATION, STREAM_RACE = 1, 2


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
    weights = torch.ones(count, dtype=torch.float32)
    first = minibatch * count
    if law == "sequential":
        indices = torch.tensor([(first + i) % num_segments for i in range(count)], dtype=torch.int64)
    elif law == "permutation":
        order = permutation(num_segments, seed=seed, epoch=epoch)
        indices = torch.tensor([order[(first + i) % num_segments] for i in range(count)], dtype=torch.int64)
    elif law == "successive":
        if priorities is None:
            raise ValueError("sample_segments: law 'successive' needs priorities, got None")
        p = priorities.to(torch.float64)
        p = (p + 1e-6) / (p.sum() + 1e-6)
        bits = [
            random_bits64(i, seed=seed, epoch=epoch, minibatch=minibatch, stream=STREAM_RACE)
            for i in range(num_segments)
        ]
        uniform = torch.tensor([((b >> 11) + 1) * 2.0**-53 for b in bits], dtype=torch.float64)
        arrival = -torch.log(uniform) / p  # exponential race: the first `count` arrivals win
        indices = torch.sort(arrival, stable=True).indices[:count]
        weights = ((num_segments * p[indices]) ** -beta).to(torch.float32)
    else:
        raise ValueError(
            f"sample_segments: law must be 'sequential', 'permutation' or 'successive', got {law!r}"
        )
    if out is not None:
        return out[0].copy_(indices), out[1].copy_(weights)
    return indices, weights
