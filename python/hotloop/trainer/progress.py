"""What a run shows while it trains: a live panel on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_SPARKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class EpochReport:
    """The numbers of one finished epoch.

    Attributes:
        wall_time: seconds of training so far, earlier parts of a resumed run included.
        steps_per_second: agent steps over seconds of this epoch.
        episode_return_mean: over the last 100 episodes, NaN before the first has ended.
        episode_length_mean: likewise, in steps.
        losses: the statistics of the losses, by name.
        phases: seconds of this epoch by phase, which add up to its wall time; see `hotloop.trainer.timing`.
        shares: the phases in a few groups, as fractions.
    """

    epoch: int
    agent_steps: int
    wall_time: float
    steps_per_second: float
    episode_return_mean: float
    episode_length_mean: float
    losses: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, int | float]:
        """The row of metrics.csv."""
        return {
            "epoch": self.epoch,
            "agent_steps": self.agent_steps,
            "wall_time": round(self.wall_time, 4),
            "steps_per_second": round(self.steps_per_second, 1),
            "episode_return_mean": self.episode_return_mean,
            "episode_length_mean": self.episode_length_mean,
            **self.losses,
            **{f"seconds_{name}": seconds for name, seconds in self.phases.items()},
        }

    def scalars(self) -> dict[str, float]:
        """What TensorBoard and the like get, by group; no value that is NaN."""
        scalars = {
            "episode/return_mean": self.episode_return_mean,
            "episode/length_mean": self.episode_length_mean,
            "speed/steps_per_second": self.steps_per_second,
            **{f"losses/{name}": value for name, value in self.losses.items()},
            **{f"share/{name}": value for name, value in self.shares.items()},
            **{f"seconds/{name}": value for name, value in self.phases.items()},
        }
        return {name: value for name, value in scalars.items() if not math.isnan(value)}


class Progress(Protocol):
    """Where a run reports. `close` may be called more than once."""

    def update(self, report: EpochReport) -> None: ...

    def message(self, text: str) -> None: ...

    def close(self) -> None: ...


class SilentProgress:
    """Shows nothing."""

    def update(self, report: EpochReport) -> None:
        pass

    def message(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class Rate:
    """Agent steps per second over the last few seconds, steadier than one epoch's figure."""

    def __init__(self, seconds: float = 5.0) -> None:
        self._seconds = seconds
        self._points: deque[tuple[float, int]] = deque()

    def add(self, wall_time: float, agent_steps: int) -> None:
        self._points.append((wall_time, agent_steps))
        while len(self._points) > 2 and wall_time - self._points[0][0] > self._seconds:
            self._points.popleft()

    def value(self, otherwise: float) -> float:
        """The rate, or `otherwise` while fewer than two epochs are known."""
        (first_time, first_steps), (last_time, last_steps) = self._points[0], self._points[-1]
        return (last_steps - first_steps) / (last_time - first_time) if last_time > first_time else otherwise


class LineProgress:
    """One plain line for the first epoch and then at most one every `interval` seconds.

    Args:
        total_timesteps: agent steps of the whole run, for the percentage and the time left.
        stream: where the lines go, flushed each time; `sys.stdout` when None.
        interval: seconds between lines.
    """

    def __init__(self, total_timesteps: int, *, stream: TextIO | None = None, interval: float = 5.0) -> None:
        self._total = total_timesteps
        self._stream = stream if stream is not None else sys.stdout
        self._interval = interval
        self._rate = Rate()
        self._next = -math.inf

    def update(self, report: EpochReport) -> None:
        self._rate.add(report.wall_time, report.agent_steps)
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._interval
        rate = self._rate.value(report.steps_per_second)
        parts = [
            f"epoch {report.epoch}",
            f"steps {report.agent_steps:,}/{self._total:,}",
            f"{rate:,.0f} steps/s",
            f"return {_number(report.episode_return_mean)}",
            f"length {_number(report.episode_length_mean)}",
            f"eta {_eta(self._total - report.agent_steps, rate)}",
            " ".join(f"{name} {share:.0%}" for name, share in report.shares.items()),
            " ".join(f"{name} {_number(value)}" for name, value in report.losses.items()),
        ]
        self.message(" | ".join(part for part in parts if part))

    def message(self, text: str) -> None:
        try:
            print(text, file=self._stream, flush=True)
        except BrokenPipeError:
            # Whoever read the lines has gone; that is no reason to end the training.
            discard(self._stream)

    def close(self) -> None:
        self._stream.flush()


