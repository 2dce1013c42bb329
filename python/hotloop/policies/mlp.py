"""The default policy: separate tanh networks for actor and critic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hotloop.policies.actions import ActionSpec
from hotloop.policies.actor_critic import ActorCriticPolicy


class MLPPolicy(ActorCriticPolicy):
    """Two tanh networks of equal size, one for the action distribution and one for the value.

    Orthogonal initialisation with gain sqrt(2) in hidden layers, 0.01 in the last layer of the actor (so that
    the first policy is nearly uniform) and 1 in that of the critic; biases start at 0. These are the choices
    found to matter by "The 37 Implementation Details of Proximal Policy Optimization" (Huang et al. 2022).

    Parameters
    ----------
    obs_shape
        Shape of one agent's observation; it is flattened.
    action
        `ActionSpec`, gymnasium-like action space, or number of discrete actions.
    hidden
        Widths of the hidden layers.
    obs_dtype
        Stored dtype. uint8 observations are divided by 255.
    one_hot
        For integer observations that name one of this many states (``obs_shape`` is then usually ``()``):
        each number becomes that many inputs.
    log_std_init
        Start of the log standard deviation of continuous actions, one learnt number per component that does
        not depend on the observation.
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        action: Any,
        *,
        hidden: Sequence[int] = (64, 64),
        obs_dtype: torch.dtype = torch.float32,
        one_hot: int | None = None,
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__(action, obs_shape, obs_dtype)
        if any(width < 1 for width in hidden):
            raise ValueError(f"MLPPolicy: hidden must be widths of at least 1, got {tuple(hidden)}")
        if one_hot is not None and (one_hot < 1 or obs_dtype.is_floating_point):
            raise ValueError(
                "MLPPolicy: one_hot must be positive and needs an integer obs_dtype, "
                f"got {one_hot} and {obs_dtype}"
            )
        self.one_hot = one_hot
        spec = self.action_spec
        inputs = math.prod(self.obs_shape) * (one_hot or 1)
        continuous = spec.kind == "continuous"
        self.actor = _mlp([inputs, *hidden, spec.width if continuous else spec.num_logits], last_gain=0.01)
        self.critic = _mlp([inputs, *hidden, 1], last_gain=1.0)
        self.log_std = nn.Parameter(torch.full((spec.width,), float(log_std_init))) if continuous else None

    @classmethod
    def from_spaces(cls, observation_space: Any, action_space: Any, **options: Any) -> MLPPolicy:
        """Build from gymnasium-like spaces (recognised by behaviour): a Box, MultiDiscrete or MultiBinary
        observation (its shape and dtype; float64 is stored as float32), or a Discrete one (one-hot).
        `options` are the keyword arguments of the constructor.

        Raises TypeError for an observation space of another kind.
        """
        shape = getattr(observation_space, "shape", None)
        dtype = getattr(torch, str(getattr(observation_space, "dtype", "")), None)
        if shape is None or not isinstance(dtype, torch.dtype):
            raise TypeError(
                "MLPPolicy.from_spaces: observation_space must have a shape and a numeric dtype, got "
                f"{type(observation_space).__name__}"
            )
        n = getattr(observation_space, "n", None)
        if n is not None and tuple(shape) == ():
            if int(getattr(observation_space, "start", 0)) != 0:
                raise ValueError("MLPPolicy.from_spaces: a Discrete observation_space must start at 0")
            options.setdefault("one_hot", int(n))
        options.setdefault("obs_dtype", torch.float32 if dtype == torch.float64 else dtype)
        return cls(tuple(shape), ActionSpec.from_space(action_space), **options)

    def logits_and_value(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Observations ``[n, *obs_shape]`` to logits ``[n, num_logits]`` and values ``[n]``."""
        if self.one_hot is not None:
            obs = nn.functional.one_hot(obs.to(torch.int64), self.one_hot)
        elif obs.dtype == torch.uint8:
            obs = obs.to(torch.float32) / 255.0
        x = obs.reshape(obs.shape[0], -1).to(torch.float32)
        logits: Tensor = self.actor(x)
        if self.log_std is not None:
            logits = torch.cat((logits, self.log_std.expand_as(logits)), dim=-1)
        value: Tensor = self.critic(x)
        return logits, value.squeeze(-1)


def _mlp(widths: Sequence[int], *, last_gain: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        last = i == len(widths) - 2
        linear = nn.Linear(fan_in, fan_out)
        nn.init.orthogonal_(linear.weight, last_gain if last else math.sqrt(2.0))
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, nn.Tanh()]
    return nn.Sequential(*layers)
