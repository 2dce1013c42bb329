"""Environments: the interface that the loop steps, and adapters that load their library on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hotloop.envs.processes import EnvironmentLostError
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
    from hotloop.envs.atari import make_atari
    from hotloop.envs.envpool import EnvPoolEnvironment
    from hotloop.envs.gymnasium import GymnasiumEnvironment
    from hotloop.envs.mettagrid import MettaGridEnvironment
    from hotloop.envs.pufferlib import PufferEnvironment

__all__ = [
    "AutoresetMode",
    "BatchInfo",
    "EnvPoolEnvironment",
    "EnvironmentLostError",
    "GymnasiumEnvironment",
    "MettaGridEnvironment",
    "PeeksObservations",
    "PufferEnvironment",
    "ReportsAutoreset",
    "SavesState",
    "StepBatch",
    "TeacherStepBatch",
    "TrainingEnvironment",
    "make_atari",
]

# Loaded on first use, with the library that each needs, so that a trainer with an environment of its own
# needs none of them.
_MODULE_OF = {
    "EnvPoolEnvironment": "hotloop.envs.envpool",
    "GymnasiumEnvironment": "hotloop.envs.gymnasium",
    "MettaGridEnvironment": "hotloop.envs.mettagrid",
    "PufferEnvironment": "hotloop.envs.pufferlib",
    "make_atari": "hotloop.envs.atari",
}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
