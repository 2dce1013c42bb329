"""Running normalisation of observations and rewards.

The statistics are exact: each step's are merged into those of all steps before, in float64, by the rule of
Chan, Golub and LeVeque (1979, "Updating formulae and a pairwise algorithm for computing sample variances"),
so that neither the order nor the size of the batches matters beyond rounding. NumPy adds up in an order that
does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]
Gather = Callable[[Any], Sequence[Any]]


class RunningMoments:
    """Mean and variance of everything that was shown to it.

    Args:
        shape: of one entry; each component has moments of its own.
        gather: with several processes, what hands each the objects of all in one order, so that all have the
            moments of all: every `update` calls it once. None: each has its own.

    Attributes:
        count: entries seen.
        mean: float64 ``[*shape]``.
        squares: float64 ``[*shape]``, sum of squared deviations from the mean.
    """

    def __init__(self, shape: tuple[int, ...] = (), *, gather: Gather | None = None) -> None:
        self.shape = tuple(shape)
        self._gather = gather
        self.count = 0
        self.mean: Array = np.zeros(self.shape)
        self.squares: Array = np.zeros(self.shape)

    @property
    def variance(self) -> Array:
        """float64 ``[*shape]``, divisor n; 1 before the first entry."""
        return self.squares / self.count if self.count else np.ones(self.shape)

    def update(self, entries: Array) -> bool:
        """Takes ``[n, *shape]`` entries in, but for those with a component that is NaN or infinite: one would
        make the moments NaN for good.

        Returns:
            Whether all of them were finite.

        Raises:
            ValueError: they have another shape.
        """
        if entries.shape[1:] != self.shape or entries.ndim != len(self.shape) + 1:
            raise ValueError(
                f"RunningMoments.update: entries must be [n, {', '.join(map(str, self.shape))}], got "
                f"{list(entries.shape)}"
            )
        numbers = entries.astype(np.float64)
        count = len(numbers)
        mean = numbers.mean(0) if count else np.zeros(self.shape)
        finite = bool(np.isfinite(mean).all())
        if not finite:
            numbers = numbers[np.isfinite(numbers).reshape(count, -1).all(1)]
            count = len(numbers)
            mean = numbers.mean(0) if count else np.zeros(self.shape)
        own = (count, mean, np.square(numbers - mean).sum(0))
        for part in (own,) if self._gather is None else self._gather(own):
            self.merge(*part)
        return finite

    def merge(self, count: int, mean: Array, squares: Array) -> None:
        """Takes in the moments of other entries: their number, mean and squared deviations from it, summed.

        Moments of several processes are joined by this too.
        """
        total = self.count + count
        if not total:
            return
        difference = mean - self.mean
        self.mean = self.mean + difference * (count / total)
        self.squares = self.squares + squares + np.square(difference) * (self.count * (count / total))
        self.count = total

    def state_dict(self) -> dict[str, Any]:
        # arrays also where the arithmetic above has made numbers of them
        return {"count": self.count, "mean": np.array(self.mean), "squares": np.array(self.squares)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`. ValueError where it is of another shape."""
        mean = np.asarray(state["mean"], dtype=np.float64)
        if mean.shape != self.shape:
            raise ValueError(
                f"RunningMoments.load_state_dict: the state must be of shape {list(self.shape)}, got "
                f"{list(mean.shape)}"
            )
        self.count = int(state["count"])
        self.mean, self.squares = mean.copy(), np.array(state["squares"], dtype=np.float64)


class ObservationNormalizer:
    """``clip((x - mean) / sqrt(variance + eps), -clip, clip)`` for each component, as OpenAI Baselines'
    VecNormalize and Gymnasium's NormalizeObservation have it.

    Args:
        shape: of one observation.
        clip: the largest size of what comes out.
        eps: added to the variance.
        gather: see `RunningMoments`.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        clip: float = 10.0,
        eps: float = 1e-8,
        gather: Gather | None = None,
    ) -> None:
        self.moments = RunningMoments(shape, gather=gather)
        self.clip = clip
        self.eps = eps

    def __call__(self, observations: Tensor, *, update: bool) -> Tensor:
        """Observations ``[n, *shape]`` of any dtype, on the CPU, to float32, freshly allocated.

        With `update` they are taken into the statistics first.
        """
        numbers = observations.numpy()
        finite = self.moments.update(numbers) if update else True
        scaled = (numbers - self.moments.mean) / np.sqrt(self.moments.variance + self.eps)
        if not finite:  # an infinity would be clipped to a number, and never be found
            scaled[~np.isfinite(numbers)] = np.nan
        return torch.from_numpy(np.clip(scaled, -self.clip, self.clip).astype(np.float32))


class RewardNormalizer:
    """``clip(r / sqrt(variance of R + eps), -clip, clip)``, where R is each agent's discounted return.

    ``R <- gamma R + r`` at every step, and 0 after an episode's last: the definition of OpenAI Baselines'
    VecNormalize. Rewards are scaled and not shifted, so that what an agent prefers stays what it was.

    Args:
        agents: A.
        gamma: the discount.
        clip, eps, gather: as above.
    """

    def __init__(
        self,
        agents: int,
        *,
        gamma: float,
        clip: float = 10.0,
        eps: float = 1e-8,
        gather: Gather | None = None,
    ) -> None:
        self.moments = RunningMoments(gather=gather)
        self.returns: Array = np.zeros(agents)
        self.gamma = gamma
        self.clip = clip
        self.eps = eps

    def __call__(self, rewards: Tensor, dones: Array, counts: Array, window: slice) -> Tensor:
        """The rewards ``[n]`` of a step of the agents `window`, normalised to float32.

        Args:
            dones: bool ``[n]``, the episode ended with this reward.
            counts: bool ``[n]``, False where there was no action whose reward this could be.
        """
        numbers = rewards.numpy()
        returns = self.returns[window]
        returns[:] = np.where(counts, self.gamma * returns + numbers, returns)
        finite = self.moments.update(returns[counts])
        returns[dones] = 0.0
        scaled = numbers / np.sqrt(self.moments.variance + self.eps)
        if not finite:
            returns[~np.isfinite(returns)] = 0.0
            scaled[~np.isfinite(numbers)] = np.nan
        return torch.from_numpy(np.clip(scaled, -self.clip, self.clip).astype(np.float32))


@dataclass(frozen=True)
class ObservationSpace:
    """What a policy must know of normalised observations, by the names that Gymnasium's Box has."""

    shape: tuple[int, ...]
    low: float
    high: float
    dtype: str = "float32"


