"""Where the time of a run went: phases that add up to the wall clock."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

from hotloop.stopwatch import Stopwatch

# Phase -> the names under which it is timed. None of them overlap.
_TIMED = {
    "environment": ("_rollout.env_wait", "_rollout.send"),
    "inference": ("_rollout.inference",),
    "advantage": ("_train.advantage",),
    "sample": ("_train.sample",),
    "survey": ("_train.survey",),
    "forward": ("_train.forward",),
    "losses": ("_train.losses",),
    "backward": ("_train.backward",),
    "optimizer": ("_train.optimizer",),
    "evaluation": ("evaluation",),
    "checkpoint": ("checkpoint",),
    "logging": ("logging",),
}
_IN_ROLLOUT = ("environment", "inference")
_IN_TRAINING = ("advantage", "sample", "survey", "forward", "losses", "backward", "optimizer")

#: Every phase, in the order of reports. ``rollout`` and ``training`` are what is left of these two beside the
#: phases inside them, ``other`` what is left of the whole.
PHASES = (
    *_IN_ROLLOUT,
    "rollout",
    *_IN_TRAINING,
    "training",
    "evaluation",
    "checkpoint",
    "logging",
    "other",
)


class PhaseClock:
    """Cuts a run's wall time into laps, one an epoch and without gaps, and each lap into phases.

    What happens between two epochs, a checkpoint say, belongs to the lap of the later one.
    """

    def __init__(self, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch
        self.restart()

    def restart(self) -> None:
        """Begins the first lap."""
        self._since = perf_counter()
        self._stopwatch.reset()

    def lap(self) -> dict[str, float]:
        """Seconds of every phase since the lap began, which end here; they add up to its length."""
        now = perf_counter()
        elapsed = self._stopwatch.elapsed
        seconds = {phase: sum(map(elapsed, names)) for phase, names in _TIMED.items()}
        seconds["rollout"] = elapsed("_rollout") - sum(seconds[phase] for phase in _IN_ROLLOUT)
        seconds["training"] = elapsed("_train") - sum(seconds[phase] for phase in _IN_TRAINING)
        seconds["other"] = now - self._since - sum(seconds.values())
        self._since = now
        self._stopwatch.reset()
        return {phase: seconds[phase] for phase in PHASES}


def shares(phases: Mapping[str, float]) -> dict[str, float]:
    """The phases in five groups, as fractions of their sum: the environment, the policy's network, the
    optimizer, hotloop's own work, and what the run keeps besides (evaluation, checkpoints, logs)."""
    total = sum(phases.values()) or 1.0
    groups = {
        "environment": ("environment",),
        "policy": ("inference", "survey", "forward", "backward"),
        "hotloop": ("rollout", "advantage", "sample", "losses", "training", "other"),
        "optimizer": ("optimizer",),
        "upkeep": ("evaluation", "checkpoint", "logging"),
    }
    return {group: sum(phases[phase] for phase in members) / total for group, members in groups.items()}
