"""Description of an action space in plain numbers, so that nothing here needs an environment library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

ActionKind = Literal["discrete", "multidiscrete", "continuous"]


@dataclass(frozen=True)
class ActionSpec:
    """What one agent's action looks like.

    kind
        ``"discrete"``: one choice out of ``nvec[0]``; actions are int32 ``[n]``.
        ``"multidiscrete"``: ``len(nvec)`` independent choices; actions are int32 ``[n, k]``.
        ``"continuous"``: a real vector; actions are float32 ``[n, k]`` with ``shape == (k,)``.
    nvec
        Number of choices of each component (empty for continuous).
    start
        Smallest action of each component: stored and emitted actions are ``start + choice``.
    shape
        Shape of one agent's action: ``()`` for discrete, ``(k,)`` otherwise.
    low, high
        Bounds of each component in the environment's units (continuous only; may be infinite). A Gaussian
        policy is not truncated to them: the environment adapter clips what it executes, and the unclipped
        sample is what is stored, so that its log probability stays true.
    """

    kind: ActionKind
    nvec: tuple[int, ...] = ()
    start: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("discrete", "multidiscrete", "continuous"):
            raise ValueError(
                f"ActionSpec: kind must be 'discrete', 'multidiscrete' or 'continuous', got {self.kind!r}"
            )
        if self.kind == "continuous":
            _check_continuous(self)
        else:
            _check_choices(self)

    @classmethod
    def discrete(cls, n: int, *, start: int = 0) -> ActionSpec:
        """One choice among ``start, ..., start + n - 1``."""
        return cls("discrete", nvec=(_as_int("n", n),), start=(_as_int("start", start),))

    @classmethod
    def multidiscrete(cls, nvec: Sequence[int], *, start: Sequence[int] | None = None) -> ActionSpec:
        """``len(nvec)`` independent choices; component i counts from ``start[i]`` (default 0)."""
        sizes = tuple(_as_int("nvec", n) for n in nvec)
        offsets = (0,) * len(sizes) if start is None else tuple(_as_int("start", s) for s in start)
        return cls("multidiscrete", nvec=sizes, start=offsets, shape=(len(sizes),))

    @classmethod
    def continuous(
        cls, k: int, low: float | Sequence[float] = -math.inf, high: float | Sequence[float] = math.inf
    ) -> ActionSpec:
        """A vector of ``k`` real numbers; bounds are one number for all components, or one each."""
        width = _as_int("k", k)
        return cls("continuous", shape=(width,), low=_bounds(low, width), high=_bounds(high, width))

    @classmethod
    def from_space(cls, space: Any) -> ActionSpec:
        """Read a gymnasium-like space, an int (number of discrete actions), or an ActionSpec (returned as it
        is).

        Recognised by behaviour: ``.nvec`` (MultiDiscrete), ``.n`` with an empty shape (Discrete), ``.n`` with
        a one-dimensional shape (MultiBinary), ``.low`` and ``.high`` (Box of floats).

        Raises TypeError for anything else, ValueError for a shape that is not one-dimensional.
        """
        if isinstance(space, ActionSpec):
            return space
        if isinstance(space, int) and not isinstance(space, bool):
            return cls.discrete(space)
        nvec = getattr(space, "nvec", None)
        if nvec is not None:
            _one_dimensional("MultiDiscrete", getattr(nvec, "shape", (len(nvec),)))
            return cls.multidiscrete(nvec, start=getattr(space, "start", None))
        n = getattr(space, "n", None)
        if n is not None:
            shape = tuple(getattr(space, "shape", None) or ())
            if not shape:
                return cls.discrete(n, start=getattr(space, "start", 0))
            _one_dimensional("MultiBinary", shape)
            return cls.multidiscrete((2,) * shape[0])
        low, high = getattr(space, "low", None), getattr(space, "high", None)
        if low is not None and high is not None:
            dtype = str(getattr(space, "dtype", "float32"))
            if "float" not in dtype:
                raise TypeError(
                    f"ActionSpec.from_space: a Box of actions must hold floats, got dtype {dtype}"
                )
            shape = tuple(space.shape)
            _one_dimensional("Box", shape)
            return cls.continuous(shape[0], low, high)
        raise TypeError(
            "ActionSpec.from_space: space must be an int, an ActionSpec or an object with .n, .nvec, or "
            f".low and .high, got {type(space).__name__}"
        )

    @property
    def width(self) -> int:
        """Numbers in one agent's action (1 for discrete)."""
        return self.shape[0] if self.shape else 1

    @property
    def num_logits(self) -> int:
        """Width of the network output that a head of this kind reads: the choices of all components for the
        discrete kinds, mean and log standard deviation (``2 k``) for continuous."""
        return 2 * self.width if self.kind == "continuous" else sum(self.nvec)

    @property
    def dtype(self) -> torch.dtype:
        """Storage dtype: int32 for the discrete kinds, float32 for continuous."""
        return torch.float32 if self.kind == "continuous" else torch.int32

    def experience_entry(self) -> tuple[torch.Size, torch.dtype]:
        """``(shape, dtype)`` of the buffer's ``actions`` entry, per agent and step."""
        return torch.Size(self.shape), self.dtype


def _as_int(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise TypeError(f"ActionSpec: {name} must be an integer, got {value!r}") from None
    if number != value:
        raise ValueError(f"ActionSpec: {name} must be an integer, got {value!r}")
    return number


def _bounds(bound: Any, width: int) -> tuple[float, ...]:
    if isinstance(bound, Tensor) or hasattr(bound, "tolist"):
        bound = bound.tolist()
    if isinstance(bound, Iterable):
        return tuple(float(b) for b in bound)
    return (float(bound),) * width


def _one_dimensional(what: str, shape: Sequence[int]) -> None:
    if len(shape) != 1:
        raise ValueError(
            f"ActionSpec.from_space: a {what} must be one-dimensional, got shape {tuple(shape)}; "
            "flatten it first"
        )


def _check_choices(spec: ActionSpec) -> None:
    if not spec.nvec or any(n < 1 for n in spec.nvec):
        raise ValueError(f"ActionSpec: every component needs at least one choice, got nvec={spec.nvec}")
    if len(spec.start) != len(spec.nvec):
        raise ValueError(f"ActionSpec: start must have {len(spec.nvec)} entries, got {spec.start}")
    expected = () if spec.kind == "discrete" else (len(spec.nvec),)
    if spec.shape != expected or (spec.kind == "discrete" and len(spec.nvec) != 1):
        raise ValueError(
            f"ActionSpec: shape of a {spec.kind} action with nvec={spec.nvec} must be {expected}, "
            f"got {spec.shape}"
        )


def _check_continuous(spec: ActionSpec) -> None:
    if len(spec.shape) != 1 or spec.shape[0] < 1:
        raise ValueError(
            f"ActionSpec: shape of a continuous action must be (k,) with k >= 1, got {spec.shape}"
        )
    for name, bound in (("low", spec.low), ("high", spec.high)):
        if len(bound) != spec.shape[0]:
            raise ValueError(f"ActionSpec: {name} must have {spec.shape[0]} entries, got {len(bound)}")
    if any(low > high for low, high in zip(spec.low, spec.high, strict=True)):
        raise ValueError(f"ActionSpec: low must not exceed high, got low={spec.low}, high={spec.high}")
