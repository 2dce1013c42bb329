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

from hotloop.entries import set_entries
from hotloop.integrations.metta import steps
from hotloop.integrations.metta.advantage import compute_advantage
from hotloop.integrations.metta.minibatches import RowBuffer
from hotloop.integrations.metta.steps import RolloutResult, SliceSteps, StepTemplate
from hotloop.integrations.metta.storage import SegmentedExperience, leaf_keys
from hotloop.integrations.metta.training import TrainingLoop
from hotloop.integrations.metta.windows import Window
from hotloop.loop_stage import Column
from hotloop.loop_training import sum_losses
from hotloop.spec import Key

__all__ = ["CoreTrainingLoop", "Experience", "RolloutResult", "compute_advantage"]

_PROVIDED = ("env_obs", "rewards", "dones", "truncateds", "training_env_ids", "last_actions")


class Experience(SegmentedExperience):
    """`metta.rl.training.Experience` of the layout *oct*.

    Losses take rows out of the buffer themselves, `buffer[rows].clone()`: see `RowBuffer`. With `copy=True`
    the buffer is an ordinary TensorDict.
    """

    _tracker_dtype: ClassVar[torch.dtype] = torch.int32

    def __init__(
        self,
        total_agents: int,
        batch_size: int,
        bptt_horizon: int,
        minibatch_size: int,
        max_minibatch_size: int,
        experience_spec: Any,
        device: torch.device | str,
        *,
        copy: bool | None = None,
    ) -> None:
        super().__init__(
            total_agents, batch_size, bptt_horizon, minibatch_size, max_minibatch_size, experience_spec,
            device, copy=copy,
        )  # fmt: skip
        self._stored_count = 0
        self._stored_keys: list[Key] = []
        if not self._minibatches.copies:
            buffer = RowBuffer({}, batch_size=self.buffer.batch_size, device=self.device)
            buffer.update(self.buffer)
            buffer.taken_by = self._minibatches
            self.buffer = buffer

    @property
    def ep_indices(self) -> Tensor:
        """int32 [A], live until the next rollout: the row that each agent writes."""
        return self._rows

    @property
    def ep_lengths(self) -> Tensor:
        """int32 [A], live: the column that each agent writes next."""
        return self._positions

    def _keys_to_store(self, anew: bool = False) -> list[Key]:
        """Whatever the buffer holds now: losses may add entries. As many as before, all of which are found,
        are the same ones."""
        buffer = self.buffer
        entries = getattr(buffer, "_tensordict", None)
        count = len(buffer.keys() if entries is None else entries)
        if anew or count != self._stored_count:
            self._stored_count, self._stored_keys = count, leaf_keys(buffer)
        return self._stored_keys

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
        self._layout: tuple[int, torch.dtype] | None = None
        self._staged: list[Column] = []
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
        own = getattr(self.add_last_action_to_td, "__func__", None) is CoreTrainingLoop.add_last_action_to_td
        built = self._built_hook()
        raw_infos: list[dict[str, Any]] = []
        agent_steps, served = 0, None
        slices: dict[Window, SliceSteps] = {}
        while not experience.ready_for_training:
            step = env.get_observations()
            obs, rewards, dones, truncateds, infos, env_slice, _, num_steps = step
            if env_slice is not served:
                served, window = env_slice, self._windows[env_slice]
                made = slices.get(window) or slices.setdefault(
                    window,
                    SliceSteps(template, window, {"training_env_ids": window.ids}, self._memory),
                )
            last = self.last_action
            if last is None or last is not made.last:
                last = self._last_actions(window.stop, env, template.device)
                made.lay_out(self._columns(last), last)
            td = made.make(obs, rewards, (dones, truncateds), (last,))
            if not own:
                self.add_last_action_to_td(td, env)
            if built is not None:
                built(td, step, env, context)
            context.training_env_id = env_slice
            for loss in losses.values():
                loss.rollout(td, context)
            actions = steps.acted(td)
            assert self.last_action is not None, "_last_actions makes it"
            if not steps.finished(window, self.last_action, actions):
                window.of("last_action", self.last_action).copy_(actions.detach())
            steps.send(env, actions)
            if infos:
                raw_infos.extend(infos)
            agent_steps += num_steps
        context.training_env_id = served
        return steps.result(raw_infos, agent_steps, served)

    def add_last_action_to_td(self, td: TensorDictBase, env: Any) -> None:
        """Set ``td["last_actions"]`` ``[n, k]`` to copies of the last actions of the agents
        ``td["training_env_ids"]``."""
        ids: Tensor = td["training_env_ids"].reshape(-1)
        td["last_actions"] = self._last_actions(int(ids.max()) + 1, env, td.device)[ids]

    def _last_actions(self, length: int, env: Any, device: torch.device | None) -> Tensor:
        """`last_action`, at least so long: made anew, with zeros, where it is missing or too short."""
        last = self.last_action
        if last is None or len(last) < length:
            space = env.single_action_space
            whole = np.issubdtype(space.dtype, np.integer)
            last = self.last_action = torch.zeros(
                length, len(space.nvec), dtype=torch.int32 if whole else torch.float32, device=device
            )
        return last

    def _columns(self, last: Tensor) -> list[Column]:
        layout = (last.shape[1], last.dtype)
        if layout != self._layout:
            self._layout = layout
            self._staged = [
                Column("dones", (), torch.float32),
                Column("truncateds", (), torch.float32),
                Column("last_actions", (last.shape[1],), last.dtype, windowed=True),
            ]
        return self._staged

    # Training

    def _begin_phase(self, context: Any) -> None:
        if context.training_env_id is None:
            raise ValueError(
                "CoreTrainingLoop.training_phase: context.training_env_id must be a slice, got None: call "
                "rollout_phase first"
            )
        # One object for the whole phase: what a loss writes for one minibatch is there in the next.
        shared = self.experience.give_me_empty_md_td()
        set_entries(shared, {name: self.experience.give_me_empty_md_td() for name in self.losses})
        self._shared = shared
        self._reset_losses()

    def _end_phase(self) -> None:
        self._shared = None

    def _begin_update_epoch(self, context: Any) -> None:
        return

    def _clear_gradients(self) -> None:
        self.optimizer.zero_grad()

    def _total_loss(self, context: Any, mb_idx: int) -> tuple[Tensor, bool]:
        assert self._shared is not None, "_begin_phase makes it"
        total, self._shared, stop = sum_losses(self.losses, self._shared, context, mb_idx, None, self._zero)
        return total, stop
