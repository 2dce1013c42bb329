"""Buffers and steps with the keys of the reference loop: 628 bytes an agent and step."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

F32 = torch.float32
SPEC: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
    "env_obs": ((200, 3), torch.uint8),
    **dict.fromkeys(
        ("dones", "truncateds", "rewards", "act_log_prob", "values", "reward_baseline"), ((), F32)
    ),
    "actions": ((), torch.int32),
}


def step(agents: int) -> TensorDict:
    """What a step stores, `[n]`."""
    g = torch.Generator().manual_seed(0)
    return TensorDict(
        {
            key: torch.randint(0, 9, (agents, *shape), generator=g).to(dtype)
            for key, (shape, dtype) in SPEC.items()
        },
        [agents],
    )


def plain_buffer(segments: int, horizon: int) -> TensorDict:
    """The buffer as the reference makes it, `[S, T]`."""
    leaves = {
        key: torch.zeros((segments, horizon, *shape), dtype=dtype) for key, (shape, dtype) in SPEC.items()
    }
    return TensorDict(leaves, [segments, horizon])


def size_of(leaves: list[Tensor]) -> int:
    """Bytes of them all."""
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves)
