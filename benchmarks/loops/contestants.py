"""What a contestant is, and the modules they are in, by name."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import nn

from .environments import AbsentError, Vector
from .jobs import Job

__all__ = ["CONTESTANTS", "AbsentError", "Contestant", "make_contestant"]


class Contestant(ABC):
    """One training loop. `network` is what it trains; its weights may be set from outside between epochs."""

    job: Job
    network: nn.Module
    note: str = ""

    @abstractmethod
    def epoch(self) -> None:
        """One rollout and the updates that follow it."""

    @abstractmethod
    def take_returns(self) -> list[float]:
        """Returns of the episodes that ended since the last call, in the order in which they did."""

    def profile(self, epochs: int) -> list[dict[str, float]]:
        """Seconds by phase of some more epochs; nothing where it has no profile."""
        return []

    @abstractmethod
    def close(self) -> None:
        """Releases the environments."""


class VectorContestant(Contestant):
    """A contestant that steps a `Vector`."""

    vector: Vector

    def take_returns(self) -> list[float]:
        finished = list(self.vector.finished)
        self.vector.finished.clear()
        return finished

    def close(self) -> None:
        self.vector.close()


CONTESTANTS: Mapping[str, str] = {
    "hotloop": "contest_hotloop",
    "hotloop-plain": "contest_hotloop_plain",
    "cleanrl": "contest_cleanrl",
    "leanrl": "contest_leanrl",
    "sb3": "contest_sb3",
    "sb3-native": "contest_sb3_native",
    "puffer": "contest_puffer",
    "reference": "contest_reference",
    "bare": "contest_bare",
}


def make_contestant(name: str, job: Job, *, threads: int, seed: int) -> Contestant:
    """A contestant at a job. `threads`: torch's, set already, and those of the environment's pool.

    Raises:
        AbsentError: it cannot take part.
    """
    module = importlib.import_module(f".{CONTESTANTS[name]}", __package__)
    torch.manual_seed(seed)
    contestant: Contestant = module.make(job, threads, seed)
    return contestant
