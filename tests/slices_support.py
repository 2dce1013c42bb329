"""Scripted environments of several slices that are served in any order, and what their agents really lived
through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hotloop import ops
from loop_support import ScriptedEnv

FINAL = 100.0  # added to the second component of a final observation


class SlicedEnv(ScriptedEnv):
    """Serves its slices in the given order of numbers, over and over; each slice has a clock of its own.

    As a real environment it returns the same step until actions are sent, and a slice's tensors are its own.
    `log` lists what was done to it: ``("get", slice number, clock)``, ``"send"`` and ``"peek"`` likewise.
    """

    def __init__(self, windows: list[slice], order: Sequence[int] | None = None, **scripts: Any) -> None:
        super().__init__(windows, **scripts)
        self.order = list(range(len(windows))) if order is None else list(order)
        self.turn = 0
        self.clocks = [0] * len(windows)
        self.log: list[tuple[str, int, int]] = []

    @property
    def number(self) -> int:
        return self.order[self.turn % len(self.order)]

    def step_of(self, number: int) -> tuple[Any, ...]:
        self.t, window = self.clocks[number], self.windows[number]
        self.agents = agents = torch.arange(window.start, window.stop)
        flags = [script(agents, self.t).bool() for script in (self.terminal, self.truncation, self.mask)]
        infos = [{"slice": number, "t": self.t}]
        observations = self.buffers[number].copy_(self.observation(agents, self.t))
        rewards = self.reward(agents, self.t).float()
        # A stored teacher's action tells which step of which agent a column holds.
        teacher = (1000 * agents + self.t,) if self.teacher else ()
        return observations, rewards, *flags[:2], *teacher, infos, window, flags[2], int(flags[2].sum())

    def get_observations(self) -> tuple[Any, ...]:
        self.log.append(("get", self.number, self.clocks[self.number]))
        return self.step_of(self.number)

    def send_actions(self, actions: np.ndarray[Any, Any]) -> None:
        super().send_actions(actions)
        self.log.append(("send", self.number, self.clocks[self.number]))
        self.clocks[self.number] += 1
        self.turn += 1


class PeekingEnv(SlicedEnv):
    """One that shows its newest steps."""

    def peek_observations(self) -> Iterator[tuple[Any, ...]]:
        for number in sorted(range(len(self.windows)), key=lambda n: (n - self.number) % len(self.windows)):
            self.log.append(("peek", number, self.clocks[number]))
            yield self.step_of(number)


@cache
def _numbers(t: int, stream: int) -> Tensor:
    x = torch.sin(torch.arange(8).double() * 12.9898 + t * 78.233 + stream * 37.719) * 43758.5453
    return (x - x.floor()).float()


def noise(agents: Tensor, t: int, stream: int) -> Tensor:
    """A number in [0, 1) for each agent and step."""
    return _numbers(t, stream)[agents]


class EpisodicEnv(PeekingEnv):
    """Random rewards, episodes that end and are cut, absent agents, under either way to restart."""

    def __init__(
        self,
        windows: list[slice],
        autoreset: str,
        order: Sequence[int] | None = None,
        *,
        absent: bool = False,
    ) -> None:
        def ended(agents: Tensor, t: int) -> Tensor:
            # Under next_step no episode ends right after another.
            quiet = (t % 2 == 1) if autoreset == "next_step" else False
            return (noise(agents, t, 1) < (0.0 if quiet else 0.4)) & (t > 0)

        def terminal(agents: Tensor, t: int) -> Tensor:
            return ended(agents, t) & (noise(agents, t, 2) < 0.5)

        def truncation(agents: Tensor, t: int) -> Tensor:
            # Sometimes both at once.
            return ended(agents, t) & (noise(agents, t, 2) > 0.4)

        def mask(agents: Tensor, t: int) -> Tensor:
            filler = ended(agents, t) if autoreset == "next_step" else torch.zeros_like(agents).bool()
            away = (noise(agents, t, 3) < 0.15) & torch.tensor(absent)
            return ~filler & ~away

        super().__init__(
            windows,
            order,
            teacher=True,
            reward=lambda agents, t: noise(agents, t, 4) - 0.5,
            terminal=terminal,
            truncation=truncation,
            mask=mask,
        )
        self.autoreset = autoreset

    def plain_observation(self, agents: Tensor, t: int) -> Tensor:
        columns = (noise(agents, t, 5), noise(agents, t, 6), torch.ones(len(agents)))
        return torch.stack(columns, dim=1)

    def observation(self, agents: Tensor, t: int) -> Tensor:
        observations = self.plain_observation(agents, t)
        if self.autoreset == "next_step":
            observations[self.terminal(agents, t) | self.truncation(agents, t), 1] += FINAL
        return observations

    def final_observations(self) -> tuple[Tensor, Tensor] | None:
        cut = self.truncation(self.agents, self.t)
        if self.autoreset == "next_step" or not cut.any():
            return None
        finals = self.plain_observation(self.agents, self.t)[cut]
        finals[:, 1] += FINAL
        return self.agents[cut], finals

    def departure_advantages(
        self,
        agent: int,
        first: int,
        horizon: int,
        value: Callable[[Tensor], Tensor],
        gamma: float,
        gae_lambda: float,
    ) -> Tensor:
        """GAE `[T]` of an agent's steps `first` ... as the departure-indexed definition has it, from what the
        environment does and the `value` `[1]` of observations `[1, ...]` alone."""
        who = torch.tensor([agent])
        times = range(first, first + horizon)

        def column(script: Any, offset: int) -> Tensor:
            return torch.stack([script(who, t + offset) for t in times], dim=1).float()

        def values(observations: Any, offset: int) -> Tensor:
            return torch.stack([value(observations(who, t + offset)) for t in times], dim=1)

        def final(agents: Tensor, t: int) -> Tensor:
            observations = self.plain_observation(agents, t)
            observations[:, 1] += FINAL
            return observations

        advantages, _ = ops.gae(
            column(self.reward, 1),
            values(self.observation, 0),
            column(self.terminal, 1),
            column(self.truncation, 1),
            last_values=values(self.observation, 1)[:, -1].contiguous(),
            truncation_values=values(final, 1),
            valid=column(self.mask, 0),
            gamma=gamma,
            gae_lambda=gae_lambda,
        )
        return advantages[0]
