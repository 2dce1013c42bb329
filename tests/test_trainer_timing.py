"""Phases add up to the wall time."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from hotloop import loop_lane, loop_training_lane
from hotloop import stopwatch as stopwatch_module
from hotloop.stopwatch import Stopwatch
from hotloop.trainer import timing
from hotloop.trainer.metrics import TIMING_COLUMNS, read_metrics
from hotloop.trainer.timing import PHASES, PhaseClock, shares
from trainer_support import Recorder, run, settings


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves on by one at each look, so that times are counts of what was done between them."""
    clock = itertools.count()
    for module in (stopwatch_module, timing, loop_lane, loop_training_lane):
        monkeypatch.setattr(module, "perf_counter", lambda: float(next(clock)))


@pytest.mark.usefixtures("ticks")
def test_every_second_of_a_lap_is_in_one_phase() -> None:
    stopwatch = Stopwatch()
    clock = PhaseClock(stopwatch)
    with stopwatch("_rollout"):
        for _ in range(3):
            with stopwatch("_rollout.env_wait"):
                pass
            with stopwatch("_rollout.inference"):
                pass
            with stopwatch("_rollout.send"):
                pass
    with stopwatch("_train"):
        for name in ("advantage", "sample", "forward", "losses", "backward", "optimizer", "survey"):
            with stopwatch(f"_train.{name}"):
                pass
    phases = clock.lap()
    assert tuple(phases) == PHASES
    # A block that is entered and left once took one tick.
    assert phases["environment"] == 6
    assert phases["inference"] == 3
    assert phases["rollout"] == 19 - 9
    assert [phases[name] for name in ("advantage", "survey", "optimizer")] == [1, 1, 1]
    assert phases["training"] == 15 - 7
    assert phases["checkpoint"] == 0
    # From the start of the lap to the first block, between the two, and from the last to the end.
    assert 0 < phases["other"] <= 4
    with stopwatch("checkpoint"):
        pass
    later = clock.lap()
    assert later["checkpoint"] == 1
    assert later["environment"] == 0


def test_shares_cover_every_phase_once() -> None:
    phases = {phase: 2.0**i for i, phase in enumerate(PHASES)}
    # Powers of 2 add up to the whole only if each is taken exactly once.
    assert sum(shares(phases).values()) == 1.0
    assert shares(phases)["optimizer"] == phases["optimizer"] / sum(phases.values())


def test_laps_tile_the_run_and_reach_the_files(tmp_path: Path) -> None:
    progress = Recorder()
    output: dict[str, Any] = {"tensorboard": False, "plot": False, "checkpoint_seconds": 0}
    run(settings(tmp_path / "r", output=output), progress=progress)
    lengths = [sum(report.phases.values()) for report in progress.reports]
    walls = [report.wall_time for report in progress.reports]
    # Each report's wall time is read a moment after its lap has ended.
    assert sum(lengths) == pytest.approx(walls[-1], rel=0.02, abs=0.02)
    assert all(min(report.phases.values()) >= 0 for report in progress.reports)
    assert all(report.phases["checkpoint"] > 0 for report in progress.reports[1:])
    columns = read_metrics(tmp_path / "r" / "metrics.csv")
    for i, report in enumerate(progress.reports):
        assert {phase: columns[f"seconds_{phase}"][i] for phase in PHASES} == report.phases
        assert report.scalars()["seconds/forward"] == report.phases["forward"]
        assert report.steps_per_second == pytest.approx(
            (report.agent_steps - (progress.reports[i - 1].agent_steps if i else 0)) / lengths[i]
        )
    assert {f"seconds_{phase}" for phase in PHASES} <= set(TIMING_COLUMNS)


@pytest.mark.usefixtures("ticks")
def test_little_of_an_epoch_has_no_name(tmp_path: Path) -> None:
    """In looks at the clock, of which every timed block takes two."""
    progress = Recorder()
    run(settings(tmp_path / "r"), progress=progress)
    for report in progress.reports[1:]:
        assert report.phases["other"] < 0.05 * sum(report.phases.values())
