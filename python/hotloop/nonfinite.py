"""What is told of a NaN or an infinity that reached training: `NonFinite`, and the error that carries it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

OnNan = Literal["raise", "skip", "ignore"]
Phase = Literal["rollout", "forward", "advantage", "losses", "backward", "parameters"]

_FROM = {
    "rollout": "as the rollout collected it",
    "forward": "out of the policy's forward pass in training, from finite inputs",
    "advantage": "computed from finite rewards and values",
    "losses": "computed by the losses, from finite inputs",
    "backward": "in the gradients, from finite losses",
    "parameters": "in the policy's parameters, from before this minibatch",
}


@dataclass(frozen=True)
class NonFinite:
    """The first entry that is NaN or infinite, nearest to its cause."""

    phase: Phase
    """Where it came from: ``"rollout"`` (the environment, or the policy as it acted), or what of the training
    phase made it."""
    key: str
    """Of the buffer, of the policy's output, or the name of a parameter."""
    value: float
    """NaN, inf or -inf."""
    count: int
    """Entries of this key that are not finite, among those that were looked at."""
    segment: int | None = None
    """Row of the buffer; None for what has no rows."""
    step: int | None = None
    """Column, from 0. The horizon T stands for what arrived after the row's last step."""
    agent: int | None = None
    environment: int | None = None
    """The agent's, counted over all slices of this process."""
    update_epoch: int | None = None
    """The pass over the rollout in which it was found; None in the rollout itself."""
    minibatch: int | None = None

    def __str__(self) -> str:
        where = ""
        if self.segment is not None:
            where = f" at segment {self.segment}, step {self.step}"
            if self.agent is not None:
                where += f" (agent {self.agent}, environment {self.environment})"
        elif self.agent is not None:
            where = f" of agent {self.agent} (environment {self.environment})"
        found = ""
        if self.update_epoch is not None:
            found = f"; found in update epoch {self.update_epoch}"
            found += "" if self.minibatch is None else f", minibatch {self.minibatch}"
        several = "" if self.count == 1 else f" ({self.count} entries are not finite)"
        origin = f"phase {self.phase!r}, {_FROM[self.phase]}"
        return f"{self.key!r} is {self.value}{where}{several}: {origin}{found}"


class NonFiniteError(FloatingPointError):
    """A NaN or an infinity reached training and ``on_nan="raise"``. `report` says which; nothing was learnt
    from it: the parameters are those of the last finite step."""

    def __init__(self, report: NonFinite, more: str = "", place: str = "") -> None:
        super().__init__(f"{place}{report}{more}")
        self.report, self.more = report, more


def first_non_finite(tensor: Tensor) -> tuple[tuple[int, ...], float, int] | None:
    """Index and value of the first entry that is NaN or infinite, and how many there are; None where all are
    finite or cannot be otherwise.

    A sum tells first whether there can be any: it costs one pass that writes nothing. Reads the device.
    """
    if not tensor.is_floating_point() or not tensor.numel() or math.isfinite(float(tensor.detach().sum())):
        return None
    numbers = tensor.detach().to("cpu")
    wrong = ~torch.isfinite(numbers)
    if not bool(wrong.any()):  # the sum itself was too large
        return None
    index = tuple(int(i) for i in wrong.nonzero()[0])
    return index, float(numbers[index]), int(wrong.sum())


def non_finite_parameter(policy: Any) -> NonFinite | None:
    """The first parameter of a policy that holds a NaN or an infinity."""
    return _first_of(_named(policy), "parameters")


def non_finite_gradient(policy: Any) -> NonFinite | None:
    """The first gradient of a policy's parameters that holds one, by the parameter's name."""
    gradients = ((name, parameter.grad) for name, parameter in _named(policy))
    return _first_of(((name, grad) for name, grad in gradients if grad is not None), "backward")


def _named(policy: Any) -> Iterable[tuple[str, Tensor]]:
    named = getattr(policy, "named_parameters", None)
    if callable(named):
        return list(named())
    return [(f"parameter {i}", parameter) for i, parameter in enumerate(policy.parameters())]


def _first_of(tensors: Iterable[tuple[str, Tensor]], phase: Phase) -> NonFinite | None:
    for name, tensor in tensors:
        found = first_non_finite(tensor)
        if found is not None:
            return NonFinite(phase, name, found[1], found[2])
    return None
