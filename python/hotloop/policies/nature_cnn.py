"""The convolutional network that learnt to play Atari games."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hotloop.policies.actions import ActionSpec
from hotloop.policies.activations import Pixels
from hotloop.policies.actor_critic import ActorCriticPolicy
from hotloop.policies.mlp import orthogonal_linear

#: Smallest height and width that the three convolutions leave a pixel of.
SMALLEST = 36


class NatureCNNPolicy(ActorCriticPolicy):
    """Three convolutions and a wide layer, shared by a head for actions and one for the value.

    The trunk is that of Mnih et al. (2015), "Human-level control through deep reinforcement learning": 32
    filters of 8 x 8 at stride 4, 64 of 4 x 4 at stride 2, 64 of 3 x 3 at stride 1, and 512 units, rectified
    each. Orthogonal initialisation with gain sqrt(2), 0.01 in the head for actions and 1 in that for the
    value, as "The 37 Implementation Details of Proximal Policy Optimization" (Huang et al. 2022) has it.

    Parameters
    ----------
    obs_shape
        ``(channels, height, width)``, stacked frames as channels; ``(4, 84, 84)`` in the paper. They are
        stored as uint8 and divided by 255 inside.
    action
        `ActionSpec`, gymnasium-like action space, or number of discrete actions.
    width
        Units after the convolutions.
    log_std_init
        Start of the log standard deviation of continuous actions.
    """

    def __init__(
        self, obs_shape: Sequence[int], action: Any, *, width: int = 512, log_std_init: float = 0.0
    ) -> None:
        shape = tuple(obs_shape)
        if len(shape) != 3 or min(shape[1:]) < SMALLEST:
            raise ValueError(
                "NatureCNNPolicy: obs_shape must be (channels, height, width) of at least "
                f"{SMALLEST} x {SMALLEST} pixels, got {shape}"
            )
        super().__init__(action, shape, torch.uint8)
        spec = self.action_spec
        continuous = spec.kind == "continuous"
        layers: list[nn.Module] = []
        channels, rows, columns = shape
        for filters, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            layer = nn.Conv2d(channels, filters, size, stride)
            nn.init.orthogonal_(layer.weight, math.sqrt(2.0))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.ReLU()]
            channels, rows, columns = filters, (rows - size) // stride + 1, (columns - size) // stride + 1
        wide = orthogonal_linear(channels * rows * columns, width, math.sqrt(2.0))
        self.trunk = nn.Sequential(*layers, nn.Flatten(), wide, nn.ReLU())
        self.actor = orthogonal_linear(width, spec.width if continuous else spec.num_logits, 0.01)
        self.critic = orthogonal_linear(width, 1, 1.0)
        self._pixels = Pixels()
        self.log_std = nn.Parameter(torch.full((spec.width,), float(log_std_init))) if continuous else None

    @classmethod
    def from_spaces(cls, observation_space: Any, action_space: Any, **options: Any) -> NatureCNNPolicy:
        """Build from gymnasium-like spaces; `options` are the keyword arguments of the constructor.

        Raises TypeError where the observations are not uint8 images ``[channels, height, width]``.
        """
        if not reads_images(observation_space):
            raise TypeError(
                "NatureCNNPolicy.from_spaces: observation_space must be a Box of uint8 [channels, height, "
                f"width] of at least {SMALLEST} x {SMALLEST} pixels, got {observation_space}"
            )
        return cls(tuple(observation_space.shape), ActionSpec.from_space(action_space), **options)

    def logits_and_value(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``[n, channels, height, width]`` to logits ``[n, num_logits]`` and values ``[n]``."""
        dtype = self.critic.weight.dtype
        x = self.trunk(self._pixels(obs) if dtype == torch.float32 else obs.to(dtype) / 255.0)
        logits: Tensor = self.actor(x)
        if self.log_std is not None:
            logits = torch.cat((logits, self.log_std.expand_as(logits)), dim=-1)
        value: Tensor = self.critic(x)
        return logits, value.squeeze(-1)


def reads_images(observation_space: Any) -> bool:
    """Whether a space holds uint8 ``[channels, height, width]`` of at least 36 x 36 pixels.

    The channels come first: at most 16 of them, fewer than rows and columns.
    """
    shape: tuple[int, ...] = tuple(getattr(observation_space, "shape", None) or ())
    return (
        len(shape) == 3
        and shape[0] <= 16
        and min(shape[1:]) >= SMALLEST
        and str(getattr(observation_space, "dtype", "")) == "uint8"
    )
