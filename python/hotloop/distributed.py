"""The process group of a data-parallel run, set up from torchrun's environment variables.

``torchrun --nproc-per-node N -m hotloop train ...`` starts N processes that train as one. Without torchrun,
or with one process, nothing here does anything, and torch.distributed stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from hotloop.losses import ranks

T = TypeVar("T")

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """Which process of a run: `rank` of `world_size`, on this machine `local_rank` of `local_size`."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int


def launched() -> Launch | None:
    """What torchrun says of this process; None where there is no torchrun, or only one process.

    Raises:
        ValueError: a variable of torchrun's is missing or no number.
    """
    given = {name: os.environ.get(name) for name in _VARIABLES}
    if given["RANK"] is None or given["WORLD_SIZE"] is None:
        return None
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ValueError(f"RANK and WORLD_SIZE are set and {', '.join(missing)} not: start with torchrun")
    rank, size = _number("RANK"), _number("WORLD_SIZE")
    launch = Launch(rank, size, _number("LOCAL_RANK", rank), _number("LOCAL_WORLD_SIZE", size))
    if not 0 <= launch.rank < launch.world_size:
        raise ValueError(f"RANK must be in [0, WORLD_SIZE = {launch.world_size}), got {launch.rank}")
    return launch if launch.world_size > 1 else None


def _number(name: str, otherwise: int | None = None) -> int:
    text = os.environ.get(name)
    if text is None and otherwise is not None:
        return otherwise
    try:
        return int(text or "")
    except ValueError as error:
        raise ValueError(f"the environment variable {name} must be an integer, got {text!r}") from error


def speaks() -> bool:
    """Whether this process may print: the only one of its run, or rank 0."""
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


def process_group(device: str, *, timeout_seconds: float = 300.0) -> AbstractContextManager[None]:
    """A block in which torch.distributed runs, where torchrun started several processes; else a plain block.

    Tensors on the CPU go through gloo, those on CUDA devices through NCCL, or through gloo where there are
    more processes than devices, which NCCL refuses.

    Args:
        device: that of the policy, as `hotloop train` takes it.
        timeout_seconds: how long a process waits for the others before it takes them for lost. Longer than
            the longest rollout may differ from process to process.

    Raises:
        ValueError: torchrun's variables are wrong.
        RankLostError: the others did not come.
    """
    launch = launched()
    return nullcontext() if launch is None else _group(device, launch, timeout_seconds)


@contextmanager
def _group(device: str, launch: Launch, timeout_seconds: float) -> Iterator[None]:
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        torch.cuda.set_device(torch.device(rank_device(device)))
    with ranks.collective("the others to start"):
        dist.init_process_group(backend_for(device, launch), timeout=timedelta(seconds=timeout_seconds))
    try:
        yield
    except ranks.RankLostError:
        if dist.get_backend() == "gloo":
            dist.destroy_process_group()
        # NCCL would wait for the one that is lost; the process is about to end anyway.
        raise
    except BaseException:
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def backend_for(device: str, launch: Launch) -> str:
    """The name of the backends for `torch.distributed.init_process_group`."""
    if torch.device(device).type != "cuda" or launch.local_size > torch.cuda.device_count():
        return "gloo"
    return "cpu:gloo,cuda:nccl"


def rank_device(device: str) -> str:
    """The device of this process: ``cuda`` becomes ``cuda:LOCAL_RANK``, or what is left of them in turn.

    Raises:
        ValueError: several processes and a device of a certain number.
    """
    launch = launched()
    chosen = torch.device(device)
    if launch is None or chosen.type != "cuda":
        return device
    if chosen.index is not None and launch.local_size > 1:
        raise ValueError(
            f"device must be 'cuda' with {launch.local_size} processes, each of which takes one, got "
            f"{device!r}"
        )
    return f"cuda:{launch.local_rank % max(1, torch.cuda.device_count())}"


def on_first(action: Callable[[], T]) -> T:
    """On every rank what `action` returns on rank 0, or the ValueError or OSError that it raises there."""
    if not ranks.several_ranks():
        return action()
    outcome: tuple[bool, Any] = True, None
    if ranks.rank_and_size()[0] == 0:
        try:
            outcome = True, action()
        except (ValueError, OSError) as error:
            outcome = False, error
    succeeded, result = ranks.from_first(outcome)
    if not succeeded:
        raise result
    value: T = result
    return value
