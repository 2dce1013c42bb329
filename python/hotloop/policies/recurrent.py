"""The common part of policies with a torch core: encoder, LSTM or GRU, heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from hotloop.entries import flat_tensordict, set_entries
from hotloop.policies.actions import ActionSpec
from hotloop.policies.activations import Pixels
from hotloop.policies.actor_critic import ActorCriticBase
from hotloop.policies.mlp import hidden_layers, observation_entry, orthogonal_linear
from hotloop.policies.sequences import step, unroll
from hotloop.spec import Key

Self = TypeVar("Self", bound="RecurrentActorCritic")


class RecurrentActorCritic(ActorCriticBase):
    """Encoder, recurrent core, and one linear head each for the action distribution and the value.

    A `hotloop.policies.RecurrentPolicy` whose state is that of its core: an entry ``[layers, core_size]``
    per agent for each name in `state_keys`, zeros when an episode begins.

    Parameters
    ----------
    obs_shape
        Shape of one agent's observation.
    action
        `ActionSpec`, gymnasium-like action space, or number of discrete actions.
    hidden
        Widths of the tanh layers before the core (`encoder` takes their place); none: the core sees the
        flattened observation.
    core_size, layers
        Hidden units of the core, and how many of it lie one on top of the other.
    encoder
        A module of one's own, observations ``[n, *obs_shape]`` of dtype `obs_dtype` to features ``[n, F]``.
    obs_dtype
        Stored dtype. Without `encoder`, uint8 observations are divided by 255.
    log_std_init
        Start of the log standard deviation of continuous actions, one learnt number per component that does
        not depend on the observation.

    Weights of the core start orthogonal and its biases at 0; the heads are those of `MLPPolicy`.
    """

    core_type: ClassVar[type[nn.RNNBase]]
    state_keys: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        obs_shape: Sequence[int],
        action: Any,
        *,
        hidden: Sequence[int] = (64,),
        core_size: int = 64,
        layers: int = 1,
        encoder: nn.Module | None = None,
        obs_dtype: torch.dtype = torch.float32,
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__(action, obs_shape, obs_dtype)
        name = type(self).__name__
        if min((core_size, layers, *hidden)) < 1:
            raise ValueError(
                f"{name}: core_size, layers and hidden must be at least 1, got {core_size}, {layers} and "
                f"{tuple(hidden)}"
            )
        self.core_size, self.layers = core_size, layers
        self._scales = encoder is None
        self.encoder = hidden_layers([self.obs_shape.numel(), *hidden]) if encoder is None else encoder
        with torch.no_grad():
            features = self._encode(torch.zeros(1, *self.obs_shape, dtype=obs_dtype))
        if features.dim() != 2 or features.shape[0] != 1:
            raise ValueError(
                f"{name}: encoder must turn [n, *obs_shape] into [n, F], got {list(features.shape)} for n = 1"
            )
        core = self.core_type
        self.core = core(  # type: ignore[call-arg]
            input_size=features.shape[1], hidden_size=core_size, num_layers=layers, batch_first=True
        )
        self._reset_core()
        spec = self.action_spec
        continuous = spec.kind == "continuous"
        self.actor = orthogonal_linear(core_size, spec.width if continuous else spec.num_logits, 0.01)
        self.critic = orthogonal_linear(core_size, 1, 1.0)
        self._pixels = Pixels()
        self.log_std = nn.Parameter(torch.full((spec.width,), float(log_std_init))) if continuous else None

    @classmethod
    def from_spaces(cls: type[Self], observation_space: Any, action_space: Any, **options: Any) -> Self:
        """Build from gymnasium-like spaces, as `MLPPolicy.from_spaces` does. `options` are the keyword
        arguments of the constructor. TypeError for an observation space of another kind."""
        shape, dtype = observation_entry(observation_space, f"{cls.__name__}.from_spaces")
        options.setdefault("obs_dtype", dtype)
        return cls(shape, ActionSpec.from_space(action_space), **options)

    def get_agent_experience_spec(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """``env_obs``, ``actions``, and ``resets``: whether the state began anew before the step."""
        return {**super().get_agent_experience_spec(), "resets": (torch.Size(()), torch.bool)}

    def get_state_spec(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """float32 ``[layers, core_size]`` per agent for each of `state_keys`."""
        return {key: (torch.Size((self.layers, self.core_size)), torch.float32) for key in self.state_keys}

    def forward(
        self,
        td: TensorDictBase,
        action: Tensor | None = None,
        *,
        state: TensorDictBase | None = None,
        burn_in: int = 0,
    ) -> TensorDictBase:
        """See `hotloop.policies.RecurrentPolicy`. Raises KeyError where the state, or `resets` in training,
        is missing, ValueError when the observation or the number of actions does not fit."""
        obs = self._checked(td["env_obs"])
        if state is None:
            features, after = self._step(obs, td)
            set_entries(td, {"state": after})
        else:
            features = self._segments(obs, td, state, burn_in)
        logits = self.actor(features)
        if self.log_std is not None:
            logits = torch.cat((logits, self.log_std.expand_as(logits)), dim=-1)
        value = self.critic(features).squeeze(-1)
        if action is None:
            return self._write_drawn(td, *self._drawn(logits, value))
        return self._write_evaluated(td, logits, value, action)

    def _step(self, obs: Tensor, td: TensorDictBase) -> tuple[Tensor, TensorDict]:
        before = td.get("state", None)
        if before is None:
            raise KeyError(
                f"{type(self).__name__}.forward: td must hold 'state', or state= must be given (see "
                "hotloop.policies.initial_states)"
            )
        features, after = step(self.core, self._encode(obs), self._core_state(before))
        entries: dict[Key, Tensor] = {
            key: each.transpose(0, 1) for key, each in zip(self.state_keys, after, strict=True)
        }
        return features, flat_tensordict(entries, (len(obs),), td.device)

    def _segments(self, obs: Tensor, td: TensorDictBase, state: TensorDictBase, burn_in: int) -> Tensor:
        """Features ``[B * T, core_size]`` of the flat steps of B segments."""
        resets = td.get("resets", None)
        if resets is None:
            raise KeyError(f"{type(self).__name__}.forward: td must hold 'resets' beside a given state")
        rows = state.batch_size[0]
        inputs = self._encode(obs).unflatten(0, (rows, -1))
        resets = resets.reshape(rows, -1) != 0
        before = self._core_state(state)
        if not burn_in:
            return unroll(self.core, inputs, before, resets)[0].flatten(0, 1)
        with torch.no_grad():
            first, after = unroll(
                self.core, inputs[:, :burn_in], before, resets[:, :burn_in], need_state=True
            )
        rest, _ = unroll(self.core, inputs[:, burn_in:], after or before, resets[:, burn_in:])
        return torch.cat((first, rest), dim=1).flatten(0, 1)

    def _core_state(self, state: TensorDictBase) -> tuple[Tensor, ...]:
        """``[n, layers, H]`` each to ``[layers, n, H]``."""
        return tuple(state[key].transpose(0, 1) for key in self.state_keys)

    def _encode(self, obs: Tensor) -> Tensor:
        if not self._scales:
            features: Tensor = self.encoder(obs)
            return features
        if obs.dtype == torch.uint8:
            obs = self._pixels(obs)
        features = self.encoder(obs.reshape(obs.shape[0], self.obs_shape.numel()).to(torch.float32))
        return features

    def _reset_core(self) -> None:
        for name, parameter in self.core.named_parameters():
            if name.startswith("weight"):
                for gate in parameter.detach().split(self.core_size):
                    nn.init.orthogonal_(gate)
            else:
                nn.init.zeros_(parameter)
