"""From samples to the figures of a race, as plain values."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hotloop.bench.timing import LOAD_LIMIT

from .jobs import Job

BASELINE, LIMIT = "cleanrl", "bare"
_FEWEST_QUIET = 3


@dataclass
class Entrant:
    """A contestant with one setting of memory.

    `warm_up` and `samples`: seconds an epoch; `build`: seconds before the first; `loads`: what others used of
    the machine during each sample, 0 to 1, None where unknown.
    """

    name: str
    memory: str
    note: str
    build: float
    warm_up: list[float]
    samples: list[float] = field(default_factory=list)
    loads: list[float | None] = field(default_factory=list)
    profile: list[dict[str, float]] = field(default_factory=list)


def quiet_rounds(entrants: Sequence[Entrant]) -> tuple[list[int], bool]:
    """The rounds that count: those in which others left the machine alone, where there are at least three;
    else all of them, and False."""
    rounds = range(min((len(e.samples) for e in entrants), default=0))
    quiet = [r for r in rounds if statistics.fmean([e.loads[r] or 0.0 for e in entrants]) <= LOAD_LIMIT]
    enough = len(quiet) >= min(_FEWEST_QUIET, len(rounds))
    return (quiet, True) if enough else (list(rounds), False)


def summary(
    job: Job,
    threads: int,
    entrants: Sequence[Entrant],
    absent: Mapping[str, str],
    machine: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """A race: `job`, `threads`, `rounds` that count, `quiet`, `other_load`, `absent`, `machine` and
    `contestants`. Each of these has `steps_per_second` (`median`, `minimum`, `maximum`), `to_cleanrl` and
    `to_bare` (medians of the ratio within a round, to the contestant with the same memory; None where that
    did not take part), `warm_up_seconds`, `own_share` and `shares` (see `profile_shares`), and all samples.
    """
    rounds, quiet = quiet_rounds(entrants)
    by_key = {(e.name, e.memory): e for e in entrants}
    loads = [e.loads[r] for e in entrants for r in rounds]
    known = [load for load in loads if load is not None]
    return {
        "job": asdict(job),
        "threads": threads,
        "rounds": len(rounds),
        "quiet": quiet,
        "other_load": statistics.fmean(known) if known else None,
        "absent": dict(absent),
        "machine": machine,
        "contestants": [
            {
                "name": e.name,
                "memory": e.memory,
                "note": e.note,
                "steps_per_second": _speed(job, [e.samples[r] for r in rounds]),
                "to_cleanrl": _relative(e, by_key.get((BASELINE, e.memory)), rounds),
                "to_bare": _relative(e, by_key.get((LIMIT, e.memory)), rounds),
                "warm_up_seconds": e.build + sum(e.warm_up),
                **profile_shares(e.profile),
                "build_seconds": e.build,
                "warm_up_epochs": e.warm_up,
                "samples": e.samples,
                "other_loads": e.loads,
            }
            for e in entrants
        ],
    }


def _speed(job: Job, samples: Sequence[float]) -> dict[str, float]:
    return {
        "median": job.batch_size / statistics.median(samples),
        "minimum": job.batch_size / max(samples),
        "maximum": job.batch_size / min(samples),
    }


def _relative(entrant: Entrant, other: Entrant | None, rounds: Sequence[int]) -> float | None:
    """How many times faster than `other`."""
    if other is None:
        return None
    return statistics.median(other.samples[r] / entrant.samples[r] for r in rounds)


def profile_shares(epochs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """`own_share`: the part of an epoch that is neither the environments' own steps, nor the network's
    forward and backward passes, nor the optimizer (clipping included); and `shares`, what the epoch is made
    of. Both None without a profile.

    What counts as the loop's own is therefore: its environment adapter, building and storing steps, the
    action distribution, drawing and copying minibatches, advantages, the loss forward and backward (until the
    first gradient reaches the network's outputs), and Python between all that. Medians over the epochs.
    """
    if not epochs:
        return {"own_share": None, "shares": None}
    divided = [_divide(epoch) for epoch in epochs]
    shares = {name: statistics.median(part[name] for part in divided) for name in divided[0]}
    return {"own_share": statistics.median(part["own"] for part in divided), "shares": shares}


def _divide(seconds: Mapping[str, float]) -> dict[str, float]:
    def of(*names: str) -> float:
        return sum(seconds.get(name, 0.0) for name in names)

    backward = of("_train.backward") - of("loss.backward")
    parts = {
        "environment": of("environment"),
        "network forward, rollout": of("network.rollout"),
        "network forward, training": of("network.train"),
        "network backward": backward,
        "optimizer": of("_train.optimizer"),
        "own": 0.0,
        "own: environment adapter": of("_rollout.env_wait", "_rollout.send") - of("environment"),
        "own: rollout": of("_rollout.td_prep", "_rollout.inference") - of("network.rollout"),
        "own: sampling": of("_train.sample"),
        "own: evaluation": of("_train.forward") - of("network.train"),
        "own: advantages": of("_train.advantage"),
        "own: losses": of("_train.losses", "loss.backward"),
    }
    total = seconds["epoch"]
    parts["own"] = total - sum(value for name, value in parts.items() if not name.startswith("own"))
    parts["own: between phases"] = parts["own"] - sum(
        value for name, value in parts.items() if name.startswith("own: ")
    )
    return {name: value / total for name, value in parts.items()}
