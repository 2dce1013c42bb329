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

    def __call__(self, name: str) -> _Phase:
        return _Phase(self, name)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """Seconds by name since the last call."""
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
    """While entered, a network's forward passes are timed as `network.rollout` and `network.train`, and of
    each backward pass that is a phase `backward` what came before the first gradient reached the network's
    outputs, as `loss.backward`. A loop that hands autograd the gradient of the outputs has no such phase and
    no such part: autograd's own start belongs to the network's backward pass."""

    def __init__(self, network: nn.Module, phases: Phases, backward: str) -> None:
        self._network, self._phases, self._backward = network, phases, backward
        self._pending = False

    def __enter__(self) -> None:
        self._handles = [
            self._network.register_forward_pre_hook(self._begin),
            self._network.register_forward_hook(self._end),
        ]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(self, *_: object) -> None:
        self._start = perf_counter()

    def _end(self, module: nn.Module, inputs: Any, outputs: tuple[Tensor, Tensor]) -> None:
        training = torch.is_grad_enabled()
        self._ended = perf_counter()
        self._phases.add("network.train" if training else "network.rollout", self._ended - self._start)
        if training:
            self._pending = True
            for output in outputs:
                output.register_hook(self._arrived)

    def _arrived(self, gradient: Tensor) -> None:
        # Autograd runs what was recorded last first: all of the loss comes before any of the network.
        if self._pending:
            self._pending = False
            started = self._phases.started.get(self._backward, 0.0)
            if started > self._ended:
                self._phases.add("loss.backward", perf_counter() - started)
