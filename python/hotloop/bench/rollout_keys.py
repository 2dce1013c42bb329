"""The buffer that the suites on data movement use: the keys of Metta's PPO, 628 bytes for an agent's step."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

OBSERVATION = (200, 3)
#: key -> (shape of one agent's step, dtype)
KEYS: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
    "env_obs": (OBSERVATION, torch.uint8),
    "dones": ((), torch.float32),
    "truncateds": ((), torch.float32),
    "rewards": ((), torch.float32),
    "act_log_prob": ((), torch.float32),
    "values": ((), torch.float32),
    "reward_baseline": ((), torch.float32),
    "actions": ((), torch.int32),
}
#: bytes of an agent's step: 600 of observations and seven numbers of 4
STEP_BYTES = sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in KEYS.values())


def step_leaves(agents: int, seed: int = 0) -> dict[str, Tensor]:
    """One step of every agent, `[agents, ...]`, of random numbers."""
    g = torch.Generator().manual_seed(seed)
    leaves = {}
    for key, (shape, dtype) in KEYS.items():
        if dtype.is_floating_point:
            leaves[key] = torch.randn(agents, *shape, generator=g)
        else:
            leaves[key] = torch.randint(0, 100, (agents, *shape), generator=g, dtype=dtype)
    return leaves


def fill(buffer: TensorDict) -> None:
    """Numbers that differ from row to row and from step to step (random ones would take seconds here)."""
    segments, horizon = buffer.batch_size
    for key, (shape, dtype) in KEYS.items():
        row = torch.arange(horizon * torch.Size(shape).numel()).reshape(1, horizon, *shape) % 101
        number = torch.arange(segments).reshape(segments, *[1] * (1 + len(shape))) % 131
        torch.add(row.to(dtype), number.to(dtype), out=buffer[key])
