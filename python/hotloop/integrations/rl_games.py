"""rl_games: `discount_values` and `discount_values_masks` of its A2C and PPO agents::

    hotloop.integrations.rl_games.install()

before or after the agent is built. Advantages are rl_games' own to the last bit, where `matching_lambda`
finds a lambda, but for infinities and NaN, which hotloop does not carry across the end of an episode.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from hotloop import ops
from hotloop.integrations.arrays import ArrayPool
from hotloop.integrations.decay import matching_lambda
from hotloop.integrations.hosts import find_host
from hotloop.integrations.patches import Patches, installed
from hotloop.integrations.stand_in import stand_in
from hotloop.integrations.verify import Verifier

__all__ = ["install", "uninstall"]

_TOLERANCE = 1e-5
_POOL = ArrayPool()
_DTYPES = {torch.float32: "float32", torch.float64: "float64"}


def install(force: bool = False, verify: bool | int = False) -> None:
    """Exchanges the two methods of `rl_games.common.a2c_common.A2CBase`. A second call begins anew.

    Args:
        force: goes on with a version that was not tested.
        verify: compares the first 16 calls (or so many) with rl_games' own methods.

    Raises:
        ModuleNotFoundError: rl_games is not installed.
        UntestedHostError: the installed version was not tested.
    """
    find_host("rl_games").require(force)
    verifier = Verifier("rl_games", verify)
    base = importlib.import_module("rl_games.common.a2c_common").A2CBase
    uninstall()
    patches = Patches("rl_games")
    for name, native in (
        ("discount_values", _discount_values),
        ("discount_values_masks", _discount_values),
    ):
        ours = stand_in(getattr(base, name), native, ("advantages",), lambda: verifier, _TOLERANCE)
        patches.replace(base, name, ours)


def uninstall() -> None:
    """Puts rl_games' own methods back."""
    patches = installed("rl_games")
    if patches is not None:
        patches.remove()


def _discount_values(
    agent: Any,
    fdones: Tensor,
    last_extrinsic_values: Tensor,
    mb_fdones: Tensor,
    mb_extrinsic_values: Tensor,
    mb_rewards: Tensor,
    mb_masks: Tensor | None = None,
) -> Tensor | None:
    """Advantages `[T, N, k]`; None for a call that is rl_games': tensors of another device than the CPU, of
    several dtypes or shapes, or that require grad. Flags count as 0 and 1.

    Args:
        agent: has `gamma`, `tau` (lambda) and `horizon_length`, T.
        fdones: `[N]`, 1.0 where the last step ended an episode.
        last_extrinsic_values: `[N, k]`, V of the observations after the last step.
        mb_fdones: `[T, N]`, 1.0 where the step before ended one.
        mb_extrinsic_values, mb_rewards: `[T, N, k]`.
        mb_masks: `[T, N]`, 0.0 for steps that do not count.
    """
    values, rewards = mb_extrinsic_values, mb_rewards
    flags = (fdones, mb_fdones) if mb_masks is None else (fdones, mb_fdones, mb_masks)
    if not _native((rewards, values, last_extrinsic_values, *flags)) or rewards.ndim != 3:
        return None
    steps, count, width = rewards.shape
    shapes = {"values": values.shape == rewards.shape, "last": last_extrinsic_values.shape == (count, width)}
    shapes |= {"dones": mb_fdones.shape == (steps, count), "last dones": fdones.shape == (count,)}
    if mb_masks is not None:
        shapes["masks"] = mb_masks.shape == (steps, count)
    gamma, tau = float(agent.gamma), float(agent.tau)
    if not all(shapes.values()) or agent.horizon_length != steps or not rewards.numel():
        return None
    if not (0.0 <= gamma <= 1.0 and 0.0 <= tau <= 1.0):
        return None
    # rl_games' flags came with the observations, hotloop's come with the actions before them
    ends = _POOL.tensor("ends", mb_fdones.shape, mb_fdones.dtype)
    ends[:-1], ends[-1] = mb_fdones[1:], fdones
    matrix = (steps, count * width)
    advantages, _ = ops.gae(
        rewards.reshape(matrix),
        values.reshape(matrix),
        _columns(ends, width),
        last_values=last_extrinsic_values.reshape(-1),
        valid=None if mb_masks is None else _columns(mb_masks, width),
        gamma=gamma,
        gae_lambda=matching_lambda(gamma, tau, _DTYPES[rewards.dtype]),
        time_major=True,
        out=(
            _POOL.tensor("advantages", matrix, rewards.dtype),
            _POOL.tensor("returns", matrix, rewards.dtype),
        ),
    )
    return advantages.view(rewards.shape)


def _native(tensors: tuple[Tensor, ...]) -> bool:
    dtype = tensors[0].dtype
    return dtype in _DTYPES and all(
        type(each) is Tensor
        and each.device.type == "cpu"
        and each.dtype == dtype
        and not (each.requires_grad and torch.is_grad_enabled())
        for each in tensors
    )


def _columns(flags: Tensor, width: int) -> Tensor:
    """`[T, N]` as the columns of `[T, N * width]`."""
    return flags if width == 1 else flags.repeat_interleave(width, dim=1)
