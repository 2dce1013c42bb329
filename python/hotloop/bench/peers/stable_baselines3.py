"""Stable-Baselines3's `RolloutBuffer.compute_returns_and_advantage`, in numpy, `[T, N]`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hotloop.bench.case import Contestant
from hotloop.bench.estimators import GAMMA, LAMBDA


def contestants(op: str, layout: str, inputs: Sequence[Any]) -> Iterator[Contestant]:
    from stable_baselines3.common import buffers as theirs

    box = theirs.spaces.Box(-1, 1, (1,))
    buffers, calls = [], []
    for x in inputs:
        buffer: Any = theirs.RolloutBuffer(
            x.steps, box, box, device="cpu", gae_lambda=LAMBDA, gamma=GAMMA, n_envs=x.rows
        )
        buffer.values, buffer.rewards = x.values.numpy(), x.rewards.numpy()
        # episode_starts[t] says that the action before t ended an episode
        buffer.episode_starts[1:] = x.terminated[:-1].numpy()
        last_dones = x.terminated[-1].numpy().astype(np.float32)
        buffers.append(buffer)
        calls.append(partial(buffer.compute_returns_and_advantage, x.last_values, last_dones))

    def result(_: object) -> list[Tensor]:
        return [torch.from_numpy(buffers[0].advantages), torch.from_numpy(buffers[0].returns)]

    yield Contestant("RolloutBuffer", "peer", calls, result)
