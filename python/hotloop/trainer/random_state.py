"""The generators of random numbers that a run may draw from: torch's, NumPy's and Python's global ones.

Those of the environments belong to the environments' own state, and the draws of minibatches are functions of
seed and counters that the loop saves.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seeds the three."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def rng_state() -> dict[str, Any]:
    """Their states; of torch's the CPU's and, when CUDA is in use, every device's."""
    in_use = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if in_use else [],
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restores what `rng_state` returned; states of CUDA devices that are not here are left out."""
    torch.set_rng_state(state["cpu"])
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index, device_state in enumerate(state["cuda"][:available]):
        torch.cuda.set_rng_state(device_state, index)
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])


@contextmanager
def separate_draws(seed: int) -> Iterator[None]:
    """Inside, the generators are seeded with `seed`; afterwards they go on as if nothing had been drawn."""
    before = rng_state()
    seed_everything(seed)
    try:
        yield
    finally:
        set_rng_state(before)
