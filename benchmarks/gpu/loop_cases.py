"""Whole training loops on the device: jobs E1 and E3 of `benchmarks.loops`, captured step or not."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from hotloop.bench.timing import Timing

from .runtime import Runtime

if TYPE_CHECKING:  # mypy finds them under one name alone
    from loops.contest_hotloop import Hotloop
    from loops.jobs import HYPER, JOBS, Job
else:
    from benchmarks.loops.contest_hotloop import Hotloop
    from benchmarks.loops.jobs import HYPER, JOBS, Job

LOOP_JOBS = ("E1", "E3")


def run_loop(name: str, runtime: Runtime, *, captured: bool, rounds: int, quick: bool) -> dict[str, Any]:
    """Epochs of a job, after two to warm up: agent steps a second, and seconds of rollout and training, each
    until the device is done with it."""
    job: Job = JOBS[name].quick() if quick else JOBS[name]
    contestant = Hotloop(job, 1, 0, device=runtime.device, captured=captured)
    try:
        rollouts, trainings = [], []
        for number in range(rounds + 2):
            rollout, training = _epoch(contestant, job, runtime)
            if number >= 2:
                rollouts.append(rollout * 1e6)
                trainings.append(training * 1e6)
    finally:
        contestant.close()
    totals = [a + b for a, b in zip(rollouts, trainings, strict=True)]
    return {
        "job": job.name,
        "title": job.title + (", captured optimizer step" if captured else ""),
        "captured": captured,
        "epochs": rounds,
        "agent_steps": job.batch_size,
        "steps_per_second": job.batch_size / Timing.of(totals).median * 1e6,
        "rollout": Timing.of(rollouts).median,
        "training": Timing.of(trainings).median,
        "spread": Timing.of(totals).spread,
    }


def _epoch(contestant: Hotloop, job: Job, runtime: Runtime) -> tuple[float, float]:
    """Seconds of the rollout and of the training."""
    loop, context = contestant.loop, contestant.context
    loop.on_epoch_start(context)
    runtime.synchronize()
    begun = perf_counter()
    rollout = loop.rollout_phase(contestant.env, context)
    runtime.synchronize()
    between = perf_counter()
    _, epochs = loop.training_phase(context, job.update_epochs, HYPER.max_grad_norm)
    runtime.synchronize()
    end = perf_counter()
    context.record_rollout(rollout.agent_steps)
    context.advance_epoch(epochs)
    return between - begun, end - between


def can_capture(device: torch.device) -> bool:
    """Whether torch's optimizers have a step there that can be recorded."""
    return device.type == "cuda"
