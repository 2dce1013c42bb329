"""The TensorDict of a rollout step, and what the rollouts of both layouts share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from hotloop.entries import flat_tensordict
from hotloop.loop_stage import Column, Stage
from hotloop.spec import Key

WHERE = "CoreTrainingLoop.rollout_phase"


class RolloutResult(BaseModel):
    """``raw_infos``: the environment's info dicts in the order in which they came. ``agent_steps``: steps
    made. ``training_env_id``: the slice of agents served last."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    raw_infos: list[dict[str, Any]]
    agent_steps: int
    training_env_id: slice


class Window:
    """What never changes about one slice of agents: `ids` int64 `[n, 1]`, `batch` and `bptt` int64 `[n]`.

    The tensors are shared by all steps of the slice, as in Metta: do not write into them.
    """

    def __init__(self, env_slice: slice, agent_ids: Tensor, device: torch.device | None) -> None:
        ids = agent_ids[env_slice]
        self.slice = env_slice
        self.start: int = env_slice.start
        self.stop: int = env_slice.stop
        self.agents = len(ids)
        self.ids = ids.to(device=device).unsqueeze(1)
        self.batch = torch.full((self.agents,), self.agents, dtype=torch.int64, device=device)
        self.bptt = torch.ones(self.agents, dtype=torch.int64, device=device)
        self._views: dict[str, tuple[Tensor, Tensor]] = {}
        self._columns: dict[str, tuple[Tensor, Tensor]] = {}

    def of(self, name: str, tensor: Tensor) -> Tensor:
        """The slice's part of a tensor `[A, ...]`: a view, which is kept for as long as `name` stands for the
        same tensor."""
        known = self._views.get(name)
        if known is None or known[0] is not tensor:
            known = self._views[name] = (tensor, tensor[self.slice])
        return known[1]

    def column(self, name: str, tensor: Tensor) -> Tensor:
        """The same of a tensor `[A, 1]`, as `[n]`."""
        known = self._columns.get(name)
        if known is None or known[0] is not tensor:
            known = self._columns[name] = (tensor, tensor[self.slice, 0])
        return known[1]


class Windows:
    """The slices that an environment has served."""

    def __init__(self, agent_ids: Tensor, device: torch.device | None) -> None:
        self._agent_ids = agent_ids
        self._device = device
        self._known: dict[tuple[Any, Any], Window] = {}

    def __getitem__(self, env_slice: slice) -> Window:
        key = (env_slice.start, env_slice.stop)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Window(env_slice, self._agent_ids, self._device)
        return known


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

    def step(self, entries: Mapping[Any, Any], window: Window) -> TensorDict:
        """The TensorDict `[n]` of a step, with `batch` and `bptt` where the policy's spec has none."""
        made = {**self._order, **entries}
        if self._old is not None:
            made.update((key, value[window.slice].clone()) for key, value in self._old.items())
        if "batch" not in made:
            made["batch"] = window.batch
        if "bptt" not in made:
            made["bptt"] = window.bptt
        return flat_tensordict(made, (window.agents,), self.device)


class StepMemory:
    """Copies and converts the small entries of a step, by one native call in host memory.

    What a step of a slice gets is overwritten `horizon` steps later; with `copies` never.
    """

    def __init__(self, horizon: int, device: torch.device | None, copies: bool) -> None:
        self._horizon = horizon
        self._device = torch.device("cpu") if device is None else device
        self._copies = copies
        self._rings: dict[Any, _Ring] = {}

    def __call__(self, window: Window, columns: list[Column], sources: list[Tensor]) -> dict[Key, Tensor]:
        """Entries by key, from one source for each column: tensors on the device."""
        key = (window.start, window.stop, columns[-1])  # the last actions' layout may change
        ring = self._rings.get(key)
        if ring is None:
            ring = self._rings[key] = _Ring([None] * self._horizon)
        turn = ring.turn
        ring.turn = (turn + 1) % self._horizon
        stage = ring.stages[turn]
        if stage is None:
            stage = ring.stages[turn] = Stage(columns, window.start, window.stop, self._device)
        entries = stage(sources, ())
        return {name: entry.clone() for name, entry in entries.items()} if self._copies else entries


@dataclass
class _Ring:
    stages: list[Stage | None]
    turn: int = 0


def moved(tensor: Tensor, device: torch.device | None) -> Tensor:
    """On the device; the tensor itself where it is there already."""
    return tensor if device is None or tensor.device == device else tensor.to(device, non_blocking=True)


def acted(td: TensorDictBase) -> Tensor:
    """The actions that a loss has written. ValueError where none did."""
    try:
        actions: Tensor = td["actions"]
    except KeyError:
        raise ValueError(f"{WHERE}: no loss performed inference: one must write 'actions'") from None
    return actions.detach() if actions.requires_grad else actions


def send(env: Any, td: TensorDictBase) -> None:
    """Hand the step's actions to the environment."""
    actions = td["actions"]
    env.send_actions((actions if actions.is_cpu else actions.cpu()).numpy())


def result(raw_infos: list[dict[str, Any]], agent_steps: int, window: slice | None) -> RolloutResult:
    """RuntimeError where no step was made."""
    if window is None:
        raise RuntimeError(f"{WHERE}: the rollout was complete before its first step")
    # without validation, which would copy every dict
    return RolloutResult.model_construct(
        raw_infos=raw_infos, agent_steps=int(agent_steps), training_env_id=window
    )
