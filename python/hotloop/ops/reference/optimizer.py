"""Adam and the clipping of gradients, number by number as the papers have them, in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    *,
    error_if_nonfinite: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """See `hotloop.ops.clip_grad_norm_`."""
    listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    gradients = [each.grad for each in listed if each.grad is not None]
    total = 0.0
    for gradient in gradients:
        total += float((gradient.detach().double() * gradient.detach().double()).sum())
    norm = math.sqrt(total)
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(f"clip_grad_norm_: the norm of all gradients must be finite, got {norm}")
    factor = max_norm / (norm + 1e-6)
    for gradient in gradients:
        if not factor >= 1:
            with torch.no_grad():
                gradient.copy_((gradient.double() * factor).to(gradient.dtype))
    wide = any(gradient.dtype is torch.float64 for gradient in gradients)
    if out is None:
        out = torch.empty((), dtype=torch.float64 if wide else torch.float32)
    return out.fill_(norm)


def adam_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
) -> None:
    """See `hotloop.ops.adam_`. Computed in float64 and rounded once a step."""
    for param, grad, exp_avg, exp_avg_sq, step in zip(
        params, grads, exp_avgs, exp_avg_sqs, steps, strict=True
    ):
        step += 1
        t = float(step)
        p, m, v = param.detach().double(), exp_avg.double(), exp_avg_sq.double()
        g = -grad.double() if maximize else grad.double()
        if decoupled:
            p = p - lr * weight_decay * p
        elif weight_decay != 0:
            g = g + weight_decay * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        mean, square = m / (1 - beta1**t), v / (1 - beta2**t)
        p = p - lr * mean / (square.sqrt() + eps)
        with torch.no_grad():
            param.copy_(p)
            exp_avg.copy_(m)
            exp_avg_sq.copy_(v)
