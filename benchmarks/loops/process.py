"""A worker process, started, ordered about, and stopped (SIGSTOP) while it has nothing to do."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotloop.bench.runner import environment
from hotloop.bench.turns import TurnProcess

from .environments import AbsentError

MEMORIES = ("default", "kept")


@dataclass(frozen=True)
class Entry:
    """Who plays what, and how. `memory`: `default`, or `kept`: freed memory is not handed back."""

    contestant: str
    job: str
    threads: int
    memory: str = "default"
    seed: int = 0
    quick: bool = False

    @property
    def keeps_by_call(self) -> bool:
        """hotloop keeps memory by its own call, as its users do; the others by glibc's tunables."""
        return self.memory == "kept" and self.contestant.startswith("hotloop")


class Worker:
    """The process of one contestant. It is stopped but for the time between an order and its answer.

    `cache`: a folder in which compiled code is kept for others; its own when None.

    Raises:
        AbsentError: the contestant cannot take part.
        WorkerError: the process ended unasked.
    """

    def __init__(self, entry: Entry, cache: str | None = None) -> None:
        self.entry = entry
        tunables = entry.memory == "kept" and not entry.keeps_by_call
        env = environment(entry.threads, "keep" if tunables else "default")
        env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), env["PYTHONPATH"]])
        # Without a `cache` what is compiled is compiled anew, so that its cost is seen; and in the process
        # itself, because helpers would go on while others are timed.
        self._own_cache = tempfile.TemporaryDirectory(prefix="loops-")
        env.update(TORCHINDUCTOR_CACHE_DIR=cache or self._own_cache.name, TORCHINDUCTOR_COMPILE_THREADS="1")
        order = {
            "contestant": entry.contestant, "job": entry.job, "threads": entry.threads, "seed": entry.seed,
            "quick": entry.quick, "keep": entry.keeps_by_call,
        }  # fmt: skip
        command = [sys.executable, "-m", "loops.worker"]
        try:
            self._process = TurnProcess(f"{entry.contestant} at {entry.job}", command, env, order)
        except BaseException:
            self._own_cache.cleanup()
            raise
        ready = self._process.ready
        if ready["event"] == "absent":
            self.close()
            raise AbsentError(ready["why"])
        self.note: str = ready["note"]
        self.machine: dict[str, Any] = ready["machine"]
        self.build: float = ready["build"]

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Gives an order (`worker.ORDERS`) and waits for its answer."""
        answer = self._process.ask(do, **fields)
        if answer["event"] == "absent":
            raise AbsentError(answer["why"])
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._process.close()
        self._own_cache.cleanup()
