"""Timing what an optimizer step consists of as training sees it: after a backward pass, which leaves other
code and data in the caches, and new gradients. A loop over the call alone flatters it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

from interleave import Timing


def two_networks() -> nn.ModuleList:
    """Actor and critic of 2 x 64 for CartPole: 12 tensors, 9k numbers."""

    def network(outputs: int) -> nn.Sequential:
        layers = (nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))
        return nn.Sequential(*layers)

    return nn.ModuleList([network(2), network(1)])


def after_backward(
    networks: nn.ModuleList, contestants: Mapping[str, Callable[[], object]], *, rounds: int = 200
) -> dict[str, Timing]:
    """Microseconds of each contestant's call, in turn, each after a backward pass of its own."""
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    x = torch.randn(2048, 4, generator=torch.Generator().manual_seed(1))
    for number in range(rounds + 20):  # the first are warm-up
        for name, function in contestants.items():
            networks.zero_grad()
            torch.cat([network(x) for network in networks], dim=1).square().mean().backward()
            start = time.perf_counter()
            function()
            taken = (time.perf_counter() - start) * 1e6
            if number >= 20:
                samples[name].append(taken)
    return {name: Timing.of(taken) for name, taken in samples.items()}
