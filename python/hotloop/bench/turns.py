"""A process that works when it is its turn, and is stopped (SIGSTOP) while it has nothing to do.

Orders go in as lines of JSON, answers come out as lines of JSON.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from hotloop.bench.runner import WorkerError


class TurnProcess:
    """A process between an order and its answer; stopped else.

    Args:
        name: for messages.
        command: what to run.
        env: its environment.
        order: the first order; the answer to it is `ready`.

    Raises:
        WorkerError: the process ended unasked.
    """

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], order: Mapping[str, Any]
    ) -> None:
        self._name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(env), text=True
        )
        try:
            self._write(order)
            self.ready = self._answer()
        except BaseException:
            self.close()
            raise
        self._signal("SIGSTOP")

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Gives an order and waits for its answer."""
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

    def _write(self, order: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the missing answer tells
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"{self._name}: its process ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _signal(self, name: str) -> None:
        number = getattr(signal, name, None)  # there is none on Windows
        if number is not None and self._process.poll() is None:
            self._process.send_signal(number)
