"""Other systems, and loops as they have them. Nothing here is imported before it is asked for.

A module of this package has `contestants(op, layout, inputs)`, which yields contestants for the jobs that
`PEERS` lists it under; their names are completed with the system's name and version. It may raise
ImportError, and `Unfit` where a job is not for it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from hotloop.bench.case import Contestant
from hotloop.bench.estimators import BATCH, ESTIMATORS, TIME


class Unfit(Exception):  # noqa: N818
    """This job is not for this system; the message says why."""


@dataclass(frozen=True)
class Peer:
    """`distribution`: what must be installed, None for nothing. `always`: runs without `--peers` too."""

    name: str
    module: str
    distribution: str | None
    jobs: tuple[tuple[str, str], ...]  # op, layout
    always: bool = False

    @property
    def version(self) -> str | None:
        """Of what is installed."""
        if self.distribution is None:
            return None
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None


class _Module(Protocol):
    def contestants(self, op: str, layout: str, inputs: Sequence[Any]) -> Iterator[Contestant]: ...


_BATCH_JOBS = tuple((estimator.op, BATCH) for estimator in ESTIMATORS if estimator.op != "gae")
PEERS: tuple[Peer, ...] = (
    Peer("a loop over time in torch", "loops", None, (*_BATCH_JOBS, ("gae", TIME)), always=True),
    Peer("torch.compile of the loop", "compiled", None, (("puff_advantage", BATCH), ("gae", TIME))),
    Peer("numba", "numba_loop", "numba", (("puff_advantage", BATCH), ("gae", BATCH), ("gae", TIME))),
    Peer("pufferlib-core", "pufferlib", "pufferlib-core", (("puff_advantage", BATCH), ("call", ""))),
    Peer("torchrl", "torchrl", "torchrl", (("gae", BATCH), ("vtrace", BATCH), ("td_lambda", BATCH))),
    Peer("tianshou", "tianshou", "tianshou", (("gae", BATCH),)),
    Peer("stable-baselines3", "stable_baselines3", "stable-baselines3", (("gae", TIME),)),
    Peer("rsl_rl", "rsl_rl", "rsl-rl-lib", (("gae", TIME),)),
    Peer("skrl", "skrl", "skrl", (("gae", TIME),)),
    Peer("rl_games", "rl_games", "rl-games", (("gae", TIME),)),
)


def peers_for(
    op: str, layout: str, inputs: Sequence[Any], everybody: bool, absent: dict[str, str]
) -> list[Contestant]:
    """The contestants that other systems enter for a job; `absent` gets those that cannot, and why."""
    entered: list[Contestant] = []
    for peer in PEERS:
        if (op, layout) not in peer.jobs or not (everybody or peer.always):
            continue
        if peer.distribution is not None and peer.version is None:
            absent[peer.name] = f"{peer.distribution} is not installed"
            continue
        try:
            with _quietly():
                module = cast(_Module, importlib.import_module(f"hotloop.bench.peers.{peer.module}"))
                found = list(module.contestants(op, layout, inputs))
        except ImportError as error:
            absent[peer.name] = f"does not import: {error}"
        except Unfit as error:
            absent[peer.name] = str(error)
        else:
            for contestant in found:
                if peer.version is not None:
                    contestant.name = f"{peer.name} {peer.version} {contestant.name}"
            entered += found
    return entered


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what other packages print while they are imported."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def installed_versions() -> dict[str, str | None]:
    """Every peer that is a package, with its version or None."""
    return {peer.name: peer.version for peer in PEERS if peer.distribution is not None}
