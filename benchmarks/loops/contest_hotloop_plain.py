"""hotloop with the network as it is: torch's tanh, torch's scaling of pixels."""

from __future__ import annotations

from .contest_hotloop import Hotloop
from .jobs import Job


def make(job: Job, threads: int, seed: int) -> Hotloop:
    contestant = Hotloop(job, threads, seed, native=False)
    contestant.note = "the network's elementwise functions are torch's"
    return contestant
