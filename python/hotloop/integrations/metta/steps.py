"""The TensorDict of a rollout step, and what the rollouts of both layouts share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from hotloop import ops
from hotloop.entries import TensorDictShell
from hotloop.integrations.metta.windows import Window
from hotloop.loop_stage import Column, Stage

WHERE = "CoreTrainingLoop.rollout_phase"
_NOT_AVERAGED = (None, None, None, 0.0)


class RolloutResult(BaseModel):
    """``raw_infos``: the environment's info dicts in the order in which they came. ``agent_steps``: steps
    made. ``training_env_id``: the slice of agents served last."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    raw_infos: list[dict[str, Any]]
    agent_steps: int
    training_env_id: slice


class StepTemplate:
    """The entries that a step has before the environment's are put in: those of the policy's spec, as the
    buffer held them when the rollout began.

    Metta gathers all of them, observations included, and clones them at every step. Here only what nobody
    sets is kept: those entries stay at their old values for the whole rollout.

    Args:
        provided: entries that the loop sets at every step.
    """

    def __init__(
        self,
        buffer: TensorDictBase,
        policy_spec: Any,
        rows: Tensor,
        positions: Tensor,
        provided: Iterable[str],
    ) -> None:
        chosen = buffer.select(*policy_spec.keys())
        names, provided = list(chosen.keys()), list(provided)
        # Their order is that of a template into which the loop's entries are written one by one.
        self._order: dict[Any, Any] = dict.fromkeys([*names, *provided])
        left = [name for name in names if name not in provided]
        self._old = chosen.select(*left)[rows, positions - 1] if left else None
        self.device = buffer.device

    def entries(self, window: Window, constants: Mapping[str, Tensor]) -> dict[str, Any]:
        """Those of a slice in their order: `constants`, `batch` and `bptt` where the policy's spec has none,
        and None for what each step brings."""
        made = {**self._order, **constants}
        made.setdefault("batch", window.batch)
        made.setdefault("bptt", window.bptt)
        return made

    def old(self, window: Window) -> list[tuple[str, Any]]:
        """A slice's old values, of which each step gets copies."""
        return [] if self._old is None else [(key, old[window.slice]) for key, old in self._old.items()]


class Slot:
    """Host memory for the small entries of one step, and the plan that copies and converts them into it."""

    __slots__ = ("_try_stage", "entries", "plan")

    def __init__(self, columns: Sequence[Column], window: Window) -> None:
        with torch.inference_mode(False):  # it outlives whatever mode this step is made in
            self.entries: dict[Any, Tensor] = {
                column.key: torch.zeros((window.agents, *column.shape), dtype=column.dtype)
                for column in columns
            }
        self.plan = ops.StagePlan(
            {str(key): entry for key, entry in self.entries.items()},
            offsets={str(column.key): window.start for column in columns if column.windowed},
        )
        self._try_stage = self.plan.try_stage

    def takes(self, sources: list[Tensor]) -> bool:
        """Stage them, where they are ordinary tensors in host memory."""
        try:
            return self._try_stage(sources, ())
        except TypeError:
            return False


class StepMemory:
    """Memory for the small entries of steps. In host memory, what a step of a slice gets is overwritten
    `horizon` steps later, with `copies` never; on other devices torch makes it anew."""

    def __init__(self, horizon: int, device: torch.device | None, copies: bool) -> None:
        self.in_host_memory = device is None or device.type == "cpu"
        self.copies = copies
        self._horizon = horizon
        self._device = torch.device("cpu") if device is None else device
        self._rings: dict[Any, Ring] = {}

    def ring(self, window: Window, columns: Sequence[Column]) -> Ring:
        """That of a slice, in host memory."""
        key = (window.start, window.stop, columns[-1])  # the last actions' layout may change
        ring = self._rings.get(key)
        if ring is None:
            ring = self._rings[key] = Ring(columns, window, self._horizon)
        return ring

    def elsewhere(self, window: Window, columns: Sequence[Column]) -> Stage:
        """That of a slice, on another device."""
        return Stage(columns, window.start, window.stop, self._device)


