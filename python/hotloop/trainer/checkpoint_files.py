"""Which checkpoints of a run are on disk: the newest, the best, and a few past ones."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hotloop.trainer.checkpoint import save_checkpoint
from hotloop.trainer.files import write_atomically
from hotloop.trainer.run_dir import RunDirectory

_PAST = re.compile(r"epoch-(\d+)\.pt")


class CheckpointFiles:
    """Writes checkpoint.pt, keeps its predecessors in checkpoints/, and best.pt.

    Past ones and the best are further names (hard links) of files that were written once, where the
    filesystem has such, so keeping them costs no time.

    Args:
        directory: of the run.
        keep: past checkpoints that stay; 0 keeps none.
    """

    def __init__(self, directory: RunDirectory, keep: int) -> None:
        self._directory = directory
        self._keep = keep

    def save(self, state: Mapping[str, Any], *, best: bool) -> None:
        """Writes the state of an epoch; with `best` as best.pt too. Each file is replaced in one step."""
        directory = self._directory
        save_checkpoint(directory.checkpoint, state)
        if best:
            _name_too(directory.checkpoint, directory.best)
        if not self._keep:
            return
        directory.checkpoints.mkdir(exist_ok=True)
        _name_too(directory.checkpoint, directory.checkpoints / f"epoch-{int(state['epoch']):08d}.pt")
        for path in past_checkpoints(directory)[: -self._keep]:
            path.unlink(missing_ok=True)


def past_checkpoints(directory: RunDirectory) -> list[Path]:
    """The files in checkpoints/, oldest first."""
    found = [
        (int(match[1]), path)
        for path in directory.checkpoints.glob("epoch-*.pt")
        if (match := _PAST.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found)]


def _name_too(source: Path, target: Path) -> None:
    with write_atomically(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
