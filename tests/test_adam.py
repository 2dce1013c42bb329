from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hotloop import ops
from hotloop.ops import reference
from layouts import LAYOUTS

SHAPES = [(), (1,), (7,), (0, 3), (64, 4), (33, 65), (2, 1, 9)]
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"lr": 1e-2},
    "l2": {"lr": 1e-2, "weight_decay": 0.1},
    "decoupled": {"lr": 1e-2, "weight_decay": 0.1, "decoupled": True},
    "maximize": {"lr": 1e-2, "weight_decay": 0.1, "maximize": True},
    "small betas": {"lr": 1e-2, "beta1": 0.3, "beta2": 0.5, "eps": 1e-3},
    "no momentum": {"lr": 1e-2, "beta1": 0.0, "beta2": 0.9},
}
NAMES = ("params", "grads", "exp_avgs", "exp_avg_sqs", "steps")


def lists_of(
    shapes: list[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float32, done: float = 0.0
) -> dict[str, list[Tensor]]:
    generator = torch.Generator().manual_seed(5)
    lists: dict[str, list[Tensor]] = {
        name: [torch.randn(shape, generator=generator).to(dtype) for shape in shapes] for name in NAMES[:4]
    }
    lists["exp_avg_sqs"] = [each * each for each in lists["exp_avg_sqs"]]
    lists["steps"] = [torch.tensor(done) for _ in shapes]
    return lists


def clone(lists: dict[str, list[Tensor]], **change: Any) -> dict[str, list[Tensor]]:
    return {name: [each.clone() for each in tensors] for name, tensors in lists.items()}


def same(some: dict[str, list[Tensor]], others: dict[str, list[Tensor]]) -> bool:
    return all(torch.equal(a, b) for name in NAMES for a, b in zip(some[name], others[name], strict=True))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_one_step_agrees_with_the_reference(settings: str, dtype: torch.dtype, isa: str) -> None:
    for done in (0.0, 1.0, 1000.0):
        ours = lists_of(dtype=dtype, done=done)
        expected = clone(ours)
        ops.adam_(**ours, **SETTINGS[settings])
        reference.adam_(**expected, **SETTINGS[settings])
        # a few roundings, next to numbers of order 1
        step = 1e-6 if dtype is torch.float32 else 2e-15
        for name in NAMES:
            torch.testing.assert_close(ours[name], expected[name], rtol=step, atol=step)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", NAMES[:4])
def test_any_strides(layout: str, which: str) -> None:
    shapes: list[tuple[int, ...]] = [(9, 5), (3, 40), (700, 3), (40, 40)]
    expected = lists_of(shapes)
    ours = clone(expected)
    ours[which] = [LAYOUTS[layout](each) for each in ours[which]]
    ops.adam_(**expected, lr=0.1, weight_decay=0.1)
    ops.adam_(**ours, lr=0.1, weight_decay=0.1)
    assert same(ours, expected)


def test_three_dimensions_in_any_order_and_nothing_beside_them() -> None:
    expected = lists_of([(4, 6, 3)])
    wide = torch.full((12, 8, 5), 7.0)
    view = wide[1::2, ::2, 1:4].permute(1, 0, 2)
    ours = clone(expected)
    ours["params"] = [view.copy_(expected["params"][0])]
    ours["exp_avgs"] = [expected["exp_avgs"][0].permute(2, 0, 1).contiguous().permute(1, 2, 0)]
    ops.adam_(**expected, lr=0.1)
    ops.adam_(**ours, lr=0.1)
    assert same(ours, expected)
    outside = torch.ones_like(wide, dtype=torch.bool)
    outside[1::2, ::2, 1:4] = False
    assert (wide[outside] == 7.0).all()


def test_results_do_not_depend_on_threads(threads: None) -> None:
    start = lists_of([(300, 700), (5,), (129, 1000)])
    start["grads"][0] = start["grads"][0].t().contiguous().t()
    found = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        lists = clone(start)
        lists["grads"][0] = start["grads"][0]
        ops.adam_(**lists, lr=0.1, weight_decay=0.1)
        found.append(lists)
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_results_do_not_depend_on_the_instruction_set() -> None:
    from hotloop import _core

    start, before, found = lists_of([(300, 7), (5,)]), _core.isa(), []
    for isa in _core.isas_supported():
        _core.set_isa(isa)
        lists = clone(start)
        try:
            ops.adam_(**lists, lr=0.1, weight_decay=0.1)
        finally:
            _core.set_isa(before)
        found.append(lists)
    assert all(same(found[0], lists) for lists in found)


def test_a_constant_gradient_moves_a_parameter_by_lr() -> None:
    # the first property in the paper's section 2.1: the step is bounded by lr, and reaches it without noise
    weight, gradient = torch.zeros(5), torch.tensor([1e-3, -1.0, 5.0, 1e3, -1e-2])
    state = [torch.zeros(5), torch.zeros(5), torch.tensor(0.0)]
    for step in range(1, 20):
        ops.adam_([weight], [gradient], [state[0]], [state[1]], [state[2]], lr=0.25, eps=0.0)
        torch.testing.assert_close(weight, -0.25 * step * gradient.sign(), rtol=3e-6, atol=0)
    assert state[2].item() == 19


def test_each_tensor_has_its_own_step_and_dtype() -> None:
    lists = lists_of([(3,), (3,), (4,)])
    lists = {name: [a, b, c.double()] for name, (a, b, c) in lists.items()}
    lists["steps"] = [torch.tensor(0.0), torch.tensor(41.0), torch.tensor(7.0, dtype=torch.float64)]
    one_by_one = clone(lists)
    ops.adam_(**lists, lr=0.1)
    for i in range(3):
        ops.adam_(**{name: [one_by_one[name][i]] for name in NAMES}, lr=0.1)
    assert same(lists, one_by_one)
    assert [float(step) for step in lists["steps"]] == [1.0, 42.0, 8.0]


def test_bad_gradients_reach_their_own_numbers_only() -> None:
    lists, clean = lists_of([(40,), (5,)]), lists_of([(40,), (5,)])
    lists["grads"][0][3] = float("nan")
    lists["params"][1][2] = float("inf")  # without weight decay it reaches no moment
    ops.adam_(**lists, lr=0.1)
    ops.adam_(**clean, lr=0.1)
    fine = torch.arange(40) != 3
    assert torch.equal(lists["params"][0][fine], clean["params"][0][fine])
    assert lists["params"][0][3].isnan()
    assert torch.equal(lists["exp_avgs"][1], clean["exp_avgs"][1])


def test_interleaved_tensors_are_accepted() -> None:
    expected = lists_of([(4, 6)])
    pair = torch.stack([expected["params"][0], expected["exp_avgs"][0]], dim=-1)
    ours = clone(expected)
    ours["params"], ours["exp_avgs"] = [pair[..., 0]], [pair[..., 1]]
    ops.adam_(**expected, lr=0.1)
    ops.adam_(**ours, lr=0.1)
    assert same(ours, expected)


X = torch.zeros(3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"params": X}, TypeError, "params must be a list or tuple of torch.Tensor, got Tensor"),
        ({"params": [X.int()]}, TypeError, r"params\[0\] must be float32 or float64, got int32 \[3\]"),
        ({"params": [X.half()]}, TypeError, r"params\[0\] must be float32 or float64"),
        ({"grads": []}, ValueError, r"grads must be as long as params \(1\), got length 0"),
        ({"grads": [None]}, TypeError, r"grads\[0\] must be a torch.Tensor, got NoneType"),
        ({"grads": [X.double()]}, ValueError, r"grads\[0\] must be float32 \[3\], like params\[0\]"),
        (
            {"exp_avgs": [torch.zeros(4)]},
            ValueError,
            r"exp_avgs\[0\] must be float32 \[3\], like params\[0\]",
        ),
        ({"steps": [torch.zeros(1)]}, ValueError, r"steps\[0\] must be a number = \[\], got float32 \[1\]"),
        ({"steps": [torch.tensor(1)]}, TypeError, r"steps\[0\] must be float32 or float64"),
        ({"steps": [torch.tensor(0.0)] * 2}, ValueError, r"steps must be as long as params"),
        ({"params": [torch.zeros(1).expand(3)]}, ValueError, r"params\[0\] must be a tensor whose elements"),
        ({"lr": -1.0}, ValueError, "lr must be >= 0"),
        ({"lr": float("inf")}, ValueError, "lr must be finite"),
        ({"lr": "1"}, TypeError, "lr must be a number, got str"),
        ({"beta1": 1.0}, ValueError, r"beta1 must be in \[0, 1\)"),
        ({"beta2": float("nan")}, ValueError, r"beta2 must be in \[0, 1\)"),
        ({"eps": -1.0}, ValueError, "eps must be >= 0"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be >= 0"),
    ],
)
def test_errors(change: dict[str, Any], error: type[Exception], message: str) -> None:
    lists: dict[str, Any] = {name: [torch.ones(3)] for name in NAMES[:4]}
    lists["steps"] = [torch.tensor(0.0)]
    with pytest.raises(error, match=f"adam_: {message}"):
        ops.adam_(**{**lists, "lr": 0.1, **change})
    written = [lists[name][0] for name in NAMES[:4] if name not in change]
    assert all((each == 1).all() for each in written), "nothing is written before the last check"
    assert lists["steps"][0] == 0


