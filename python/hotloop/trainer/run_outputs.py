"""Everything that a run writes while it trains, but for its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from hotloop.trainer.config import TrainConfig
from hotloop.trainer.evaluation import EVALUATION_COLUMNS, EvaluationResult
from hotloop.trainer.events import EventWriter, ScalarWriter
from hotloop.trainer.metrics import MetricsFile
from hotloop.trainer.plots import plot_learning_curve
from hotloop.trainer.progress import EpochReport, Progress, make_progress
from hotloop.trainer.run_dir import RunDirectory
from hotloop.trainer.wandb_log import WandbWriter


class Outputs(Protocol):
    """Where a run writes what its epochs come to."""

    def message(self, text: str) -> None: ...

    def epoch(self, report: EpochReport) -> None: ...

    def evaluation(
        self, result: EvaluationResult, epoch: int, agent_steps: int, video: Path | None
    ) -> None: ...

    def plot(self) -> None: ...

    def close(self) -> None: ...


class NoOutputs:
    """Writes nothing: for the ranks that are not the first."""

    def message(self, text: str) -> None:
        pass

    def epoch(self, report: EpochReport) -> None:
        pass

    def evaluation(self, result: EvaluationResult, epoch: int, agent_steps: int, video: Path | None) -> None:
        pass

    def plot(self) -> None:
        pass

    def close(self) -> None:
        pass


class RunOutputs:
    """metrics.csv, evaluations.csv, TensorBoard, Weights & Biases, progress and curve.png of one run.

    Args:
        config, directory: of the run.
        epoch, agent_steps: where a resumed run starts, 0 for a new one; what an earlier process wrote beyond
            that is dropped.
        progress: where to report; chosen from the settings and the kind of stdout when None.

    Raises:
        ImportError: a package that the settings ask for is not installed.
    """

    def __init__(
        self,
        config: TrainConfig,
        directory: RunDirectory,
        *,
        epoch: int,
        agent_steps: int,
        progress: Progress | None,
    ) -> None:
        self._config = config
        self._directory = directory
        self._writers: list[ScalarWriter] = []
        if config.output.tensorboard:
            self._writers.append(EventWriter(directory.tensorboard, agent_steps))
        if config.output.wandb is not None:
            settings = config.model_dump(mode="json")
            self._writers.append(WandbWriter(config.output.wandb, directory.path, settings))
        self._metrics = MetricsFile(directory.metrics, keep_epochs=epoch or None)
        self._evaluations = MetricsFile(
            directory.evaluations, keep_epochs=epoch or None, leading=EVALUATION_COLUMNS
        )
        self._progress = progress or make_progress(
            config.total_timesteps,
            title=f"{config.env}  seed {config.seed}  {directory.path}",
            goal=config.stop_at_return,
            quiet=config.quiet,
            line_seconds=config.output.line_seconds,
        )

    def message(self, text: str) -> None:
        """A line for people."""
        self._progress.message(text)

    def epoch(self, report: EpochReport) -> None:
        """Writes what an epoch came to."""
        self._metrics.append(report.row())
        if self._writers:
            scalars = report.scalars()
            for writer in self._writers:
                writer.write(scalars, report.agent_steps)
        self._progress.update(report)

    def evaluation(self, result: EvaluationResult, epoch: int, agent_steps: int, video: Path | None) -> None:
        """Writes what an evaluation came to."""
        row = result.row(epoch, agent_steps)
        self._evaluations.append(row)
        scalars = {f"evaluation/{name}": float(row[name]) for name in EVALUATION_COLUMNS[3:]}
        for writer in self._writers:
            writer.write(scalars, agent_steps)
        shown = "" if video is None else f" ({video})"
        self.message(f"evaluation at {agent_steps:,} steps: {result.summary()}{shown}")

    def plot(self) -> None:
        """Draws curve.png, or says why not."""
        if not self._config.output.plot:
            return
        self._metrics.close()
        title = f"{self._config.env}, seed {self._config.seed}"
        directory, goal = self._directory, self._config.stop_at_return
        try:
            plot_learning_curve(directory.metrics, directory.curve, title=title, goal=goal)
        except ImportError as error:
            self.message(f"no {directory.curve.name}: it needs matplotlib ({error})")

    def close(self) -> None:
        """Flushes and closes. May be called twice."""
        self._metrics.close()
        self._evaluations.close()
        while self._writers:
            self._writers.pop().close()
        self._progress.close()
