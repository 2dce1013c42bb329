"""The common part of feed-forward actor-critic policies, and the one-line wrapper around any module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from hotloop.entries import set_entries
from hotloop.policies.actions import ActionSpec
from hotloop.policies.heads import make_head


class ActorCriticBase(nn.Module):
    """What actor-critic policies share: the observation that comes in, the head, and what is written.

    Parameters
    ----------
    action
        ActionSpec, gymnasium-like action space, or an int (number of discrete actions).
    obs_shape, obs_dtype
        Shape and stored dtype of one agent's observation. Observations that arrive in another dtype are cast
        to `obs_dtype` before the network sees them, so that acting and training see the same numbers.
    """

    def __init__(self, action: Any, obs_shape: Sequence[int], obs_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if not isinstance(obs_dtype, torch.dtype):
            raise TypeError(f"{type(self).__name__}: obs_dtype must be a torch.dtype, got {obs_dtype!r}")
        self.action_spec = ActionSpec.from_space(action)
        self.obs_shape = torch.Size(obs_shape)
        self.obs_dtype = obs_dtype
        self.head = make_head(self.action_spec)

    def get_agent_experience_spec(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """``env_obs`` and ``actions``: shape and dtype per agent and step."""
        return {"env_obs": (self.obs_shape, self.obs_dtype), "actions": self.action_spec.experience_entry()}

    def reset_memory(self) -> None:
        """Nothing to forget: what the policy remembers, if anything, is kept by the loop."""

    def _memory_reset(self) -> Callable[[], Any] | None:
        """What `reset_memory` comes down to, for who calls it often; None where that is nothing."""
        nothing = type(self).reset_memory is ActorCriticBase.reset_memory
        return None if nothing and "reset_memory" not in vars(self) else self.reset_memory

    def _checked(self, obs: Tensor) -> Tensor:
        """Observations ``[n, *obs_shape]`` in the stored dtype; ValueError for another shape."""
        if obs.shape[1:] != self.obs_shape:
            raise ValueError(
                f"{type(self).__name__}.forward: env_obs must be [n, {', '.join(map(str, self.obs_shape))}], "
                f"got {list(obs.shape)}"
            )
        return obs if obs.dtype == self.obs_dtype else obs.to(self.obs_dtype)

    def _drawn(
        self, logits: Tensor, value: Tensor, *, all_choices: bool = True
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Values, actions, their log probabilities, and those of all choices where the head has them."""
        actions, log_prob, full = self.head.sample(logits, all_choices=all_choices)
        return value, actions, log_prob, full

    @staticmethod
    def _write_drawn(
        td: TensorDictBase, value: Tensor, actions: Tensor, log_prob: Tensor, full: Tensor | None
    ) -> TensorDictBase:
        written = {"values": value, "actions": actions, "act_log_prob": log_prob}
        if full is not None:
            written["full_log_probs"] = full
        set_entries(td, written)
        return td

    def _write_evaluated(
        self, td: TensorDictBase, logits: Tensor, value: Tensor, action: Tensor
    ) -> TensorDictBase:
        if action.numel() != logits.shape[0] * self.action_spec.width:
            raise ValueError(
                f"{type(self).__name__}.forward: action must be [{logits.shape[0]}, "
                f"{self.action_spec.width}], got {list(action.shape)}"
            )
        log_prob, entropy = self.head.evaluate(logits, action)
        set_entries(td, {"values": value, "act_log_prob": log_prob, "entropy": entropy})
        return td


