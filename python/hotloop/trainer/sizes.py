"""Sizes of a run that fit each other, and what to say where they do not."""

from __future__ import annotations


def fitting_sizes(
    *, num_envs: int, horizon: int, batch_size: int | None, minibatch_size: int | None, accumulate: int
) -> tuple[int, int]:
    """`(batch_size, minibatch_size)` in agent steps, filled in where they are None.

    Raises:
        ValueError: they do not divide; the message names the field, its value and the nearest that work.
    """
    slab = num_envs * horizon
    batch = slab if batch_size is None else batch_size
    if batch % slab:
        raise ValueError(
            f"rollout.batch_size must be a multiple of num_envs * rollout.horizon = {num_envs} * "
            f"{horizon} = {slab}, got {batch}: {_either(_around(batch, slab))} would work"
        )
    segments = batch // horizon
    if segments % accumulate:
        raise ValueError(
            f"rollout.accumulate must divide the {segments} segments of an epoch (rollout.batch_size / "
            f"rollout.horizon = {batch} / {horizon}), got {accumulate}: "
            f"{_either(_nearest(_divisors(segments), accumulate))} would work"
        )
    fitting = [n for n in _divisors(segments) if n % accumulate == 0]
    if minibatch_size is None:
        # A quarter of the epoch, or what comes next.
        quarter = max(1, segments // 4)
        return batch, horizon * max([n for n in fitting if n <= quarter], default=fitting[0])
    if minibatch_size not in [horizon * n for n in fitting]:
        parts = f" in {accumulate} equal parts (rollout.accumulate)" if accumulate > 1 else ""
        raise ValueError(
            f"rollout.minibatch_size must be whole segments of {horizon} steps{parts} and divide "
            f"rollout.batch_size = {batch}, got {minibatch_size}: "
            f"{_either(_nearest([horizon * n for n in fitting], minibatch_size))} would work"
        )
    return batch, minibatch_size


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _around(value: int, unit: int) -> list[int]:
    return sorted({max(unit, value // unit * unit), (value // unit + 1) * unit})


def _nearest(candidates: list[int], value: int) -> list[int]:
    below = [c for c in candidates if c <= value][-1:]
    above = [c for c in candidates if c > value][:1]
    return below + above


def _either(values: list[int]) -> str:
    return " or ".join(map(str, values))
