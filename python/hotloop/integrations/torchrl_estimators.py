"""The estimators of TorchRL's `torchrl.objectives.value.functional`, natively: same arguments, same results.

Each works on CPU tensors of one dtype, float32 or float64, with bool flags and one gamma and lambda for
all, and gives None for everything else, in which case the caller takes the host's function: inputs that
require grad in grad mode, gamma or lambda for each step or above 1, other devices and dtypes, tensor
subclasses, `torch.compile`, and shapes that the host refuses.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from hotloop import ops
from hotloop.integrations.arrays import ArrayPool
from hotloop.integrations.decay import matching_lambda
from hotloop.ops.gae import gae_of_next_values

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
    if not _native(floats, (done, terminated), (gamma, lmbda), time_dim):
        return None
    factor, rate = _number(gamma), _number(lmbda)
    if not (0.0 <= factor <= 1.0 and 0.0 <= rate <= 1.0):
        return None
    product = _product(gamma, lmbda)
    rest = _lambda(factor, rate, product, reward.dtype)
    found = _whole_gae(factor, rest, state_value, next_state_value, reward, done, terminated, time_dim)
    if found is not None:
        return found
    # reward + gamma * not_terminated * next_value - value
    delta = _unless(terminated, "delta", reward.dtype).mul_(factor).mul_(next_state_value)
    delta.add_(reward).sub_(state_value)
    advantages = _discounted(delta, done, product, time_dim)
    targets = _POOL.tensor("targets", advantages.shape, reward.dtype)
    torch.add(advantages, _rows(state_value, time_dim), out=targets)
    return _rows_like(advantages, reward, time_dim), _rows_like(targets, reward, time_dim)


def _whole_gae(
    factor: float,
    rest: float | None,
    state_value: Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor,
    time_dim: int,
) -> tuple[Tensor, Tensor] | None:
    """The same in one pass over memory. None for steps that are terminated but not done, and where there is
    no `rest`, whose product with the discount `factor` is rounded as the host's."""
    if rest is None:
        return None
    columns = _are_columns(reward, time_dim)
    given = [reward, state_value, next_state_value, terminated, done]
    rewards, values, following, ends, dones = given if columns else [_rows(x, time_dim) for x in given]
    shape, dtype = rewards.shape, reward.dtype
    out = _POOL.tensor("discounted", shape, dtype), _POOL.tensor("targets", shape, dtype)
    if not gae_of_next_values(rewards, values, following, ends, dones, factor, rest, False, out):
        return None
    return out if columns else (_rows_like(out[0], reward, time_dim), _rows_like(out[1], reward, time_dim))


def _lambda(factor: float, lmbda: float, wanted: float, dtype: torch.dtype) -> float | None:
    """The lambda whose product with gamma, rounded to `dtype` as the native formula rounds, is the host's."""
    kind = np.float32 if dtype == torch.float32 else np.float64
    product = kind(wanted)
    if kind(factor) * kind(lmbda) == product:
        return lmbda
    near = matching_lambda(factor, lmbda, kind.__name__)
    return near if kind(factor) * kind(near) == product else None


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
    returns = _discounted(step.add_(reward), done, _product(gamma, lmbda), time_dim)
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
    dtype, shape, dims = first.dtype, first.shape, first.ndim
    if torch.compiler.is_compiling() or dtype not in (torch.float32, torch.float64):
        return False
    if not first.numel() or not -dims <= time_dim < dims:
        return False
    grad = torch.is_grad_enabled()
    for tensor in floats:
        if type(tensor) is not Tensor or tensor.dtype != dtype or (grad and tensor.requires_grad):
            return False
    for tensor in flags:
        if type(tensor) is not Tensor or tensor.dtype != torch.bool:
            return False
    for tensor in (*floats, *flags):
        if not tensor.is_cpu or tensor.shape != shape:
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
    return float(_default()(float(scalar)))


def _product(gamma: Scalar, lmbda: Scalar) -> float:
    """Of both, rounded as the host does: numbers are multiplied as they are, tensors in their dtype."""
    kind = _default()
    if isinstance(gamma, Tensor) or isinstance(lmbda, Tensor):
        return float(kind(float(lmbda)) * kind(float(gamma)))
    return float(kind(lmbda * gamma))


def _default() -> type[np.floating[Any]]:
    return np.float32 if torch.get_default_dtype() == torch.float32 else np.float64


def _are_columns(tensor: Tensor, time_dim: int) -> bool:
    """Whether a tensor is `[rows, steps, 1]`."""
    return tensor.ndim == 3 and tensor.shape[2] == 1 and time_dim in (-2, 1)


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
