"""Progress on terminals and off them, and the learning curve."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path

import pytest
from rich.console import Console

from hotloop.trainer import progress as module
from hotloop.trainer.metrics import LEADING_COLUMNS, MetricsFile
from hotloop.trainer.plots import plot_learning_curve
from hotloop.trainer.progress import (
    EpochReport,
    LineProgress,
    LiveProgress,
    Rate,
    SilentProgress,
    make_progress,
    sparkline,
)


def report(epoch: int = 1, **changes: float) -> EpochReport:
    values = {
        "agent_steps": 1000 * epoch,
        "wall_time": 0.5 * epoch,
        "steps_per_second": 2000.0,
        "episode_return_mean": 123.456,
        "episode_length_mean": 45.0,
        **changes,
    }
    return EpochReport(
        epoch=epoch,
        losses={"policy_loss": -0.0123, "value_loss": 34.56},
        shares={"environment": 0.25, "policy": 0.5},
        phases={"forward": 0.3, "environment": 0.69, "other": 0.01},
        **values,  # type: ignore[arg-type]
    )


def test_line_holds_every_number() -> None:
    stream = io.StringIO()
    LineProgress(10_000, stream=stream).update(report(2))
    line = stream.getvalue()
    assert line.count("\n") == 1
    for part in (
        "epoch 2", "2,000/10,000", "2,000 steps/s", "return 123.5", "length 45.0", "eta 0:04",
        "environment 25% policy 50%", "policy_loss -0.0123 value_loss 34.6",
    ):  # fmt: skip
        assert part in line


def test_lines_survive_a_reader_that_goes_away() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        lines = LineProgress(10, stream=stream, interval=0.0)
        lines.update(report(1))
        os.close(reading)
        lines.update(report(2))
        lines.update(report(3))
        lines.close()


def test_lines_keep_their_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    stream = io.StringIO()
    lines = LineProgress(10_000, stream=stream, interval=5.0)
    shown = []
    for epoch, now in enumerate((100.0, 101.0, 104.9, 105.0, 107.0, 112.0), start=1):
        before = stream.getvalue()
        lines.update(report(epoch))
        if stream.getvalue() != before:
            shown.append(now)
    assert shown == [100.0, 105.0, 112.0]


def test_no_episode_yet_shows_a_dash() -> None:
    stream = io.StringIO()
    LineProgress(10, stream=stream).update(report(1, episode_return_mean=math.nan, agent_steps=20))
    assert "return -" in stream.getvalue()
    assert "eta 0:00" in stream.getvalue()


def test_quiet_shows_nothing_and_a_pipe_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    quiet = make_progress(10, title="t", goal=None, quiet=True, stream=stream)
    quiet.update(report())
    quiet.message("x")
    quiet.close()
    assert isinstance(quiet, SilentProgress)
    assert stream.getvalue() == ""
    assert isinstance(make_progress(10, title="t", goal=None, quiet=False, stream=stream), LineProgress)
    assert capsys.readouterr().out == ""


def test_panel_holds_every_number_and_ends_clean() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    live = LiveProgress(10_000, title="Env[x] seed 0", goal=475.0, interval=0.0, console=console)
    live.update(report(1))
    live.update(report(2, episode_return_mean=150.0))
    live.message("a [note]")
    live.close()
    live.close()
    text = stream.getvalue()
    for part in (
        "Env[x] seed 0", "2,000 of 10,000", "epoch 2", "2,000 steps/s", "ETA 0:04", "150.0", "goal 475", "▁█",
        "environment 25%", "environment 69%  forward 30%", "policy_loss -0.0123", "a [note]",
    ):  # fmt: skip
        assert part in text, part
    assert "other" not in text  # a hundredth is not worth a place
    assert text.rstrip("\n").endswith("\x1b[?25h")  # the cursor is visible again


def test_rate_is_of_the_last_seconds() -> None:
    rate = Rate(seconds=5.0)
    rate.add(0.0, 0)
    assert rate.value(otherwise=7.0) == 7.0
    for second in range(1, 20):
        rate.add(float(second), 100 * second if second <= 10 else 1000 + 300 * (second - 10))
    assert rate.value(otherwise=0.0) == pytest.approx(300.0)


def test_sparkline_spans_lowest_to_highest() -> None:
    assert sparkline([], 8) == ""
    assert sparkline([5.0, 5.0], 8) == "▁▁"
    assert sparkline([0.0, 1.0, 2.0, 7.0], 4) == "▁▂▃█"
    assert len(sparkline(list(map(float, range(1000))), 24)) == 24


def test_curve_is_a_picture(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.csv")
    out = tmp_path / "curve.png"
    base = dict.fromkeys(LEADING_COLUMNS, 1.0)
    metrics.append({**base, "epoch": 1, "episode_return_mean": math.nan})
    assert plot_learning_curve(metrics.path, out, title="t") is False
    assert not out.exists()
    metrics.append({**base, "epoch": 2, "agent_steps": 2000, "episode_return_mean": 20.0})
    metrics.append({**base, "epoch": 3, "agent_steps": 3000, "episode_return_mean": 90.0})
    metrics.close()
    assert plot_learning_curve(metrics.path, out, title="t", goal=100.0) is True
    assert out.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
