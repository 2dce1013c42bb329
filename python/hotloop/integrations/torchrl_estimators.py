"""The estimators of TorchRL's `torchrl.objectives.value.functional`, natively: same arguments, same results.

Each works on CPU tensors of one dtype, float32 or float64, with bool flags and one gamma and lambda for
all, and gives None for everything else, in which case the caller takes the host's function: inputs that
require grad in grad mode, gamma or lambda for each step or above 1, other devices and dtypes, tensor
subclasses, `torch.compile`, and shapes that the host refuses.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from hotloop import ops

Scalar: TypeAlias = "float | Tensor"


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
    values, ends = _rows(state_value, time_dim), _rows(terminated, time_dim)
    delta = _one_step(_rows(reward, time_dim), ends, _rows(next_state_value, time_dim), _number(gamma))
    delta.sub_(values)
    advantage = _discounted(delta, _rows(done, time_dim), _number(lmbda * gamma))
    advantage = _rows_like(advantage, reward, time_dim)
    return advantage, advantage + state_value


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
    step = next_state_value * _number(gamma)
    step.masked_fill_(terminated, 0.0)
    kept = torch.where(done, 1.0, 1.0 - _number(lmbda)).to(step.dtype)
    kept.select(time_dim, -1).fill_(1.0)
    step.mul_(kept).add_(reward)
    returns = _discounted(_rows(step, time_dim), _rows(done, time_dim), _number(gamma * lmbda))
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
    if not _discounts(gamma) or not (_number(rho_thresh) >= 0.0 and _number(c_thresh) >= 0.0):
        return None
    discount = _number(gamma)
    values, following, rewards, ends, cuts = (
        _rows(each, time_dim) for each in (state_value, next_state_value, reward, terminated, done)
    )
    ratio = _rows(log_pi - log_mu, time_dim).exp_()
    rho = ratio.clamp_max(_number(rho_thresh))
    delta = _one_step(rewards, ends, following, discount).sub_(values)
    nothing, none = values.new_zeros(1).expand(values.shape), values.new_zeros(len(values))
    excess, _ = ops.vtrace(
        delta, nothing, cuts, importance=ratio, last_values=none, gamma=discount,
        rho_clip=_number(rho_thresh), c_clip=_number(c_thresh),
    )  # fmt: skip
    targets = excess.add_(values)
    # What follows a step is the next target, but where an episode or the row ends its own next value.
    advantages = ops.td_lambda(
        rewards, targets, ends, cuts & ~ends, last_values=following[:, -1], truncation_values=following,
        gamma=discount, gae_lambda=0.0,
    )  # fmt: skip
    advantages.sub_(values).mul_(rho)
    return _rows_like(advantages, reward, time_dim), _rows_like(targets, reward, time_dim)


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


def _one_step(rewards: Tensor, ends: Tensor, following: Tensor, discount: float) -> Tensor:
    """`rewards + discount * following`, of rows; without what follows an end."""
    nowhere = rewards.new_zeros(len(rewards))
    return ops.td_lambda(
        rewards, rewards, ends, ~ends, last_values=nowhere, truncation_values=following, gamma=discount,
        gae_lambda=0.0,
    )  # fmt: skip


def _discounted(rows: Tensor, cuts: Tensor, factor: float) -> Tensor:
    """`y[t] = rows[t] + factor * y[t+1]`, but for where the trace is cut and at the end of the row."""
    return ops.discounted_return(rows, cuts, last_values=rows.new_zeros(len(rows)), gamma=factor)
