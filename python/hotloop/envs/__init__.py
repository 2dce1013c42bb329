"""Environments: the interface that the loop steps, and adapters that load their library on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hotloop.envs.protocol import (
    AutoresetMode,
    BatchInfo,
    PeeksObservations,
    ReportsAutoreset,
    SavesState,
    StepBatch,
    TeacherStepBatch,
    TrainingEnvironment,
)

if TYPE_CHECKING:
    from hotloop.envs.envpool import EnvPoolEnvironment
    from hotloop.envs.gymnasium import GymnasiumEnvironment

__all__ = [
    "AutoresetMode",
    "BatchInfo",
    "EnvPoolEnvironment",
    "GymnasiumEnvironment",
    "PeeksObservations",
    "ReportsAutoreset",
    "SavesState",
    "StepBatch",
    "TeacherStepBatch",
    "TrainingEnvironment",
]


def __getattr__(name: str) -> Any:
    # Adapters load their library on first use, so that a trainer with an environment of its own needs none of
    # them.
    if name == "GymnasiumEnvironment":
        from hotloop.envs.gymnasium import GymnasiumEnvironment

        return GymnasiumEnvironment
    if name == "EnvPoolEnvironment":
        from hotloop.envs.envpool import EnvPoolEnvironment

        return EnvPoolEnvironment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
