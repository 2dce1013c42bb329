"""Nested buffers and steps for the tests of the plans."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from test_gather import leaf

F32 = torch.float32
#: a nested buffer whose leaves differ in dtype and width
SPEC: dict[Any, tuple[tuple[int, ...], torch.dtype]] = {
    "env_obs": ((5, 3), torch.uint8),
    "rewards": ((), F32),
    "actions": ((), torch.int32),
    "valid": ((), torch.bool),
    ("memory", "h"): ((7,), torch.bfloat16),
    ("memory", "deep", "age"): ((1,), torch.int64),
}


def tree(lead: tuple[int, ...], seed: int = 0, **dtypes: torch.dtype) -> TensorDict:
    td = TensorDict({}, batch_size=lead)
    for i, (key, (shape, dtype)) in enumerate(SPEC.items()):
        wanted = dtypes.get(key if isinstance(key, str) else key[-1], dtype)
        td[key] = leaf((*lead, *shape), wanted, seed=seed + i)
    return td


def flat(td: Any) -> dict[Any, Tensor]:
    return {key: td[key] for key in SPEC}


def assert_same(buffer: Any, expected: dict[Any, Tensor]) -> None:
    for key, wanted in expected.items():
        assert torch.equal(buffer[key], wanted), key


class Tagged(Tensor):
    """A subclass without a dispatch of its own."""