@pytest.mark.cpu_only  # a device would have to be waited for
@pytest.mark.parametrize("bad", [-1.0, float("nan")])
def test_steps_that_are_no_number_of_steps_are_refused(bad: float) -> None:
    lists = lists_of([(3,)], done=bad)
    before = clone(lists)
    with pytest.raises(ValueError, match=rf"adam_: steps\[0\] must be >= 0, got {bad:g}"):
        ops.adam_(**lists, lr=0.1)
    assert all(torch.equal(lists[name][0], before[name][0]) for name in NAMES[:4])


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (0, 3), (2, 3), (1, 3), (2, 1)])
def test_tensors_that_share_memory_are_refused(pair: tuple[int, int]) -> None:
    pool = torch.ones(8)
    lists: dict[str, Any] = {name: [torch.ones(5)] for name in NAMES[:4]}
    lists[NAMES[pair[0]]], lists[NAMES[pair[1]]] = [pool[:5]], [pool[3:]]
    with pytest.raises(
        ValueError, match=r"adam_: \w+\[0\] must be memory of its own, got a tensor that overlaps"
    ):
        ops.adam_(**lists, steps=[torch.tensor(0.0)], lr=0.1)
    assert (pool == 1).all()
    twice = torch.ones(3)
    with pytest.raises(ValueError, match=r"adam_: params\[1\] must be memory of its own"):
        ops.adam_(**{**clone(lists_of([(3,), (3,)])), "params": [twice, twice]}, lr=0.1)


def test_parameters_are_updated_under_no_grad_only() -> None:
    weight = nn.Parameter(torch.zeros(3))
    rest: list[Any] = [[torch.ones(3)], [torch.zeros(3)], [torch.zeros(3)], [torch.tensor(0.0)]]
    with pytest.raises(ValueError, match=r"adam_: params\[0\] must be a tensor that does not require grad"):
        ops.adam_([weight], *rest, lr=0.1)
    with torch.no_grad():
        ops.adam_([weight], *rest, lr=0.1)
    assert (weight < 0).all()
