"""ActionSpec: what it reads from spaces, what it refuses."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from hotloop.policies import ActionSpec


def test_an_int_is_a_discrete_action() -> None:
    spec = ActionSpec.from_space(5)
    assert (spec.kind, spec.nvec, spec.shape) == ("discrete", (5,), ())
    assert (spec.width, spec.num_logits, spec.dtype) == (1, 5, torch.int32)
    assert spec.experience_entry() == (torch.Size([]), torch.int32)


def test_an_action_spec_is_returned_as_it_is() -> None:
    spec = ActionSpec.multidiscrete([2, 3])
    assert ActionSpec.from_space(spec) is spec


def test_gymnasium_spaces_are_read() -> None:
    spaces = pytest.importorskip("gymnasium").spaces
    numpy = pytest.importorskip("numpy")
    assert ActionSpec.from_space(spaces.Discrete(4)) == ActionSpec.discrete(4)
    assert ActionSpec.from_space(spaces.Discrete(4, start=-1)) == ActionSpec.discrete(4)
    assert ActionSpec.from_space(spaces.MultiDiscrete([2, 3])) == ActionSpec.multidiscrete([2, 3])
    assert ActionSpec.from_space(spaces.MultiBinary(3)) == ActionSpec.multidiscrete([2, 2, 2])
    box = spaces.Box(-2.0, numpy.array([1.0, 3.0], dtype="float32"), (2,))
    assert ActionSpec.from_space(box) == ActionSpec.continuous(2, -2.0, [1.0, 3.0])


def test_spaces_are_recognised_by_behaviour() -> None:
    assert ActionSpec.from_space(SimpleNamespace(n=3)) == ActionSpec.discrete(3)
    assert ActionSpec.from_space(SimpleNamespace(nvec=[3, 4])) == ActionSpec.multidiscrete([3, 4])


def test_widths_and_entries_of_the_wider_kinds() -> None:
    several = ActionSpec.multidiscrete([2, 3, 4])
    assert (several.width, several.num_logits) == (3, 9)
    assert several.experience_entry() == (torch.Size([3]), torch.int32)
    real = ActionSpec.continuous(2)
    assert (real.width, real.num_logits) == (2, 4)
    assert real.experience_entry() == (torch.Size([2]), torch.float32)
    assert real.low == (-math.inf, -math.inf)
    assert real.high == (math.inf, math.inf)


@pytest.mark.parametrize("space", ["two", None, True, 2.5, SimpleNamespace(shape=(2,))])
def test_other_objects_are_refused(space: object) -> None:
    with pytest.raises(TypeError, match=rf"from_space: space must be .* got {type(space).__name__}"):
        ActionSpec.from_space(space)


def test_spaces_of_other_dimensions_are_flattened() -> None:
    spaces = pytest.importorskip("gymnasium").spaces
    numpy = pytest.importorskip("numpy")
    high = numpy.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype="float32")
    assert ActionSpec.from_space(spaces.Box(-high, high)) == ActionSpec.continuous(
        6, [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    )
    assert ActionSpec.from_space(spaces.Box(-1.0, 1.0, ())) == ActionSpec.continuous(1, -1.0, 1.0)
    assert ActionSpec.from_space(spaces.MultiDiscrete([[2, 3], [4, 5]])).nvec == (2, 3, 4, 5)
    assert ActionSpec.from_space(spaces.MultiBinary((2, 2))).nvec == (2, 2, 2, 2)


def test_a_box_of_integers_is_refused() -> None:
    spaces = pytest.importorskip("gymnasium").spaces
    with pytest.raises(TypeError, match="Box of actions must hold floats, got dtype int64"):
        ActionSpec.from_space(spaces.Box(0, 4, (2,), dtype="int64"))


def test_impossible_descriptions_are_refused() -> None:
    with pytest.raises(ValueError, match="kind must be 'discrete'"):
        ActionSpec("ternary", nvec=(3,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"at least one choice, got nvec=\(0,\)"):
        ActionSpec.discrete(0)
    with pytest.raises(ValueError, match=r"at least one choice, got nvec=\(\)"):
        ActionSpec.multidiscrete([])
    with pytest.raises(ValueError, match=r"n must be an integer, got 2\.5"):
        ActionSpec.discrete(2.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="n must be an integer, got 'two'"):
        ActionSpec.discrete("two")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape of a discrete action .* must be \(\), got \(2,\)"):
        ActionSpec("discrete", nvec=(2, 2), shape=(2,))
    with pytest.raises(ValueError, match=r"\(k,\) with k >= 1, got \(0,\)"):
        ActionSpec.continuous(0)
    with pytest.raises(ValueError, match="low must have 2 entries, got 3"):
        ActionSpec.continuous(2, low=[0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="low must not exceed high"):
        ActionSpec.continuous(2, low=1.0, high=[0.0, 2.0])
