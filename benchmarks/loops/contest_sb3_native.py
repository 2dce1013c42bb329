"""Stable-Baselines3 with `native_activations(model.policy)` and nothing else of hotloop."""

from __future__ import annotations

from .contest_sb3 import StableBaselines3
from .contestants import AbsentError
from .jobs import Job


def make(job: Job, threads: int, seed: int) -> StableBaselines3:
    if job.obs_dtype == "uint8":
        raise AbsentError("there is no tanh in this network")
    contestant = StableBaselines3(job, threads, seed, native=True)
    contestant.note += ", its policy's tanh hotloop's"
    return contestant
