"""Summary statistics of a rollout buffer."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

_ARRIVALS = ("rewards", "dones", "truncateds")
_DECISIONS = ("values", "act_log_prob", "ratio")


def buffer_stats(buffer: TensorDict, t_in_row: Tensor) -> dict[str, float]:
    """See `Experience.stats`."""
    valid = buffer.get("valid", None)
    results: dict[str, Tensor] = {}
    for name in (*_ARRIVALS, *_DECISIONS):
        column = buffer.get(name, None)
        if column is not None:
            # The last reward of an episode may arrive on a filler step, whose action does not count.
            results[name] = _masked(column, None if name in _ARRIVALS else valid).mean()
    actions = buffer.get("actions", None)
    if actions is not None:
        numbers = _masked(actions, valid)
        results["actions_mean"] = numbers.mean()
        results["actions_std"] = numbers.std() if numbers.numel() > 1 else numbers.new_zeros(())
    inside = t_in_row.to(torch.float32)
    results["t_in_row"] = inside.sum() / (inside > 0).sum().clamp(min=1)
    return dict(zip(results, torch.stack(list(results.values())).tolist(), strict=True))


def _masked(column: Tensor, valid: Tensor | None) -> Tensor:
    """The numbers of the valid steps, float32 and flat."""
    return (column if valid is None else column[valid.bool()]).to(torch.float32).flatten()