class NormalizedEnvironment:
    """A `hotloop.envs.TrainingEnvironment` whose observations or rewards are normalised on the way.

    A rollout sees, and stores, observations by the statistics of the moment, and the training phase sees what
    was stored: nothing is normalised twice. Statistics move when a step is fetched for the first time.
    Returns in ``infos`` stay those of the environment. Everything else is passed on to `environment`.

    Args:
        environment: what is wrapped; its tensors must lie in host memory.
        observations, rewards: the normalisers; None leaves that side as it is.
        update: False freezes the statistics, for evaluation.
    """

    def __init__(
        self,
        environment: Any,
        *,
        observations: ObservationNormalizer | None = None,
        rewards: RewardNormalizer | None = None,
        update: bool = True,
    ) -> None:
        self.environment = environment
        self.observations = observations
        self.rewards = rewards
        self.update = update
        # Whether the action that led here was one: not after a reset, and not on a filler row.
        self._acted: Array = np.zeros(environment.total_parallel_agents, dtype=np.bool_)
        self._fetched: tuple[Any, ...] | None = None
        self._restored: tuple[Tensor, Tensor] | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "environment":  # while it is being copied or unpickled
            raise AttributeError(name)
        return getattr(self.environment, name)

    @property
    def single_observation_space(self) -> Any:
        """That of the environment, or float32 within the clip."""
        space = self.environment.single_observation_space
        if self.observations is None:
            return space
        clip = self.observations.clip
        return ObservationSpace(tuple(space.shape), -clip, clip)

    def get_observations(self) -> tuple[Any, ...]:
        """As the environment's, normalised. The same step, when it is asked for twice."""
        if self._fetched is None:
            step = tuple(self.environment.get_observations())
            if self._restored is None:
                self._fetched = self._normalized(step)
            else:  # a step that was looked at, and counted, before it was saved
                self._fetched = (*self._restored, *step[2:])
                self._restored = None
        return self._fetched

    def send_actions(self, actions: Array) -> None:
        """Passed on."""
        self.environment.send_actions(actions)
        self._fetched = None

    def final_observations(self) -> tuple[Tensor, Tensor] | None:
        """Normalised by the statistics of the step that they belong to, which they do not change."""
        finals: tuple[Tensor, Tensor] | None = self.environment.final_observations()
        if finals is None or self.observations is None:
            return finals
        return finals[0], self.observations(finals[1], update=False)

    def _normalized(self, step: tuple[Any, ...]) -> tuple[Any, ...]:
        observations, rewards, terminals, truncations, *rest = step
        window, mask = rest[-3], rest[-2]
        if self.rewards is not None:
            dones = terminals.numpy() | truncations.numpy()
            rewards = self.rewards(rewards, dones, self._acted[window], window)
        self._acted[window] = True if mask is None else mask.numpy()
        if self.observations is not None:
            observations = self.observations(observations, update=self.update)
        return observations, rewards, terminals, truncations, *rest

    def normalizer_state(self) -> dict[str, Any]:
        """The statistics, for a checkpoint: arrays and numbers. They are apart from the environment's own
        state because they outlive it where that cannot be saved."""
        return {
            "observations": None if self.observations is None else self.observations.moments.state_dict(),
            "rewards": None if self.rewards is None else self.rewards.moments.state_dict(),
        }

    def load_normalizer_state(self, state: Mapping[str, Any]) -> None:
        """Restores `normalizer_state`. ValueError where it is of other observations."""
        for normalizer, saved in ((self.observations, "observations"), (self.rewards, "rewards")):
            if normalizer is not None and state[saved] is not None:
                normalizer.moments.load_state_dict(state[saved])

    def state_dict(self) -> dict[str, Any]:
        """The environment's state, the running returns, and what was made of a step that waits for its
        actions: it has moved the statistics already."""
        waiting = self._restored if self._fetched is None else self._fetched[:2]
        return {
            "waiting": None if waiting is None else [tensor.clone() for tensor in waiting],
            "environment": self.environment.state_dict(),
            "acted": self._acted.copy(),
            "returns": None if self.rewards is None else self.rewards.returns.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.environment.load_state_dict(state["environment"])
        self._fetched = None
        self._restored = None if state["waiting"] is None else tuple(state["waiting"])
        self._acted[:] = state["acted"]
        if self.rewards is not None and state["returns"] is not None:
            self.rewards.returns[:] = state["returns"]
