"""The state that a policy keeps for each agent from step to step: its description and its beginning."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from hotloop.spec import NestedSpec, key_name, normalize_spec, spec_leaves, zeros_from_spec


def has_state(policy: Any) -> bool:
    """Whether the policy is a `hotloop.policies.RecurrentPolicy`, known by its ``get_state_spec()``."""
    return callable(getattr(policy, "get_state_spec", None))


def state_spec(policy: Any) -> NestedSpec:
    """What the state of one agent consists of. TypeError or ValueError where it is no spec or is empty."""
    spec = normalize_spec(policy.get_state_spec())
    if not any(True for _ in spec_leaves(spec)):
        raise ValueError(f"{type(policy).__name__}.get_state_spec: expected at least one entry, got none")
    return spec


def initial_states(policy: Any, count: int, device: torch.device | str = "cpu") -> TensorDict:
    """The state in which an episode begins, for `count` agents: a TensorDict ``[count]``.

    It is the policy's ``initial_state()``, where it has that method, and zeros otherwise. To act outside a
    loop: put it into ``td["state"]``, call ``policy.forward(td)``, keep ``td["state"]`` for the next step,
    and begin anew where an episode ended.

    Raises KeyError for an entry that ``initial_state()`` lacks, ValueError for one of another shape.
    """
    spec = state_spec(policy)
    states = zeros_from_spec(spec, (count,), torch.device(device))
    begin = getattr(policy, "initial_state", None)
    if not callable(begin):
        return states
    given = begin()
    where = f"{type(policy).__name__}.initial_state"
    for key, (shape, _) in spec_leaves(spec):
        try:
            value: Tensor = given[key] if isinstance(key, str) else _at(given, key)
        except KeyError:
            raise KeyError(f"{where}: must return {key_name(key)!r}, as get_state_spec() says") from None
        if value.shape != shape:
            raise ValueError(f"{where}: {key_name(key)!r} must be {list(shape)}, got {list(value.shape)}")
        states[key].copy_(value.detach().expand(count, *shape))
    return states


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree
