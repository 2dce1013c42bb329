"""The loop over time of a CleanRL-style script in one line.

    from hotloop.integrations.cleanrl import gae

    advantages, returns = gae(rewards, values, dones, next_value, next_done, args.gamma, args.gae_lambda)

in the place of the loop under `# bootstrap value if not done`. Nothing is patched: the function takes a
script's tensors as they are. See docs/integrations/cleanrl.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hotloop import ops
from hotloop.integrations.decay import matching_lambda

__all__ = ["gae"]


def gae(
    rewards: Tensor,
    values: Tensor,
    dones: Tensor,
    next_value: Tensor,
    next_done: Tensor,
    gamma: float,
    gae_lambda: float,
    *,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns (Schulman et al. 2016) of a rollout as CleanRL's `ppo*.py` keep it.

    With `done` of step t+1 for t < T-1 and `next_done` for T-1, and V likewise::

        delta[t]  = rewards[t] + gamma * V[t+1] * (1 - done[t+1]) - values[t]
        A[t]      = delta[t] + gamma * gae_lambda * (1 - done[t+1]) * A[t+1]
        return[t] = A[t] + values[t]

    It is the script's own arithmetic, and the results are its own to the last bit as long as every number is
    finite; an infinity or NaN does not cross an episode's end here, as it does there (0 * inf is NaN).

    Args:
        rewards: `[T, N]`, time-major, floating; float32 in those scripts.
        values: `[T, N]`, floating. The arithmetic is done in its dtype.
        dones: `[T, N]`, floating, bool or uint8: `dones[t]` came with observation t, so it is the end of the
            episode that step t-1 belonged to. `dones[0]` is not read. 1 or 0; anything but 0 counts as 1.
        next_value: `[1, N]` or `[N]` (or `[N, 1]`), V of the observation after the last step.
        next_done: `[N]` (or `[1, N]`), what came with that observation.
        gamma, gae_lambda: in [0, 1].
        out: `(advantages, returns)`, `[T, N]` with the dtype of `values` and memory of their own, to be used
            again from one rollout to the next.

    Returns:
        `(advantages, returns)`, `[T, N]`.

    Raises:
        TypeError: an argument is no CPU `torch.Tensor`, or of an unsupported dtype.
        ValueError: shapes do not fit, gamma or gae_lambda is out of range, or an input requires grad (a
            script computes advantages under `torch.no_grad()`, with values that were stored there).
    """
    for name, tensor in (("rewards", rewards), ("values", values), ("dones", dones)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"cleanrl.gae: {name} must be a torch.Tensor [T, N], got {type(tensor).__name__}")
        if tensor.dim() != 2 or tensor.shape != rewards.shape or len(tensor) == 0:
            raise ValueError(
                f"cleanrl.gae: {name} must be [T, N] with T > 0, got {list(tensor.shape)}"
                + (f" beside rewards {list(rewards.shape)}" if tensor is not rewards else "")
            )
    steps, agents = rewards.shape
    last_values = _one_step("next_value", next_value, agents)
    last_done = _one_step("next_done", next_done, agents)
    # departure-indexed: the end of step t came with observation t+1
    terminated = torch.empty(steps, agents, dtype=torch.bool, device=dones.device)
    torch.ne(dones[1:], 0, out=terminated[:-1])
    torch.ne(last_done, 0, out=terminated[-1])
    if values.dtype == torch.float32 and 0.0 <= gamma <= 1.0 and 0.0 <= gae_lambda <= 1.0:
        gae_lambda = matching_lambda(float(gamma), float(gae_lambda))
    return ops.gae(
        rewards, values, terminated, last_values=last_values, gamma=gamma, gae_lambda=gae_lambda,
        time_major=True, out=out,
    )  # fmt: skip


def _one_step(name: str, tensor: Tensor, agents: int) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"cleanrl.gae: {name} must be a torch.Tensor, got {type(tensor).__name__}")
    if tuple(tensor.shape) not in ((agents,), (1, agents), (agents, 1)):
        raise ValueError(f"cleanrl.gae: {name} must be [{agents}] or [1, {agents}], got {list(tensor.shape)}")
    return tensor.reshape(agents)
