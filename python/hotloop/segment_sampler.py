"""SegmentSampler: which segments of a rollout each minibatch is made of, with every choice in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hotloop import ops
from hotloop.devices import exact_device, runs_ops
from hotloop.ops.sample_segments import LAWS

#: how the exponent of the importance weights grows
SCHEDULES = ("linear", "reference", "constant")
_BY_PRIORITY = frozenset({"successive", "with_replacement", "systematic"})


def importance_exponent(schedule: str, beta0: float, alpha: float, epoch: int, total_epochs: int) -> float:
    """Exponent beta of the importance weights in epoch `epoch` of `total_epochs`.

    ``"linear"``: from `beta0` linearly to 1 at the end of training (Schaul et al. 2016, "Prioritized
    Experience Replay", section 3.4). ``"reference"``: ``beta0 + (1 - beta0) * alpha * epoch /
    total_epochs``, as PufferLib and Metta have it: with alpha below 1 it stays below 1. ``"constant"``:
    `beta0`. None exceeds 1, where the correction is complete.

    Raises ValueError for another schedule.
    """
    progress = epoch / max(1, total_epochs)
    if schedule == "linear":
        grown = beta0 + (1.0 - beta0) * progress
    elif schedule == "reference":
        grown = beta0 + (1.0 - beta0) * alpha * progress
    elif schedule == "constant":
        return beta0
    else:
        raise ValueError(f"SegmentSampler: schedule must be one of {SCHEDULES}, got {schedule!r}")
    return min(1.0, grown)


def configured_exponent(config: Any, epoch: int, total_epochs: int) -> float:
    """`importance_exponent` with the choices of a `SamplingConfig`."""
    schedule = getattr(config, "beta_schedule", "reference")
    return importance_exponent(schedule, config.prio_beta0, config.prio_alpha, epoch, total_epochs)


class SegmentSampler:
    """Draws the segments of minibatches by one of the laws of `hotloop.ops.sample_segments`.

    Parameters
    ----------
    num_segments, minibatch_segments
        S and k. k is at most S for all laws but ``with_replacement``.
    law
        ``"sequential"``, ``"permutation"``, ``"successive"``, ``"with_replacement"`` or ``"systematic"``.
    alpha
        Priorities are ``(sum_t |advantages|) ** alpha``; 0: all segments alike.
    beta0, schedule, total_epochs
        Exponent of the importance weights and how it grows over `total_epochs`: see `importance_exponent`.
    seed
        Any 64-bit integer. Draws are keyed by (seed, epoch, minibatch) and by nothing else: not by what was
        drawn before, not by the number of threads.
    device
        Where results lie, and priorities: the host, or a CUDA device, where a draw is a kernel and nothing
        waits.

    All but the sizes are plain attributes that may be changed between draws. Raises ValueError for a value
    out of range.
    """

    def __init__(
        self,
        num_segments: int,
        minibatch_segments: int,
        *,
        law: str = "successive",
        alpha: float = 0.6,
        beta0: float = 0.4,
        schedule: str = "linear",
        total_epochs: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = exact_device(device)
        if not runs_ops(self.device):
            raise ValueError(f"SegmentSampler: device must be cpu or a CUDA device, got {self.device}")
        if num_segments < 1 or minibatch_segments < 1:
            raise ValueError(
                "SegmentSampler: num_segments and minibatch_segments must be at least 1, got "
                f"{num_segments} and {minibatch_segments}"
            )
        if law != "with_replacement" and minibatch_segments > num_segments:
            raise ValueError(
                f"SegmentSampler: minibatch_segments must be at most num_segments {num_segments} for law "
                f"{law!r}, got {minibatch_segments}"
            )
        self.num_segments = num_segments
        self.minibatch_segments = minibatch_segments
        self.load_state_dict(
            {
                "num_segments": num_segments,
                "minibatch_segments": minibatch_segments,
                "law": law,
                "alpha": alpha,
                "beta0": beta0,
                "schedule": schedule,
                "total_epochs": total_epochs,
                "seed": seed,
            }
        )
        with torch.inference_mode(False):
            self.memory = (
                torch.empty(minibatch_segments, dtype=torch.int64, device=self.device),
                torch.empty(minibatch_segments, device=self.device),
            )
        self._priorities: dict[torch.dtype, Tensor] = {}
        self._known: tuple[Tensor, int, float, Tensor] | None = None

    def beta(self, epoch: int) -> float:
        """Exponent of the importance weights in an epoch.

        Raises ValueError where the schedule needs `total_epochs` and has none.
        """
        if self.total_epochs is None and self.schedule != "constant":
            raise ValueError(
                f"SegmentSampler: total_epochs must be given for schedule {self.schedule!r}, got None (or "
                "pass beta to draw)"
            )
        return importance_exponent(self.schedule, self.beta0, self.alpha, epoch, self.total_epochs or 1)

    def draw(
        self,
        advantages: Tensor | None = None,
        *,
        epoch: int,
        minibatch: int,
        priorities: Tensor | None = None,
        beta: float | None = None,
        out: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The segments of a minibatch, int64 ``[k]``, and their importance weights, float32 ``[k]``.

        Parameters
        ----------
        advantages
            ``[S, T]``, floating, from which the laws that draw by priority make their priorities. Made once
            for all minibatches of an epoch, as long as the tensor is the same and was not written to.
        epoch, minibatch
            Key of the draw, each 0 ... 2**32 - 1. ``permutation`` draws one order an epoch.
        priorities
            ``[S]``, float32 or float64, instead of advantages; taken as they are, without `alpha`.
        beta
            Instead of the schedule's.
        out
            Where to write; by default memory of the sampler that its next draw overwrites.

        Both results are on `device`. Raises ValueError where a law needs advantages or priorities and has
        none, both or some of another number of segments.
        """
        weighted = self.law in _BY_PRIORITY
        if weighted:
            priorities = self._priorities_of(advantages, priorities)
            beta = self.beta(epoch) if beta is None else beta
        return ops.sample_segments(
            priorities if weighted else None,
            self.num_segments,
            self.minibatch_segments,
            law=self.law,
            seed=self.seed,
            epoch=epoch,
            minibatch=minibatch,
            beta=1.0 if beta is None else beta,
            out=self.memory if out is None else out,
        )

    def priorities(self, advantages: Tensor) -> Tensor:
        """`[S]`, on `device`: what `draw` makes of advantages `[S, T]`."""
        return self._priorities_of(advantages, None)

    def _priorities_of(self, advantages: Tensor | None, priorities: Tensor | None) -> Tensor:
        if (advantages is None) == (priorities is None):
            found = "neither" if advantages is None else "both"
            raise ValueError(
                f"SegmentSampler.draw: one of advantages and priorities must be given for law {self.law!r}, "
                f"got {found}"
            )
        if priorities is not None:
            return priorities.to(self.device)
        assert advantages is not None
        if advantages.ndim != 2 or advantages.shape[0] != self.num_segments:
            raise ValueError(
                f"SegmentSampler.draw: advantages must be [S, T] with S = {self.num_segments}, got "
                f"{list(advantages.shape)}"
            )
        if advantages.is_inference():  # it does not count its changes
            return self._fresh_priorities(advantages)
        key = (advantages._version, self.alpha)
        if self._known is None or self._known[0] is not advantages or self._known[1:3] != key:
            self._known = (advantages, *key, self._fresh_priorities(advantages.detach()))
        return self._known[3]

    def _fresh_priorities(self, advantages: Tensor) -> Tensor:
        """`ops.row_priorities` as float32, or float64 of float64: what the op that draws reads."""
        if advantages.dtype in (torch.bfloat16, torch.float16):
            advantages = advantages.to(torch.float32)
        if advantages.device != self.device:
            total = advantages.abs().sum(dim=1)
            powered = torch.where(total.isfinite(), total**self.alpha, 0.0)
            return torch.nan_to_num(powered, 0.0, 0.0, 0.0).to(self.device)
        memory = self._priorities.get(advantages.dtype)
        if memory is None:
            with torch.inference_mode(False):
                memory = torch.empty(self.num_segments, dtype=advantages.dtype, device=self.device)
            self._priorities[advantages.dtype] = memory
        return ops.row_priorities(advantages, self.alpha, out=memory)

    def state_dict(self) -> dict[str, Any]:
        """The sizes and every choice. There is nothing else to save: draws do not depend on earlier ones."""
        return {
            "num_segments": self.num_segments,
            "minibatch_segments": self.minibatch_segments,
            "law": self.law,
            "alpha": self.alpha,
            "beta0": self.beta0,
            "schedule": self.schedule,
            "total_epochs": self.total_epochs,
            "seed": self.seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`.

        Raises ValueError for other sizes or a value out of range, KeyError for a missing entry.
        """
        for name in ("num_segments", "minibatch_segments"):
            if state[name] != getattr(self, name):
                raise ValueError(f"SegmentSampler: {name} must be {getattr(self, name)}, got {state[name]}")
        law, schedule, total = state["law"], state["schedule"], state["total_epochs"]
        alpha, beta0 = float(state["alpha"]), float(state["beta0"])
        if law not in LAWS:
            raise ValueError(f"SegmentSampler: law must be one of {LAWS}, got {law!r}")
        if schedule not in SCHEDULES:
            raise ValueError(f"SegmentSampler: schedule must be one of {SCHEDULES}, got {schedule!r}")
        if not alpha >= 0.0:
            raise ValueError(f"SegmentSampler: alpha must be at least 0, got {alpha}")
        if not 0.0 <= beta0 <= 1.0:
            raise ValueError(f"SegmentSampler: beta0 must be in [0, 1], got {beta0}")
        if total is not None and total < 1:
            raise ValueError(f"SegmentSampler: total_epochs must be at least 1, got {total}")
        self.law: str = law
        self.alpha = alpha
        self.beta0 = beta0
        self.schedule: str = schedule
        self.total_epochs: int | None = total
        self.seed = int(state["seed"])
