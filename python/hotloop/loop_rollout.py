"""One rollout step: from what the environment returns to the TensorDict that the losses see."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from hotloop import ops
from hotloop.context import ComponentContext
from hotloop.devices import device_calls, in_host_memory
from hotloop.entries import flat_tensordict, replace_entries
from hotloop.experience import Experience
from hotloop.experience_rows import slice_bounds
from hotloop.loop_stage import Column, Stage
from hotloop.loop_transfer import StepUpload
from hotloop.spec import Key, normalize_spec, spec_leaves

_WHERE = "CoreTrainingLoop.rollout_phase"
# What `StepBuilder.build` sets itself, and what the policy must: none of these is prefilled from the
# policy's spec.
_PROVIDED = frozenset(
    {"env_obs", "rewards", "training_env_ids", "reward_baseline", "dones", "truncateds", "teacher_actions"}
    | {"row_id", "t_in_row", "last_actions", "batch", "bptt", "valid", "truncation_values", "actions"}
    | {"state", "resets"}
)


class RolloutResult(BaseModel):
    """What a rollout phase returns.

    ``raw_infos``: the environment's info dicts in the order in which they came. ``agent_steps``:
    environment steps made. ``training_env_id``: the slice of agents served last. ``info_steps``: for each
    info the number of the step, counted from 0, that it came with.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    raw_infos: list[dict[str, Any]]
    agent_steps: int
    training_env_id: slice
    info_steps: list[int] = []


class RolloutTally:
    """What a rollout counts of the environment's steps, for `RolloutResult`."""

    def __init__(self) -> None:
        self.raw_infos: list[dict[str, Any]] = []
        self.agent_steps = 0
        self._counts: list[int] = []  # of infos after each step

    def count(self, infos: Sequence[dict[str, Any]] | None, num_steps: int) -> None:
        """One step and the infos that came with it."""
        raw_infos = self.raw_infos
        if infos:
            raw_infos.extend(infos)
        self._counts.append(len(raw_infos))
        self.agent_steps += int(num_steps)

    def result(self, window: slice | None) -> RolloutResult:
        """What the rollout returns; `window` is the slice served last."""
        if window is None:
            raise RuntimeError(f"{_WHERE}: the rollout was complete before its first step")
        info_steps: list[int] = []
        for step, count in enumerate(self._counts):
            info_steps.extend(repeat(step, count - len(info_steps)))
        # Not validated: that would copy thousands of infos, and have Python's collector look at every copy.
        return RolloutResult.model_construct(
            raw_infos=self.raw_infos,
            agent_steps=self.agent_steps,
            training_env_id=window,
            info_steps=info_steps,
        )


class Window(NamedTuple):
    """What never changes about one slice of agents."""

    window: slice
    start: int
    stop: int
    agents: int  # n
    env_ids: Tensor  # int64 [n, 1]
    row_id: Tensor  # int64 [n], live
    t_in_row: Tensor  # int64 [n], live
    agents_each: Tensor  # int64 [n], n everywhere
    one: Tensor  # int64 [n]
    true: Tensor  # bool [n]
    zero: Tensor  # float32 [n]


class Flags(NamedTuple):
    """As the environment gave them: in host memory they can be looked at without waiting for a device."""

    terminals: Tensor
    truncations: Tensor


class EnvStep(NamedTuple):
    """What the environment returned, with the slice looked up, on a CUDA device if the buffer is there."""

    observations: Tensor
    rewards: Tensor
    terminals: Tensor
    truncations: Tensor
    teacher_actions: Tensor | None
    infos: list[dict[str, Any]]
    window: Window
    mask: Tensor | None
    num_steps: int
    flags: Flags


class _Slot(NamedTuple):
    """What the steps of one slice are built from."""

    stage: Stage
    staged: dict[Key, Tensor] | None  # the stage's own tensors, None where it makes new ones
    constants: list[Tensor]  # sources of the last columns of the stage
    entries: dict[Key, Any]
    td: TensorDict | None  # the one that every step fills; None where each needs a new one


