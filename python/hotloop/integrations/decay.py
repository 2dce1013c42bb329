"""gamma * lambda as the hosts round it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=64)
def matching_lambda(gamma: float, gae_lambda: float, dtype: str = "float32") -> float:
    """The lambda with which `hotloop.ops.gae` decays its trace by the factor that the hosts take.

    Hosts multiply gamma by lambda as Python floats and round the product to the dtype of their arrays;
    hotloop's ops round gamma and lambda first and then their product, which may differ in the last bit. The
    lambda that is returned differs from `gae_lambda` by some units in the last place at most, and the
    product of the rounded factors is the hosts'. There is one for every gamma and lambda whose product lies
    between the same powers of two as lambda does (0.99 and 0.95, say); elsewhere `gae_lambda` itself may be
    what is returned, and the factor off by one unit in the last place.

    Args:
        gamma, gae_lambda: in [0, 1].
        dtype: of the arithmetic, `float32` or `float64`.
    """
    kind = np.dtype(dtype).type
    factor, wanted = kind(gamma), kind(float(gamma) * float(gae_lambda))
    below = above = kind(gae_lambda)
    for _ in range(4):
        for candidate in (below, above):
            if factor * candidate == wanted and 0.0 <= candidate <= 1.0:
                return float(candidate)
        below, above = np.nextafter(below, kind(0)), np.nextafter(above, kind(1))
    return gae_lambda
