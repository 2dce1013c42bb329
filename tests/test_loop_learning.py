"""The loop with the real losses and a real policy learns, whichever way minibatches are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hotloop.context import ComponentContext, LoopConfig
from hotloop.experience import Experience
from hotloop.loop import CoreTrainingLoop
from hotloop.losses import ppo_losses
from hotloop.policies import MLPPolicy
from loop_support import ScriptedEnv

AGENTS, HORIZON = 16, 8


class MatchEnv(ScriptedEnv):
    """One step, one choice: reward 1 for the action that equals the agent's parity, else 0."""

    autoreset = "same_step"

    def __init__(self) -> None:
        super().__init__([slice(0, AGENTS)], terminal=lambda agents, t: torch.full((len(agents),), t > 0))
        self.reward = lambda agents, t: self.outcome
        self.outcome = torch.zeros(AGENTS)

    def observation(self, agents: Tensor, t: int) -> Tensor:
        return torch.nn.functional.one_hot(agents % 2, 3).float()

    def send_actions(self, actions: np.ndarray[Any, Any]) -> None:
        self.outcome = (torch.from_numpy(actions) == self.agents % 2).float()

    def final_observations(self) -> None:
        return None


@pytest.mark.parametrize(
    ("method", "fused"),
    [("sequential", False), ("permutation", False), ("prioritized", False), ("prioritized", True)],
)
def test_ppo_learns_to_match(method: str, fused: bool) -> None:
    torch.manual_seed(0)
    batch = AGENTS * HORIZON
    policy = MLPPolicy((3,), 2, hidden=(16,))
    losses = ppo_losses(policy, fused=fused)
    sampling = {"method": method, "prio_alpha": 0.5}
    config = LoopConfig(
        batch_size=batch,
        minibatch_size=batch // 2,
        bptt_horizon=HORIZON,
        sampling=sampling,
        total_timesteps=10**4,
    )
    experience = Experience.from_losses(
        AGENTS, batch, HORIZON, batch // 2, None, policy.get_agent_experience_spec(), losses, "cpu"
    )
    context = ComponentContext(config=config)
    optimizer = torch.optim.Adam(policy.parameters(), 0.02)
    loop = CoreTrainingLoop(policy, experience, losses, optimizer, torch.device("cpu"), context)
    env = MatchEnv()
    rewards = []
    for _ in range(25):
        context.reset_for_epoch()
        loop.on_epoch_start(context)
        result = loop.rollout_phase(env, context)
        context.record_rollout(result.agent_steps)
        rewards.append(experience.stats()["rewards"])
        stats, epochs = loop.training_phase(context, 2)
        context.advance_epoch(epochs)
    assert rewards[0] < 0.75
    assert rewards[-1] > 0.9
    assert context.epoch == 50
    assert all(np.isfinite(list(stats.values())))
    assert stats["explained_variance"] > 0.5 or stats["value_loss"] < 0.02
