"""SIGINT and SIGTERM handling of a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hotloop.losses import ranks
from hotloop.trainer.signals import StopSignals
from trainer_support import run, settings


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_first_signal_is_noted_and_handlers_come_back(signum: int, code: int) -> None:
    before = {watched: signal.getsignal(watched) for watched in (signal.SIGINT, signal.SIGTERM)}
    seen: list[int] = []
    with StopSignals(seen.append) as stop:
        assert (stop.received, stop.exit_code) == (None, 0)
        os.kill(os.getpid(), signum)
        assert (stop.received, stop.exit_code) == (signum, code)
    assert seen == [signum]
    assert {watched: signal.getsignal(watched) for watched in before} == before


def test_handlers_come_back_after_an_exception() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), StopSignals():
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) == before


def test_second_signal_ends_the_process_at_once() -> None:
    script = (
        "import os, signal, sys, time\n"
        "from hotloop.trainer.signals import StopSignals\n"
        "with StopSignals():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('survived the first', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
        "    print('survived the second', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stdout == "survived the first\n"
    assert done.returncode == -signal.SIGTERM


def test_outside_the_main_thread_it_does_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    inside: list[object] = []

    def work() -> None:
        with StopSignals() as stop:
            inside.extend([stop.received, signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [None, before]


def test_a_signal_while_the_ranks_agree_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was forgotten once, and no second one comes through: torchrun's ranks trained on until killed."""
    greatest, looks = ranks.greatest, 0

    def late(number: int) -> int:
        nonlocal looks
        looks += 1
        agreed = greatest(number)
        if looks == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return agreed

    monkeypatch.setattr(ranks, "greatest", late)
    result = run(settings(tmp_path / "run", total_timesteps=100_000))
    assert (result.reason, result.exit_code) == ("signal", 143)
    assert looks == 3
