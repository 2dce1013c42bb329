"""What the `Experience` of both layouts share: the buffer, where each agent writes, and how it is stored.

It is not `hotloop.Experience`: that one refuses to overwrite rows that slower slices have not finished, and
writes back what `update` is given. Here the cursors run, and `update` does nothing, exactly as in Metta.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from hotloop import ops
from hotloop.entries import plain_entries
from hotloop.experience_rows import check_sizes, slice_bounds
from hotloop.integrations.metta.minibatches import MinibatchRows
from hotloop.ops._memory import zeros_buffer
from hotloop.spec import Key, key_name, merge_specs, normalize_spec, spec_leaves, zeros_from_spec

_STORE = "Experience.store"
_Kind = TypeVar("_Kind", bound="SegmentedExperience")


class SegmentedExperience:
    """Rollout storage `[segments, bptt_horizon]`.

    Attributes: `buffer` (TensorDict), `segments`, `minibatch_size`, `minibatch_segments`, `num_minibatches`,
    `accumulate_minibatches`, `total_agents`, `batch_size`, `bptt_horizon`, `device`, `free_idx`, `full_rows`.
    """

    #: What `copy=None` means: whether minibatches are copies. `install(copy=True)` sets it.
    copies: ClassVar[bool] = False
    # Of the trackers and of `_range_tensor`.
    _tracker_dtype: ClassVar[torch.dtype]

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
        check_sizes(
            total_agents=total_agents,
            batch_size=batch_size,
            bptt_horizon=bptt_horizon,
            minibatch_size=minibatch_size,
            max_minibatch_size=max_minibatch_size,
        )
        self.total_agents = total_agents
        self.batch_size = batch_size
        self.bptt_horizon = bptt_horizon
        self.device = torch.device(device)
        self.segments = batch_size // bptt_horizon
        self.minibatch_size = min(minibatch_size, max_minibatch_size)
        self.accumulate_minibatches = max(1, minibatch_size // max_minibatch_size)
        self.minibatch_segments = self.minibatch_size // bptt_horizon
        self.num_minibatches = self.segments // self.minibatch_segments

        spec = normalize_spec(experience_spec)
        self.buffer: TensorDict = zeros_from_spec(
            spec, (self.segments, bptt_horizon), self.device, zeros_buffer
        )
        self._range_tensor = torch.arange(total_agents, device=self.device, dtype=self._tracker_dtype)
        self._cursors = ops.RowCursors(total_agents, self.segments, bptt_horizon)
        self._native_cursors = self._cursors.native
        self._rows = self._range_tensor % self.segments
        self._on_cpu = self.device.type == "cpu"
        # In host memory the cursors' own numbers are the tracker, else a copy that follows them.
        tracker = _numbers_as(self._tracker_dtype, self._cursors.positions) if self._on_cpu else None
        self._live = tracker is not None
        self._positions = (
            torch.zeros(total_agents, dtype=self._tracker_dtype, device=self.device)
            if tracker is None
            else tracker
        )
        self._bounds: dict[tuple[Any, Any], tuple[int, int]] = {}
        self._served: tuple[slice | None, int, int] = (None, 0, 0)
        self._plan: ops.StorePlan | None = None
        self._planned: list[Key] = []
        self._minibatches = MinibatchRows(
            self.minibatch_segments, bptt_horizon, self.device, self.copies if copy is None else copy
        )

    @classmethod
    def from_losses(
        cls: type[_Kind],
        total_agents: int,
        batch_size: int,
        bptt_horizon: int,
        minibatch_size: int,
        max_minibatch_size: int,
        policy_experience_spec: Any,
        losses: Mapping[str, Any],
        device: torch.device | str,
        **options: Any,
    ) -> _Kind:
        """One for what the policy and the losses want stored (where several describe a key, the last wins),
        attached to every loss."""
        specs = [loss.get_experience_spec() for loss in losses.values()]
        experience = cls(
            total_agents=total_agents,
            batch_size=batch_size,
            bptt_horizon=bptt_horizon,
            minibatch_size=minibatch_size,
            max_minibatch_size=max_minibatch_size,
            experience_spec=cls._complete(merge_specs(policy_experience_spec, *specs)),
            device=device,
            **options,
        )
        for loss in losses.values():
            loss.attach_replay_buffer(experience)
        return experience

    @staticmethod
    def _complete(spec: dict[str, Any]) -> dict[str, Any]:
        """Keys that the layout itself adds to the merged specs."""
        return spec

    @property
    def free_idx(self) -> int:
        """The row that the next agent to finish one goes on in."""
        return self._cursors.free_idx

    @property
    def full_rows(self) -> int:
        """Rows finished in this rollout."""
        return self._cursors.full_rows

    @property
    def ready_for_training(self) -> bool:
        """Whether as many rows as the buffer has were finished."""
        return self._native_cursors.full_rows >= self.segments

    def reset_for_rollout(self) -> None:
        """Agent i to row i, column 0; the tracker of rows is a new tensor. The buffer keeps its contents."""
        self._cursors.reset()
        self._rows = self._range_tensor % self.segments
        if not self._live:
            self._positions.zero_()

    # Storing

    def _keys_to_store(self, anew: bool = False) -> list[Key]:
        """The same list for as long as it holds the same keys. `anew`: one of them was not found."""
        raise NotImplementedError

    def store(self, data_td: TensorDictBase, env_id: slice) -> None:
        """Write one step of the agents `env_id` and move them on; a finished row is followed by the next free
        one, whoever may be using it.

        Raises, before anything is written: TypeError when `env_id` is no slice, KeyError for an entry that
        `data_td` lacks, ValueError for one of a wrong shape and for agents that stand at different columns.
        """
        served, start, stop = self._served
        if env_id is not served:
            start, stop = self._agents(env_id)
        keys = self._keys_to_store()
        if self._on_cpu:
            plan = self._plan
            if plan is None or self._planned is not keys or plan.buffer is not self.buffer:
                plan = self._new_plan(keys)
            try:
                plan.store(data_td, start, stop)
            except KeyError:
                again = self._keys_to_store(anew=True)
                self._sources(data_td, again)  # says which, if there is one that it lacks
                self._new_plan(again).store(data_td, start, stop)
        else:
            self._store_by_torch(data_td, keys, start, stop)
        if not self._live or self._native_cursors.position(start) == 0:
            self._follow(start, stop)

    def _new_plan(self, keys: list[Key]) -> ops.StorePlan:
        plan = self._plan = ops.StorePlan(self.buffer, keys, self._cursors)
        self._planned = keys
        return plan

    def _agents(self, env_id: slice) -> tuple[int, int]:
        if not isinstance(env_id, slice):
            return slice_bounds(env_id, self.total_agents, _STORE)
        key = (env_id.start, env_id.stop)
        known = self._bounds.get(key) if env_id.step in (None, 1) else None
        if known is None:
            known = self._bounds[key] = slice_bounds(env_id, self.total_agents, _STORE)
        self._served = (env_id, *known)
        return known

    def _sources(self, data_td: TensorDictBase, keys: list[Key]) -> list[Tensor]:
        names = {name if isinstance(name, str) else tuple(name) for name in data_td.keys(True, True)}
        for key in keys:
            if key not in names:
                raise KeyError(
                    f"{_STORE}: data_td must hold {key_name(key)!r}, got only {sorted(map(str, names))}"
                )
        return [data_td[key] for key in keys]

    def _store_by_torch(self, data_td: TensorDictBase, keys: list[Key], start: int, stop: int) -> None:
        """On other devices. The rows of a slice follow each other, but for a turn at the buffer's end."""
        sources = self._sources(data_td, keys)
        column = self._cursors.position(start)
        first, last = (int(self._cursors.rows[agent]) for agent in (start, stop - 1))
        in_order = last - first == stop - start - 1
        rows: Any = slice(first, last + 1) if in_order else self._rows[start:stop].to(torch.int64)
        for key, source in zip(keys, sources, strict=True):
            self.buffer[key][rows, column] = source.detach().to(self.buffer[key].dtype)
        self._cursors.advance(start, stop)

    def _follow(self, start: int, stop: int) -> None:
        """The trackers, after the cursors have moved on."""
        column = self._native_cursors.position(start)
        if not self._live:
            self._positions[start:stop] = column
        if column == 0:
            self._rows[start:stop] = self._cursors.rows[start:stop]

    # Training

    def update(self, indices: Tensor, data_td: TensorDictBase) -> None:
        """Does nothing, as in Metta, whose `update` writes into a copy of the rows and drops it: values and
        ratios in the buffer stay those of the rollout."""

    def reset_importance_sampling_ratios(self) -> None:
        """Set the buffer's `ratio` to 1, where it has one."""
        ratio = self.buffer.get("ratio", None)
        if ratio is not None:
            ratio.fill_(1.0)

    def give_me_empty_md_td(self) -> TensorDict:
        """An empty TensorDict `[B, T]` on the buffer's device."""
        return self._minibatches.shell({})

    def _statistics(self, tracker: str) -> dict[str, float]:
        """Means of what is stored, read with one transfer, and of the tracker where agents are inside a
        row."""
        entries: Mapping[Any, Tensor] = plain_entries(self.buffer) or self.buffer
        names = [
            name
            for name in ("rewards", "dones", "truncateds", "values", "ratio", "act_log_prob")
            if name in entries
        ]
        found = [entries[name].mean().double() for name in names]
        inside = self._positions[self._positions > 0].float()
        names.append(tracker)
        found.append((inside.mean() if len(inside) else inside.new_zeros(())).double())
        if "actions" in entries:
            actions = entries["actions"].float()
            names += ["actions_mean", "actions_std"]
            found += [actions.mean().double(), actions.std().double()]
        return dict(zip(names, torch.stack(found).tolist(), strict=True))


def _numbers_as(dtype: torch.dtype, numbers: Tensor) -> Tensor | None:
    """The int64 `numbers`, none below 0, as others of `dtype` that change with them; None where there is no
    such view. Of int32 it is one of every second number."""
    if dtype == torch.int64:
        return numbers
    return numbers.view(torch.int32)[::2] if dtype == torch.int32 and sys.byteorder == "little" else None


def leaf_keys(buffer: TensorDict) -> list[Key]:
    """Addresses of all leaves."""
    plain = plain_entries(buffer)
    if plain is not None:
        return list(plain)
    return list(buffer.keys(include_nested=True, leaves_only=True))


def spec_keys(spec: Any) -> list[Key]:
    """Addresses of all leaves of a spec."""
    return [key for key, _ in spec_leaves(normalize_spec(spec))]
