"""Compiled kernels for the core training loop of on-policy reinforcement learning.

`hotloop.ops` holds the native ops, `hotloop.CoreTrainingLoop` and `hotloop.Experience` the loop around a
torch policy. Names are loaded when they are first used, so `import hotloop` costs no more than `import
torch`.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING

# torch comes first: the native module then finds torch's OpenMP runtime already mapped and shares it. Where
# torch cannot be imported, whatever needs it says so, and `hotloop doctor` can still run and tell why.
with contextlib.suppress(ImportError):
    import torch as _torch  # noqa: F401

if TYPE_CHECKING:
    from hotloop import envs, integrations, losses, ops, optim, policies
    from hotloop.context import ComponentContext, LoopConfig, TrainerState
    from hotloop.experience import Experience
    from hotloop.freed_memory import FreedMemory, keep_freed_memory
    from hotloop.loop import CoreTrainingLoop, RolloutResult
    from hotloop.nonfinite import NonFinite, NonFiniteError
    from hotloop.profiling import Profile, profile
    from hotloop.segment_sampler import SegmentSampler
    from hotloop.stopwatch import Stopwatch
    from hotloop.trainer import TrainConfig, Trainer

__version__ = "0.1.0"

_MODULE_OF = {
    "ComponentContext": "hotloop.context",
    "LoopConfig": "hotloop.context",
    "TrainerState": "hotloop.context",
    "Experience": "hotloop.experience",
    "FreedMemory": "hotloop.freed_memory",
    "keep_freed_memory": "hotloop.freed_memory",
    "CoreTrainingLoop": "hotloop.loop",
    "RolloutResult": "hotloop.loop",
    "Profile": "hotloop.profiling",
    "profile": "hotloop.profiling",
    "NonFinite": "hotloop.nonfinite",
    "NonFiniteError": "hotloop.nonfinite",
    "SegmentSampler": "hotloop.segment_sampler",
    "Stopwatch": "hotloop.stopwatch",
    "TrainConfig": "hotloop.trainer",  # these two need the extra `train`
    "Trainer": "hotloop.trainer",
}
_SUBMODULES = ("envs", "integrations", "losses", "ops", "optim", "policies")

__all__ = [
    "ComponentContext",
    "CoreTrainingLoop",
    "Experience",
    "FreedMemory",
    "LoopConfig",
    "NonFinite",
    "NonFiniteError",
    "Profile",
    "RolloutResult",
    "SegmentSampler",
    "Stopwatch",
    "TrainConfig",
    "Trainer",
    "TrainerState",
    "__version__",
    "envs",
    "integrations",
    "keep_freed_memory",
    "losses",
    "ops",
    "optim",
    "policies",
    "profile",
]


def __getattr__(name: str) -> object:
    if name in _SUBMODULES:
        return importlib.import_module(f"hotloop.{name}")
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'hotloop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
