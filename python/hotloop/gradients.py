"""Gradients averaged over the ranks of a data-parallel run: one all-reduce before each optimizer step.

Instead of wrapping the policy in DistributedDataParallel, whose hooks run only when the wrapper itself is
called, and which must be told of gradient accumulation and of parameters that a forward pass left out, the
gradients are copied into one flat buffer, summed over the ranks and copied back. That holds for any policy,
however it is called. What is given up is the overlap with the backward pass, which pays for networks far
larger than those that such loops train.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hotloop.losses import ranks


class GradientAverage:
    """Called between backward and optimizer step: replaces each gradient by its mean over the ranks.

    A parameter without a gradient counts as zero where other ranks have one, and keeps none where no rank
    has. On a single rank nothing happens.

    Args:
        policy: anything with `parameters()`.
    """

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self._memory: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def __call__(self) -> None:
        """Raises TypeError for a sparse gradient, RankLostError where a rank has died."""
        if not ranks.several_ranks():
            return
        groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for parameter in self._policy.parameters():
            if parameter.requires_grad:
                groups.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        for key, parameters in groups.items():
            self._average(key, parameters)

    def _average(self, key: tuple[torch.dtype, torch.device], parameters: list[Tensor]) -> None:
        # Behind the gradients a number for each parameter: how many ranks have one.
        sizes = [parameter.numel() for parameter in parameters]
        flat = self._memory.get(key)
        if flat is None or flat.numel() != sum(sizes) + len(sizes):
            flat = torch.empty(sum(sizes) + len(sizes), dtype=key[0], device=key[1])
            self._memory[key] = flat
        slots = [
            slot.view_as(parameter)
            for slot, parameter in zip(flat[: sum(sizes)].split(sizes), parameters, strict=True)
        ]
        present, missing = [], []
        for slot, parameter in zip(slots, parameters, strict=True):
            if parameter.grad is None:
                missing.append(slot)
            elif parameter.grad.is_sparse:
                raise TypeError(
                    "CoreTrainingLoop.training_phase: gradients must be dense with several ranks, got a "
                    f"sparse one for a parameter of shape {list(parameter.shape)} (sparse=False helps)"
                )
            else:
                present.append((slot, parameter.grad))
        if missing:
            torch._foreach_zero_(missing)
        if present:
            torch._foreach_copy_([slot for slot, _ in present], [grad for _, grad in present])
        held = [float(parameter.grad is not None) for parameter in parameters]
        flat[sum(sizes) :] = torch.tensor(held, dtype=key[0])
        with ranks.collective("the gradients"):
            dist.all_reduce(flat)
        counts = flat[sum(sizes) :].tolist() if missing else [1.0] * len(sizes)
        flat[: sum(sizes)] /= dist.get_world_size()
        for slot, parameter, count in zip(slots, parameters, counts, strict=True):
            if parameter.grad is None and count:
                parameter.grad = slot.clone()
        if present:
            torch._foreach_copy_([grad for _, grad in present], [slot for slot, _ in present])


def broadcast_parameters(policy: torch.nn.Module) -> None:
    """Gives every rank rank 0's parameters and buffers, in place. On a single rank nothing happens."""
    if not ranks.several_ranks():
        return
    tensors: Iterable[Tensor] = [*policy.parameters(), *policy.buffers()]
    with ranks.collective("the parameters of rank 0"), torch.no_grad():
        for tensor in tensors:
            dense = tensor.detach().contiguous()
            dist.broadcast(dense, src=0)
            tensor.copy_(dense)
