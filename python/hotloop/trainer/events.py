"""TensorBoard events of a run."""

from __future__ import annotations

import math
from pathlib import Path

from hotloop.trainer.progress import EpochReport


class EventWriter:
    """Writes the numbers of each epoch as scalars over agent steps.

    Args:
        directory: where the event files go.
        from_step: agent steps of the checkpoint that a resumed run starts from (0 for a new run); what an
            earlier process wrote beyond them is hidden.

    Raises:
        ImportError: tensorboard is not installed; the message says how to go on.
    """

    def __init__(self, directory: Path, from_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                f"TensorBoard events need tensorboard ({error}): pip install 'hotloop[train]', or pass "
                "--output.no-tensorboard"
            ) from error
        purge = from_step + 1 if from_step else None
        self._writer = SummaryWriter(str(directory), purge_step=purge, max_queue=1000, flush_secs=10)

    def write(self, report: EpochReport) -> None:
        scalars = {
            "episode/return_mean": report.episode_return_mean,
            "episode/length_mean": report.episode_length_mean,
            "speed/steps_per_second": report.steps_per_second,
            **{f"losses/{name}": value for name, value in report.losses.items()},
            **{f"share/{name}": value for name, value in report.shares.items()},
        }
        for name, value in scalars.items():
            if not math.isnan(value):
                self._writer.add_scalar(name, value, report.agent_steps)

    def close(self) -> None:
        self._writer.close()
