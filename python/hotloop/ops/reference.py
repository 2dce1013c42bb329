"""The slow, obvious twin of every op, in plain torch.

These definitions are what the native kernels are tested against. They are written to be read: a loop over
time where the formula has one, no vectorisation tricks, no reuse of buffers. Signatures equal those of
`hotloop.ops`.

Arithmetic is done in the dtype of `values` (`advantages` for priorities), one rounding per operation, in the
order of the formulas, so that a float32 kernel that keeps the order agrees to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF
# Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, sec. 4.
_PHILOX_M0, _PHILOX_M1 = 0xD2511F53, 0xCD9E8D57
_PHILOX_W0, _PHILOX_W1 = 0x9E3779B9, 0xBB67AE85
#: last counter word of each consumer of random numbers, so that no two ever share a block
STREAM_PERMUTATION, STREAM_RACE = 1, 2


def puff_advantage(
    values: Tensor,
    rewards: Tensor,
    dones: Tensor,
    importance: Tensor,
    gamma: float,
    gae_lambda: float,
    rho_clip: float = 1.0,
    c_clip: float = 1.0,
    *,
    next_values: Tensor | None = None,
    next_rewards: Tensor | None = None,
    next_dones: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Arrival-indexed V-trace-clipped GAE on `[S, T]`; see `hotloop.ops.puff_advantage`."""
    segments, horizon = values.shape
    dtype = values.dtype
    rewards, importance, dones = rewards.to(dtype), importance.to(dtype), dones.to(dtype)
    gamma_t = torch.tensor(gamma, dtype=dtype)
    decay = gamma_t * torch.tensor(gae_lambda, dtype=dtype)
    advantages = torch.zeros(segments, horizon, dtype=dtype)
    trace = torch.zeros(segments, dtype=dtype)
    for t in reversed(range(horizon)):
        if t + 1 < horizon:
            value_next, reward_next, done_next = values[:, t + 1], rewards[:, t + 1], dones[:, t + 1]
        elif next_values is not None and next_rewards is not None and next_dones is not None:
            value_next, reward_next, done_next = next_values, next_rewards.to(dtype), next_dones.to(dtype)
        else:
            continue  # nothing is known of what arrives after the last step: the column stays zero
        alive = 1 - done_next
        rho = importance[:, t].clamp(max=rho_clip)
        c = importance[:, t].clamp(max=c_clip)
        delta = rho * (reward_next + gamma_t * alive * value_next - values[:, t])
        trace = delta + decay * c * alive * trace
        advantages[:, t] = trace
    return advantages if out is None else out.copy_(advantages)


