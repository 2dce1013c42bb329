"""Metta's advantage functions: `compute_advantage` with either order of arguments, `compute_delta_lambda`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hotloop import ops
from hotloop.ops import reference

_WHERE = "hotloop.integrations.metta.compute_advantage"
_CLIPS = ("vtrace_rho_clip", "vtrace_c_clip")
# What Metta's own functions were before ours took their place; they have kernels for other devices.
hosts_own: dict[str, Callable[..., Tensor]] = {}


def compute_advantage(
    values: Tensor,
    rewards: Tensor,
    dones: Tensor,
    importance_sampling_ratio: Tensor,
    advantages: Tensor,
    gamma: float,
    gae_lambda: float,
    *rest: Any,
    **named: Any,
) -> Tensor:
    """Arrival-indexed, V-trace-clipped advantages, as `hotloop.ops.puff_advantage` defines them.

    Args:
        values, rewards, dones, importance_sampling_ratio: floating, `[rows, T]`, any strides.
        advantages: `[rows, T]`, filled in place. Its last column keeps what it holds.
        gamma, gae_lambda: in [0, 1].
        rest, named: `vtrace_rho_clip, vtrace_c_clip, device` as in the layout *oct*, or `device,
            vtrace_rho_clip=1.0, vtrace_c_clip=1.0` as in *head*: recognised by where the device stands.

    Returns:
        `advantages`, or what became of it on `device`. No gradient passes.

    In host memory ours computes. On other devices Metta's own function does, where `install()` exchanged it
    or it can be imported, else the loop over time of `hotloop.ops.reference`.

    Raises:
        TypeError: arguments that fit neither order.
        ValueError: shapes that differ, or a number out of range.
    """
    rho_clip, c_clip, device = _clips(rest, named)
    columns = (values, rewards, dones, importance_sampling_ratio, advantages)
    if torch.device(device).type != "cpu" or any(not column.is_cpu for column in columns):
        return _elsewhere(columns, gamma, gae_lambda, rho_clip, c_clip, device, (rest, named))
    values, rewards, dones, ratio, out = map(_detached, columns)
    kept = out[:, -1].clone()
    ops.puff_advantage(
        values,
        rewards,
        dones,
        ratio,
        float(gamma),
        float(gae_lambda),
        float(rho_clip),
        float(c_clip),
        out=out,
    )
    out[:, -1] = kept
    return advantages


def compute_delta_lambda(
    *, values: Tensor, rewards: Tensor, dones: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """`compute_advantage` with all ratios 1, in new memory whose last column is 0, differentiable in `values`
    and `rewards`: see `hotloop.ops.delta_lambda`, which is one call where Metta loops over T."""
    if values.is_cpu:
        if torch.compiler.is_compiling():
            return ops.delta_lambda(values, rewards, dones, float(gamma), float(gae_lambda))
        apply: Callable[..., Tensor] = _DeltaLambda.apply
        found = apply(values, rewards, dones, float(gamma), float(gae_lambda))
        return found
    host = hosts_own.get("compute_delta_lambda", reference.delta_lambda)
    return host(values=values, rewards=rewards, dones=dones, gamma=gamma, gae_lambda=gae_lambda)


class _DeltaLambda(torch.autograd.Function):
    """`ops.delta_lambda` with its gradient. Calls of torch's registered operators that record a gradient take
    150 us, this 20."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, rewards: Tensor, dones: Tensor, gamma: float, gae_lambda: float
    ) -> Tensor:
        ctx.save_for_backward(dones)
        ctx.discounts = gamma, gae_lambda
        return ops.delta_lambda(values, rewards, dones, gamma, gae_lambda)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (dones,) = ctx.saved_tensors
        backward = torch.ops.hotloop.delta_lambda_backward
        values, rewards, _, _ = backward(grad, dones, *ctx.discounts, None, None, None, None)
        return values, rewards, None, None, None


def full_advantages(
    values: Tensor, rewards: Tensor, dones: Tensor, config: Any, device: torch.device
) -> Tensor:
    """Advantages of a whole buffer `[S, T]` with all ratios 1, in new memory; the last column is 0."""
    if values.is_cpu and rewards.is_cpu and device.type == "cpu":
        return ops.puff_advantage(
            values, rewards, dones, _one(values), float(config.gamma), float(config.gae_lambda),
            float(config.vtrace_rho_clip), float(config.vtrace_c_clip),
        )  # fmt: skip
    return compute_advantage(
        values, rewards, dones, torch.ones_like(values), torch.zeros_like(values, device=device),
        config.gamma, config.gae_lambda, device, config.vtrace_rho_clip, config.vtrace_c_clip,
    )  # fmt: skip


def _one(values: Tensor) -> Tensor:
    return torch.ones((), dtype=values.dtype).expand(values.shape)


def _clips(rest: tuple[Any, ...], named: dict[str, Any]) -> tuple[float, float, Any]:
    """`rho_clip`, `c_clip` and the device, from the arguments behind `gae_lambda`."""
    head = bool(rest) and isinstance(rest[0], (torch.device, str))
    order = ("device", *_CLIPS) if head else (*_CLIPS, "device")
    given = dict(zip(order, rest, strict=False))
    if len(rest) > len(order) or given.keys() & named.keys() or named.keys() - set(order):
        raise TypeError(
            f"{_WHERE}: behind gae_lambda come vtrace_rho_clip, vtrace_c_clip, device, or device and the two "
            f"limits, got {len(rest)} arguments and {sorted(named)} by name"
        )
    given.update(named)
    if not isinstance(given.get("device"), (torch.device, str)):
        raise TypeError(f"{_WHERE}: device must be a torch.device, got {given.get('device')!r}")
    return given.get("vtrace_rho_clip", 1.0), given.get("vtrace_c_clip", 1.0), given["device"]


def _elsewhere(
    columns: tuple[Tensor, ...],
    gamma: float,
    gae_lambda: float,
    rho_clip: float,
    c_clip: float,
    device: Any,
    last: tuple[tuple[Any, ...], dict[str, Any]],
) -> Tensor:
    """On another device: Metta's own function, else torch's operations."""
    host = hosts_own.get("compute_advantage")
    if host is None:
        module = sys.modules.get("metta.rl.advantage")
        host = getattr(module, "compute_advantage", None)
    if host is not None and host is not compute_advantage:
        return host(*columns, gamma, gae_lambda, *last[0], **last[1])
    values, rewards, dones, ratio, out = (column.detach().to(device) for column in columns)
    found = reference.puff_advantage(values, rewards, dones, ratio, gamma, gae_lambda, rho_clip, c_clip)
    out[:, :-1] = found[:, :-1]
    return out


def _detached(column: Tensor) -> Tensor:
    return column.detach() if column.requires_grad else column
