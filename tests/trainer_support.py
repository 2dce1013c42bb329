"""Small runs, and progress that remembers them."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path
from typing import Any

from hotloop.trainer import TrainConfig, Trainer
from hotloop.trainer.metrics import TIMING_COLUMNS
from hotloop.trainer.progress import EpochReport


class Recorder:
    """Progress that remembers, and raises a signal in the middle of the epoch after `stop_after`."""

    def __init__(self, stop_after: int | None = None, signum: int = signal.SIGTERM) -> None:
        self.reports: list[EpochReport] = []
        self.messages: list[str] = []
        self.closed = False
        self._stop_after = stop_after
        self._signum = signum

    def update(self, report: EpochReport) -> None:
        self.reports.append(report)
        if report.epoch == self._stop_after:
            os.kill(os.getpid(), self._signum)

    def message(self, text: str) -> None:
        self.messages.append(text)

    def close(self) -> None:
        self.closed = True


def settings(run_dir: Path, **changes: Any) -> TrainConfig:
    """Six epochs of 128 steps, in well under a second."""
    tiny: dict[str, Any] = {
        "num_envs": 8,
        "total_timesteps": 6 * 128 - 40,
        "run_dir": run_dir,
        "rollout": {"horizon": 16, "update_epochs": 2},
        "policy": {"hidden": [8]},
        "output": {"tensorboard": False, "plot": False, "checkpoint_seconds": 1e9},
        **changes,
    }
    return TrainConfig.from_settings(tiny, source="test")


def resumed(run_dir: Path, **changes: Any) -> TrainConfig:
    """The same, going on in `run_dir`."""
    config = settings(run_dir, **changes)
    config.run_dir, config.resume = None, run_dir
    return config


def run(config: TrainConfig, **options: Any) -> Any:
    options.setdefault("progress", Recorder())
    return Trainer(config, **options).train()


def lasting(run_dir: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv as text, without the columns that depend on the machine."""
    with (run_dir / "metrics.csv").open(newline="") as stream:
        return [{k: v for k, v in row.items() if k not in TIMING_COLUMNS} for row in csv.DictReader(stream)]
