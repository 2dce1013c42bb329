"""metrics.csv: one row an epoch, floats written so that they read back exactly."""

from __future__ import annotations

import csv
import math
import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from hotloop.trainer.files import write_atomically
from hotloop.trainer.timing import PHASES

Value = int | float

#: The columns every run has, in their order in the file. Loss statistics follow.
LEADING_COLUMNS = (
    "epoch",
    "agent_steps",
    "wall_time",
    "steps_per_second",
    "episode_return_mean",
    "episode_length_mean",
)

#: Columns that depend on the machine's speed, hence differ between two runs of the same seed.
TIMING_COLUMNS = ("wall_time", "steps_per_second", *(f"seconds_{phase}" for phase in PHASES))


class EpisodeWindow:
    """Returns and lengths of the last `size` finished episodes."""

    def __init__(self, size: int = 100) -> None:
        if size < 1:
            raise ValueError(f"EpisodeWindow: size must be at least 1, got {size}")
        self.size = size
        self.finished = 0
        self._returns: deque[float] = deque(maxlen=size)
        self._lengths: deque[int] = deque(maxlen=size)

    def extend(self, infos: Iterable[Mapping[str, Any]]) -> None:
        """Takes `episode_return` and `episode_length` from every info that has them."""
        for info in infos:
            if "episode_return" in info:
                self._returns.append(float(info["episode_return"]))
                self._lengths.append(int(info["episode_length"]))
                self.finished += 1

    @property
    def full(self) -> bool:
        return len(self._returns) == self.size

    @property
    def return_mean(self) -> float:
        """Mean return over the window, NaN before the first episode has ended."""
        return math.fsum(self._returns) / len(self._returns) if self._returns else math.nan

    @property
    def length_mean(self) -> float:
        """Mean length in steps over the window, NaN before the first episode has ended."""
        return sum(self._lengths) / len(self._lengths) if self._lengths else math.nan

    def state_dict(self) -> dict[str, Any]:
        return {"returns": list(self._returns), "lengths": list(self._lengths), "finished": self.finished}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._returns = deque(state["returns"], maxlen=self.size)
        self._lengths = deque(state["lengths"], maxlen=self.size)
        self.finished = int(state["finished"])


class MetricsFile:
    """Appends rows to a CSV file and keeps its header true.

    A statistic that first shows up in a later epoch widens the table: the file is rewritten once, earlier
    rows are empty there. Every row is flushed, so a killed run loses none that it finished.

    Args:
        path: the file; created with its first row.
        keep_epochs: rows of later epochs are cut off, those up to this one stay (a resumed run). None starts
            over.
        leading: the columns that every row has, first in the file.
    """

    def __init__(
        self, path: Path, *, keep_epochs: int | None = None, leading: Sequence[str] = LEADING_COLUMNS
    ) -> None:
        self.path = path
        self._leading = tuple(leading)
        self._columns: list[str] = []
        self._file: TextIO | None = None
        if keep_epochs is None:
            path.unlink(missing_ok=True)
        elif path.exists():
            self._columns, rows = _read_table(path)
            kept = [row for row in rows if int(row["epoch"]) <= keep_epochs]
            self._rewrite(kept)

    def append(self, row: Mapping[str, Value]) -> None:
        """Writes one row. The first row must hold every leading column."""
        unseen = [name for name in row if name not in self._columns]
        if unseen:
            self._widen(unseen)
        if self._file is None:
            self._file = self.path.open("a", newline="")
        writer = csv.writer(self._file, lineterminator="\n")
        writer.writerow([_format(row[name]) if name in row else "" for name in self._columns])
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def _widen(self, unseen: Sequence[str]) -> None:
        if not self._columns:
            missing = [name for name in self._leading if name not in unseen]
            if missing:
                raise ValueError(
                    f"MetricsFile.append: the first row must hold {self._leading}, lacks {missing}"
                )
            self._columns = [*self._leading, *(name for name in unseen if name not in self._leading)]
            rows: list[dict[str, str]] = []
        else:
            self.close()
            rows = _read_table(self.path)[1] if self.path.exists() else []
            self._columns = [*self._columns, *unseen]
        self._rewrite(rows)

    def _rewrite(self, rows: Iterable[Mapping[str, str]]) -> None:
        with write_atomically(self.path) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(self._columns)
            writer.writerows([row.get(name, "") for name in self._columns] for row in rows)


def _format(value: Value) -> str:
    # repr gives the shortest text that reads back to the same double; "" for "no value yet".
    if isinstance(value, int):
        return str(value)
    return "" if math.isnan(value) else repr(float(value))


def _read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    with path.open(newline="") as stream:
        reader = csv.DictReader(stream)
        # A row that a kill cut short has fewer fields than the header.
        rows = [row for row in reader if None not in row.values()]
        return list(reader.fieldnames or ()), rows


def read_metrics(path: Path) -> dict[str, list[float]]:
    """Reads metrics.csv into columns of floats, NaN where a field is empty."""
    columns, rows = _read_table(path)
    return {name: [float(row[name] or "nan") for row in rows] for name in columns}
