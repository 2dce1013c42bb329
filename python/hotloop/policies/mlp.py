"""The default policy: separate tanh networks for actor and critic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hotloop.policies.actions import ActionSpec
from hotloop.policies.activations import Pixels, Tanh
from hotloop.policies.actor_critic import ActorCriticPolicy
from hotloop.policies.pixel_linear import PixelLinear


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
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__(action, obs_shape, obs_dtype)
        if any(width < 1 for width in hidden):
            raise ValueError(f"MLPPolicy: hidden must be widths of at least 1, got {tuple(hidden)}")
        spec = self.action_spec
        inputs = self.obs_shape.numel()
        continuous = spec.kind == "continuous"
        self._takes_bytes = obs_dtype == torch.uint8
        outputs = spec.width if continuous else spec.num_logits
        self.actor = _mlp([inputs, *hidden, outputs], last_gain=0.01, takes_bytes=self._takes_bytes)
        self.critic = _mlp([inputs, *hidden, 1], last_gain=1.0, takes_bytes=self._takes_bytes)
        self._pixels = Pixels()
        self.log_std = nn.Parameter(torch.full((spec.width,), float(log_std_init))) if continuous else None

    @classmethod
    def from_spaces(cls, observation_space: Any, action_space: Any, **options: Any) -> MLPPolicy:
        """Build from gymnasium-like spaces, recognised by behaviour.

        `observation_space` has a shape and a numeric dtype (Box, MultiBinary, ...; float64 is stored as
        float32). `options` are the keyword arguments of the constructor.

        Raises TypeError for an observation space of another kind; a Discrete one names states and does not
        measure anything, so it needs a module of one's own (`wrap_actor_critic`).
        """
        shape, dtype = observation_entry(observation_space, "MLPPolicy.from_spaces")
        options.setdefault("obs_dtype", dtype)
        return cls(shape, ActionSpec.from_space(action_space), **options)

    def logits_and_value(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Observations ``[n, *obs_shape]`` to logits ``[n, num_logits]`` and values ``[n]``."""
        x = obs.reshape(obs.shape[0], self.obs_shape.numel())
        if x.dtype != torch.uint8:
            x = x.to(torch.float32)
        elif not self._takes_bytes:
            x = self._pixels(x)
        logits: Tensor = self.actor(x)
        if self.log_std is not None:
            logits = torch.cat((logits, self.log_std.expand_as(logits)), dim=-1)
        value: Tensor = self.critic(x)
        return logits, value.squeeze(-1)


def observation_entry(observation_space: Any, where: str) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and stored dtype of the observations of a gymnasium-like space; float64 is stored as float32.

    Raises TypeError for a space without a shape or a numeric dtype, and for a Discrete one.
    """
    shape = getattr(observation_space, "shape", None)
    dtype = getattr(torch, str(getattr(observation_space, "dtype", "")), None)
    discrete = hasattr(observation_space, "n") and not shape
    if shape is None or discrete or not isinstance(dtype, torch.dtype):
        raise TypeError(
            f"{where}: observation_space must be a Box or the like, with a shape and a numeric dtype, got "
            f"{type(observation_space).__name__}"
        )
    return tuple(shape), torch.float32 if dtype == torch.float64 else dtype


def hidden_layers(widths: Sequence[int]) -> nn.Sequential:
    """Tanh layers from each width to the next, with orthogonal weights of gain sqrt(2) and zero biases."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [orthogonal_linear(fan_in, fan_out, math.sqrt(2.0)), Tanh()]
    return nn.Sequential(*layers)


def orthogonal_linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """A linear layer with orthogonal weights and zero biases."""
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


def _mlp(widths: Sequence[int], *, last_gain: float, takes_bytes: bool) -> nn.Sequential:
    *below, last = widths
    first, *others = [*hidden_layers(below), orthogonal_linear(below[-1], last, last_gain)]
    if takes_bytes and isinstance(first, nn.Linear):
        first = PixelLinear.of(first)
    return nn.Sequential(first, *others)
