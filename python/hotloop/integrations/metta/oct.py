"""Metta's training loop in the layout of October 2025 (6e370f620b): `CoreTrainingLoop`, `Experience`,
`compute_advantage`.

Each can replace its namesake alone: they rely on the others' documented members only. The losses sample and
run the policy for themselves.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from hotloop.integrations.metta import steps
from hotloop.integrations.metta.advantage import compute_advantage
from hotloop.integrations.metta.steps import RolloutResult, StepTemplate, Window
from hotloop.integrations.metta.storage import SegmentedExperience, leaf_keys
from hotloop.integrations.metta.training import TrainingLoop
from hotloop.loop_training import sum_losses
from hotloop.spec import Key

__all__ = ["CoreTrainingLoop", "Experience", "RolloutResult", "compute_advantage"]

_PROVIDED = ("env_obs", "rewards", "dones", "truncateds", "training_env_ids")


class Experience(SegmentedExperience):
    """`metta.rl.training.Experience` of the layout *oct*.

    `copy=True`: rows that are taken out of the buffer by a tensor of indices, as the losses do it, lie in
    memory of their own, not in memory that the next minibatch overwrites.
    """

    _tracker_dtype: ClassVar[torch.dtype] = torch.int32

    @property
    def ep_indices(self) -> Tensor:
        """int32 [A], live until the next rollout: the row that each agent writes."""
        return self._rows

    @property
    def ep_lengths(self) -> Tensor:
        """int32 [A], live: the column that each agent writes next."""
        return self._positions

    def _keys_to_store(self) -> list[Key]:
        """Whatever the buffer holds now: losses may add entries."""
        return leaf_keys(self.buffer)

    def stats(self) -> dict[str, float]:
        """Means over the buffer: `rewards`, `dones`, `truncateds`, `values`, `act_log_prob`, `ratio`,
        `actions_mean`, `actions_std`, as far as stored, and `ep_lengths`, the mean column of the agents that
        are inside a row."""
        return self._statistics("ep_lengths")


class CoreTrainingLoop(TrainingLoop):
    """`metta.rl.training.core.CoreTrainingLoop` of the layout *oct*.

    Attributes beside those of `TrainingLoop`: `last_action`, None before the first step, then `[m, k]`
    (int32 or float32), with as many rows as the slices served so far need; growing drops its contents, as in
    Metta.
    """

    def __init__(
        self,
        policy: Any,
        experience: Any,
        losses: dict[str, Any],
        optimizer: Any,
        device: torch.device,
        context: Any,
    ) -> None:
        super().__init__(policy, experience, losses, optimizer, device, context)
        self.last_action: Tensor | None = None
        self._served: Window | None = None
        self._shared: TensorDictBase | None = None

    def on_epoch_start(self, context: Any) -> None:
        """Pass on the hook: `on_new_training_run` of each loss."""
        for loss in self.losses.values():
            loss.on_new_training_run(context)

    # Rollout

    def rollout_phase(self, env: Any, context: Any) -> RolloutResult:
        """Step the environment until the experience holds a whole rollout.

        Raises ValueError when no loss wrote `actions`, RuntimeError when no step was made.
        """
        experience, losses = self.experience, self.losses
        experience.reset_for_rollout()
        for loss in losses.values():
            loss.on_rollout_start(context)
        template = StepTemplate(
            experience.buffer, self.policy_spec, experience.ep_indices, experience.ep_lengths, _PROVIDED
        )
        raw_infos: list[dict[str, Any]] = []
        agent_steps, last = 0, None
        while not experience.ready_for_training:
            step = env.get_observations()
            obs, rewards, dones, truncateds, infos, env_slice, _, num_steps = step
            last = env_slice
            window = self._windows[env_slice]
            entries = template.entries(env_slice)
            entries["env_obs"] = steps.moved(obs, template.device)
            entries["rewards"] = steps.moved(rewards, template.device)
            entries["dones"] = steps.float_flags(dones, template.device)
            entries["truncateds"] = steps.float_flags(truncateds, template.device)
            entries["training_env_ids"] = window.ids
            td = template.step(entries, window)
            self._served = window
            self.add_last_action_to_td(td, env)
            steps.add_sizes(td, entries, window)
            self._built(td, step, env, context)
            context.training_env_id = env_slice
            for loss in losses.values():
                loss.rollout(td, context)
            actions = steps.acted(td).detach()
            assert self.last_action is not None, "add_last_action_to_td makes it"
            self.last_action[env_slice] = actions.to(self.last_action)
            steps.send(env, td)
            if infos:
                raw_infos.extend(infos)
            agent_steps += num_steps
        context.training_env_id = last
        return steps.result(raw_infos, agent_steps, last)

    def add_last_action_to_td(self, td: TensorDictBase, env: Any) -> None:
        """Set ``td["last_actions"]`` ``[n, k]`` to copies of the last actions of the agents
        ``td["training_env_ids"]``."""
        ids: Tensor = td["training_env_ids"]
        window = self._served
        in_order = window is not None and ids is window.ids
        # The slice tells the length that its ids need, without reading a tensor.
        length = window.stop if in_order and window is not None else int(ids.max()) + 1
        last = self.last_action
        if last is None or len(last) < length:
            space = env.single_action_space
            whole = np.issubdtype(space.dtype, np.integer)
            last = self.last_action = torch.zeros(
                length, len(space.nvec), dtype=torch.int32 if whole else torch.float32, device=td.device
            )
        if in_order and window is not None:
            steps.put(td, "last_actions", last[window.slice].clone())
        else:
            td["last_actions"] = last[ids.reshape(-1)]

    # Training

    def _begin_phase(self, context: Any) -> None:
        if context.training_env_id is None:
            raise ValueError(
                "CoreTrainingLoop.training_phase: context.training_env_id must be a slice, got None: call "
                "rollout_phase first"
            )
        # One object for the whole phase: what a loss writes for one minibatch is there in the next.
        shared = self.experience.give_me_empty_md_td()
        for name in self.losses:
            shared[name] = self.experience.give_me_empty_md_td()
        self._shared = shared
        self._reset_losses()

    def _begin_update_epoch(self, context: Any) -> None:
        return

    def _clear_gradients(self) -> None:
        self.optimizer.zero_grad()

    def _total_loss(self, context: Any, mb_idx: int) -> tuple[Tensor, bool]:
        assert self._shared is not None, "_begin_phase makes it"
        total, self._shared, stop = sum_losses(self.losses, self._shared, context, mb_idx, None, self._zero)
        return total, stop
