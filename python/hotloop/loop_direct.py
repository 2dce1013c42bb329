"""A rollout step of the ordinary case without a TensorDict: environment, network, draw, store.

Where a feed-forward `ActorCriticPolicy` acts for `PPOCritic` (or `PPOLoss`), nobody looks at a
step's TensorDict: the entries that the buffer wants are the environment's own tensors, the policy's outputs
and constants, and one native call (on a CUDA device one kernel) converts and stores them. `DirectActing.of`
says whether that is the case; what it stores is to the last bit what the TensorDict's way stores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hotloop.devices import runs_ops
from hotloop.experience import Experience
from hotloop.loop_rollout import EnvStep, StepBuilder
from hotloop.losses import Loss, PPOCritic, PPOLoss
from hotloop.policies.actor_critic import ActorCriticPolicy
from hotloop.spec import Key

if TYPE_CHECKING:
    from hotloop.context import ComponentContext
    from hotloop.policies import Policy

# Where each entry of the buffer comes from.
_OF_THE_STEP = frozenset(
    {"env_obs", "rewards", "dones", "truncateds", "valid", "reward_baseline", "truncation_values"}
)
_OF_THE_POLICY = frozenset({"values", "actions", "act_log_prob"})


class DirectActing:
    """Acts and stores for one rollout. `of` makes it."""

    def __init__(self, policy: ActorCriticPolicy, experience: Experience, steps: StepBuilder) -> None:
        self._policy = policy
        self._experience = experience
        self._steps = steps
        self._keys = frozenset(experience.store_keys)
        # By slice: what is stored. Most entries are replaced at every step, the rest are constants.
        self._sources: dict[tuple[int, int], dict[Key, Tensor]] = {}

    @classmethod
    def of(
        cls,
        policy: Policy,
        experience: Experience,
        losses: Mapping[str, Any],
        steps: StepBuilder,
        context: ComponentContext,
    ) -> DirectActing | None:
        """None where somebody may look at a step, or change it, on its way into the buffer."""
        acting = [loss for loss in losses.values() if not _only_trains(loss)]
        if len(acting) != 1 or type(acting[0]) not in (PPOCritic, PPOLoss):
            return None
        loss = acting[0]
        fits = (
            isinstance(policy, ActorCriticPolicy)
            and type(policy).forward is ActorCriticPolicy.forward
            and "forward" not in vars(policy)
            and type(experience) is Experience
            and runs_ops(experience.device)
            and loss.policy is policy
            and loss.replay is experience
            and not vars(loss).keys() & {"rollout", "run_rollout"}
            and loss._loss_gate_allows("rollout", context)
            and loss.burn_in_steps_iter >= loss.burn_in_steps
            and not steps.resets_last_actions
            and set(experience.store_keys) <= _OF_THE_STEP | _OF_THE_POLICY
            and "actions" in experience.store_keys
        )
        return cls(policy, experience, steps) if fits else None  # type: ignore[arg-type]

    def accepts(self, step: EnvStep) -> bool:
        """Whether this step's tensors are where they can be read."""
        return step.observations.device == self._experience.device and step.teacher_actions is None

    def act(self, step: EnvStep, context: ComponentContext) -> Tensor:
        """Run the policy, store the step, and return the actions `[n]` or `[n, k]`."""
        policy = self._policy
        with torch.inference_mode() if policy.acts_in_inference_mode else torch.no_grad():
            value, actions, log_prob, _ = policy.act(step.observations, all_choices=False)
        return self.store(step, context, value, actions, log_prob)

    def store(
        self, step: EnvStep, context: ComponentContext, value: Tensor, actions: Tensor, log_prob: Tensor
    ) -> Tensor:
        """Store a step with what the policy gave for it; the actions."""
        window, keys = step.window, self._keys
        source = self._sources.get((window.start, window.stop))
        if source is None:
            constants = {"valid": window.true, "truncation_values": window.zero}
            source = {key: constants[key] for key in keys if key in constants}
            self._sources[window.start, window.stop] = source
        source["env_obs"], source["rewards"] = step.observations, step.rewards
        source["dones"], source["truncateds"] = step.terminals, step.truncations
        source["values"], source["actions"], source["act_log_prob"] = value, actions, log_prob
        if "valid" in keys and step.mask is not None and not self._steps.all_valid:
            source["valid"] = step.mask
        if "reward_baseline" in keys:
            source["reward_baseline"] = self._steps.averages(context)[window.start : window.stop]
        self._experience.store(source, window.window)
        return actions


def _only_trains(loss: Any) -> bool:
    """Whether the rollout passes by a loss."""
    kind = type(loss)
    return (
        isinstance(loss, Loss)
        and kind.rollout is Loss.rollout
        and kind.run_rollout is Loss.run_rollout
        and not vars(loss).keys() & {"rollout", "run_rollout"}
    )