class StepBuilder:
    """Builds step TensorDicts, and remembers last actions and average rewards."""

    def __init__(
        self, experience: Experience, policy_spec: Any, *, reset_last_actions: bool, all_valid: bool
    ) -> None:
        self._experience = experience
        self.device = experience.device
        self.resets_last_actions = reset_last_actions
        self._windows: dict[tuple[int, int], Window] = {}
        self._stores_valid = "valid" in experience.buffer
        self._stores_truncation = "truncation_values" in experience.buffer
        self.all_valid = all_valid
        self._average: Tensor | None = None
        # Entries that the policy reads but nobody sets before it does: zeros at every step.
        self._blank = [
            Column(key, tuple(shape), dtype)
            for key, (shape, dtype) in spec_leaves(normalize_spec(policy_spec))
            if (key if isinstance(key, str) else key[0]) not in _PROVIDED
        ]
        self._slots: dict[tuple[int, int, bool], _Slot] = {}
        self._in_host_memory = in_host_memory(self.device)
        calls = device_calls(self.device)
        self._upload = None if calls is None else StepUpload(self.device, calls)
        stored = experience.buffer.get("actions", None)
        self._layout_known = stored is not None
        width, dtype = (1, torch.int32) if stored is None else _stored_layout(stored)
        self._allocate(width, dtype)

    def _allocate(self, width: int, dtype: torch.dtype) -> None:
        self.action_width, self._action_dtype = width, dtype
        self.last_actions = ops.LastActions(self._experience.total_agents, width, dtype, self.device)
        self._experience.last_actions = self.last_actions
        self._slots.clear()

    def __getstate__(self) -> dict[str, Any]:
        # Views of the experience's live cursors: a copy makes its own, of its own.
        return {**self.__dict__, "_windows": {}, "_slots": {}}

    def adopt_action_space(self, env: Any) -> None:
        """Where the buffer holds no actions, take their layout from the environment's action space, once."""
        space = getattr(env, "single_action_space", None)
        if self._layout_known or space is None:
            return
        layout = _space_layout(space)
        if layout != (self.action_width, self._action_dtype):
            self._allocate(*layout)
        self._layout_known = True

    def begin_rollout(self, env: Any, context: ComponentContext) -> None:
        """Check the environment against the experience and make what the rollout needs."""
        agents = self._experience.total_agents
        served = getattr(env, "total_parallel_agents", None)
        if isinstance(served, int) and served != agents:
            raise ValueError(
                f"{_WHERE}: the environment must have the {agents} agents that the experience was built for, "
                f"got {served}"
            )
        self.adopt_action_space(env)
        average = getattr(context.state, "avg_reward", self._average)
        if average is None or average.shape != (agents,):
            centering = reward_centering(context)
            start = 0.0 if centering is None else float(centering.initial_reward_mean)
            average = torch.full((agents,), start, dtype=torch.float32, device=self.device)
        self._average = average.to(self.device)
        if hasattr(context.state, "avg_reward"):
            context.state.avg_reward = self._average

    def unpack(self, step: Sequence[Any]) -> EnvStep:
        """The 8-tuple of an environment, or the 9-tuple with teacher actions in the fifth place."""
        if len(step) == 9:
            observations, rewards, terminals, truncations, teacher, infos, env_slice, mask, num_steps = step
        elif len(step) == 8:
            observations, rewards, terminals, truncations, infos, env_slice, mask, num_steps = step
            teacher = None
        else:
            raise ValueError(f"{_WHERE}: get_observations() must return 8 or 9 entries, got {len(step)}")
        window = self.window(env_slice)
        for name, given in (("observations", observations), ("rewards", rewards)):
            if given.shape[:1] != (window.agents,):
                raise ValueError(
                    f"{_WHERE}: {name} must have {window.agents} rows for the agents {env_slice}, got "
                    f"{list(given.shape)}"
                )
        flags = Flags(terminals, truncations)
        if self._upload is not None:
            given = (observations, rewards, terminals, truncations, teacher, mask)
            observations, rewards, terminals, truncations, teacher, mask = self._upload(
                (window.start, window.stop), given
            )
        return EnvStep(
            observations,
            rewards,
            terminals,
            truncations,
            teacher,
            list(infos) if infos else [],
            window,
            mask,
            int(num_steps),
            flags,
        )

    def window(self, env_slice: Any) -> Window:
        """The constants of a slice. Raises as `slice_bounds` does."""
        if isinstance(env_slice, slice) and env_slice.step in (None, 1):
            known = self._windows.get((env_slice.start, env_slice.stop))
            if known is not None:
                return known
        experience = self._experience
        start, stop = slice_bounds(env_slice, experience.total_agents, _WHERE)
        count = stop - start
        window = Window(
            slice(start, stop),
            start,
            stop,
            count,
            torch.arange(start, stop, device=self.device).unsqueeze(1),
            experience.row_slot_ids[start:stop],
            experience.t_in_row[start:stop],
            torch.full((), count, device=self.device).expand(count),
            torch.ones((), dtype=torch.int64, device=self.device).expand(count),
            torch.ones((), dtype=torch.bool, device=self.device).expand(count),
            torch.zeros((), device=self.device).expand(count),
        )
        self._windows[start, stop] = window
        return window

    def build(self, step: EnvStep, context: ComponentContext) -> TensorDict:
        """The flat TensorDict `[n]` of a step.

        Observations and rewards are the environment's own tensors where they lie on the device, `row_id` and
        `t_in_row` views of the live cursors: after the step was stored, `t_in_row` has moved on. In host
        memory the other entries are written anew at each step into memory that the next step of the same
        slice overwrites, and the TensorDict itself is one that the next step empties; who keeps a step must
        clone it.
        """
        device, window = self.device, step.window
        teacher = step.teacher_actions
        slot = self._slots.get((window.start, window.stop, teacher is not None))
        if slot is None:
            slot = self._new_slot(window, teacher is not None)
        terminals, truncations = step.terminals, step.truncations
        observations, rewards, mask = step.observations, step.rewards, step.mask
        if not (self._in_host_memory and observations.is_cpu):
            terminals, truncations = _moved(terminals, device), _moved(truncations, device)
            observations, rewards = _moved(observations, device), _moved(rewards, device)
            mask = None if mask is None else _moved(mask, device)
            teacher = None if teacher is None else _moved(teacher, device)
        sources = [terminals, truncations, self.averages(context), self.last_actions.buffer]
        if teacher is not None:
            sources.append(teacher)
        if self._stores_valid:
            sources.append(window.true if mask is None or self.all_valid else mask)
        ends = (terminals != 0, truncations != 0) if self.resets_last_actions else ()
        staged = slot.stage(sources + slot.constants, ends)

        entries = slot.entries
        if staged is not slot.staged:  # other devices get new tensors at every step
            entries.update(staged)
        entries["env_obs"], entries["rewards"] = observations, rewards
        if slot.td is not None and replace_entries(slot.td, entries):
            return slot.td
        return flat_tensordict(entries, (window.agents,), device)

    def _new_slot(self, window: Window, teacher: bool) -> _Slot:
        """What a slice's steps are built from."""
        columns = [
            Column("dones", (), torch.float32),
            Column("truncateds", (), torch.float32),
            Column("reward_baseline", (), torch.float32, windowed=True),
            Column("last_actions", (self.action_width,), self._action_dtype, windowed=True, cleared=True),
        ]
        if teacher:
            columns.append(Column("teacher_actions", (), torch.int64))
        if self._stores_valid:
            columns.append(Column("valid", (), torch.bool))
        # Constants, yet written at each step: a policy that writes into them must not spoil the next one.
        columns += [Column("batch", (), torch.int64), Column("bptt", (), torch.int64)]
        constants = [window.agents_each, window.one]
        if self._stores_truncation:
            columns.append(Column("truncation_values", (), torch.float32))
            constants.append(window.zero)
        columns += self._blank
        constants += [
            torch.zeros((), dtype=column.dtype, device=self.device).expand(window.agents, *column.shape)
            for column in self._blank
        ]
        stage = Stage(columns, window.start, window.stop, self.device)
        # In the order in which the reference sets them; what is None here every step brings.
        keys: list[Key] = [column.key for column in self._blank]
        keys += ["env_obs", "rewards", "training_env_ids", "reward_baseline", "dones", "truncateds"]
        keys += ["teacher_actions"] if teacher else []
        keys += ["row_id", "t_in_row", "last_actions", "batch", "bptt"]
        entries: dict[Key, Any] = dict.fromkeys(keys)
        entries["training_env_ids"] = window.env_ids
        entries["row_id"], entries["t_in_row"] = window.row_id, window.t_in_row
        entries.update(stage.entries or {})
        nested = any(isinstance(key, tuple) for key in entries)
        td = None
        if not nested and self._in_host_memory:
            td = TensorDict({}, batch_size=[window.agents], device=self.device)
        slot = _Slot(stage, stage.entries, constants, entries, td)
        self._slots[window.start, window.stop, teacher] = slot
        return slot

    def remember(self, td: TensorDictBase, actions: Tensor, window: Window) -> None:
        """Keep the actions of a step, unless `Experience.store` has done it in passing."""
        if not self._experience.has_remembered(td["actions"], window.start, window.stop):
            self.last_actions.write_(actions, window.start, window.stop)

    def averages(self, context: ComponentContext) -> Tensor:
        """float32 [A]; the state's tensor, so that others may read or replace it."""
        average = getattr(context.state, "avg_reward", self._average)
        assert average is not None, "begin_rollout makes it"
        return average

    def track_rewards(self, rewards: Tensor, window: Window, context: ComponentContext) -> None:
        """Move the average reward of the agents by ``beta * (reward - average)``, where centering is on."""
        centering = reward_centering(context)
        if centering is None or not getattr(centering, "enabled", True):
            return
        average = self.averages(context)
        baseline = average[window.start : window.stop]
        with torch.no_grad():
            rewards = rewards.to(device=average.device, dtype=torch.float32)
            baseline += float(centering.beta) * (rewards - baseline)

    def state_dict(self) -> dict[str, Any]:
        """The last actions of all agents and their layout."""
        return {
            "width": self.action_width,
            "dtype": str(self._action_dtype).removeprefix("torch."),
            "actions": self.last_actions.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`. ValueError where the actions have another layout."""
        layout = (int(state["width"]), getattr(torch, state["dtype"]))
        if not self._layout_known:
            self._allocate(*layout)
            self._layout_known = True
        elif layout != (self.action_width, self._action_dtype):
            raise ValueError(
                f"CoreTrainingLoop.load_state_dict: actions must have width {self.action_width} and dtype "
                f"{self._action_dtype}, got {layout[0]} and {layout[1]}"
            )
        self.last_actions.load_state_dict(state["actions"])


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """On `device`; the tensor itself where it is there already."""
    return tensor if tensor.device == device else tensor.to(device, non_blocking=True)


def checked_progress(experience: Experience, stored_before: int, idle_steps: int) -> int:
    """Count of steps since one was stored, after a step before which `stored_before` were; a rollout that
    cannot end must not hang."""
    stored = experience.stored_steps - stored_before
    if stored > 1:
        raise RuntimeError(
            f"{_WHERE}: one loss must store each step, got {stored} calls of Experience.store: every call "
            "moves the cursors on, so close the others' rollout gate"
        )
    idle_steps = 0 if stored else idle_steps + 1
    if idle_steps > 1000 + 100 * experience.bptt_horizon:
        raise RuntimeError(
            f"{_WHERE}: {idle_steps} steps in a row added nothing to the experience: no loss calls "
            "Experience.store, or some agents are never served"
        )
    return idle_steps


def checked_actions(td: TensorDictBase, count: int, width: int) -> Tensor:
    """The actions that a loss put into the step, `[n]` or `[n, k]`, detached."""
    if "actions" not in td:
        raise ValueError(
            f"{_WHERE}: a loss must run the policy and write 'actions', got none (are all rollout gates "
            "closed?)"
        )
    actions: Tensor = td["actions"]
    if actions.requires_grad:
        actions = actions.detach()
    if actions.shape != (count, width) and not (width == 1 and actions.shape == (count,)):
        expected = f"[{count}] or [{count}, 1]" if width == 1 else f"[{count}, {width}]"
        raise ValueError(f"{_WHERE}: 'actions' must be {expected}, got {list(actions.shape)}")
    return actions


def reward_centering(context: ComponentContext) -> Any:
    """Read anew at every use; None where the configuration knows none."""
    return getattr(getattr(context.config, "advantage", None), "reward_centering", None)


def _stored_layout(stored: Tensor) -> tuple[int, torch.dtype]:
    """Width and dtype of last actions for a buffer entry `[S, T, *shape]`: int32 but for wider integers and
    floating actions."""
    kept = stored.dtype.is_floating_point or stored.dtype == torch.int64
    return math.prod(stored.shape[2:]), stored.dtype if kept else torch.int32


def _space_layout(space: Any) -> tuple[int, torch.dtype]:
    """Width and dtype of last actions for an action space, recognised by behaviour."""
    nvec = getattr(space, "nvec", None)
    if nvec is not None:
        return len(nvec), torch.int32
    width = math.prod(getattr(space, "shape", None) or ())
    floating = "float" in str(getattr(space, "dtype", ""))
    return width, torch.float32 if floating else torch.int32
