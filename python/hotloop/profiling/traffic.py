"""Bytes that calls read and write at least, and how long a copy of as many takes on this machine."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

_SIZES = tuple(4**k << 14 for k in range(7))  # 16 KiB to 64 MiB, bytes of a copy's two sides
_SECONDS = 0.004  # spent on each size
_GATHERS = ("gather", "Tensor[rows]")  # of their sources they read what they copy


@dataclass
class Moved:
    """What one function did."""

    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0


class Traffic:
    """Adds up calls by name."""

    def __init__(self) -> None:
        self.moved: dict[str, Moved] = {}

    def add(
        self, name: str, seconds: float, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """A call: its tensors, arguments and results, count once each; what is gathered, once read and once
        written."""
        if name in _GATHERS:
            size = 2 * sum(x.numel() * x.element_size() for x in _tensors(result))
        else:
            given = (args, tuple(kwargs.values()), result)
            size = sum({id(x): x.numel() * x.element_size() for x in _tensors(given)}.values())
        moved = self.moved.setdefault(name, Moved())
        moved.calls += 1
        moved.seconds += seconds
        moved.bytes += size

    def rows(self) -> list[dict[str, Any]]:
        """By function: `name`, `calls`, `seconds`, `bytes`, `floor` (seconds that copies of as many
        bytes take at the mean size of a call) and `ratio` of seconds and floor."""
        if not self.moved:
            return []
        rates = copy_rates()
        rows = []
        for name, moved in self.moved.items():
            floor = moved.bytes / _rate(rates, moved.bytes / moved.calls)
            rows.append(
                {
                    "name": name, "calls": moved.calls, "seconds": moved.seconds, "bytes": moved.bytes,
                    "floor": floor, "ratio": moved.seconds / floor if floor else None,
                }
            )  # fmt: skip
        return sorted(rows, key=lambda row: -row["seconds"])


def copy_rates() -> dict[int, float]:
    """Bytes a second that `copy_` moves, both sides counted, by the bytes of a call; memory exists
    already."""
    rates = {}
    for size in _SIZES:
        source, target = torch.zeros(2, size // 8)  # float32: size / 2 bytes each
        target.copy_(source)
        times: list[float] = []
        end = perf_counter() + _SECONDS
        while len(times) < 3 or perf_counter() < end:
            start = perf_counter()
            target.copy_(source)
            times.append(perf_counter() - start)
        rates[size] = size / statistics.median(times)
    return rates


def _rate(rates: Mapping[int, float], size: float) -> float:
    """Of the nearest size."""
    return rates[min(rates, key=lambda known: max(known / max(size, 1.0), size / known))]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping) or hasattr(value, "batch_size"):  # a TensorDict is no Mapping
        for item in value.values():
            yield from _tensors(item)