class LiveProgress:
    """A panel that redraws in place, for a terminal.

    Args:
        total_timesteps: agent steps of the whole run.
        title: heading of the panel.
        goal: the return at which the run will stop, shown beside the present one.
        interval: least seconds between redraws. A redraw costs milliseconds, an epoch may cost ten.
        console: a rich console; a new one on stdout when None.
    """

    def __init__(
        self,
        total_timesteps: int,
        *,
        title: str,
        goal: float | None = None,
        interval: float = 0.25,
        console: Console | None = None,
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        self._total = total_timesteps
        self._title = title
        self._goal = goal
        self._interval = interval
        self._rate = Rate()
        self._next = -math.inf
        self._history: deque[float] = deque(maxlen=2000)
        self._last: EpochReport | None = None
        # No refresh thread: it would take turns with the training loop for the interpreter lock.
        self._live = Live(console=console or Console(), auto_refresh=False)
        self._live.start()

    def update(self, report: EpochReport) -> None:
        self._last = report
        self._rate.add(report.wall_time, report.agent_steps)
        if not math.isnan(report.episode_return_mean):
            self._history.append(report.episode_return_mean)
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._interval
            self._live.update(self._panel(report), refresh=True)

    def message(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        if self._live.is_started:
            if self._last is not None:
                self._live.update(self._panel(self._last), refresh=True)
            self._live.stop()

    def _panel(self, report: EpochReport) -> RenderableType:
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        rate = self._rate.value(report.steps_per_second)
        goal = "" if self._goal is None else f"  (goal {self._goal:g})"
        spark = sparkline(list(self._history), 24)
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(ratio=1)
        done = f"{report.agent_steps:,} of {self._total:,}"
        table.add_row("steps", f"{done}   epoch {report.epoch}   {rate:,.0f} steps/s")
        table.add_row("", ProgressBar(total=self._total, completed=report.agent_steps, width=48))
        table.add_row(
            "time", f"{_clock(report.wall_time)}   ETA {_eta(self._total - report.agent_steps, rate)}"
        )
        returns = Text(_number(report.episode_return_mean), style="bold")
        returns.append(f"{goal}   length {_number(report.episode_length_mean)}   {spark}", style="not bold")
        table.add_row("return", returns)
        table.add_row("share", "   ".join(f"{name} {share:.0%}" for name, share in report.shares.items()))
        if report.phases:
            table.add_row("time in", _longest(report.phases))
        losses = Table.grid(padding=(0, 3))
        pairs = [f"{name} {_number(value)}" for name, value in report.losses.items()]
        for first in range(0, len(pairs), 3):
            losses.add_row(*pairs[first : first + 3])
        table.add_row("losses", losses)
        return Panel(table, title=Text(self._title), title_align="left", border_style="blue", width=88)


def make_progress(
    total_timesteps: int,
    *,
    title: str,
    goal: float | None,
    quiet: bool,
    line_seconds: float = 5.0,
    stream: TextIO | None = None,
) -> Progress:
    """A live panel if `stream` (default stdout) is a terminal, plain lines if not, nothing when quiet."""
    stream = stream if stream is not None else sys.stdout
    if quiet:
        return SilentProgress()
    if stream.isatty():
        return LiveProgress(total_timesteps, title=title, goal=goal)
    return LineProgress(total_timesteps, stream=stream, interval=line_seconds)


def discard(stream: TextIO) -> None:
    """Sends what is still written to `stream`, a pipe that nobody reads any more, to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def sparkline(values: list[float], width: int) -> str:
    """A curve in one line of text: `values` averaged into at most `width` columns, lowest to highest."""
    if not values:
        return ""
    width = min(width, len(values))
    edges = [len(values) * i // width for i in range(width + 1)]
    bins = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(bins), max(bins)
    scale = (len(_SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_SPARKS[round((value - low) * scale)] for value in bins)


def _longest(phases: Mapping[str, float], least: float = 0.02) -> str:
    """The phases that take at least a fraction `least` of the time, the longest first."""
    total = sum(phases.values()) or 1.0
    ordered = sorted(phases.items(), key=lambda item: -item[1])
    return "  ".join(f"{name} {part / total:.0%}" for name, part in ordered if part / total >= least)


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _eta(steps_left: int, rate: float) -> str:
    return _clock(max(0, steps_left) / rate) if rate > 0 else "-"
