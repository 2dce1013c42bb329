"""The TensorDict of a rollout step, and what the rollouts of both layouts share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from hotloop.entries import flat_tensordict, set_entries

WHERE = "CoreTrainingLoop.rollout_phase"
_LAST_ACTIONS = "last_actions"  # put in at last, by a method that others may call or replace


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
        provided: entries that the loop sets at every step, beside the last actions.
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
        names, later = list(chosen.keys()), {*provided, _LAST_ACTIONS}
        # Their order is that of a template into which the loop's entries are written one by one.
        self._order: dict[Any, Any] = dict.fromkeys([*names, *provided])
        self._order.pop(_LAST_ACTIONS, None)
        left = [name for name in names if name not in later]
        self._old = chosen.select(*left)[rows, positions - 1] if left else None
        self.device = buffer.device

    def entries(self, window: slice) -> dict[Any, Any]:
        """All entries of a step in their order, None where the loop still has to set them."""
        entries = dict(self._order)
        if self._old is not None:
            entries.update((key, value[window].clone()) for key, value in self._old.items())
        return entries

    def step(self, entries: dict[Any, Any], window: Window) -> TensorDict:
        """The step's TensorDict `[n]`, without last actions."""
        return flat_tensordict(entries, (window.agents,), self.device)


def float_flags(flags: Tensor, device: torch.device | None) -> Tensor:
    """float32 on the device; a copy, unless it is that already."""
    return flags.to(device=device, dtype=torch.float32, non_blocking=True)


def moved(tensor: Tensor, device: torch.device | None) -> Tensor:
    """On the device; the tensor itself where it is there already."""
    return tensor if device is None or tensor.device == device else tensor.to(device, non_blocking=True)


def put(td: TensorDictBase, key: str, value: Tensor) -> None:
    """`td[key] = value` for one that is known to fit."""
    set_entries(td, {key: value})


def add_sizes(td: TensorDictBase, entries: dict[Any, Any], window: Window) -> None:
    """`batch` and `bptt`, where the policy's spec has none."""
    sizes = {"batch": window.batch, "bptt": window.bptt}
    set_entries(td, {name: size for name, size in sizes.items() if name not in entries})


def acted(td: TensorDictBase) -> Tensor:
    """The actions that a loss has written. ValueError where none did."""
    if "actions" not in td.keys():  # noqa: SIM118 (a TensorDict)
        raise ValueError(f"{WHERE}: no loss performed inference: one must write 'actions'")
    actions: Tensor = td["actions"]
    return actions


def send(env: Any, td: TensorDictBase) -> None:
    """Hand the step's actions to the environment."""
    env.send_actions(td["actions"].cpu().numpy())


def result(raw_infos: list[dict[str, Any]], agent_steps: int, window: slice | None) -> RolloutResult:
    """RuntimeError where no step was made."""
    if window is None:
        raise RuntimeError(f"{WHERE}: the rollout was complete before its first step")
    # without validation, which would copy every dict
    return RolloutResult.model_construct(
        raw_infos=raw_infos, agent_steps=int(agent_steps), training_env_id=window
    )
