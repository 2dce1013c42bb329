"""From a policy's actions to what an action space accepts."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from hotloop import _core

ActionBounds: TypeAlias = Literal["clip", "scale", "none"]


class DiscreteActions:
    """Choices 0 .. n-1 (one or several a step) to the values of a Discrete or MultiDiscrete space.

    Args:
        counts: how many choices each component has, any shape; a scalar for Discrete.
        start: value of the first choice, broadcast over ``counts``.
        dtype: the space's integer dtype.
        num_agents: rows of a batch.
    """

    def __init__(
        self, counts: npt.ArrayLike, start: npt.ArrayLike, dtype: npt.DTypeLike, num_agents: int
    ) -> None:
        self._counts = np.asarray(counts, dtype=np.int64)
        self._unsigned_counts = self._counts.astype(np.uint64)
        self._start = np.broadcast_to(np.asarray(start, dtype=np.int64), self._counts.shape).copy()
        self._dtype = np.dtype(dtype)
        # What the native conversion writes; values that fit a space fit its dtype.
        self._native = self._dtype if self._dtype in (np.int32, np.int64) else np.dtype(np.int64)
        self._shape = (num_agents, *self._counts.shape)

    def __call__(self, actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Converts integer ``actions``, [n] or [n, k], to a fresh array of the space's shape and dtype."""
        values = np.empty(self._shape, self._native)  # always a fresh one: environments may keep it
        rows = actions.shape[0] if actions.shape else 0
        if rows == len(values) and _core.convert_choices(actions, self._counts, self._start, values):
            return values if self._native == self._dtype else values.astype(self._dtype)
        return self._convert(actions)

    def to(self, dtype: npt.DTypeLike) -> DiscreteActions:
        """The same into another integer dtype."""
        return DiscreteActions(self._counts, self._start, dtype, self._shape[0])

    def _convert(self, actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The same for arrays of any integers and strides, and the errors."""
        if actions.dtype.kind not in "iu":
            raise TypeError(
                f"send_actions: actions must be integers for a discrete space, got {actions.dtype}"
            )
        choices = _reshape(actions, self._shape).astype(np.int64)
        # Seen as unsigned, negative choices are too large ones.
        wrong = choices.view(np.uint64) >= self._unsigned_counts
        if wrong.any():
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(
                f"send_actions: actions must be at least 0 and below {self._counts.tolist()}, "
                f"got {int(choices[where])} for agent {where[0]}"
            )
        choices += self._start
        return choices.astype(self._dtype, copy=False)


class ContinuousActions:
    """Real vectors to the values of a Box space.

    Args:
        low, high: bounds of the space, [...].
        dtype: the space's floating dtype.
        num_agents: rows of a batch.
        bounds: ``"clip"`` clips to [low, high]; ``"scale"`` clips to [-1, 1] and maps that onto [low, high]
            (finite bounds only); ``"none"`` passes values through.
    """

    def __init__(
        self,
        low: npt.NDArray[Any],
        high: npt.NDArray[Any],
        dtype: npt.DTypeLike,
        num_agents: int,
        bounds: ActionBounds,
    ) -> None:
        if bounds not in get_args(ActionBounds):
            raise ValueError(f"action_bounds must be one of {get_args(ActionBounds)}, got {bounds!r}")
        if bounds == "scale" and not np.isfinite(high - low).all():
            raise ValueError(
                f"action_bounds='scale' needs finite bounds, got low={low.tolist()} and high={high.tolist()}"
            )
        self._low, self._high = low, high
        self._dtype = np.dtype(dtype)
        self._shape = (num_agents, *low.shape)
        self._bounds = bounds

    def __call__(self, actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Converts real ``actions``, [n, k] or [n, ...], to a fresh array of the space's shape and dtype."""
        if actions.dtype.kind not in "fiu":
            raise TypeError(
                f"send_actions: actions must be real numbers for a Box space, got {actions.dtype}"
            )
        shaped = _reshape(actions, self._shape)
        nan = np.isnan(shaped)
        if nan.any():
            # Clipping would hand NaN on to the simulator, which may carry it through the rest of the run.
            raise ValueError(
                f"send_actions: actions contain NaN, first for agent {int(np.argwhere(nan)[0][0])}"
            )
        if self._bounds == "clip":
            shaped = np.clip(shaped, self._low, self._high)
        elif self._bounds == "scale":
            unit = np.clip(shaped, -1.0, 1.0)
            # The second clip: rounding may carry the ends past the bounds by an ulp.
            shaped = np.clip(self._low + (unit + 1.0) * 0.5 * (self._high - self._low), self._low, self._high)
        return shaped.astype(self._dtype)  # always a copy: environments may keep the array


def _reshape(actions: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """[n], [n, 1] and [n, k] to the batch shape of the space; everything else is an error."""
    if actions.ndim == 0 or actions.shape[0] != shape[0] or actions.size != math.prod(shape):
        raise ValueError(f"send_actions: actions must have shape {list(shape)}, got {list(actions.shape)}")
    return actions.reshape(shape)


def converter_of(
    space: Any, num_agents: int, bounds: ActionBounds
) -> tuple[Any, DiscreteActions | ContinuousActions]:
    """The space that a policy acts in, and the function from its actions to the environment's.

    Spaces are recognised by behaviour, so that no library of spaces is needed: ``.nvec`` (MultiDiscrete),
    ``.n`` with an empty shape (Discrete), ``.low`` and ``.high`` with a floating dtype (Box).

    Args:
        space: action space of one agent.
        num_agents: rows of a batch.
        bounds: as in ``ContinuousActions``; ``"scale"`` makes a space of [-1, 1], of the same type.

    Raises:
        TypeError: a space of another kind.
    """
    dtype = np.dtype(getattr(space, "dtype", None) or np.int64)
    if hasattr(space, "nvec"):
        return space, DiscreteActions(space.nvec, getattr(space, "start", 0), dtype, num_agents)
    if hasattr(space, "n") and not getattr(space, "shape", ()):
        return space, DiscreteActions(space.n, getattr(space, "start", 0), dtype, num_agents)
    if hasattr(space, "low") and hasattr(space, "high") and dtype.kind == "f":
        convert = ContinuousActions(space.low, space.high, dtype, num_agents, bounds)
        return (type(space)(-1.0, 1.0, space.shape, dtype.type) if bounds == "scale" else space), convert
    raise TypeError(f"action space must be Discrete, MultiDiscrete or a floating Box, got {space}")
