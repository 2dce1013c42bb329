"""`clip_grad_norm_`: all gradients scaled down to a common norm in one native call."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from hotloop import _core
from hotloop.ops._register import register_in_place

register_in_place(
    "clip_grad_norm_",
    "Tensor(a!)[] gradients, float max_norm, bool error_if_nonfinite, Tensor(b!) out",
    _core.clip_grad_norm_,
)


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    try:
        return [gradient for each in parameters if (gradient := each.grad) is not None]
    except AttributeError:
        odd = next(each for each in parameters if not isinstance(each, Tensor))
        raise TypeError(
            f"clip_grad_norm_: parameters must be torch.Tensor, got {type(odd).__name__}"
        ) from None


def _new_norm(gradients: list[Tensor]) -> Tensor:
    wide = any(gradient.dtype is torch.float64 for gradient in gradients)
    dtype = torch.float64 if wide else torch.float32
    return torch.empty((), dtype=dtype, device=gradients[0].device if gradients else None)


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    *,
    error_if_nonfinite: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Scales the gradients of `parameters` in place so that their common L2 norm is at most `max_norm`.

    With the norm n of all gradients as one vector, every gradient is multiplied by
    `min(1, max_norm / (n + 1e-6))`, as `torch.nn.utils.clip_grad_norm_` does (Pascanu et al. 2013). Squares
    are summed in float64 in a fixed order, so the result does not depend on the number of threads. Gradients
    that are short enough are not written to. On a CUDA device the norm stays there: no call waits for it.

    Gradients that are not dense floating tensors on one device, tensor subclasses, gradients that overlap,
    calls under `torch.compile`, and on a CUDA device `error_if_nonfinite` and a hotloop without CUDA are left
    to `torch.nn.utils.clip_grad_norm_`.

    Args:
        parameters: a tensor, or any iterable of them. Those without a gradient are passed over.
        max_norm: a number. As in torch a negative one turns gradients round.
        error_if_nonfinite: whether a norm that is NaN or infinite raises. Otherwise NaN reaches every
            gradient, and an infinite norm makes finite ones zero and infinite ones NaN.
        out: a float32 or float64 scalar for the norm, on the device of the gradients. After a backward pass a
            new tensor costs a quarter of the call.

    Returns:
        The norm before clipping, a scalar (`out`): float64 where a gradient is float64 and float32 otherwise.
        0 without gradients.

    Raises:
        TypeError: a parameter is no tensor, or `max_norm` no number.
        RuntimeError: `error_if_nonfinite` and the norm is NaN or infinite; nothing was written.
    """
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    gradients = _gradients(parameters)
    if not torch.compiler.is_compiling():
        norm = _new_norm(gradients) if out is None else out
        if _core.clip_grad_norm_(gradients, max_norm, error_if_nonfinite, norm) is not NotImplemented:
            return norm
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm, error_if_nonfinite=error_if_nonfinite)
    if out is None:
        return norm
    out.copy_(norm)
    return out
