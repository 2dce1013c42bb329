"""`RolloutStorage` of rsl_rl: a step stored by one native call, minibatches gathered once an update."""

from __future__ import annotations

import importlib
import operator
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from hotloop.entries import plain_entries
from hotloop.ops import GatherPlan, RowCursors, StorePlan, gather, scatter_
from hotloop.ops._memory import empty_buffer

# fields of a batch by attribute of the storage
_FIELDS = {
    "actions": "actions",
    "values": "values",
    "advantages": "advantages",
    "returns": "returns",
    "actions_log_prob": "old_actions_log_prob",
}


class _Holder:
    """Counts the references to an attribute as `_Minibatch.observations` does."""

    def __init__(self) -> None:
        self._held = object()

    def count(self) -> int:
        known = self._held
        return sys.getrefcount(known)


_ALONE = _Holder().count()  # what the interpreter counts where nobody else holds it


class Storage:
    """What hotloop keeps beside one `RolloutStorage`.

    Args:
        storage: the `RolloutStorage`, `[T, N]`.

    Attributes:
        advantages: `[T, N, 1]`.

    Raises:
        ValueError: it is not on the CPU.
    """

    def __init__(self, storage: Any) -> None:
        if torch.device(storage.device).type != "cpu":
            raise ValueError(
                f"hotloop.integrations.rsl_rl: RolloutStorage must be on the CPU, got device "
                f"{str(storage.device)!r}; hotloop.integrations.rsl_rl.uninstall() puts its own code back"
            )
        self.horizon, self.agents = storage.num_transitions_per_env, storage.num_envs
        # The runner stores under inference mode and trains outside of it: what is kept belongs to neither.
        with torch.inference_mode(False):
            self.advantages = torch.zeros(self.horizon, self.agents, 1)
            self._cursors = RowCursors(self.agents, self.agents, self.horizon)
        self._held: tuple[Any, ...] = ()
        self._names: tuple[str, ...] = ()
        self._store: StorePlan | None = None
        self._batches: tuple[Any, list[_Minibatch]] = (None, [])
        self._padded: dict[str, Tensor] = {}

    def add_transition(self, storage: Any, transition: Any) -> None:
        """One step of all agents. OverflowError: the rollout is full. KeyError: other observations."""
        if storage.step >= self.horizon:
            raise OverflowError(
                "Rollout buffer overflow! You should call clear() before adding new transitions."
            )
        learns = storage.training_type == "rl"
        if learns and storage.distribution_params is None:
            storage.distribution_params = tuple(
                torch.zeros(self.horizon, *p.shape) for p in transition.distribution_params
            )
        plan = self._plan_of(storage)
        observations = transition.observations
        entries = plain_entries(observations)
        if entries is not None and tuple(entries) == self._names:
            step = [*entries.values()]
        elif set(observations.keys()) == set(self._names):
            step = [observations[name] for name in self._names]
        else:
            raise KeyError(
                f"hotloop.integrations.rsl_rl: observations must have {sorted(self._names)}, "
                f"got {sorted(observations.keys())}"
            )
        step += (transition.actions, _column(transition.rewards), _column(transition.dones))
        if learns:
            step += (transition.values, _column(transition.actions_log_prob))
            step += transition.distribution_params
        else:
            step.append(transition.privileged_actions)
        plan.store(step, 0, self.agents)
        storage._save_hidden_states(transition.hidden_states)
        storage.step += 1

    def mini_batch_generator(
        self, storage: Any, num_mini_batches: int, num_epochs: int, copy: bool
    ) -> Iterator[Any]:
        """Shuffled batches of steps. The order is drawn once, so all epochs have the same batches: each is
        gathered in the first."""
        _check_type(storage)
        batch_type = _batch_type()
        size = self.agents * self.horizon // num_mini_batches
        order = torch.randperm(num_mini_batches * size, requires_grad=False, device=storage.device)
        leaves = {name: leaf.flatten(0, 1) for name, leaf in _leaves(storage).items()}
        sources = list(leaves.values())
        if copy:
            for _ in range(num_epochs):
                for rows in order.split(size):
                    out = dict(zip(leaves, gather(sources, rows), strict=True))
                    yield batch_type(observations=_tensordict(storage, out, [size]), **_batch_fields(out))
            return
        batches = self._batches_of(storage, leaves, num_mini_batches, size)
        for batch, rows in zip(batches, order.split(size), strict=True):
            batch.plan.gather(sources, rows)
            yield batch_type(batch.observations(), **batch.fields)
        for _ in range(num_epochs - 1):
            for batch in batches:
                yield batch_type(batch.observations(), **batch.fields)

    def recurrent_mini_batch_generator(
        self, storage: Any, num_mini_batches: int, num_epochs: int, copy: bool
    ) -> Iterator[Any]:
        """Batches of agents, their episodes side by side, padded to `[T, episodes]`."""
        _check_type(storage)
        batch_type = _batch_type()
        size = self.agents // num_mini_batches
        episodes = Episodes(storage.dones)
        padded = self._pad(storage, episodes)
        leaves = {name: leaf for name, leaf in _leaves(storage).items() if not name.startswith("obs/")}
        parts: list[tuple[Any, ...]] = []
        for epoch in range(num_epochs):
            for i in range(num_mini_batches):
                if epoch == 0:
                    chosen = episodes.of_agents(i * size, (i + 1) * size)
                    states = [
                        _states(saved, episodes, chosen)
                        for saved in (storage.saved_hidden_state_a, storage.saved_hidden_state_c)
                    ]
                    parts.append((padded[:, chosen], states, episodes.masks[:, chosen]))
                observations, states, masks = parts[i]
                columns = {name: leaf[:, i * size : (i + 1) * size] for name, leaf in leaves.items()}
                if copy:
                    observations = observations.clone()
                    states = [_cloned(state) for state in states]
                yield batch_type(
                    observations=observations.copy(), hidden_states=tuple(states), masks=masks,
                    **_batch_fields(columns),
                )  # fmt: skip

    def _plan_of(self, storage: Any) -> StorePlan:
        learns = storage.training_type == "rl"
        held = (
            storage.observations, storage.actions, storage.rewards, storage.dones,
            *((storage.values, storage.actions_log_prob, storage.distribution_params) if learns else ()),
        )  # fmt: skip
        if self._store is None or any(map(operator.is_not, held, self._held)):
            stored = [*storage.observations.values(), storage.actions]
            stored += [storage.rewards.squeeze(-1), storage.dones.squeeze(-1)]
            if learns:
                stored += [storage.values, storage.actions_log_prob.squeeze(-1), *storage.distribution_params]
            else:
                stored.append(storage.privileged_actions)
            views = {str(i): leaf.transpose(0, 1) for i, leaf in enumerate(stored)}
            self._store, self._held = StorePlan(views, tuple(views), self._cursors), held
            self._names = tuple(storage.observations.keys())
            self._cursors.reset()
        if self._cursors.position(0) != storage.step:
            self._cursors.positions.fill_(storage.step)
        return self._store

    def _batches_of(self, storage: Any, leaves: dict[str, Tensor], count: int, size: int) -> list[_Minibatch]:
        key = (count, size, tuple((name, leaf.shape, leaf.dtype) for name, leaf in leaves.items()))
        if self._batches[0] != key:
            self._batches = key, [_Minibatch(storage, leaves, size) for _ in range(count)]
        return self._batches[1]

    def _pad(self, storage: Any, episodes: Episodes) -> Any:
        """Observations `[T, episodes]`, zeros after an episode's end."""
        rows, padded = self.horizon * episodes.count, {}
        for name, leaf in storage.observations.items():
            known = self._padded.get(name)
            if known is None or len(known) < rows or known.dtype != leaf.dtype:
                known = self._padded[name] = empty_buffer((rows, *leaf.shape[2:]), leaf.dtype)
            padded[name] = known[:rows].zero_()
        sources = [leaf.flatten(0, 1) for leaf in storage.observations.values()]
        scatter_(list(padded.values()), episodes.places, sources)
        shaped = {f"obs/{name}": x.unflatten(0, (self.horizon, episodes.count)) for name, x in padded.items()}
        return _tensordict(storage, shaped, [self.horizon, episodes.count])


