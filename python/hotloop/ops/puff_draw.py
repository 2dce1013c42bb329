"""`PuffDraw`: the rows of PufferLib's minibatches, drawn as its trainer draws them, to the last bit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hotloop import _core

_SEVERAL = 1 << 15  # from so many numbers on torch divides a sum over threads


class PuffDraw:
    """Draws `count` of `segments` rows without replacement, in proportion to a power of the sums of |A|.

    It is what `PuffeRL.train` does by some fifteen operations of torch, after prioritised experience replay
    (Schaul et al. 2016)::

        sums    = A.abs().sum(dim=1)
        powers  = nan_to_num(sums ** alpha)
        chances = (powers + 1e-6) / (powers.sum() + 1e-6)
        rows    = torch.multinomial(chances, count)

    Of torch's own are left: the powers, whose last bit is its library's, and the exponential variates of
    the race that `torch.multinomial` decides by, so that its generator goes on as without this. Sums are
    native in torch's order; where a trial finds that this build of torch adds in another, they are torch's.
    Where equal numbers leave open who wins, `torch.topk` decides, as within `torch.multinomial`.

    Args:
        segments: S. horizon: T. count: k, at most S.

    Attributes:
        sums, powers, chances: float32 `[S]`, of the last draw.
        rows: int64 `[k]`, overwritten by the next draw.
        picked: float32 `[k, 1]`: `S * chances[rows]`.

    Raises:
        ValueError: `count` is larger than `segments`.
    """

    def __init__(self, segments: int, horizon: int, count: int) -> None:
        self.sums, self.powers, self.chances, self._race = (torch.zeros(segments) for _ in range(4))
        self.rows = torch.zeros(count, dtype=torch.int64)
        self._best = torch.empty(count)
        picked = torch.empty(count)
        self.picked = picked.unsqueeze(1)
        self._native = _core.PuffDraw(self.sums, self.powers, self.chances, self._race, self.rows, picked)
        self._segments, self._count, self._horizon = segments, count, horizon
        self._as_torch = (False, False)
        self._threads = 0
        self.prepare()

    def prepare(self) -> None:
        """Looks again whether torch's sums are ours, where its number of threads has changed."""
        threads = torch.get_num_threads()
        if threads != self._threads:
            self._threads = threads
            self._as_torch = self._tried()

    def sum_up(self, advantages: Tensor) -> None:
        """`sums` of all rows of `advantages`, `[S, T]`."""
        if not (self._as_torch[0] and self._native.sum_up(advantages)):
            torch.sum(advantages.abs(), dim=1, out=self.sums)

    def renew(
        self,
        values: Tensor,
        rewards: Tensor,
        dones: Tensor,
        importance: Tensor,
        gamma: float,
        gae_lambda: float,
        rho_clip: float,
        c_clip: float,
        advantages: Tensor,
        returns: Tensor,
    ) -> bool:
        """After a change of the rows drawn last, and of no others: `advantages` and `returns` of these rows,
        as of `hotloop.ops.puff_advantage`, and their `sums`.

        Args:
            values, rewards, dones, importance: `[S, T]`, see `hotloop.ops.puff_advantage`.
            advantages, returns: `[S, T]`, written.

        Returns:
            False, with nothing written, where a tensor is not float32 with contiguous rows, or where torch's
            sums are not ours.
        """
        return self._as_torch[0] and self._native.renew(
            values, rewards, dones, importance, gamma, gae_lambda, rho_clip, c_clip, advantages, returns
        )

    def draw(self, alpha: float) -> Tensor:
        """The next rows, by `sums`; sets `powers`, `chances` and `picked`.

        Raises:
            RuntimeError: of `torch.multinomial`, where the chances add up to nothing finite.
        """
        native, powers = self._native, self.powers
        torch.pow(self.sums, alpha, out=powers)
        total = native.total() if self._as_torch[1] else powers.sum().item()
        if self._count == 1 or not math.isfinite(total):
            self._draw_by_torch()
        else:
            native.weigh(total)
            self._race.exponential_(1)
            if not native.choose():
                torch.topk(self._race, self._count, out=(self._best, self.rows))
        native.pick()
        return self.rows

    def _draw_by_torch(self) -> None:
        self.powers.nan_to_num_(0, 0, 0)
        torch.add(self.powers, 1e-6, out=self.chances).div_(self.powers.sum().add_(1e-6))
        self.rows.copy_(torch.multinomial(self.chances, self._count))

    def _tried(self) -> tuple[bool, bool]:
        """Whether sums of rows and the sum of all powers are torch's to the last bit, by trial."""
        source = torch.Generator().manual_seed(0)
        rows = torch.rand(min(self._segments, 64), self._horizon, generator=source) - 0.5
        sums, powers, chances, race = (torch.zeros(len(rows)) for _ in range(4))
        none = torch.zeros(0)
        trial = _core.PuffDraw(sums, powers, chances, race, none.long(), none)
        found = trial.sum_up(rows)
        all_rows = found and torch.equal(sums, rows.abs().sum(dim=1))
        if self._segments >= _SEVERAL:
            return all_rows, False
        before = self.powers.clone()
        same = True
        for _ in range(4):
            self.powers.copy_(torch.rand(self._segments, generator=source))
            same = same and self._native.total() == self.powers.sum().item()
        self.powers.copy_(before)
        return all_rows, same
