"""Description of an action space in plain numbers, so that nothing here needs an environment library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

ActionKind = Literal["discrete", "multidiscrete", "continuous"]


@dataclass(frozen=True)
class ActionSpec:
    """What one agent's action looks like.

    kind
        ``"discrete"``: one choice out of ``nvec[0]``; actions are int32 ``[n]``.
        ``"multidiscrete"``: ``len(nvec)`` independent choices; actions are int32 ``[n, k]``.
        ``"continuous"``: a real vector; actions are float32 ``[n, k]`` with ``shape == (k,)``.
    nvec
        Number of choices of each component (empty for continuous). Choices count from 0; an environment
        adapter adds the offset of a space that starts elsewhere.
    shape
        Shape of one agent's action: ``()`` for discrete, ``(k,)`` otherwise.
    low, high
        Bounds of each component in the environment's units (continuous only; may be infinite). A Gaussian
        policy is not truncated to them: the environment adapter clips what it executes, and the unclipped
        sample is what is stored, so that its log probability stays true.
    """

    kind: ActionKind
    nvec: tuple[int, ...] = ()
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
    def discrete(cls, n: int) -> ActionSpec:
        """One choice among ``0, ..., n - 1``."""
        return cls("discrete", nvec=(_as_int("n", n),))

    @classmethod
    def multidiscrete(cls, nvec: Sequence[int]) -> ActionSpec:
        """``len(nvec)`` independent choices."""
        sizes = tuple(_as_int("nvec", n) for n in nvec)
        return cls("multidiscrete", nvec=sizes, shape=(len(sizes),))

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
        a shape (MultiBinary), ``.low`` and ``.high`` (Box of floats). Spaces of more dimensions are flattened
        in C order.

        Raises TypeError for anything else.
        """
        if isinstance(space, ActionSpec):
            return space
        if isinstance(space, int) and not isinstance(space, bool):
            return cls.discrete(space)
        nvec = getattr(space, "nvec", None)
        if nvec is not None:
            return cls.multidiscrete(_flat(nvec))
        n = getattr(space, "n", None)
        if n is not None:
            shape = tuple(getattr(space, "shape", None) or ())
            return cls.multidiscrete((2,) * math.prod(shape)) if shape else cls.discrete(n)
        low, high = getattr(space, "low", None), getattr(space, "high", None)
        if low is not None and high is not None:
            dtype = str(getattr(space, "dtype", "float32"))
            if "float" not in dtype:
                raise TypeError(
                    f"ActionSpec.from_space: a Box of actions must hold floats, got dtype {dtype}"
                )
            return cls.continuous(math.prod(space.shape), _flat(low), _flat(high))
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


def _flat(values: Any) -> list[Any]:
    """The numbers of an array, tensor or nested sequence, in C order."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, Iterable):
        return [values]
    return [number for part in values for number in _flat(part)]


def _bounds(bound: Any, width: int) -> tuple[float, ...]:
    numbers = tuple(float(number) for number in _flat(bound))
    return numbers if isinstance(bound, Iterable) else numbers * width


def _check_choices(spec: ActionSpec) -> None:
    if not spec.nvec or any(n < 1 for n in spec.nvec):
        raise ValueError(f"ActionSpec: every component needs at least one choice, got nvec={spec.nvec}")
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
