"""What a suite is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """`shapes`: None for a suite's own. `peers`: other systems too. `rotate`: go through several sets of
    inputs where real runs have that much data. `only`: names of ops; None for all."""

    shapes: tuple[tuple[int, int], ...] | None = None
    peers: bool = False
    rotate: bool = True
    only: tuple[str, ...] | None = None

    def wants(self, op: str) -> bool:
        return self.only is None or op in self.only
