"""The paths of the CUDA recurrence engine, each on every shape, under the host runner."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from cuda_host_support import CUDA_SOURCES, host_module, on_backend
from estimator_support import DISCOUNT, EDGE_SHAPES, as_tuple, assert_same, departure, pick, place, rates
from hotloop import ops
from layouts import LAYOUTS

pytestmark = pytest.mark.skipif(
    not CUDA_SOURCES.is_dir(), reason="an installed package carries no C++ sources"
)

EXACT = ("lanes", "packed", "tile")
TREES = ("warp", "block", "chunks")
# Around what a warp (128), a block (1024) and a chunk (4096) take at once.
TREE_SHAPES = [
    (0, 8), (3, 0), (1, 1), (5, 8), (9, 33), (2, 127), (2, 129), (1, 257),
    (2, 1025), (1, 2048), (1, 4097), (2, 8200),
]  # fmt: skip

Op = Callable[[dict[str, Any]], Any]


def flags_of(x: dict[str, Any]) -> dict[str, Any]:
    return pick(x, "terminated", "truncated", "truncation_values", "valid", "last_values")


OPS: dict[str, Op] = {
    "gae": lambda x: ops.gae(x["rewards"], x["values"], **flags_of(x), **x["discount"]),
    "puff_advantage": lambda x: ops.puff_advantage(
        x["values"], x["rewards"], x["terminated"], x["importance"], **x["discount"]
    ),
    "delta_lambda": lambda x: ops.delta_lambda(x["values"], x["rewards"], x["terminated"], **x["discount"]),
    "vtrace": lambda x: ops.vtrace(
        x["rewards"], x["values"], importance=x["importance"], **flags_of(x), **x["discount"]
    ),
    "td_lambda": lambda x: ops.td_lambda(x["rewards"], x["values"], **flags_of(x), **x["discount"]),
    "retrace": lambda x: ops.retrace(
        x["rewards"], x["q_values"], x["values"], importance=x["importance"], **flags_of(x), **x["discount"]
    ),
    "reverse_scan": lambda x: ops.reverse_scan(
        0.99 * x["importance"].clamp(max=1), x["rewards"], x["last_values"]
    ),
}
every_op = pytest.mark.parametrize("op", OPS.values(), ids=OPS)


def inputs(shape: tuple[int, int], seed: int = 0) -> dict[str, Any]:
    return {**departure(shape, seed=seed), "discount": DISCOUNT}


@pytest.fixture
def device() -> Iterator[Any]:
    with on_backend("cuda_host") as module:
        yield module


def assert_close(actual: Any, expected: Any, where: object) -> None:
    """Trees round otherwise: within 2e-6 of the largest result, at every length."""
    for a, e in zip(as_tuple(actual), as_tuple(expected), strict=True):
        scale = e.abs().max().item() if e.numel() else 1.0
        torch.testing.assert_close(a, e, rtol=0, atol=2e-6 * max(scale, 1.0), msg=str(where))


# -- the table -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "horizon", "touch", "exact", "path"),
    [
        (1, 1, False, False, "packed"),
        (32768, 8, False, False, "packed"),
        (32768, 16, False, True, "packed"),
        (32768, 17, False, False, "tile"),
        (8192, 64, False, False, "tile"),
        (8191, 64, False, False, "warp"),
        (8192, 65, False, False, "warp"),
        (64, 17, False, False, "warp"),
        (64, 256, False, False, "warp"),
        (4096, 257, False, False, "warp"),
        (4095, 257, False, False, "block"),
        (511, 8192, False, False, "block"),
        (511, 8193, False, False, "chunks"),
        (512, 8193, False, False, "block"),
        (1, 1 << 40, False, False, "chunks"),
        (1 << 40, 64, False, False, "tile"),
        (4096, 128, True, False, "lanes"),
        (1023, 128, True, False, "warp"),
        (1023, 16, True, True, "packed"),
        (64, 1024, False, True, "tile"),
        (1, 1 << 40, False, True, "tile"),
        (1024, 1 << 20, True, True, "lanes"),
    ],
)
def test_the_table_chooses(rows: int, horizon: int, touch: bool, exact: bool, path: str) -> None:
    assert host_module().scan_path(rows, horizon, touch, exact) == path


def test_exact_means_exact_for_every_shape() -> None:
    sizes = [1, 2, 16, 17, 64, 65, 256, 257, 511, 512, 1023, 1024, 4095, 4096, 8191, 8192, 8193, 1 << 20]
    chosen = {
        host_module().scan_path(rows, horizon, touch, True)
        for rows in sizes
        for horizon in sizes
        for touch in (False, True)
    }
    assert chosen == set(EXACT)
    any_order = {
        host_module().scan_path(r, h, touch, False) for r in sizes for h in sizes for touch in (False, True)
    }
    assert any_order == {*EXACT, *TREES}


# -- every path against the CPU ------------------------------------------------------------------------------


@every_op
@pytest.mark.parametrize("path", EXACT)
def test_exact_paths_give_the_bits_of_the_cpu(path: str, op: Op, device: Any) -> None:
    for shape in EDGE_SHAPES[::2] + EDGE_SHAPES[1::4]:  # three quarters of them: there are three paths
        if path == "packed" and shape[1] > 32:
            continue
        for layout in ("contiguous", "transposed"):
            x = place(inputs(shape), layout)
            device.force_scan_path(path)
            result = op(x)
            device.force_scan_path(None)
            assert_same(result, on_cpu(op, x), (shape, layout))


@every_op
@pytest.mark.parametrize("path", TREES)
def test_trees_are_close_to_the_cpu(path: str, op: Op, device: Any) -> None:
    for shape in TREE_SHAPES:
        x = inputs(shape)
        device.force_scan_path(path)
        before = device.counts()["launches"]
        result = op(x)
        if shape[0] * shape[1]:
            assert device.counts()["launches"] - before == (3 if path == "chunks" else 1)
        assert_close(result, on_cpu(op, x), shape)


@pytest.mark.parametrize("path", TREES)
def test_trees_read_any_strides_and_a_discount_a_row(path: str, device: Any) -> None:
    for layout in LAYOUTS:
        x = {**inputs((9, 300)), "discount": rates(9)}
        expected = on_cpu(OPS["gae"], x)
        device.force_scan_path(path)
        assert_close(OPS["gae"](place(x, layout)), expected, layout)


def on_cpu(op: Op, x: dict[str, Any]) -> Any:
    from hotloop import _core

    _core.set_stand_in(None)
    try:
        return op(x)
    finally:
        _core.set_stand_in(host_module())


@pytest.mark.parametrize("path", TREES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nothing_crosses_a_boundary_in_a_tree(path: str, bad: float, device: Any) -> None:
    for horizon in (40, 200, 1500, 5000):
        x = inputs((3, horizon))
        for name in ("terminated", "truncated"):
            x[name].zero_()
        x["valid"].fill_(True)
        end = horizon // 2
        x["terminated"][:, end] = True
        x["rewards"][:, end + 1] = bad
        device.force_scan_path(path)
        advantages, _ = OPS["gae"](x)
        assert advantages[:, : end + 1].isfinite().all()
        assert not advantages[:, end + 1].isfinite().any()
        assert_close(advantages[:, : end + 1], on_cpu(OPS["gae"], x)[0][:, : end + 1], horizon)


@pytest.mark.parametrize("path", TREES)
def test_what_is_not_finite_spreads_in_a_tree_as_it_does_on_the_cpu(path: str, device: Any) -> None:
    for horizon in (40, 300, 1500):
        x = inputs((3, horizon))
        for name in ("terminated", "truncated"):
            x[name].zero_()
        x["valid"].fill_(True)
        x["rewards"][1, horizon - 5] = math.nan
        expected = on_cpu(OPS["gae"], x)[0]
        device.force_scan_path(path)
        assert torch.equal(OPS["gae"](x)[0].isnan(), expected.isnan())


@pytest.mark.parametrize("path", TREES)
def test_trees_give_the_same_bits_in_every_order_of_threads(path: str, device: Any) -> None:
    x = inputs((5, 4500))
    device.force_scan_path(path)
    results: list[Tensor] = []
    for seed in range(3):
        device.set_seed(seed)
        results.append(OPS["gae"](x)[0])
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_float64_and_gradients_take_exact_paths_whatever_is_asked(device: Any) -> None:
    x = {**departure((3, 200), torch.float64), "discount": DISCOUNT}
    device.set_exact(False)
    assert host_module().scan_path(3, 200, False, False) == "warp"
    assert_same(OPS["gae"](x), on_cpu(OPS["gae"], x))


def test_unknown_paths_are_refused(device: Any) -> None:
    with pytest.raises(ValueError, match="name must be that of a path or None, got spiral"):
        device.force_scan_path("spiral")
