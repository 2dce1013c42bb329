"""Sizes of the batches that an environment serves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EnvironmentCount:
    """``num_envs``: how many environments one batch holds (a ``BatchInfo``)."""

    num_envs: int
