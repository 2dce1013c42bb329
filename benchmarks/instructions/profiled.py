"""The process whose instructions tools/profile_cost.py counts: trainings under `hotloop.profile()` and not.

Under `valgrind --tool=callgrind`, marks.so (built from marks.c) tells Callgrind where each training begins
and ends. Each is run over some steps and over twice as many: the difference is free of what is done once,
such as building networks, or wrapping functions. It prints the seconds of one training without a profile.

usage: python profiled.py JOB MARKS.SO STEPS SLOWDOWN
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import hotloop
from hotloop.profiling import sampler

ROOT = Path(__file__).resolve().parents[2]


def default_training(steps: int) -> None:
    """`hotloop train`, without the files that are written by the clock."""
    from hotloop.cli import train

    with tempfile.TemporaryDirectory() as folder:
        code = train(
            [
                "--total-timesteps", str(steps), "--seed", "1", "--threads", "1", "--quiet",
                "--run-dir", f"{folder}/run", "--output.no-plot", "--output.no-tensorboard",
                "--output.checkpoint-seconds", "1000000",
            ]
        )  # fmt: skip
    if code:
        raise SystemExit(f"the training ended with code {code}")


def script(steps: int) -> None:
    """The training of examples/cleanrl_ppo.py, with advantages in Python."""
    sys.path.insert(0, str(ROOT / "examples"))
    import cleanrl_ppo

    cleanrl_ppo.main(steps, plain=True)


JOBS: dict[str, Callable[[int], None]] = {"default": default_training, "script": script}


def main(job: str, library: str, steps: int, slowdown: float) -> None:
    torch.set_num_threads(1)
    marks = ctypes.CDLL(library)
    # The thread that looks for lines goes by the clock, which runs on while Callgrind takes its time.
    sampler.INTERVAL *= slowdown
    work = JOBS[job]

    def counted(name: str, amount: int, profiled: bool) -> None:
        gc.collect()
        with hotloop.profile() if profiled else contextlib.nullcontext():
            marks.marks_start()
            marks.marks_zero()
            work(amount)
            marks.marks_dump(name.encode())
            marks.marks_stop()

    with contextlib.redirect_stdout(io.StringIO()):
        work(steps)  # imports, caches
        begun = time.perf_counter()
        counted("off|once", steps, False)
        seconds = time.perf_counter() - begun
        if slowdown != 1.0:
            counted("off|twice", 2 * steps, False)
            counted("on|once", steps, True)
            counted("on|twice", 2 * steps, True)
            counted("afterwards|once", steps, False)
    print(seconds)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
