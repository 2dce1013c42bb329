"""What the ranks of a data-parallel run must agree on. No collective is issued on a single rank.

Every function here is called by all ranks in the same order, or by none. Where one of them has died the
others' next call raises `RankLostError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class RankLostError(RuntimeError):
    """Another rank has died, or did not answer in time."""


def several_ranks() -> bool:
    """Whether torch.distributed is running with more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank_and_size() -> tuple[int, int]:
    """The number of this rank and how many there are; ``(0, 1)`` without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if several_ranks() else (0, 1)


@contextmanager
def collective(what: str) -> Iterator[None]:
    """Around a collective: turns what the backend raises where a rank is lost into `RankLostError`."""
    try:
        yield
    except RuntimeError as error:
        rank, size = rank_and_size()
        # Of gloo's message the fact alone, without the place in its source and the advice.
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        reason = re.sub(r"^\[[^\]]*\] *", "", text).partition(". ")[0]
        raise RankLostError(
            f"rank {rank} of {size} lost another rank while it waited for {what}: {reason}"
        ) from error


def global_moments(count: Tensor, mean: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and sum of squared deviations (scalars, or of one shape) of all ranks' entries together.

    One collective; see `join_moments`. On a single rank the arguments themselves are returned.
    """
    if not several_ranks():
        return count, mean, squares
    own = torch.stack((count.to(mean.dtype).expand_as(mean), mean, squares)).contiguous()
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    with collective("mean and variance"):
        dist.all_gather(everyone, own)
    return join_moments(torch.stack(everyone))


def join_moments(moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and sum of squared deviations of several sets together, from those of each, `[k, 3, ...]`.

    By the rule of Chan, Golub and LeVeque (1979), which unlike E[x^2] - E[x]^2 does not cancel.
    """
    counts, means, scatters = moments.unbind(1)
    total = counts.sum(0)
    joint_mean = (counts * means).sum(0) / total.clamp_min(1)
    return total, joint_mean, (scatters + counts * (means - joint_mean).square()).sum(0)


def global_sum(x: Tensor) -> Tensor:
    """Sum of `x` over the ranks; `x` itself on a single rank."""
    if several_ranks():
        x = x.clone()
        with collective("a sum"):
            dist.all_reduce(x)
    return x


def rank_mean(x: Tensor) -> Tensor:
    """Mean of `x` over the ranks; `x` itself on a single rank.

    Gradients are averaged over ranks, so a mean over n valid entries weighs n / rank_mean(n) in the mean over
    all ranks' valid entries.
    """
    return global_sum(x) / dist.get_world_size() if several_ranks() else x


def greatest(x: int) -> int:
    """The greatest of the ranks' integers."""
    if not several_ranks():
        return x
    shared = torch.tensor([x], dtype=torch.int64, device=_host_device())
    with collective("a decision"):
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return int(shared)


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank: what one rank decides, all do."""
    return bool(greatest(int(flag))) if several_ranks() else flag


def from_first(x: T) -> T:
    """What rank 0 gives, on every rank. Any object that can be pickled; others' arguments are ignored."""
    if not several_ranks():
        return x
    box: list[Any] = [x]
    with collective("what rank 0 says"):
        dist.broadcast_object_list(box, src=0, device=_host_device())
    result: T = box[0]
    return result


def gathered(x: T) -> list[T]:
    """What each rank gives, in their order, on every rank. Any object that can be pickled."""
    if not several_ranks():
        return [x]
    everyone: list[Any] = [None] * dist.get_world_size()
    with collective("what each rank says"):
        dist.all_gather_object(everyone, x)
    return everyone


def gathered_by_first(x: T) -> list[T]:
    """What each rank gives, in their order, on rank 0; nothing elsewhere."""
    if not several_ranks():
        return [x]
    first = dist.get_rank() == 0
    everyone: list[Any] | None = [None] * dist.get_world_size() if first else None
    with collective("the state of each rank"):
        dist.gather_object(x, everyone, dst=0)
    return everyone or []


def _host_device() -> torch.device:
    """Where what the host decides is exchanged: host memory, where a backend serves it, so that no device
    must be waited for."""
    in_host_memory = "cpu" in dist.get_backend_config()
    return torch.device("cpu") if in_host_memory else torch.device("cuda", torch.cuda.current_device())
