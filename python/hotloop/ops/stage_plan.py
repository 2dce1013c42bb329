"""`StagePlan`: everything that a step brings into tensors that stay where they are, in one call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hotloop import _core
from hotloop.ops._leaves import checked_scales, converted, require_tensors


class StagePlan:
    """Copies a step's tensors into static ones, converting and scaling on the way.

    Args:
        targets: CPU tensors `[n, ...]` by name, each with memory of its own.
        offsets: for targets that are a window into a longer source (agents `[start, start + n)` of all): the
            first row that is read.
        scales: for some of the targets a factor, for instance `1 / 255` of uint8 pixels; floating ones only.
            The product is taken in float32 (float64 where either side is) and rounded once.
        cleared: names of targets whose row becomes zeros where an episode ended, such as last actions.

    Attributes:
        targets: the tensors by name, overwritten by every call. count: n.
        try_stage: `stage` of a list and a tuple without a line of Python; False, and nothing is written,
            where it must be called instead.

    Raises:
        ValueError: targets of several sizes n, or none. KeyError: options for a name that `targets` lacks.
        TypeError: a scale for an integer target.
    """

    def __init__(
        self,
        targets: Mapping[str, Tensor],
        *,
        offsets: Mapping[str, int] | None = None,
        scales: Mapping[str, float] | None = None,
        cleared: Collection[str] = (),
    ) -> None:
        self.targets = dict(targets)
        counts = {len(target) for target in self.targets.values()}
        if len(counts) != 1:
            raise ValueError(f"StagePlan: targets must have one common first size, got {sorted(counts)}")
        self.count = counts.pop()
        self.offsets = dict(offsets or {})
        self.cleared = tuple(cleared)
        for name in (*self.offsets, *self.cleared):
            if name not in self.targets:
                raise KeyError(f"StagePlan: options must be for some of {list(self.targets)}, got {name!r}")
        for name, offset in self.offsets.items():
            if offset < 0:
                raise ValueError(f"StagePlan: the offset of {name!r} must be at least 0, got {offset}")
        self.scales = checked_scales("StagePlan", self.targets, scales)
        self._native = _core.StagePlan(
            list(self.targets),
            tuple(self.targets.values()),
            [self.scales.get(name, 1.0) for name in self.targets],
            [self.offsets.get(name, -1) for name in self.targets],
            [name in self.cleared for name in self.targets],
            self.count,
        )
        self.try_stage: Callable[[list[Tensor], tuple[Tensor, ...]], bool] = self._native.stage

    def stage(self, sources: Sequence[Tensor], ends: Sequence[Tensor] = ()) -> None:
        """Copy one step.

        Args:
            sources: one tensor for each target, in their order: `[n, ...]`, of any dtype and strides (an
                expanded number fills), or longer where the target has an offset. `[n]` serves a target
                `[n, 1]`.
            ends: flags `[n]` (bool, uint8 or floating) of rows whose episode ended.

        Raises:
            TypeError, ValueError: a tensor of a wrong kind or shape; nothing is written then.
        """
        if not self.try_stage(list(sources), tuple(ends)):
            self._stage_by_torch(sources, ends)

    def _stage_by_torch(self, sources: Sequence[Tensor], ends: Sequence[Tensor]) -> None:
        """For tensor subclasses, which torch's dispatcher must see. Checks come before writes here too."""
        require_tensors("StagePlan.stage: each target", self.targets.values())
        require_tensors("StagePlan.stage: each source", sources)
        require_tensors("StagePlan.stage: each of ends", ends)
        rows = []
        for (name, target), source in zip(self.targets.items(), sources, strict=True):
            offset = self.offsets.get(name)
            each = source if offset is None else source[offset : offset + len(target)]
            column = target.shape[-1:] == (1,) and each.ndim + 1 == target.ndim
            each = each.unsqueeze(-1) if column else each
            if each.shape != target.shape:
                raise ValueError(
                    f"StagePlan.stage: source[{name}] must be of shape {list(target.shape)}, "
                    f"got {list(source.shape)}"
                )
            rows.append(converted(each, target.dtype, self.scales.get(name, 1.0)))
        for flags in ends:
            if flags.shape != (self.count,):
                raise ValueError(
                    f"StagePlan.stage: ends must be [n] = [{self.count}], got {list(flags.shape)}"
                )
        for (name, target), each in zip(self.targets.items(), rows, strict=True):
            target.copy_(each)
            for flags in ends if name in self.cleared else ():
                target[flags != 0] = torch.zeros((), dtype=target.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.targets, self.offsets, self.scales, self.cleared)


def _restore(
    targets: dict[str, Tensor], offsets: dict[str, int], scales: dict[str, float], cleared: tuple[str, ...]
) -> StagePlan:
    return StagePlan(targets, offsets=offsets, scales=scales, cleared=cleared)
