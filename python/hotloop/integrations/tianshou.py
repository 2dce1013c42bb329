"""Tianshou: the recurrence under `Algorithm.compute_episodic_return`::

    hotloop.integrations.tianshou.install()

Tianshou's own is compiled by numba, serial and fast. hotloop's is faster where a batch is long and its
environments have gone the same number of steps, so that they can be computed side by side: such calls
become hotloop's, all others stay Tianshou's. The advantages are the same to the last bit, but for infinities
and NaN, which hotloop does not carry across the end of an episode.
"""

from __future__ import annotations

import functools
import importlib
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch

from hotloop import ops
from hotloop.integrations.arrays import Array, ArrayPool
from hotloop.integrations.hosts import find_host
from hotloop.integrations.patches import Patches, installed
from hotloop.integrations.stand_in import stand_in
from hotloop.integrations.verify import Verifier

__all__ = ["install", "uninstall"]

MIN_STEPS = 1 << 18  # below, numba's loop was as fast, and between passes of a network faster
MIN_ROWS = 8  # as many run side by side at least

_POOL = ArrayPool()
_ROWS: ContextVar[int] = ContextVar("hotloop.integrations.tianshou", default=1)


def install(force: bool = False, verify: bool | int = False) -> None:
    """Exchanges `_gae` and, to learn how many environments a batch is of, `compute_episodic_return`. A second
    call begins anew.

    Args:
        force: goes on with a version that was not tested.
        verify: compares the first 16 calls (or so many) with Tianshou's own function.

    Raises:
        ModuleNotFoundError: Tianshou is not installed.
        UntestedHostError: the installed version was not tested.
    """
    find_host("tianshou").require(force)
    verifier = Verifier("tianshou", verify)
    module = importlib.import_module("tianshou.algorithm.algorithm_base")
    uninstall()
    patches = Patches("tianshou")
    patches.replace(module, "_gae", stand_in(module._gae, _gae, ("advantage",), lambda: verifier))
    own = module.Algorithm.compute_episodic_return
    patches.replace(module.Algorithm, "compute_episodic_return", staticmethod(_with_rows(own)))


def uninstall() -> None:
    """Puts Tianshou's own functions back."""
    patches = installed("tianshou")
    if patches is not None:
        patches.remove()


def _with_rows(own: Any) -> Any:
    """Tianshou's function, within which `_ROWS` is the number of environments in its buffer."""

    @functools.wraps(own)
    def compute_episodic_return(batch: Any, buffer: Any, *args: Any, **kwargs: Any) -> Any:
        token = _ROWS.set(int(getattr(buffer, "buffer_num", 1)))
        try:
            return own(batch, buffer, *args, **kwargs)
        finally:
            _ROWS.reset(token)

    return compute_episodic_return


def _gae(
    v_s: Array, v_s_: Array, rew: Array, end_flag: Array, gamma: float, gae_lambda: float
) -> Array | None:
    """Advantages, float64; None for a call that is Tianshou's.

    Args:
        v_s, v_s_: `[L]`, values of the observations and of the next ones (0 where an episode terminated).
        rew: `[L]`.
        end_flag: `[L]` bool, where an episode or the data of an environment ends.
    """
    rows, total = _ROWS.get(), len(rew)
    if total < MIN_STEPS or rows < MIN_ROWS or total % rows:
        return None
    if not all(each.shape == (total,) and each.dtype.kind == "f" for each in (v_s, v_s_, rew)):
        return None
    if end_flag.dtype != np.bool_ or end_flag.shape != (total,) or not 0.0 <= gamma * gae_lambda <= 1.0:
        return None
    ends = end_flag.reshape(rows, -1)
    if not ends[:, -1].all():  # rows of several lengths
        return None
    # as numba computes it: float64 whatever the values are
    delta = _POOL.empty("delta", (total,), np.float64)
    np.multiply(v_s_, gamma, out=delta, dtype=np.float64)
    delta += rew
    delta -= v_s
    result = _POOL.empty("advantages", (total,), np.float64)
    ops.discounted_return(
        torch.from_numpy(delta.reshape(rows, -1)),
        torch.from_numpy(ends),
        last_values=torch.zeros(rows, dtype=torch.float64),
        gamma=gamma * gae_lambda,
        out=torch.from_numpy(result.reshape(rows, -1)),
    )
    return result
