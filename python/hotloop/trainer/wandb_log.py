"""Logging to Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class WandbWriter:
    """Sends the scalars of each epoch to a Weights & Biases run, over agent steps.

    A run directory keeps the id of its run there (wandb.txt), so that a resumed run goes on in the same one.

    Args:
        project: of Weights & Biases.
        directory: of the run.
        settings: shown as the run's configuration.

    Raises:
        ImportError: wandb is not installed.
    """

    def __init__(self, project: str, directory: Path, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError(
                f"logging to Weights & Biases needs wandb ({error}): pip install 'hotloop[wandb]', or leave "
                "output.wandb out"
            ) from error
        known = directory / "wandb.txt"
        self._run: Any = wandb.init(
            project=project,
            name=directory.name,
            dir=str(directory),
            config=dict(settings),
            id=known.read_text().strip() if known.exists() else None,
            resume="allow",
        )
        known.write_text(f"{self._run.id}\n")

    def write(self, scalars: Mapping[str, float], agent_steps: int) -> None:
        """Logs the scalars of one epoch."""
        self._run.log({**scalars, "agent_steps": agent_steps}, step=agent_steps)

    def close(self) -> None:
        """Sends what is left, and ends the run."""
        self._run.finish()
