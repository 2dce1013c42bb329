"""Loss statistics that stay on the device until somebody asks for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import mul
from typing import Any

import torch
from torch import Tensor

_FEW = 64  # observations that are added up sooner here than by a dozen calls of torch


class StatisticTracker:
    """Weighted means of named scalars, accumulated on the device and read with one transfer.

    Values added together are kept together as one vector, so that an addition costs two small kernels however
    many names it has. Sums are float64 (float32 on devices without it): a phase may count more entries than
    float32 can.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._dtype = torch.float32 if self.device.type == "mps" else torch.float64
        # Per group of names: the sums of value * weight, and the sum of weights last: [len(names) + 1].
        self._groups: dict[tuple[str, ...], Tensor] = {}
        self._pending: list[tuple[tuple[str, ...], Tensor, tuple[float, ...]]] = []

    def add(self, values: Mapping[str, Tensor | float], weight: Tensor | float = 1.0) -> None:
        """Add one observation of each name.

        Parameters
        ----------
        values
            Scalars: tensors of one element (detached here) or numbers.
        weight
            How much these observations count in the means, usually the number of valid entries that they
            average; a tensor of one element or a number. Observations of weight 0 leave the means as they
            are.

        Raises ValueError for a tensor of more or fewer elements than one.
        """
        names = tuple(values)
        if not names:
            return
        if self._pending:
            self._settle()
        # The last entry becomes the weight. Stacking converts all in one kernel.
        scalars = [self._scalar(name, value) for name, value in (*values.items(), ("weight", 1.0))]
        self._add(names, torch.stack(scalars), weight)

    def add_means(self, names: tuple[str, ...], means: Tensor, scales: tuple[float, ...]) -> None:
        """`add` for values that one tensor holds: ``means[i] * scales[i]`` of every name, and behind them
        the weight of all. `means` is kept as it is, not copied, until somebody asks."""
        if means.dim() != 1 or means.numel() <= len(names) or len(scales) != len(names):
            raise ValueError(
                f"StatisticTracker.add_means: means must be [n] with n > {len(names)} and scales "
                f"{len(names)} numbers, got {list(means.shape)} and {len(scales)}"
            )
        self._pending.append((names, means, scales))

    def _settle(self) -> None:
        """Add up what `add_means` was given: all at once, for each addition costs several kernels."""
        pending, self._pending = self._pending, []
        for key, group in groupby(pending, lambda entry: (entry[0], entry[2])):
            names, scales = key
            sums = self._summed([means for _, means, _ in group], scales)
            known = self._groups.get(names)
            self._groups[names] = sums if known is None else known + sums

    def _summed(self, means: list[Tensor], scales: tuple[float, ...]) -> Tensor:
        """Sums of scaled value * weight, and the sum of weights: `[len(scales) + 1]`."""
        count = len(scales)
        if self.device.type == "cpu" and len(means) <= _FEW and all(each.is_cpu for each in means):
            totals = [0.0] * (count + 1)
            for each in means:
                numbers: list[float] = each.tolist()
                weight = numbers[count]
                for i in range(count):
                    totals[i] += numbers[i] * weight
                totals[count] += weight
            scaled = map(mul, totals, (*scales, 1.0))
            return torch.tensor(list(scaled), dtype=self._dtype)
        stacked = torch.stack([each.detach() for each in means]).to(self.device, self._dtype)
        weights = stacked[:, count : count + 1]
        sums = torch.cat(((stacked[:, :count] * weights).sum(0), weights.sum(0)))
        for i, scale in enumerate(scales):
            if scale != 1.0:  # one by one: a tensor of them would be copied to the device, and waited for
                sums[i].mul_(scale)
        return sums

    def _add(self, names: tuple[str, ...], values: Tensor, weight: Tensor | float) -> None:
        """Add a fresh vector of values with a 1 behind them."""
        values *= self._scalar("weight", weight) if isinstance(weight, Tensor) else float(weight)
        sums = self._groups.get(names)
        if sums is None:
            self._groups[names] = values
        else:
            sums += values

    def total(self, name: str) -> Tensor:
        """``[2]`` on the device: weighted sum of a name and its sum of weights (zeros when it was never
        added)."""
        self._settle()
        total = torch.zeros(2, dtype=self._dtype, device=self.device)
        for names, sums in self._groups.items():
            if name in names:
                total += torch.stack((sums[names.index(name)], sums[-1]))
        return total

    def means(self) -> dict[str, float]:
        """Weighted mean of every name, in the order of first use; NaN is passed on, no weight at all gives
        0."""
        return joint_means([self.totals()])

    def totals(self) -> dict[str, tuple[float, float]]:
        """Weighted sum and sum of weights of every name, in the order of first use."""
        self._settle()
        if not self._groups:
            return {}
        numbers: list[float] = torch.cat(list(self._groups.values())).tolist()
        totals: dict[str, tuple[float, float]] = {}
        position = 0
        for names in self._groups:
            weight = numbers[position + len(names)]
            for i, name in enumerate(names):
                sum_so_far, weight_so_far = totals.get(name, (0.0, 0.0))
                totals[name] = (sum_so_far + numbers[position + i], weight_so_far + weight)
            position += len(names) + 1
        return totals

    def mark(self) -> object:
        """What `rewind` goes back to."""
        return {names: sums.clone() for names, sums in self._groups.items()}, list(self._pending)

    def rewind(self, mark: Any) -> None:
        """Forget what was added since that `mark`, which can be used once."""
        self._groups, self._pending = mark

    def clear(self) -> None:
        """Forget everything."""
        self._groups.clear()
        self._pending.clear()

    def _scalar(self, name: str, value: Tensor | float) -> Tensor:
        if not isinstance(value, Tensor):
            return torch.full((), float(value), dtype=self._dtype, device=self.device)
        if value.numel() != 1:
            raise ValueError(
                f"StatisticTracker.add: {name} must be a tensor of one element, got shape {list(value.shape)}"
            )
        return value.detach().reshape(()).to(self.device)


def joint_means(parts: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    """Weighted means from the `totals` of several trackers; NaN is passed on, no weight at all gives 0."""
    sums: dict[str, tuple[float, float]] = {}
    for part in parts:
        for name, (total, weight) in part.items():
            known = sums.get(name, (0.0, 0.0))
            sums[name] = known[0] + total, known[1] + weight
    return {name: (total / weight if weight != 0.0 else 0.0) for name, (total, weight) in sums.items()}
