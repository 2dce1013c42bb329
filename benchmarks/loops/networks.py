"""The networks: every contestant trains the same one, `obs -> (logits, value)`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .jobs import Job


def make_network(job: Job) -> nn.Module:
    """A network `[n, *obs_shape] -> ([n, actions], [n, 1])` with the orthogonal initialisation of CleanRL's
    PPO (gain sqrt(2), 0.01 for the logits, 1 for the value, biases 0), from torch's generator."""
    return (
        TokenNet(job.obs_size, job.actions)
        if job.obs_dtype == "uint8"
        else TwoTrunks(job.obs_size, job.actions)
    )


class TwoTrunks(nn.Module):
    """Separate actor and critic, as CleanRL's `ppo.py` has them: each `obs -> 64 tanh -> 64 tanh -> out`."""

    def __init__(self, inputs: int, actions: int, width: int = 64) -> None:
        super().__init__()
        self.actor = _trunk(inputs, width, actions, 0.01)
        self.critic = _trunk(inputs, width, 1, 1.0)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(obs), self.critic(obs)


class Scale(nn.Module):
    """uint8 to floats between 0 and 1."""

    def forward(self, obs: Tensor) -> Tensor:
        return obs.to(torch.float32) / 255.0


class TokenNet(nn.Module):
    """One trunk for both: `uint8 / 255 -> 128 relu`, then one layer each for the logits and the value."""

    def __init__(self, inputs: int, actions: int, width: int = 128) -> None:
        super().__init__()
        self.scale: nn.Module = Scale()
        self.trunk = linear(inputs, width, math.sqrt(2.0))
        self.actor = linear(width, actions, 0.01)
        self.critic = linear(width, 1, 1.0)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.relu(self.trunk(self.scale(obs.flatten(1))))
        return self.actor(hidden), self.critic(hidden)


def linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def _trunk(inputs: int, width: int, outputs: int, last_gain: float) -> nn.Sequential:
    gain = math.sqrt(2.0)
    return nn.Sequential(
        linear(inputs, width, gain), nn.Tanh(),
        linear(width, width, gain), nn.Tanh(),
        linear(width, outputs, last_gain),
    )  # fmt: skip
