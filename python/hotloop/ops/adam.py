"""`adam_`: one step of Adam or AdamW for a list of parameters in one native call."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hotloop import _core
from hotloop.ops._register import register_in_place

_OP = register_in_place(
    "adam_",
    "Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
    "Tensor(d!)[] steps, float lr, float beta1, float beta2, float eps, float weight_decay, "
    "bool decoupled, bool maximize",
    _core.adam_,
)


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
    """One step of Adam (Kingma & Ba 2015) or AdamW (Loshchilov & Hutter 2019), in place.

    For every parameter p with gradient g (plus `weight_decay * p` unless `decoupled`), in p's dtype:

        t = t + 1
        p = p * (1 - lr * weight_decay)                  where `decoupled`
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        p = p - lr / (1 - beta1**t) * m / (sqrt(v) / sqrt(1 - beta2**t) + eps)

    which is what `torch.optim.Adam(fused=True)` computes. Results depend neither on the number of threads
    nor on the instruction set. `hotloop.optim.Adam` is the optimizer around it.

    Args:
        params: p, float32 or float64, any strides; under `torch.no_grad()` where they require grad.
        grads: g, each of its parameter's shape and dtype.
        exp_avgs: m, likewise; zeros before the first step.
        exp_avg_sqs: v, likewise; zeros before the first step.
        steps: t, the number of steps done, a float32 or float64 scalar for each parameter, on its device.
        lr: >= 0.
        beta1, beta2: in [0, 1).
        eps: >= 0.
        weight_decay: >= 0.
        decoupled: whether weight decay leaves m and v alone (AdamW).
        maximize: whether to ascend: -g takes the place of g.

    Raises:
        TypeError, ValueError: see `hotloop.ops.puff_advantage`; nothing was written.
    """
    native = _core.adam_(
        params, grads, exp_avgs, exp_avg_sqs, steps, lr, beta1, beta2, eps, weight_decay, decoupled, maximize
    )
    if native is NotImplemented:
        _OP(
            params,
            grads,
            exp_avgs,
            exp_avg_sqs,
            steps,
            lr,
            beta1,
            beta2,
            eps,
            weight_decay,
            decoupled,
            maximize,
        )
