"""Trains for a while under random kills and resumptions, and beside it without; both must be the same run.

Two processes train from the same settings. One is killed again and again, by SIGKILL or SIGTERM at a random
moment, and resumed; the other is left alone, and its memory is watched. When the time is up both are brought
to the same number of steps. Then every row of metrics.csv (but for the columns of times) and every tensor and
number of the checkpoints must be equal, to the last bit, and the memory of the second must not have grown.

usage: python tools/soak.py [--seconds 600] [--seed 0] [--dir DIRECTORY]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hotloop.trainer.checkpoint import load_checkpoint
from hotloop.trainer.metrics import TIMING_COLUMNS

# Everything that has a state of its own is switched on: both normalisers, prioritised sampling, a memory.
# Nothing may depend on the number of steps asked for, which is not known beforehand.
SETTINGS = [
    "--num-envs", "16", "--rollout.horizon", "32", "--seed", "5", "--threads", "1", "--quiet",
    "--policy.kind", "gru", "--policy.hidden", "32", "--policy.core-size", "32",
    "--normalize.observations", "--normalize.rewards", "--sampling.method", "prioritized",
    "--sampling.prio-alpha", "0.6", "--sampling.beta-schedule", "constant",
    "--output.no-tensorboard", "--output.no-plot", "--output.checkpoint-seconds", "1",
]  # fmt: skip
FOREVER = "2000000000"
GROWTH_MIB = 8.0  # a leak of one tensor of 16 x 32 floats an epoch would be twice that in ten minutes


def start(run_dir: Path, total: str, *, resume: bool) -> subprocess.Popen[bytes]:
    """A trainer; a resumed one has its settings from the run's own file."""
    where = ["--resume", str(run_dir)] if resume else [*SETTINGS, "--run-dir", str(run_dir)]
    command = [sys.executable, "-m", "hotloop", "train", *where, "--total-timesteps", total]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = (run_dir.parent / f"{run_dir.name}.log").open("ab")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def expect(process: subprocess.Popen[bytes], codes: set[int], what: str) -> None:
    code = process.wait()
    if code not in codes:
        raise SystemExit(f"soak: {what} ended with code {code}; see the logs")


def rss_mib(pid: int) -> float | None:
    """Resident memory of a process; None when it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    line = next((line for line in text.splitlines() if line.startswith("VmRSS:")), None)
    return None if line is None else int(line.split()[1]) / 1024


def watch_memory(pid: int, samples: list[float], stop: threading.Event) -> None:
    while not stop.wait(1.0):
        resident = rss_mib(pid)
        if resident is None:
            return
        samples.append(resident)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def torment(run_dir: Path, seconds: float, draw: random.Random) -> dict[str, int]:
    """Train, kill, resume, until the time is up; what was done how often."""
    done = {"SIGKILL": 0, "SIGTERM": 0, "started anew": 0}
    end = time.monotonic() + seconds
    while True:
        begun = (run_dir / "checkpoint.pt").exists()
        if not begun and run_dir.exists():
            shutil.rmtree(run_dir)  # killed before there was anything to keep
            done["started anew"] += 1
        process = start(run_dir, FOREVER, resume=begun)
        # One in three dies early, mostly inside of imports or while it resumes, the others once they train.
        if draw.random() < 0.67:
            before = size(run_dir / "metrics.csv")
            while (
                size(run_dir / "metrics.csv") == before and time.monotonic() < end and process.poll() is None
            ):
                time.sleep(0.1)
        time.sleep(max(0.0, min(end - time.monotonic(), draw.uniform(0.0, 12.0))))
        last = time.monotonic() >= end
        if process.poll() is not None:
            raise SystemExit(
                f"soak: the trainer ended by itself with code {process.returncode}; see the logs"
            )
        signum = signal.SIGKILL if draw.random() < 0.6 else signal.SIGTERM
        process.send_signal(signum)
        # SIGTERM before the trainer has its handlers ends Python at once.
        expect(
            process, {-signum, 143} if signum == signal.SIGTERM else {-signum}, f"a killed trainer ({signum})"
        )
        done[signum.name] += 1
        if last:
            return done


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as stream:
        return [{k: v for k, v in row.items() if k not in TIMING_COLUMNS} for row in csv.DictReader(stream)]


def differences(a: Any, b: Any, where: str = "checkpoint") -> list[str]:
    """Places where two states differ."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [place for key in a for place in differences(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [place for i, (x, y) in pairs for place in differences(x, y, f"{where}[{i}]")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        a, b = a.numpy(), b.numpy()
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return [] if a.dtype == b.dtype and a.tobytes() == b.tobytes() else [where]
    return [] if type(a) is type(b) and a == b else [where]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train under kills and without; compare.")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--dir", type=Path, default=None, help="kept; a temporary one when not given")
    options = parser.parse_args()
    where = options.dir or Path(tempfile.mkdtemp(prefix="hotloop-soak-"))
    where.mkdir(parents=True, exist_ok=True)
    whole, parts = where / "whole", where / "parts"

    begun = time.monotonic()
    undisturbed = start(whole, FOREVER, resume=False)
    samples: list[float] = []
    stop = threading.Event()
    watcher = threading.Thread(target=watch_memory, args=(undisturbed.pid, samples, stop))
    watcher.start()
    try:
        kills = torment(parts, options.seconds, random.Random(options.seed))
        undisturbed.terminate()
        expect(undisturbed, {143}, "the trainer that was left alone")
    finally:
        stop.set()
        watcher.join()
        if undisturbed.poll() is None:
            undisturbed.kill()
    # The one behind goes on to where the other stopped.
    steps = {
        path: int(load_checkpoint(path / "checkpoint.pt")["context"]["agent_step"]) for path in (whole, parts)
    }
    broken_at = steps[parts]
    for path in (whole, parts):
        expect(start(path, str(max(steps.values())), resume=True), {0}, f"the last part of {path.name}")

    a, b = rows(whole), rows(parts)
    unlike = [row["epoch"] for row, other in zip(a, b, strict=False) if row != other]
    states = [load_checkpoint(path / "checkpoint.pt") for path in (whole, parts)]
    for state in states:
        # The best of the states that were saved, and those are saved by the clock.
        del state["seconds"], state["best_return"]
    state_differences = differences(states[0], states[1])
    (where / "rss_mib.txt").write_text("\n".join(f"{sample:.1f}" for sample in samples))
    fifth = max(1, len(samples) // 5)
    early, late = statistics.median(samples[fifth : 2 * fifth]), statistics.median(samples[-fifth:])
    report = {
        "seconds": round(time.monotonic() - begun, 1),
        "kills": kills,
        "epochs": len(a),
        "agent_steps": max(steps.values()),
        "agent_steps_under_kills": broken_at,
        "epochs_that_differ": len(unlike) + abs(len(a) - len(b)),
        "state_entries_that_differ": state_differences[:5],
        "rss_mib_early": round(early, 1),
        "rss_mib_late": round(late, 1),
        "rss_samples": len(samples),
    }
    print(json.dumps(report, indent=2))
    if unlike or len(a) != len(b) or state_differences:
        raise SystemExit(f"soak: the runs differ, first in epoch {unlike[:1] or 'none'}; see {where}")
    if late - early > GROWTH_MIB:
        raise SystemExit(f"soak: memory grew from {early:.1f} to {late:.1f} MiB; see {where}")
    if not kills["SIGKILL"] + kills["SIGTERM"] or not a:
        raise SystemExit("soak: nothing was killed, or nothing was trained: this proves nothing")
    if options.dir is None:
        shutil.rmtree(where)


if __name__ == "__main__":
    main()
