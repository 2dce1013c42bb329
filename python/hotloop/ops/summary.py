"""What the estimators tell of their advantages on request: `AdvantageSummary`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AdvantageSummary:
    """Count, mean and spread of advantages, and where they are not finite.

    `gae` and `puff_advantage` fill a tensor, `summary=AdvantageSummary.tensor()`, in the pass that computes
    the advantages, while these are in the cache; `AdvantageSummary.read` gives it names. A tensor and not
    this class is what an op writes to, so that it can be reused, traced by `torch.compile` and combined
    across processes.

    Of valid steps only. Sums are float64 in an order that no number of threads changes; deviations are taken
    from the mean of each row and then from that of all (Chan et al. 1983), so that a large common offset
    costs no digits.
    """

    count: int
    """Finite entries: those that `mean` and the deviations are of."""
    mean: float
    """0 where there are none."""
    squared_deviations: float
    """Sum of (A - mean)**2."""
    non_finite: int
    """Entries that are NaN or infinite."""
    first_non_finite: tuple[int, int] | None
    """Row and step of the first of them: of the first row that has one."""

    @staticmethod
    def tensor() -> Tensor:
        """`[6]`, float64: what the ops write to."""
        return torch.zeros(6, dtype=torch.float64)

    @classmethod
    def read(cls, summary: Tensor) -> AdvantageSummary:
        """From what an op wrote to `summary`."""
        count, mean, deviations, bad, row, step = summary.tolist()
        where = None if bad == 0 else (int(row), int(step))
        return cls(int(count), mean, deviations, int(bad), where)

    def variance(self, correction: int = 1) -> float:
        """As `torch.var(correction=...)`; NaN for too few entries."""
        degrees = self.count - correction
        return self.squared_deviations / degrees if degrees > 0 else math.nan

    def std(self, correction: int = 1) -> float:
        return math.sqrt(self.variance(correction))
