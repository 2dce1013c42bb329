"""The estimators of TorchRL's `torchrl.objectives.value.functional`, natively: same arguments, same results.

Each works on CPU tensors of one dtype, float32 or float64, with bool flags and one gamma and lambda for
all, and gives None for everything else, in which case the caller takes the host's function: inputs that
require grad in grad mode, gamma or lambda for each step or above 1, other devices and dtypes, tensor
subclasses, `torch.compile`, and shapes that the host refuses.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from hotloop import ops
from hotloop.integrations.arrays import ArrayPool

Scalar: TypeAlias = "float | Tensor"

_POOL = ArrayPool()


def gae(
    gamma: Scalar,
    lmbda: Scalar,
    state_value: Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    *,
    time_dim: int = -2,
) -> tuple[Tensor, Tensor] | None:
    """Advantages and value targets; rounded as `generalized_advantage_estimate` rounds."""
    terminated = done if terminated is None else terminated
    floats = (state_value, next_state_value, reward)
    if not _native(floats, (done, terminated), (gamma, lmbda), time_dim) or not _discounts(gamma, lmbda):
        return None
    # reward + gamma * not_terminated * next_value - value
    delta = _unless(terminated, "delta", reward.dtype).mul_(_number(gamma)).mul_(next_state_value)
    delta.add_(reward).sub_(state_value)
    advantages = _discounted(delta, done, _number(lmbda * gamma), time_dim)
    targets = _POOL.tensor("targets", advantages.shape, reward.dtype)
    torch.add(advantages, _rows(state_value, time_dim), out=targets)
    return _rows_like(advantages, reward, time_dim), _rows_like(targets, reward, time_dim)


def td_lambda_return(
    gamma: Scalar,
    lmbda: Scalar,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    rolling_gamma: bool | None = None,
    *,
    time_dim: int = -2,
) -> Tensor | None:
    """TD(lambda) returns. `rolling_gamma` says nothing of a gamma that is one number."""
    terminated = done if terminated is None else terminated
    floats = (next_state_value, reward)
    if not _native(floats, (done, terminated), (gamma, lmbda), time_dim) or not _discounts(gamma, lmbda):
        return None
    # reward + gamma * not_terminated * next_value, of which lambda is left to the trace where one goes on
    kept = _unless(done, "kept", reward.dtype).mul_(-_number(lmbda)).add_(1.0)
    kept.select(time_dim, -1).fill_(1.0)
    step = _unless(terminated, "step", reward.dtype).mul_(next_state_value).mul_(_number(gamma)).mul_(kept)
    returns = _discounted(step.add_(reward), done, _number(gamma * lmbda), time_dim)
    return _rows_like(returns, reward, time_dim)


def vtrace(
    gamma: Scalar,
    log_pi: Tensor,
    log_mu: Tensor,
    state_value: Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    rho_thresh: Scalar = 1.0,
    c_thresh: Scalar = 1.0,
    time_dim: int = -2,
) -> tuple[Tensor, Tensor] | None:
    """V-trace's policy-gradient advantages and targets; rounded as `vtrace_advantage_estimate` rounds."""
    terminated = done if terminated is None else terminated
    floats = (state_value, next_state_value, reward, log_pi, log_mu)
    if not _native(floats, (done, terminated), (gamma, rho_thresh, c_thresh), time_dim):
        return None
    discount = _number(gamma)
    discounts = _unless(terminated, "discounts", reward.dtype).mul_(discount)
    ratio, rho, delta, following = (
        _POOL.tensor(name, reward.shape, reward.dtype) for name in ("ratio", "rho", "delta", "following")
    )
    torch.sub(log_pi, log_mu, out=ratio).exp_()
    torch.clamp_max(ratio, _number(rho_thresh), out=rho)
    torch.mul(discounts, next_state_value, out=delta).add_(reward).sub_(state_value).mul_(rho)
    trace = _unless(done, "trace", reward.dtype).mul_(discount).mul_(ratio.clamp_max_(_number(c_thresh)))
    rows = _rows(delta, time_dim)
    excess = _POOL.tensor("excess", rows.shape, reward.dtype)
    targets = _rows_like(ops.reverse_scan(_rows(trace, time_dim), rows, out=excess), reward, time_dim).add_(
        state_value
    )
    # What follows a step is the next target, but where an episode or the row ends its own next value.
    following.copy_(next_state_value)
    steps = reward.shape[time_dim] - 1
    inside, after = following.narrow(time_dim, 0, steps), targets.narrow(time_dim, 1, steps)
    np.copyto(inside.numpy(), after.numpy(), where=~done.narrow(time_dim, 0, steps).numpy())
    advantages = following.mul_(discounts).add_(reward).sub_(state_value).mul_(rho)
    return advantages, targets


def _native(
    floats: tuple[Tensor, ...], flags: tuple[Tensor, ...], scalars: tuple[Scalar, ...], time_dim: int
) -> bool:
    """Whether hotloop does this call."""
    first = floats[0]
    if torch.compiler.is_compiling() or first.dtype not in (torch.float32, torch.float64):
        return False
    if not first.numel() or not -first.ndim <= time_dim < first.ndim:
        return False
    for tensor in (*floats, *flags):
        if type(tensor) is not Tensor or tensor.device.type != "cpu" or tensor.shape != first.shape:
            return False
    if any(tensor.dtype != first.dtype for tensor in floats) or any(f.dtype != torch.bool for f in flags):
        return False
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in floats):
        return False
    default = torch.get_default_dtype()  # others would change that of the host's results
    return all(
        not isinstance(each, Tensor)
        or (each.numel() == 1 and each.dtype == default and not each.requires_grad)
        for each in scalars
    )


def _discounts(*scalars: Scalar) -> bool:
    return all(0.0 <= float(each) <= 1.0 for each in scalars)


def _number(scalar: Scalar) -> float:
    """A factor as the host rounds it, who multiplies flags by it: to torch's default dtype."""
    return float(torch.as_tensor(scalar))


def _rows(tensor: Tensor, time_dim: int) -> Tensor:
    """`[rows, steps]`, in place where the strides allow it."""
    return tensor.movedim(time_dim, -1).reshape(-1, tensor.shape[time_dim])


def _rows_like(rows: Tensor, like: Tensor, time_dim: int) -> Tensor:
    """What `_rows` made of a tensor, in its shape again, and in memory as the host lays it out."""
    shaped = rows.view(like.movedim(time_dim, -1).shape).movedim(-1, time_dim)
    return shaped if like.ndim < 2 or like.shape[-1] == 1 else shaped.contiguous()


def _unless(flags: Tensor, name: str, dtype: torch.dtype) -> Tensor:
    """0 where a flag is set, 1 elsewhere. By way of bytes, which torch converts several times faster."""
    return _POOL.tensor(name, flags.shape, dtype).copy_(flags.logical_not().view(torch.uint8))


def _discounted(steps: Tensor, done: Tensor, factor: float, time_dim: int) -> Tensor:
    """`y[t] = steps[t] + factor * y[t+1]`, but for where the trace is cut and at the end of the row; rows."""
    rows = _rows(steps, time_dim)
    return ops.discounted_return(
        rows, _rows(done, time_dim), last_values=rows.new_zeros(len(rows)), gamma=factor,
        out=_POOL.tensor("discounted", rows.shape, rows.dtype),
    )  # fmt: skip
