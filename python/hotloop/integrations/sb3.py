"""Stable-Baselines3: rollout buffers for PPO, A2C and whoever else takes `rollout_buffer_class`::

    PPO("MlpPolicy", env, rollout_buffer_class=HotRolloutBuffer)
    PPO("MultiInputPolicy", env, rollout_buffer_class=HotDictRolloutBuffer)

`rollout_buffer_kwargs={"verify": True}` compares the first calls with Stable-Baselines3's own code,
`{"force": True}` goes on with a version that was not tested. Importing this module imports Stable-Baselines3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer, spaces  # gymnasium's
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples
from torch import Tensor

from hotloop import ops
from hotloop.integrations.arrays import ALIGNMENT, Array, ArrayPool
from hotloop.integrations.decay import matching_lambda
from hotloop.integrations.hosts import find_host
from hotloop.integrations.verify import Verifier

__all__ = ["HotDictRolloutBuffer", "HotRolloutBuffer"]

_SCALARS = ("rewards", "returns", "values", "log_probs", "advantages")  # [T, N] float32 each
# What get() flattens and hands out beside the observations, in the order of the host's samples.
_FLAT = ("actions", "values", "log_probs", "advantages", "returns")
_TAKEN_BYTES = 1 << 20  # at a time: what the cache of a core holds until it is used


class HotRolloutBuffer(RolloutBuffer):  # type: ignore[misc]
    """`RolloutBuffer` with native `compute_returns_and_advantage`, `add` and `get`.

    Arguments, attributes, shapes, dtypes and the use of `np.random` are the host's; so are all results, to
    the last bit where `matching_lambda` finds a lambda, but for infinities and NaN: hotloop's advantages do
    not carry them across the end of an episode, where the host multiplies them by 0.

    Args:
        verify: compares the first 16 calls of each method (or so many) with the host's own code.
        force: goes on with a version of the host that was not tested.

    Raises:
        UntestedHostError: the installed version was not tested.
        TypeError: the observation space is a Dict, which needs `HotDictRolloutBuffer`.
        VerificationError: a result differs from the host's.
    """

    def __init__(self, *args: Any, verify: bool | int = False, force: bool = False, **kwargs: Any) -> None:
        find_host("sb3").require(force)
        self._pool = ArrayPool()
        self._verifiers = {name: Verifier("sb3", verify) for name in ("add", "compute", "get")}
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Starts a rollout, with zeros in every array. Memory that nobody else holds is used again."""
        for name in ("observations", "actions", *_SCALARS, "episode_starts", "_own_starts", "_starts"):
            self.__dict__.pop(name, None)
        shape = (self.buffer_size, self.n_envs)
        self._reset_observations(shape)
        for name in _SCALARS:
            setattr(self, name, self._pool.zeros(name, shape, np.float32))
        self.actions = self._pool.zeros("actions", (*shape, self.action_dim), self.action_space.dtype)
        # One row more: whether the step after the last one starts an episode.
        self._starts = self._pool.zeros("starts", (self.buffer_size + 1, self.n_envs), np.float32)
        self.episode_starts = self._own_starts = self._starts[:-1]
        self.generator_ready = False
        self.pos = 0
        self.full = False

    def add(
        self, obs: Any, action: Array, reward: Array, episode_start: Array, value: Tensor, log_prob: Tensor
    ) -> None:
        """Copies one step of all environments into the buffer; arguments as the host's.

        Raises:
            IndexError: the buffer is full. ValueError: a shape does not fit.
        """
        step = (obs, action, reward, episode_start, value, log_prob)
        pos, twin = self.pos, self._twin() if self._verifiers["add"].due() else None
        self._add_observations(obs, pos)
        self.actions[pos] = action.reshape((self.n_envs, self.action_dim))
        self.rewards[pos] = reward
        self.episode_starts[pos] = episode_start
        self.values[pos] = value.cpu().numpy().ravel()
        self.log_probs[pos] = (log_prob if log_prob.ndim else log_prob.reshape(-1, 1)).cpu().numpy()
        self.pos = pos + 1
        if self.pos == self.buffer_size:
            self.full = True
        if twin is not None:
            twin.add(*step)
            self._verifiers["add"].compare(f"{type(self).__name__}.add", _row(self, pos), _row(twin, pos))

    def compute_returns_and_advantage(self, last_values: Tensor, dones: Array) -> None:
        """Advantages and returns of the rollout, in place.

        Args:
            last_values: `[n_envs]` or `[n_envs, 1]`, V of the observations after the last step.
            dones: `[n_envs]`, whether the last step ended an episode.

        Raises:
            ValueError: either has another number of elements, or `get()` has flattened the arrays.
        """
        name = f"{type(self).__name__}.compute_returns_and_advantage"
        dones = np.asarray(dones)
        for argument, count in (("last_values", last_values.numel()), ("dones", dones.size)):
            if count != self.n_envs:
                raise ValueError(f"{name}: {argument} must hold {self.n_envs} elements, got {count}")
        if self.generator_ready:
            raise ValueError(f"{name}: must come before get(), which flattens the arrays")
        twin = self._twin() if self._verifiers["compute"].due() else None
        starts = self._starts
        if self.episode_starts is not self._own_starts:  # somebody put an array of their own there
            starts = np.concatenate([self.episode_starts, starts[-1:]], dtype=np.float32)
        starts[-1] = dones.reshape(-1)
        ops.gae(
            torch.from_numpy(self.rewards),
            torch.from_numpy(self.values),
            torch.from_numpy(starts[1:]),
            last_values=last_values.to("cpu").reshape(-1),
            gamma=float(self.gamma),
            gae_lambda=matching_lambda(float(self.gamma), float(self.gae_lambda)),
            time_major=True,
            out=(torch.from_numpy(self.advantages), torch.from_numpy(self.returns)),
        )
        if twin is not None:
            twin.compute_returns_and_advantage(last_values, dones)
            ours, theirs = ({"advantages": of.advantages, "returns": of.returns} for of in (self, twin))
            self._verifiers["compute"].compare(name, ours, theirs, rtol=1e-5, atol=1e-5)

    def get(self, batch_size: int | None = None) -> Iterator[Any]:
        """Minibatches of the shuffled rollout, torch tensors in memory of their own.

        The order comes from `np.random.permutation`, as the host's does. A subclass that overrides
        `_get_samples` is asked for every minibatch through it.

        Raises:
            ValueError: the buffer is not full, or `batch_size` is below 1.
        """
        name, total = f"{type(self).__name__}.get", self.buffer_size * self.n_envs
        if not self.full:
            raise ValueError(f"{name}: the buffer must be full, got {self.pos} of {self.buffer_size} steps")
        if batch_size is None:
            batch_size = total
        if batch_size < 1:
            raise ValueError(f"{name}: batch_size must be at least 1, got {batch_size}")
        expected = self._host_minibatches(batch_size) if self._verifiers["get"].due() else None
        order = np.random.permutation(total)
        if not self.generator_ready:
            self._flatten()
            self.generator_ready = True
        if type(self)._get_samples in (RolloutBuffer._get_samples, DictRolloutBuffer._get_samples):
            minibatches = self._minibatches(order, batch_size)
        else:
            minibatches = (
                self._get_samples(order[start : start + batch_size]) for start in range(0, total, batch_size)
            )
        for minibatch in minibatches:
            if expected is not None:
                self._verifiers["get"].compare(name, _parts(minibatch), _parts(next(expected)))
            yield minibatch

    def _minibatches(self, order: Array, batch_size: int) -> Iterator[Any]:
        """Several small minibatches are taken at once, where each comes to lie as torch would have
        aligned it."""
        leaves = self._leaves()
        leaves["actions"] = leaves["actions"].astype(np.float32, copy=False)  # as the host hands them out
        for name in _FLAT[1:]:
            leaves[name] = leaves[name].reshape(-1)
        widths = [leaf[:1].nbytes for leaf in leaves.values()]
        at_once = batch_size
        if all(batch_size * width % ALIGNMENT == 0 for width in widths):
            at_once *= max(1, _TAKEN_BYTES // (batch_size * sum(widths)))
        for start in range(0, len(order), at_once):
            yield from self._split(self._take(leaves, order[start : start + at_once]), batch_size)

    def _take(self, leaves: dict[str, Array], order: Array) -> list[Tensor]:
        """Rows of all leaves, on the device."""
        taken = []
        for name, leaf in leaves.items():
            rows = self._pool.empty(f"taken {name}", (len(order), *leaf.shape[1:]), leaf.dtype)
            # numpy checks indices into `out` by way of a copy of it, unless it is told to clip them
            leaf.take(order, 0, out=rows, mode="clip")
            taken.append(torch.from_numpy(rows))
        return taken if self.device.type == "cpu" else [each.to(self.device) for each in taken]

    def _split(self, rows: list[Tensor], batch_size: int) -> Iterator[Any]:
        if len(rows[0]) <= batch_size:
            yield self._samples(rows)
            return
        # Not `split`: a change in place of one of its views would count as one of all the others.
        for parts in zip(*(leaf.unsafe_split(batch_size) for leaf in rows), strict=True):
            yield self._samples(parts)

    def _flatten(self) -> None:
        """Rows `[N * T, ...]`, an environment's steps one after the other, in every array of `_leaves()`: as
        the host leaves them."""
        steps = np.arange(self.buffer_size * self.n_envs)
        order = steps.reshape(self.buffer_size, self.n_envs).T.reshape(-1)
        flat = {}
        for name, array in self._leaves().items():
            rows = array.reshape(len(order), *(array.shape[2:] or (1,)))
            flat[name] = self._pool.empty(f"flat {name}", rows.shape, rows.dtype)
            rows.take(order, 0, out=flat[name], mode="clip")
        self._set_leaves(flat)

    def _twin(self) -> Any:
        """A buffer of the host's own class with copies of the arrays."""
        host = DictRolloutBuffer if isinstance(self, DictRolloutBuffer) else RolloutBuffer
        twin = host.__new__(host)
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                value = value.copy()
            elif name == "observations":
                value = {key: array.copy() for key, array in value.items()}
            setattr(twin, name, value)
        return twin

    def _host_minibatches(self, batch_size: int) -> Iterator[Any]:
        """What the host's own `get` would hand out; the state of `np.random` stays as it is."""
        state = np.random.get_state()
        minibatches = list(self._twin().get(batch_size))
        np.random.set_state(state)
        return iter(minibatches)

    # What differs where observations are a dict.

    def _reset_observations(self, shape: tuple[int, int]) -> None:
        if isinstance(self.observation_space, spaces.Dict):
            raise TypeError(f"{type(self).__name__}: observation_space must be no Dict: HotDictRolloutBuffer")
        self.observations: Any = self._pool.zeros(
            "observations", (*shape, *self.obs_shape), self.observation_space.dtype
        )

    def _add_observations(self, obs: Any, pos: int) -> None:
        if isinstance(self.observation_space, spaces.Discrete):
            obs = obs.reshape((self.n_envs, *self.obs_shape))
        self.observations[pos] = obs

    def _leaves(self) -> dict[str, Array]:
        return {name: getattr(self, name) for name in ("observations", *_FLAT)}

    def _set_leaves(self, leaves: dict[str, Array]) -> None:
        for name, array in leaves.items():
            setattr(self, name, array)

    def _samples(self, parts: Sequence[Tensor]) -> Any:
        return RolloutBufferSamples(*parts)


class HotDictRolloutBuffer(HotRolloutBuffer, DictRolloutBuffer):  # type: ignore[misc]
    """`DictRolloutBuffer`, as `HotRolloutBuffer` is `RolloutBuffer`."""

    def _reset_observations(self, shape: tuple[int, int]) -> None:
        self.observations = {
            key: self._pool.zeros(f"observations {key}", (*shape, *size), self.observation_space[key].dtype)
            for key, size in self.obs_shape.items()
        }

    def _add_observations(self, obs: Any, pos: int) -> None:
        for key, array in self.observations.items():
            each = obs[key]
            if isinstance(self.observation_space.spaces[key], spaces.Discrete):
                each = each.reshape((self.n_envs, *self.obs_shape[key]))
            array[pos] = each

    def _leaves(self) -> dict[str, Array]:
        observations = {f"observations {key}": array for key, array in self.observations.items()}
        return observations | {name: getattr(self, name) for name in _FLAT}

    def _set_leaves(self, leaves: dict[str, Array]) -> None:
        self.observations = {key: leaves[f"observations {key}"] for key in self.observations}
        for name in _FLAT:
            setattr(self, name, leaves[name])

    def _samples(self, parts: Sequence[Tensor]) -> Any:
        count = len(self.observations)
        return DictRolloutBufferSamples(
            dict(zip(self.observations, parts[:count], strict=True)), *parts[count:]
        )


def _row(buffer: Any, pos: int) -> dict[str, Array]:
    """Step `pos` in every array of ours or of the host's buffer."""
    names = ("actions", "rewards", "episode_starts", "values", "log_probs")
    return _observations(buffer.observations, pos) | {name: getattr(buffer, name)[pos] for name in names}


def _parts(minibatch: Any) -> dict[str, Tensor]:
    """The tensors of a minibatch by name."""
    parts: dict[str, Any] = minibatch._asdict()
    return _observations(parts.pop("observations"), slice(None)) | parts


def _observations(held: Any, at: int | slice) -> dict[str, Any]:
    if isinstance(held, dict):
        return {f"observations {key}": each[at] for key, each in held.items()}
    return {"observations": held[at]}