def gae(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor | None = None,
    *,
    last_values: Tensor,
    truncation_values: Tensor | None = None,
    valid: Tensor | None = None,
    gamma: float,
    gae_lambda: float,
    time_major: bool = False,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Departure-indexed GAE on `[N, T]` (or `[T, N]`); see `hotloop.ops.gae`."""
    if time_major:
        rewards, values, terminated = rewards.T, values.T, terminated.T
        truncated = None if truncated is None else truncated.T
        truncation_values = None if truncation_values is None else truncation_values.T
        valid = None if valid is None else valid.T
    if truncated is not None and truncation_values is None and truncated.any():
        raise ValueError("gae: truncation_values must be given when truncated has true entries, got None")
    dtype = values.dtype
    rows, horizon = values.shape
    gamma_t = torch.tensor(gamma, dtype=dtype)
    decay = gamma_t * torch.tensor(gae_lambda, dtype=dtype)
    advantages, returns = torch.zeros(rows, horizon, dtype=dtype), torch.zeros(rows, horizon, dtype=dtype)
    for n in range(rows):
        trace = torch.zeros((), dtype=dtype)
        for t in reversed(range(horizon)):
            if valid is not None and not valid[n, t]:
                trace = torch.zeros((), dtype=dtype)  # the trace does not cross a filler step
                returns[n, t] = values[n, t]
                continue
            ends = bool(truncated[n, t]) if truncated is not None else False
            if terminated[n, t]:
                next_value, ends = torch.zeros((), dtype=dtype), True
            elif ends and truncation_values is not None:
                next_value = truncation_values[n, t].to(dtype)
            else:
                next_value = values[n, t + 1] if t + 1 < horizon else last_values[n].to(dtype)
            delta = rewards[n, t].to(dtype) + gamma_t * next_value - values[n, t]
            trace = delta if ends else delta + decay * trace
            advantages[n, t] = trace
            returns[n, t] = trace + values[n, t]
    if time_major:
        advantages, returns = advantages.T.contiguous(), returns.T.contiguous()
    if out is not None:
        return out[0].copy_(advantages), out[1].copy_(returns)
    return advantages, returns


def row_priorities(advantages: Tensor, alpha: float = 1.0, *, out: Tensor | None = None) -> Tensor:
    """`(sum_t |A[i, t]|) ** alpha` per row; a row whose sum or power is not finite counts as 0."""
    total = advantages.abs().sum(dim=1)
    powered = torch.where(total.isfinite(), total**alpha, torch.zeros_like(total))
    priorities = torch.nan_to_num(powered, 0.0, 0.0, 0.0)
    return priorities if out is None else out.copy_(priorities)


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


def gather(
    sources: Sequence[Tensor], indices: Tensor, *, out: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """`[s[indices] for s in sources]`, cast to the dtypes of `out` where given."""
    if out is None:
        return [source[indices] for source in sources]
    return [target.copy_(source[indices]) for target, source in zip(out, sources, strict=True)]


def scatter_(targets: Sequence[Tensor], indices: Tensor, sources: Sequence[Tensor]) -> None:
    """`target[indices] = source` for every pair, in the order of `indices` (the last duplicate wins)."""
    for target, source in zip(targets, sources, strict=True):
        for i, row in enumerate(indices.tolist()):
            target[row] = source[i].to(target.dtype)


def store_(buffers: Sequence[Tensor], sources: Sequence[Tensor], rows: Tensor, positions: Tensor) -> None:
    """`buffer[rows[i], positions[i]] = source[i]` for every pair and agent, cast to the buffer's dtype."""
    for buffer, source in zip(buffers, sources, strict=True):
        for i, (row, position) in enumerate(zip(rows.tolist(), positions.tolist(), strict=True)):
            buffer[row, position] = source[i].to(buffer.dtype)


class LastActions:
    """The last action of every agent, `[A, k]`; see `hotloop.ops.LastActions`."""

    def __init__(
        self, num_agents: int, width: int = 1, dtype: torch.dtype = torch.int32, device: str = "cpu"
    ) -> None:
        self.buffer = torch.zeros(num_agents, width, dtype=dtype, device=device)

    def read(
        self, start: int, stop: int, *, dones: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        actions = self.buffer[start:stop].clone()
        if dones is not None:
            actions[dones.bool()] = 0
        return actions if out is None else out.copy_(actions)

    def write_(self, actions: Tensor, start: int, stop: int) -> None:
        self.buffer[start:stop] = actions.reshape(stop - start, self.buffer.shape[1]).to(self.buffer.dtype)

    def reset_(self) -> None:
        self.buffer.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        return {"buffer": self.buffer.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.buffer.copy_(state["buffer"])


class RowCursors:
    """Which row and position each agent writes next; see `hotloop.ops.RowCursors`."""

    def __init__(self, total_agents: int, segments: int, horizon: int) -> None:
        self.segments, self.horizon = segments, horizon
        self.rows = torch.zeros(total_agents, dtype=torch.int64)
        self.positions = torch.zeros(total_agents, dtype=torch.int64)
        self.reset()

    def reset(self) -> None:
        agents = len(self.rows)
        self.rows.copy_(torch.arange(agents) % self.segments)
        self.positions.zero_()
        self.free_idx, self.full_rows = agents % self.segments, 0

    def position(self, start: int) -> int:
        return int(self.positions[start])

    def advance(self, start: int, stop: int) -> None:
        self.positions[start:stop] += 1
        for agent in range(start, stop):
            if self.positions[agent] >= self.horizon:
                self.rows[agent] = self.free_idx
                self.positions[agent] = 0
                self.free_idx = (self.free_idx + 1) % self.segments
                self.full_rows += 1
