"""What `amp` and `compile` do to a policy.

Both replace a method of the one object, so that its class, its parameters and the names in its state dict
stay what they are.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

_HALVES = (torch.float16, torch.bfloat16)
# Between a recurrent policy's pass over one step and over many, whose products are rounded to 8 bits.
_REPEAT_TOLERANCE = 0.05


def use_autocast(policy: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Makes `policy.forward`, acting and training alike, run under `torch.autocast`.

    What it writes in half precision comes out as float32: losses, advantages and the buffer see no other.
    """
    inner = policy.forward

    def forward(td: TensorDictBase, action: Tensor | None = None, **recurrent: Any) -> TensorDictBase:
        with torch.autocast(device.type, dtype=dtype):
            result = inner(td) if action is None else inner(td, action=action, **recurrent)
        result = td if result is None else result
        for key in ("act_log_prob", "entropy", "values", "full_log_probs"):
            value = result.get(key, None)
            if isinstance(value, Tensor) and value.dtype in _HALVES:
                result[key] = value.float()
        return result

    policy.forward = forward
    policy.repeat_tolerance = _REPEAT_TOLERANCE


def use_compile(policy: Any) -> None:
    """Compiles the policy's network.

    Of a policy with `logits_and_value` that method alone, so that actions are still drawn by the native ops;
    of another its whole `forward`. The fused loss is one native op already.
    """
    name = "logits_and_value" if callable(getattr(policy, "logits_and_value", None)) else "forward"
    setattr(policy, name, torch.compile(getattr(policy, name), dynamic=False))


def use_threads(threads: int | None, deterministic: bool) -> None:
    """Sets torch's threads; with `deterministic` to one, and torch to algorithms that repeat their bits.

    Matrix products split their sums by the number of threads, so that number decides the last bits of a
    gradient. Raises whatever `torch.use_deterministic_algorithms` leads to where an op has no such algorithm.
    """
    if threads is not None or deterministic:
        torch.set_num_threads(1 if deterministic else threads or 1)
    if deterministic:
        torch.use_deterministic_algorithms(True)
