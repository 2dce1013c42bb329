"""Stopping `hotloop train` from outside by a signal, and resuming it, in processes of their own."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hotloop.trainer.metrics import TIMING_COLUMNS

# 60 epochs of a few ten milliseconds each: long enough to be stopped twice on the way.
SETTINGS = [
    "--num-envs", "8", "--rollout.horizon", "16", "--rollout.update-epochs", "1", "--total-timesteps", "7600",
    "--policy.hidden", "16", "--seed", "11", "--threads", "1", "--output.line-seconds", "0",
    "--output.no-tensorboard", "--output.no-plot",
]  # fmt: skip


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hotloop", "train", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return [{k: v for k, v in row.items() if k not in TIMING_COLUMNS} for row in csv.DictReader(stream)]


@pytest.mark.slow
def test_stopped_by_signals_and_resumed_equals_never_stopped(tmp_path: Path) -> None:
    whole = start(*SETTINGS, "--run-dir", "whole", cwd=tmp_path)
    out, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    assert out.splitlines()[-1].startswith("finished: mean return of the last ")

    epochs = []
    for signum, code, arguments in (
        (signal.SIGTERM, 143, [*SETTINGS, "--run-dir", "parts"]),
        (signal.SIGINT, 130, ["--resume", "parts"]),
    ):
        part = start(*arguments, cwd=tmp_path)
        assert part.stdout is not None
        # A line an epoch: the signal arrives while a later one is under way.
        for line in part.stdout:
            if line.startswith("epoch "):
                break
        part.send_signal(signum)
        out, err = part.communicate(timeout=120)
        assert part.returncode == code, err
        assert out.splitlines()[-1].startswith(f"stopped by {signal.Signals(signum).name}: ")
        assert "finishing this epoch" in err
        epochs.append(len(rows(tmp_path / "parts" / "metrics.csv")))

    last = start("--run-dir", "parts", "--resume", cwd=tmp_path)
    out, err = last.communicate(timeout=300)
    assert last.returncode == 0, err
    assert "resumed parts at epoch" in out

    expected = rows(tmp_path / "whole" / "metrics.csv")
    # Otherwise nothing was stopped, and the comparison would prove nothing.
    assert 0 < epochs[0] < epochs[1] < len(expected)
    assert rows(tmp_path / "parts" / "metrics.csv") == expected


def test_mistakes_end_with_2_and_one_line(tmp_path: Path) -> None:
    process = start("--resume", "nowhere", cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("hotloop train: error: nowhere cannot be resumed")
    assert err.count("\n") == 1