class Ring:
    """Slots for so many steps: the next one gets that which was used longest ago."""

    def __init__(self, columns: Sequence[Column], window: Window, horizon: int) -> None:
        self._made_of = columns, window
        self._slots: list[Slot | None] = [None] * horizon
        self._turn = 0

    def next(self) -> Slot:
        turn = self._turn
        self._turn = turn + 1 if turn + 1 < len(self._slots) else 0
        slot = self._slots[turn]
        if slot is None:
            slot = self._slots[turn] = Slot(*self._made_of)
        return slot


class SliceSteps:
    """Makes the TensorDicts of one slice of agents in one rollout.

    Args:
        constants: entries that all steps share.

    Attributes:
        last: the last actions of all agents that steps are made with; None before `lay_out`.
        entries: the small entries of the step made last, which are copies.
    """

    def __init__(
        self, template: StepTemplate, window: Window, constants: Mapping[str, Tensor], memory: StepMemory
    ) -> None:
        self.window = window
        self.last: Tensor | None = None
        self.entries: Mapping[Any, Tensor] = {}
        self._device = template.device
        self._all = template.entries(window, constants)
        self._old = template.old(window)
        self._memory = memory
        self._copies = memory.copies
        self._shell = TensorDictShell((window.agents,), template.device)
        self._ring: Ring | None = None
        self._stage: Stage | None = None

    def lay_out(self, columns: Sequence[Column], last: Tensor) -> None:
        """What the small entries of the next steps are: `columns`, of which the last is of `last`."""
        self.last = last
        if self._memory.in_host_memory:
            self._ring = self._memory.ring(self.window, columns)
        else:
            self._stage = self._memory.elsewhere(self.window, columns)

    def make(
        self, obs: Tensor, rewards: Tensor, flags: Sequence[Tensor], more: Sequence[Tensor]
    ) -> TensorDict:
        """The TensorDict `[n]` of a step. `flags`: what the environment gave for the first columns; `more`:
        the sources of the others, which are on the device."""
        slot = None if self._ring is None else self._ring.next()
        if slot is None or not (obs.is_cpu and rewards.is_cpu and slot.takes([*flags, *more])):
            obs, rewards, *here = (moved(tensor, self._device) for tensor in (obs, rewards, *flags))
            entries = self._staged(slot, [*here, *more])
        else:
            entries = slot.entries
        if self._copies:
            entries = {key: entry.clone() for key, entry in entries.items()}
        self.entries = entries
        made = self._all.copy()
        made["env_obs"] = obs
        made["rewards"] = rewards
        made.update(entries)
        for key, old in self._old:
            made[key] = old.clone()
        return self._shell(made)

    def _staged(self, slot: Slot | None, sources: list[Tensor]) -> Mapping[Any, Tensor]:
        """The small entries, of sources that are on the device."""
        if slot is not None:
            slot.plan.stage(sources)
            return slot.entries
        assert self._stage is not None, "lay_out makes it"
        return self._stage(sources, ())


def moved(tensor: Tensor, device: torch.device | None) -> Tensor:
    """On the device; the tensor itself where it is there already."""
    return tensor if device is None or tensor.device == device else tensor.to(device, non_blocking=True)


def acted(td: TensorDictBase) -> Tensor:
    """The actions that a loss has written. ValueError where none did."""
    try:
        actions: Tensor = td["actions"]
    except KeyError:
        raise ValueError(f"{WHERE}: no loss performed inference: one must write 'actions'") from None
    return actions


def finished(window: Window, last: Tensor, actions: Tensor, *averaged: Any) -> bool:
    """Remember the actions of a slice, and move its average rewards: `averaged` are these, the rewards, the
    baseline and beta. False, and nothing is done, for what the native plan does not take: that is torch's
    business."""
    try:
        return window.end.try_finish(last, actions, *(averaged or _NOT_AVERAGED))
    except (TypeError, ValueError):
        return False


def send(env: Any, actions: Tensor) -> None:
    """Hand the step's actions to the environment."""
    env.send_actions((actions if actions.is_cpu else actions.cpu()).numpy())


def result(raw_infos: list[dict[str, Any]], agent_steps: int, window: slice | None) -> RolloutResult:
    """RuntimeError where no step was made."""
    if window is None:
        raise RuntimeError(f"{WHERE}: the rollout was complete before its first step")
    # without validation, which would copy every dict
    return RolloutResult.model_construct(
        raw_infos=raw_infos, agent_steps=int(agent_steps), training_env_id=window
    )