class ActorCriticPolicy(ActorCriticBase, ABC):
    """A feed-forward policy made of one method, `logits_and_value`; see `hotloop.policies.Policy` for what
    `forward` writes, and `ActorCriticBase` for the parameters."""

    #: whether a rollout may run the network in `torch.inference_mode`, which spares autograd's bookkeeping. A
    #: module that keeps tensors which it makes in `forward`, and uses them again in training, must not.
    acts_in_inference_mode = True

    @abstractmethod
    def logits_and_value(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Observations ``[n, *obs_shape]`` to logits ``[n, action_spec.num_logits]`` and values ``[n]``."""

    def _acting_network(self) -> Callable[[Tensor], Any]:
        """What `_accepted` makes ``(logits, value)`` of: for a loop that has looked at its outputs itself."""
        return self.logits_and_value

    def _accepted(self, output: Any, rows: int) -> tuple[Tensor, Tensor]:
        """Logits ``[n, num_logits]`` and values ``[n]`` from what `_acting_network` gave for n = `rows`."""
        return output  # type: ignore[no-any-return]

    def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
        """Act or evaluate `action`, writing into `td` (flat, see `hotloop.policies.Policy`) and returning it.

        Raises ValueError when the observation or the number of actions does not fit.
        """
        obs: Tensor = td["env_obs"]
        if action is None:
            return self._write_drawn(td, *self.act(obs))
        logits, value = self.logits_and_value(self._checked(obs))
        return self._write_evaluated(td, logits, value, action)

    def _draws_beside_values(self) -> bool:
        """Whether `forward` gives the values of `logits_and_value` and nothing but a draw beside them, so
        that who wants no action need not draw one."""
        kind, own = type(self), vars(self)
        return (
            kind.forward is ActorCriticPolicy.forward
            and kind.act is ActorCriticPolicy.act
            and kind._drawn is ActorCriticBase._drawn
            and kind._write_drawn is ActorCriticBase._write_drawn
            and own.keys().isdisjoint(("forward", "act", "_drawn", "_write_drawn"))
        )

    def act(self, obs: Tensor, *, all_choices: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Values ``[n]``, actions, log probabilities ``[n]``, and those of all choices (where the head has
        them, and `all_choices` wants them), of observations ``[n, *obs_shape]``: what `forward` writes when
        it acts."""
        return self._drawn(*self.logits_and_value(self._checked(obs)), all_choices=all_choices)


class WrappedActorCritic(ActorCriticPolicy):
    """See `wrap_actor_critic`."""

    def __init__(
        self,
        module: nn.Module,
        action: Any,
        obs_shape: Sequence[int],
        obs_dtype: torch.dtype = torch.float32,
        *,
        inference_mode: bool = True,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"wrap_actor_critic: module must be a torch.nn.Module, got {type(module).__name__}"
            )
        super().__init__(action, obs_shape, obs_dtype)
        self.module = module
        self._num_logits = self.action_spec.num_logits
        self.acts_in_inference_mode = inference_mode

    def logits_and_value(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Run the wrapped module and check what it returned."""
        return self._accepted(self.module(obs), obs.shape[0])

    def _acting_network(self) -> Callable[[Tensor], Any]:
        replaced = "logits_and_value" in vars(self)
        if replaced or type(self).logits_and_value is not WrappedActorCritic.logits_and_value:
            return self.logits_and_value
        return self.module

    def _accepted(self, output: Any, rows: int) -> tuple[Tensor, Tensor]:
        if not isinstance(output, (tuple, list)) or len(output) != 2:
            raise TypeError(f"wrap_actor_critic: module must return (logits, value), got {_describe(output)}")
        logits, value = output
        n, spec = rows, self.action_spec
        if spec.kind == "continuous" and isinstance(logits, tuple | list) and len(logits) == 2:
            mean, log_std = logits
            logits = torch.cat((mean, log_std.expand_as(mean)), dim=-1)
        if not isinstance(logits, Tensor) or logits.shape != (n, self._num_logits):
            raise ValueError(
                f"wrap_actor_critic: logits must be [{n}, {spec.num_logits}] for {_expected(spec)}, "
                f"got {_describe(logits)}"
            )
        if not isinstance(value, Tensor) or value.numel() != n:
            raise ValueError(f"wrap_actor_critic: value must be [{n}] or [{n}, 1], got {_describe(value)}")
        return logits, value if value.dim() == 1 else value.reshape(n)

    def reset_memory(self) -> None:
        """Passed on to the module when it has such a method."""
        reset = getattr(self.module, "reset_memory", None)
        if callable(reset):
            reset()

    def _memory_reset(self) -> Callable[[], Any] | None:
        own = type(self).reset_memory is not WrappedActorCritic.reset_memory
        if own or "reset_memory" in vars(self):
            return self.reset_memory
        reset = getattr(self.module, "reset_memory", None)
        return reset if callable(reset) else None


def wrap_actor_critic(
    module: nn.Module,
    action: Any,
    obs_shape: Sequence[int],
    obs_dtype: torch.dtype = torch.float32,
    *,
    inference_mode: bool = True,
) -> WrappedActorCritic:
    """Turn a module ``obs -> (logits, value)`` into a policy: ``policy = wrap_actor_critic(net, 2, (4,))``.

    Parameters
    ----------
    module
        Called with observations ``[n, *obs_shape]`` of dtype `obs_dtype`; returns logits and a value ``[n]``
        or ``[n, 1]``. Logits are ``[n, n_actions]`` for one discrete choice; ``[n, sum(nvec)]`` for several,
        side by side; for continuous actions ``[n, 2 k]`` (means, then log standard deviations) or a pair
        ``(mean [n, k], log_std [n, k] or [k])``. It must be feed-forward: every row is one time step of one
        agent. A ``reset_memory()`` method, if it has one, is called where the loop resets memory.
    action
        Number of discrete actions, a gymnasium-like space, or an `ActionSpec`.
    obs_shape, obs_dtype
        Shape and stored dtype of one agent's observation.
    inference_mode
        Whether rollouts may run the module in `torch.inference_mode`. False for a module that keeps tensors
        which it makes in its forward pass: training could not use them.

    Raises TypeError when `module` is not an ``nn.Module`` or (on the first call) does not return a pair,
    ValueError when shapes do not fit the action space.
    """
    return WrappedActorCritic(module, action, obs_shape, obs_dtype, inference_mode=inference_mode)


def _expected(spec: ActionSpec) -> str:
    if spec.kind == "continuous":
        return f"{spec.width} continuous actions (means and log standard deviations)"
    return f"nvec={list(spec.nvec)}"


def _describe(value: object) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
