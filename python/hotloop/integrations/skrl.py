"""skrl: `compute_gae` of its torch agents and multi-agents::

    hotloop.integrations.skrl.install()

before or after the agent is built. The returns and the standardised advantages are skrl's within 1e-5, not to
the bit: skrl multiplies gamma into the sum of the next value and its own advantage times lambda, hotloop
sums the one-step error first.
"""

from __future__ import annotations

import importlib
import math

import torch
from torch import Tensor

from hotloop import ops
from hotloop.integrations.arrays import ArrayPool
from hotloop.integrations.hosts import find_host
from hotloop.integrations.patches import Patches, installed
from hotloop.integrations.stand_in import stand_in
from hotloop.integrations.verify import Verifier

__all__ = ["install", "uninstall"]

# Each has a `compute_gae` of its own.
_MODULES = (
    "skrl.agents.torch.a2c.a2c", "skrl.agents.torch.a2c.a2c_rnn", "skrl.agents.torch.amp.amp",
    "skrl.agents.torch.ppo.ppo", "skrl.agents.torch.ppo.ppo_rnn", "skrl.agents.torch.rpo.rpo",
    "skrl.agents.torch.rpo.rpo_rnn", "skrl.agents.torch.trpo.trpo", "skrl.agents.torch.trpo.trpo_rnn",
    "skrl.multi_agents.torch.ippo.ippo", "skrl.multi_agents.torch.mappo.mappo",
)  # fmt: skip
_EPSILON = 1e-8  # skrl's, added to the standard deviation
_TOLERANCE = 1e-5
_POOL = ArrayPool()


def install(force: bool = False, verify: bool | int = False) -> None:
    """Exchanges `compute_gae` in every module of skrl that has one. A second call begins anew.

    Args:
        force: goes on with a version that was not tested.
        verify: compares the first 16 calls (or so many) with skrl's own function.

    Raises:
        ModuleNotFoundError: skrl is not installed.
        UntestedHostError: the installed version was not tested.
    """
    find_host("skrl").require(force)
    verifier = Verifier("skrl", verify)
    modules = [importlib.import_module(name) for name in _MODULES]
    uninstall()
    patches = Patches("skrl")
    for module in modules:
        ours = stand_in(
            module.compute_gae, _compute_gae, ("returns", "advantages"), lambda: verifier, _TOLERANCE
        )
        patches.replace(module, "compute_gae", ours)


def uninstall() -> None:
    """Puts skrl's own functions back."""
    patches = installed("skrl")
    if patches is not None:
        patches.remove()


def _compute_gae(
    *,
    rewards: Tensor,
    terminated: Tensor,
    values: Tensor,
    truncated: Tensor | None = None,
    last_values: Tensor | None = None,
    next_values: Tensor | None = None,
    discount_factor: float = 0.99,
    lambda_coefficient: float = 0.95,
    time_limit_bootstrap: bool = False,
) -> tuple[Tensor, Tensor] | None:
    """Returns and standardised advantages; None for a call that is skrl's: tensors of another device than
    the CPU, of several dtypes or shapes, or that require grad.

    Args:
        rewards, values: `[T, N, 1]`.
        terminated, truncated: the same shape, bool.
        last_values, next_values: `[N, 1]`; agents with recurrent networks use the second name.
    """
    last = next_values if last_values is None else last_values
    ends = terminated | truncated if time_limit_bootstrap and truncated is not None else terminated
    if last is None or not _native(rewards, values, last, ends):
        return None
    if not (0.0 <= discount_factor <= 1.0 and 0.0 <= lambda_coefficient <= 1.0):
        return None
    # skrl multiplies gamma by flags, which rounds it to torch's default dtype
    gamma, steps = float(torch.as_tensor(discount_factor)), (len(rewards), rewards[0].numel())
    advantages, returns = ops.gae(
        rewards.reshape(steps),
        values.reshape(steps),
        ends.reshape(steps),
        last_values=last.reshape(-1),
        gamma=gamma,
        gae_lambda=lambda_coefficient,
        time_major=True,
        out=(
            _POOL.tensor("advantages", steps, rewards.dtype),
            _POOL.tensor("returns", steps, rewards.dtype),
        ),
    )
    flat = advantages.view(-1)
    flat.sub_(flat.mean())
    deviation = math.sqrt(float(flat.dot(flat)) / (len(flat) - 1)) if len(flat) > 1 else math.nan
    flat.div_(deviation + _EPSILON)
    return returns.view(values.shape), advantages.view(rewards.shape)


def _native(rewards: Tensor, values: Tensor, last: Tensor, ends: Tensor) -> bool:
    floats = (rewards, values, last)
    return (
        all(type(each) is Tensor and each.device.type == "cpu" for each in (*floats, ends))
        and rewards.dtype in (torch.float32, torch.float64)
        and values.dtype == last.dtype == rewards.dtype
        and ends.dtype == torch.bool
        and rewards.ndim > 1
        and rewards.numel() > 0
        and rewards.shape == values.shape == ends.shape
        and last.shape == rewards.shape[1:]
        and not any(each.requires_grad for each in floats)
    )
