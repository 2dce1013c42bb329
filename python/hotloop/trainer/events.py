"""TensorBoard events of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class ScalarWriter(Protocol):
    """Where the scalars of epochs and evaluations go besides the CSV files."""

    def write(self, scalars: Mapping[str, float], agent_steps: int) -> None: ...

    def close(self) -> None: ...


class EventWriter:
    """Writes scalars over agent steps.

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

    def write(self, scalars: Mapping[str, float], agent_steps: int) -> None:
        """Writes the scalars of one epoch."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, agent_steps)

    def close(self) -> None:
        self._writer.close()
