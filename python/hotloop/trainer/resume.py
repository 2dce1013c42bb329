"""Where a run starts: in a new directory, or where another process of it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hotloop.trainer.checkpoint import load_checkpoint
from hotloop.trainer.checkpoint_files import past_checkpoints
from hotloop.trainer.config import TrainConfig, changed_on_resume
from hotloop.trainer.run_dir import RunDirectory


def open_directory(config: TrainConfig) -> tuple[RunDirectory, dict[str, Any] | None]:
    """The run's directory and, when resuming, the content of its checkpoint."""
    if config.resume is None:
        return RunDirectory.free(config.run_dir or RunDirectory.default_path(config.env, config.seed)), None
    directory = RunDirectory.existing(config.resume)
    changed = changed_on_resume(TrainConfig.from_file(directory.config).resolved(), config)
    if changed:
        raise ValueError(
            f"{', '.join(changed)} cannot change when a run is resumed: keep the values of {directory.config}"
        )
    try:
        return directory, load_checkpoint(directory.checkpoint)
    except ValueError as error:
        # Names of the same file are damaged alike.
        broken = directory.checkpoint.stat().st_ino
        others = [path for path in past_checkpoints(directory) if path.stat().st_ino != broken]
        if not others:
            raise
        advice = f"to go on from {others[-1]}, copy it to {directory.checkpoint}"
        raise ValueError(f"{error}; {advice}") from error


def environment_seed(config: TrainConfig, state: Mapping[str, Any] | None) -> int:
    """The configured seed; another one where fresh episodes replace lost ones, lest they repeat the first."""
    if state is None or state["environment"] is not None:
        return config.seed
    # Environment i of a vector is seeded with seed + i.
    return int(config.seed + config.num_envs * state["epoch"]) % 2**31
