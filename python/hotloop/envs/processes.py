"""Environments in processes of their own, and what is said when one of those has died."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any


class EnvironmentLostError(RuntimeError):
    """A process that steps environments has died, or broke off the connection."""


def dead_process(processes: Sequence[Any]) -> tuple[int, str] | None:
    """The first of the processes that has ended: its number and how, in words. None while all live.

    A connection breaks a moment before its process can be waited for: those are given that moment.
    """
    ended = wait([process.sentinel for process in processes], timeout=0.5)
    for number, process in enumerate(processes):
        if process.sentinel in ended:
            process.join(0.5)
        code = process.exitcode
        if code is None:
            continue
        how = f"ended with exit code {code}"
        if code < 0:
            how = f"was ended by {_signal_name(-code)}"
            if code == -signal.SIGKILL:
                how += " (which is what the kernel sends when memory runs out)"
        return number, f"(pid {process.pid}) {how}"
    return None


def lost(what: str, processes: Sequence[Any], cause: object) -> EnvironmentLostError:
    """The error to raise where talking to one of the processes failed."""
    dead = dead_process(processes)
    if dead is None:
        return EnvironmentLostError(f"{what}: a worker process does not answer any more ({cause})")
    number, how = dead
    return EnvironmentLostError(f"{what}: worker process {number} of {len(processes)} {how}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _DiedError(Exception):
    """Thrown into the thread that waits."""


class ProcessWatch:
    """Ends a wait for processes that would last for ever once one of them has died.

    For vectorisations that look at shared memory again and again and not at the processes. A thread sleeps
    until a process ends; it costs nothing until then. The wait must be Python code: the thread has an
    exception raised there.

    Args:
        processes: `multiprocessing.Process` objects, started.
    """

    def __init__(self, processes: Sequence[Any]) -> None:
        self._processes = list(processes)
        self._waiting: int | None = None  # the thread that waits
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hotloop-process-watch", daemon=True)
        self._thread.start()

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Around a wait. EnvironmentLostError where a process has died."""
        self._waiting = threading.get_ident()
        try:
            yield
        except _DiedError:
            raise lost(what, self._processes, "it has died") from None
        finally:
            self._waiting = None

    def close(self) -> None:
        """Stop watching, before the processes are ended."""
        self._closed.set()

    def _watch(self) -> None:
        sentinels = [process.sentinel for process in self._processes]
        wait(sentinels)
        # Whoever waits now, or next: the others may still have steps to serve meanwhile.
        while not self._closed.wait(0.05):
            waiting = self._waiting
            if waiting is not None:
                raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
                raise_in(ctypes.c_ulong(waiting), ctypes.py_object(_DiedError))
                return
