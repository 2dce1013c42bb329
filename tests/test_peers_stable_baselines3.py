"""`gae` beside Stable-Baselines3's rollout buffer, where that is installed (extra `peers`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from hotloop import ops

pytestmark = pytest.mark.peers


@pytest.fixture
def buffers() -> Any:
    return pytest.importorskip("stable_baselines3.common.buffers", reason="stable-baselines3 is missing")


@pytest.mark.parametrize(("steps", "environments"), [(1, 1), (5, 3), (128, 9), (257, 33)])
@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0)])
def test_agrees_with_compute_returns_and_advantage(
    buffers: Any, steps: int, environments: int, gamma: float, gae_lambda: float
) -> None:
    g = np.random.default_rng(0)
    shape = (steps, environments)
    values, rewards = (g.standard_normal(shape, np.float32) for _ in range(2))
    last_values = g.standard_normal(environments, np.float32)
    dones = g.random(shape) < 0.1
    box = spaces.Box(-1, 1, (1,))
    theirs = buffers.RolloutBuffer(
        steps, box, box, device="cpu", gae_lambda=gae_lambda, gamma=gamma, n_envs=environments
    )
    theirs.values, theirs.rewards = values, rewards
    # episode_starts[t] says that the action before t ended an episode
    theirs.episode_starts[1:] = dones[:-1]
    theirs.compute_returns_and_advantage(torch.from_numpy(last_values), dones[-1].astype(np.float32))

    advantages, returns = ops.gae(
        *map(torch.from_numpy, (rewards, values, dones)),
        last_values=torch.from_numpy(last_values),
        gamma=gamma,
        gae_lambda=gae_lambda,
        time_major=True,
    )
    atol = 2e-6 * max(1.0, float(np.abs(theirs.advantages).max()))
    torch.testing.assert_close(advantages, torch.from_numpy(theirs.advantages), rtol=2e-6, atol=atol)
    torch.testing.assert_close(returns, torch.from_numpy(theirs.returns), rtol=2e-6, atol=atol)
