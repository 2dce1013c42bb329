"""Conversion of a policy's actions to the values of an action space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hotloop.envs.actions import ContinuousActions, DiscreteActions

LOW = np.array([-2.0, 0.0], dtype=np.float32)
HIGH = np.array([2.0, 10.0], dtype=np.float32)


def continuous(bounds: str, num_agents: int = 3) -> ContinuousActions:
    return ContinuousActions(LOW, HIGH, np.float32, num_agents, bounds)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_discrete_choices_count_from_the_start_of_the_space(shape: tuple[int, ...], dtype: Any) -> None:
    convert = DiscreteActions(4, -1, np.int64, 3)
    actions = convert(np.array([0, 3, 1], dtype=dtype).reshape(shape))
    assert actions.dtype == np.int64
    assert actions.tolist() == [-1, 2, 0]


def test_multi_discrete_checks_every_component_against_its_own_count() -> None:
    convert = DiscreteActions([2, 5], [0, 10], np.int64, 2)
    assert convert(np.array([[1, 4], [0, 0]], dtype=np.int32)).tolist() == [[1, 14], [0, 10]]
    with pytest.raises(ValueError, match=r"below \[2, 5\], got 2 for agent 1"):
        convert(np.array([[1, 4], [2, 0]], dtype=np.int32))


@pytest.mark.parametrize("wrong", [-1, 4, 2**31 - 1])
def test_discrete_choices_out_of_range_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"got {wrong} for agent 2"):
        DiscreteActions(4, 0, np.int64, 3)(np.array([0, 3, wrong], dtype=np.int32))


@pytest.mark.parametrize("dtype", [np.float32, np.bool_])
def test_discrete_needs_integers(dtype: Any) -> None:
    with pytest.raises(TypeError, match="must be integers"):
        DiscreteActions(2, 0, np.int64, 2)(np.zeros(2, dtype=dtype))


@pytest.mark.parametrize("shape", [(), (2,), (3, 2), (1, 3)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must have shape \[3\]"):
        DiscreteActions(2, 0, np.int64, 3)(np.zeros(shape, dtype=np.int32))
    with pytest.raises(ValueError, match=r"must have shape \[3, 4\]"):
        ContinuousActions(np.zeros(4), np.ones(4), np.float32, 3, "clip")(np.zeros(shape))


def test_clip_keeps_to_the_bounds_and_leaves_the_rest_alone() -> None:
    actions = continuous("clip")(np.array([[-9.0, 5.0], [1.5, -0.1], [np.inf, 11.0]]))
    assert actions.dtype == np.float32
    assert actions.tolist() == [[-2.0, 5.0], [1.5, 0.0], [2.0, 10.0]]


def test_scale_maps_the_unit_interval_onto_the_bounds() -> None:
    actions = continuous("scale")(np.array([[-1.0, 0.0], [0.5, 1.0], [-7.0, 7.0]], dtype=np.float32))
    assert actions.tolist() == [[-2.0, 5.0], [1.0, 10.0], [-2.0, 10.0]]


def test_scale_never_leaves_the_bounds_by_rounding() -> None:
    low, high = np.float32([0.1]), np.float32([0.3])
    convert = ContinuousActions(low, high, np.float32, 1001, "scale")
    actions = convert(np.linspace(-1, 1, 1001, dtype=np.float32)[:, None])
    assert (actions >= low).all()
    assert (actions <= high).all()
    assert actions[0] == low
    assert actions[-1] == high


def test_none_passes_values_through() -> None:
    values = np.array([[-9.0, 5.0], [1.5, -0.1], [3.0, 11.0]], dtype=np.float32)
    assert np.array_equal(continuous("none")(values), values)


@pytest.mark.parametrize("bounds", ["clip", "scale", "none"])
def test_nan_is_refused_and_the_agent_named(bounds: Any) -> None:
    with pytest.raises(ValueError, match="NaN, first for agent 1"):
        continuous(bounds)(np.array([[0.0, 0.0], [0.0, np.nan], [np.nan, 0.0]]))


@pytest.mark.parametrize("bounds", ["clip", "scale", "none"])
def test_results_never_alias_the_input_which_callers_reuse(bounds: Any) -> None:
    values = np.zeros((3, 2), dtype=np.float32)
    assert not np.shares_memory(continuous(bounds)(values), values)
    choices = np.zeros(3, dtype=np.int64)
    assert not np.shares_memory(DiscreteActions(2, 0, np.int64, 3)(choices), choices)


def test_image_shaped_actions_accept_flat_rows() -> None:
    convert = ContinuousActions(np.zeros((2, 2)), np.ones((2, 2)), np.float64, 3, "clip")
    assert convert(np.full((3, 4), 0.25)).shape == (3, 2, 2)


@pytest.mark.parametrize("high", [np.inf, 3e38])
def test_scale_needs_a_finite_range(high: float) -> None:
    bound = np.array([high], dtype=np.float32)
    with pytest.raises(ValueError, match="finite bounds"), np.errstate(over="ignore"):
        ContinuousActions(-bound, bound, np.float32, 1, "scale")


def test_an_unknown_treatment_of_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"clip.*scale.*none.*'tanh'"):
        continuous("tanh")


@pytest.mark.parametrize("layout", ["rows", "column", "strided", "narrow", "unsigned"])
@pytest.mark.parametrize(("counts", "start"), [(3, 0), (3, -2), ([2, 4], 0), ([2, 4], [5, -5])])
def test_the_native_conversion_is_that_of_numpy(counts: Any, start: Any, layout: str) -> None:
    convert = DiscreteActions(counts, start, np.int64, 5)
    shape = (5, *np.shape(counts))
    actions = np.random.default_rng(0).integers(0, 2, shape).astype(np.int64)
    if layout == "column" and len(shape) == 1:
        actions = actions[:, None]
    elif layout == "strided":
        actions = np.repeat(actions, 2, axis=-1)[..., ::2]
    elif layout != "rows":
        actions = actions.astype(np.int32 if layout == "narrow" else np.uint16)
    converted = convert(actions)
    assert converted.dtype == np.int64
    assert converted.shape == shape
    assert np.array_equal(converted, convert._convert(actions))
    assert np.array_equal(converted, actions.reshape(shape) + np.asarray(start))
    assert convert(actions) is not converted


@pytest.mark.parametrize("wrong", [-1, 4, 2**40])
def test_the_native_conversion_sees_what_is_out_of_range(wrong: int) -> None:
    convert = DiscreteActions([2, 5], 0, np.int64, 3)
    actions = np.ones((3, 2), np.int64)
    actions[1, 1] = 4
    convert(actions)
    actions[2, 0] = wrong
    with pytest.raises(ValueError, match=rf"below \[2, 5\], got {wrong} for agent 2"):
        convert(actions)
