"""`verify=True`: rsl_rl's own code beside ours, on copies of what it writes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch

from hotloop.integrations.verify import Verifier

_WRITTEN = (
    "actions", "rewards", "dones", "values", "actions_log_prob", "privileged_actions", "returns",
    "advantages",
)  # fmt: skip
_BATCH = (
    "actions", "values", "advantages", "returns", "old_actions_log_prob", "masks", "privileged_actions",
    "dones",
)  # fmt: skip


def verified_returns(
    ppo: Any, obs: Any, ours: Callable[[], None], verifier: Verifier, theirs: Callable[..., None]
) -> None:
    """VerificationError: returns or advantages differ."""
    twin, state = copy.copy(ppo), torch.get_rng_state()
    twin.storage = _copied(ppo.storage, ("returns",))
    theirs(twin, obs)
    torch.set_rng_state(state)
    ours()
    names = ("returns", "advantages")
    verifier.compare("PPO.compute_returns", _named(ppo.storage, names), _named(twin.storage, names))


def verified_transition(
    storage: Any,
    transition: Any,
    ours: Callable[[Any, Any], None],
    verifier: Verifier,
    theirs: Callable[..., None],
) -> None:
    """VerificationError: what was stored differs."""
    twin, step = _copied(storage, _WRITTEN), storage.step
    twin.observations = storage.observations.clone()
    if twin.distribution_params is not None:
        twin.distribution_params = tuple(p.clone() for p in twin.distribution_params)
    twin._save_hidden_states = lambda hidden_states: None
    theirs(twin, transition)
    ours(storage, transition)
    sides = []
    for side in (storage, twin):
        found = {name: x[step] for name, x in _named(side, _WRITTEN).items()}
        found |= {f"observations[{name}]": x[step] for name, x in side.observations.items()}
        params = () if side.training_type != "rl" else side.distribution_params
        sides.append(found | {f"distribution_params[{i}]": p[step] for i, p in enumerate(params)})
    verifier.compare("RolloutStorage.add_transition", *sides)


def verified_batches(
    name: str, ours: Iterator[Any], theirs: Iterator[Any], verifier: Verifier
) -> Iterator[Any]:
    """Our batches. VerificationError: one differs from theirs, or theirs are more or fewer."""
    before, number = torch.get_rng_state(), 0
    while True:
        batch = next(ours, None)
        after = torch.get_rng_state()
        if number == 0:
            torch.set_rng_state(before)  # both draw the order with the first batch
        expected = next(theirs, None)
        if number == 0:
            torch.set_rng_state(after)
        what = f"RolloutStorage.{name}, batch {number},"
        verifier.compare(what, {"there is one": batch is not None}, {"there is one": expected is not None})
        if batch is None:
            return
        verifier.compare(what, _fields(batch), _fields(expected))
        yield batch
        number += 1


def _copied(storage: Any, names: tuple[str, ...]) -> Any:
    """A storage of which these attributes are copies."""
    twin = copy.copy(storage)
    for name, value in _named(storage, names).items():
        setattr(twin, name, value.clone())
    return twin


def _named(owner: Any, names: tuple[str, ...]) -> dict[str, Any]:
    found = {name: getattr(owner, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _fields(batch: Any) -> dict[str, Any]:
    found = _named(batch, _BATCH)
    found |= {f"observations[{name}]": x for name, x in batch.observations.items()}
    found |= {f"old_distribution_params[{i}]": p for i, p in enumerate(batch.old_distribution_params)}
    for i, state in enumerate(batch.hidden_states):
        states = state if isinstance(state, tuple) else (state,)
        found |= {f"hidden_states[{i}][{j}]": s for j, s in enumerate(states) if s is not None}
    return found
