"""How a run ended."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Reason = Literal["total_timesteps", "stop_at_return", "signal"]


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        reason: what ended it.
        return_mean: mean return of the last `episodes` episodes (at most 100), NaN when none has ended.
        agent_steps: environment steps of all agents, those before a resumption included.
        seconds: seconds of training, likewise.
        exit_code: 0, or 130 (SIGINT) and 143 (SIGTERM).
        run_dir: where everything was written.
    """

    reason: Reason
    return_mean: float
    episodes: int
    epoch: int
    agent_steps: int
    seconds: float
    exit_code: int
    run_dir: Path
    goal: float | None = None

    def summary(self) -> str:
        """One line: what was reached, after how many steps and seconds."""
        spent = f"{self.agent_steps:,} agent steps and {self.seconds:.1f} s"
        reached = "no episode ended"
        if self.episodes:
            reached = f"mean return of the last {self.episodes} episodes {self.return_mean:.1f}"
        if self.reason == "signal":
            name = signal.Signals(self.exit_code - 128).name
            resume = f"hotloop train --resume {self.run_dir}"
            return f"stopped by {name}: {reached}, after {spent}; continue with: {resume}"
        start = f"reached {self.goal:g}" if self.reason == "stop_at_return" else "finished"
        return f"{start}: {reached}, after {spent} ({self.run_dir})"