class _Minibatch:
    """Memory of the minibatch of one number, for all epochs and updates.

    Args:
        storage: the `RolloutStorage`.
        leaves: what it is made of, `[T * N, ...]` each.
        size: steps.

    Attributes:
        plan: gathers it.
        fields: of a batch, but for the observations.
    """

    def __init__(self, storage: Any, leaves: dict[str, Tensor], size: int) -> None:
        wanted: dict[Any, Tensor] = {**leaves}
        self.plan = GatherPlan.allocate(wanted, size)
        out: dict[Any, Tensor] = self.plan.out
        self.fields = _batch_fields(out)
        self._size = torch.Size((size,))
        self._make(storage.observations)

    def observations(self) -> Any:
        """The batch's TensorDict: the one of the last epoch, unless somebody holds that one or has changed
        it. To make one costs several times what a batch of 64 agents takes otherwise."""
        known = self._observations
        entries = plain_entries(known)
        if (
            sys.getrefcount(known) > _ALONE
            or entries is None
            or known.is_locked
            or known.batch_size != self._size
            or [*entries] != self._names
            or any(map(operator.is_not, entries.values(), self._held))
        ):
            self._make(known)
        return self._observations

    def _make(self, like: Any) -> None:
        out: dict[Any, Tensor] = self.plan.out
        held = _observations_of(out)
        self._observations = type(like)(held, batch_size=self._size, device=like.device)
        self._names, self._held = [*held], [*held.values()]


