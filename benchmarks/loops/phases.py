"""Where an epoch's time goes: a stopwatch that a loop enters, and the network timed from inside."""

from __future__ import annotations

from time import perf_counter
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn


class Phases:
    """A stopwatch as `hotloop.context.Stopwatch`, which also tells since when a phase is under way."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.started: dict[str, float] = {}
        self._lists: dict[str, list[float]] = {}

    def __call__(self, name: str) -> _Phase:
        return _Phase(self, name)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def seconds_of(self, name: str) -> list[float]:
        """A list of which every number is added to the phase: the cheapest way to book many short times."""
        return self._lists.setdefault(name, [])

    def take(self) -> dict[str, float]:
        """Seconds by name since the last call."""
        for name, numbers in self._lists.items():
            if numbers:
                self.add(name, sum(numbers))
                numbers.clear()
        taken, self.seconds = self.seconds, {}
        return taken


class _Phase:
    __slots__ = ("_name", "_phases", "_start")

    def __init__(self, phases: Phases, name: str) -> None:
        self._phases, self._name = phases, name

    def __enter__(self) -> None:
        self._start = self._phases.started[self._name] = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._phases.add(self._name, perf_counter() - self._start)


class TimedNetwork:
    """While entered, a network's forward passes are timed as `network.rollout` and `network.train`.

    Where the loss is part of autograd's graph, `backward` is the phase of the backward pass, and what of it
    came before the first gradient reached the network's outputs is timed as `loss.backward`. None: the loop
    hands autograd the gradient of the outputs, so that there is no such part, and no hook to find it.
    """

    def __init__(self, network: nn.Module, phases: Phases, backward: str | None) -> None:
        self._network, self._phases, self._backward = network, phases, backward
        self._pending = False

    def __enter__(self) -> None:
        # In the place of the method: a module with hooks takes torch's slow way to it.
        self._forward = self._network.forward
        self._rollout = self._phases.seconds_of("network.rollout")
        self._training = self._phases.seconds_of("network.train")
        self._network.forward = self._timed

    def __exit__(self, *_: object) -> None:
        del self._network.forward  # the class's own is seen again

    def _timed(self, *inputs: Any) -> Any:
        training = torch.is_grad_enabled()
        start = perf_counter()
        outputs: tuple[Tensor, Tensor] = self._forward(*inputs)
        (self._training if training else self._rollout).append(perf_counter() - start)
        if training and self._backward is not None:
            self._pending = True
            for output in outputs:
                output.register_hook(self._arrived)
        return outputs

    def _arrived(self, gradient: Tensor) -> None:
        # Autograd runs what was recorded last first: all of the loss comes before any of the network.
        if self._pending and self._backward is not None:
            self._pending = False
            self._phases.add("loss.backward", perf_counter() - self._phases.started[self._backward])
