"""Schedules of the learning rate and of the entropy bonus."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from hotloop.trainer import Trainer
from hotloop.trainer.config_sections import ScheduleConfig
from hotloop.trainer.schedules import scheduled
from trainer_support import Recorder, resumed, run, settings


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({}, {0: 8.0, 500: 8.0, 5000: 8.0}),
        ({"kind": "linear"}, {0: 8.0, 250: 6.0, 500: 4.0, 1000: 0.0, 3000: 0.0}),
        ({"kind": "linear", "final_fraction": 0.5}, {0: 8.0, 500: 6.0, 1000: 4.0, 2000: 4.0}),
        ({"kind": "cosine"}, {0: 8.0, 500: 4.0, 250: 4.0 + 4.0 * math.sqrt(0.5), 1000: 0.0}),
        ({"kind": "cosine", "final_fraction": 0.25}, {500: 5.0, 1000: 2.0}),
        ({"warmup_steps": 200}, {0: 0.0, 50: 2.0, 200: 8.0, 900: 8.0}),
        ({"kind": "linear", "warmup_steps": 200}, {100: 4.0, 200: 8.0, 600: 4.0, 1000: 0.0}),
        ({"kind": "linear", "warmup_steps": 1000}, {500: 4.0, 1000: 8.0, 1001: 0.0}),
    ],
)
def test_values_of_a_base_of_8_over_1000_steps(schedule: dict[str, Any], expected: dict[int, float]) -> None:
    config = ScheduleConfig(**schedule)
    values = {steps: scheduled(8.0, config, steps, 1000) for steps in expected}
    assert values == pytest.approx(expected, abs=1e-12)


class Watcher(Recorder):
    """Notes the learning rate and the entropy bonus that each epoch was trained with."""

    trainer: Trainer

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[float, float]] = []

    def update(self, report: Any) -> None:
        super().update(report)
        loss = self.trainer.losses["ppo"]
        self.seen.append((self.trainer.optimizer.param_groups[0]["lr"], loss.cfg.ent_coef))


def watch(config: Any) -> list[tuple[float, float]]:
    progress = Watcher()
    progress.trainer = Trainer(config, progress=progress)
    progress.trainer.train()
    return progress.seen


def test_a_run_is_trained_by_its_schedules_and_goes_on_with_them(tmp_path: Path) -> None:
    schedules = {
        "learning_rate": {"kind": "linear", "final_fraction": 0.5},
        "ent_coef": {"kind": "linear", "warmup_steps": 300},
    }
    changes: dict[str, Any] = {
        "schedules": schedules,
        "actor": {"ent_coef": 0.5},
        "optimizer": {"learning_rate": 0.25},
        "total_timesteps": 1000,
    }
    config = settings(tmp_path / "whole", **changes)
    seen = watch(config)
    steps = [0, *(report.agent_steps for report in run_reports(tmp_path / "again", changes))][: len(seen)]
    assert seen == [
        (
            scheduled(0.25, config.schedules.learning_rate, at, 1000),
            scheduled(0.5, config.schedules.ent_coef, at, 1000),
        )
        for at in steps
    ]
    assert seen[0] == (0.25, 0.0)
    assert len({rate for rate, _ in seen}) == len(seen) > 5
    run(settings(tmp_path / "parts", **changes), progress=Recorder(stop_after=3))
    assert watch(resumed(tmp_path / "parts", **changes)) == seen[3:]


def run_reports(run_dir: Path, changes: dict[str, Any]) -> list[Any]:
    progress = Recorder()
    run(settings(run_dir, **changes), progress=progress)
    return progress.reports
