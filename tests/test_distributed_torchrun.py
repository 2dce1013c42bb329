"""`torchrun` itself: a signal to it, and a rank that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from distributed_support import rows

pytestmark = pytest.mark.slow  # on a busy machine: they start processes

SETTINGS = [
    "--num-envs", "8", "--rollout.horizon", "8", "--rollout.update-epochs", "1", "--policy.hidden", "8",
    "--total-timesteps", "10000000", "--run-dir", "run",
    "--output.no-tensorboard", "--output.no-plot", "--output.line-seconds", "0",
]  # fmt: skip


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """torchrun over two ranks that train for longer than any test waits, past their first epoch."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*command, "-m", "hotloop", "train", *SETTINGS],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch "):
            break
    yield process
    if process.poll() is None:
        process.terminate()  # which ends its ranks too
        process.communicate(timeout=60)


def pid_of_rank(torchrun: int, rank: int) -> int:
    """Among torchrun's children."""
    for child in Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"torchrun {torchrun} has no rank {rank}")


@pytest.mark.parametrize("to", ["torchrun", "rank 1"])
def test_a_signal_stops_all_ranks_after_the_same_epoch(
    process: subprocess.Popen[str], tmp_path: Path, to: str
) -> None:
    os.kill(process.pid if to == "torchrun" else pid_of_rank(process.pid, 1), signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert out.splitlines()[-1].startswith("stopped by SIGTERM: "), (out, err)
    if to == "torchrun":
        assert err.count("SIGTERM: finishing this epoch") == 1, err
    assert "lost another rank" not in err
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["epoch"] == len(rows(tmp_path / "run" / "metrics.csv")) > 0
    assert len(state["ranks"]) == 2


def test_a_rank_that_dies_ends_the_run_with_a_message_and_a_checkpoint(
    process: subprocess.Popen[str], tmp_path: Path
) -> None:
    first = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert first["epoch"] == 0, "the next one is 30 seconds away"
    os.kill(pid_of_rank(process.pid, 1), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    told = [line for line in err.splitlines() if line.startswith("hotloop train: error: ")]
    assert len(told) == 1, err
    assert told[0].startswith("hotloop train: error: rank 0 of 2 lost another rank while it waited for ")
    epochs = len(rows(tmp_path / "run" / "metrics.csv"))
    assert told[0].endswith(
        f"Saved run/checkpoint.pt at epoch {epochs}; continue with --resume run and as many processes"
    )
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["epoch"] == epochs
    assert [sorted(part) for part in state["ranks"]] == [["avg_reward", "environment", "loop", "rng"]] * 2
