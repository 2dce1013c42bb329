"""A worker process, started, ordered about, and stopped (SIGSTOP) while it has nothing to do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotloop.bench.runner import WorkerError, environment

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
        return self.memory == "kept" and self.contestant == "hotloop"


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
        command = [sys.executable, "-m", "loops.worker"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True
        )
        order = {
            "contestant": entry.contestant, "job": entry.job, "threads": entry.threads, "seed": entry.seed,
            "quick": entry.quick, "keep": entry.keeps_by_call,
        }  # fmt: skip
        try:
            self._write(order)
            ready = self._answer()
        except BaseException:
            self.close()
            raise
        self.note: str = ready["note"]
        self.machine: dict[str, Any] = ready["machine"]
        self.build: float = ready["build"]
        self._signal("SIGSTOP")

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Gives an order (`worker.ORDERS`) and waits for its answer."""
        self._signal("SIGCONT")
        self._write({"do": do, **fields})
        answer = self._answer()
        self._signal("SIGSTOP")
        return answer

    def close(self) -> None:
        """Ends the process."""
        if self._process.poll() is None:
            self._process.kill()  # it may be stopped, or compiling
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._own_cache.cleanup()

    def _write(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the missing answer tells
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise WorkerError(
                f"{self.entry.contestant} at {self.entry.job}: its process ended with code {code}"
            )
        answer: dict[str, Any] = json.loads(line)
        if answer["event"] == "absent":
            raise AbsentError(answer["why"])
        return answer

    def _signal(self, name: str) -> None:
        number = getattr(signal, name, None)  # there is none on Windows
        if number is not None and self._process.poll() is None:
            self._process.send_signal(number)