class Episodes:
    """Where episodes begin and end in a rollout, numbered agent by agent.

    Args:
        dones: `[T, N, 1]`.

    Attributes:
        count: how many.
        agent, start: `[count]` int64, whose it is and its first step.
        places: `[T * N]` int64: step (t, n) belongs to place `row * count + episode` of the padded layout.
        masks: `[T, count]` bool: whether an episode is that long.
    """

    def __init__(self, dones: Tensor) -> None:
        horizon, agents = dones.shape[:2]
        begins = torch.ones(agents, horizon, dtype=torch.bool)
        begins[:, 1:] = dones[:-1, :, 0].t() != 0
        self.agent, self.start = begins.nonzero().unbind(1)
        self.count = len(self.agent)
        number = begins.flatten().cumsum(0).sub_(1)  # of the episode, agent-major
        steps = torch.arange(horizon)
        row = steps.repeat(agents) - self.start[number]
        self.places = (row * self.count + number).view(agents, horizon).t().flatten()
        lengths = torch.bincount(number, minlength=self.count)
        self.masks = lengths > steps.unsqueeze(1)
        self._first = number.view(agents, horizon)[:, 0].tolist()

    def of_agents(self, start: int, stop: int) -> slice:
        """The episodes of agents `[start, stop)`."""
        return slice(self._first[start], self._first[stop] if stop < len(self._first) else self.count)


def _states(saved: list[Tensor] | None, episodes: Episodes, chosen: slice) -> Any:
    """Hidden states `[layers, episodes, width]` before the first step of each episode: a tensor, or a tuple
    of an LSTM's two."""
    if saved is None:
        return None
    horizon, layers, agents, width = saved[0].shape
    first = episodes.start[chosen] * (layers * agents) + episodes.agent[chosen]
    rows = (first + agents * torch.arange(layers).unsqueeze(1)).flatten()
    found = gather([state.view(horizon * layers * agents, width) for state in saved], rows)
    states = tuple(state.view(layers, -1, width) for state in found)
    return states[0] if len(states) == 1 else states


def _column(numbers: Tensor) -> Tensor:
    """`[N]`, which they are, or made of `[N, 1]`."""
    return numbers if numbers.dim() == 1 else numbers.view(-1)


def _cloned(states: Any) -> Any:
    return tuple(map(torch.clone, states)) if isinstance(states, tuple) else states


def _check_type(storage: Any) -> None:
    if storage.training_type != "rl":
        raise ValueError("This function is only available for reinforcement learning training.")


def _batch_type() -> Any:
    return importlib.import_module("rsl_rl.storage").RolloutStorage.Batch


def _leaves(storage: Any) -> dict[str, Tensor]:
    """What a batch is made of, `[T, N, ...]` each."""
    leaves = {f"obs/{name}": leaf for name, leaf in storage.observations.items()}
    leaves |= {name: getattr(storage, name) for name in _FIELDS}
    return leaves | {f"distribution/{i}": leaf for i, leaf in enumerate(storage.distribution_params)}


def _batch_fields(leaves: dict[str, Tensor]) -> dict[str, Any]:
    fields: dict[str, Any] = {field: leaves[name] for name, field in _FIELDS.items()}
    params = tuple(leaf for name, leaf in leaves.items() if name.startswith("distribution/"))
    return fields | {"old_distribution_params": params}


def _tensordict(storage: Any, leaves: dict[str, Tensor], batch_size: list[int]) -> Any:
    """Those of the leaves that are observations, as rsl_rl holds them."""
    held = storage.observations
    return type(held)(_observations_of(leaves), batch_size=batch_size, device=held.device)


def _observations_of(leaves: Mapping[Any, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("obs/"): leaf for name, leaf in leaves.items() if name.startswith("obs/")}
