"""Priorities, summaries and returns that estimators give on request."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from estimator_support import DISCOUNT, departure, pick, place
from hotloop import ops
from hotloop.ops import AdvantageSummary, reference
from layouts import LAYOUTS, same

NAMES = ("rewards", "values", "terminated", "truncated", "last_values", "truncation_values", "valid")
SHAPES = [(9, 33), (3, 300), (257, 3), (8, 64), (1, 1), (0, 3), (3, 0)]


def gae(x: dict[str, Any], module: Any = ops, **more: Any) -> Tensor:
    advantages: Tensor = module.gae(**pick(x, *(n for n in NAMES if n in x)), **{**DISCOUNT, **more})[0]
    return advantages


def puff(x: dict[str, Any], module: Any = ops, **more: Any) -> Tensor:
    result: Tensor = module.puff_advantage(
        x["values"], x["rewards"], x["terminated"], x["importance"], **{**DISCOUNT, **more}
    )
    return result


every_op = pytest.mark.parametrize("op", [gae, puff])
Op = Callable[..., Tensor]


def requests(rows: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {"priorities": torch.full((rows,), 7.0).to(dtype), "summary": AdvantageSummary.tensor() + 7}


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@every_op
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_equal_the_reference(op: Op, layout: str, dtype: torch.dtype, isa: str) -> None:
    for shape in SHAPES:
        x = departure(shape, dtype)
        got, expected = requests(shape[0], dtype), requests(shape[0], dtype)
        advantages = op(place(x, layout), **got)
        assert same(advantages, op(x, reference, **expected)), shape
        assert_close(got["summary"], expected["summary"])
        assert same(got["priorities"], ops.row_priorities(advantages)), shape


@every_op
def test_agrees_with_torch(op: Op) -> None:
    x = departure((40, 50))
    del x["valid"]
    summary = AdvantageSummary.tensor()
    advantages = op(x, summary=summary).double()
    read = AdvantageSummary.read(summary)
    assert read.count == 2000
    assert read.mean == pytest.approx(advantages.mean().item(), rel=1e-12)
    for correction in (0, 1):
        assert read.variance(correction) == pytest.approx(advantages.var(correction=correction).item())
        assert read.std(correction) == pytest.approx(advantages.std(correction=correction).item())
    assert (read.non_finite, read.first_non_finite) == (0, None)


def test_invalid_steps_count_in_no_statistic(isa: str) -> None:
    for shape in ((9, 33), (3, 300)):
        x = departure(shape)
        for dtype in (torch.bool, torch.float32):
            x["valid"] = x["valid"].to(dtype)
            summary = AdvantageSummary.tensor()
            advantages = gae(x, summary=summary)
            seen = advantages[x["valid"].bool()].double()
            read = AdvantageSummary.read(summary)
            assert read.count == len(seen) < shape[0] * shape[1]
            assert read.mean == pytest.approx(seen.mean().item(), rel=1e-12)
            assert read.variance() == pytest.approx(seen.var().item(), rel=1e-12)


@every_op
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_counts_what_is_not_finite_and_tells_where(op: Op, bad: float, layout: str, isa: str) -> None:
    for shape in ((20, 33), (5, 300)):
        x = departure(shape)
        del x["valid"]
        x["terminated"].zero_()
        x["truncated"].zero_()
        x["rewards"][4, 20] = x["rewards"][2, 25] = bad
        got = requests(shape[0])
        advantages = op(place(x, layout), **got)
        read = AdvantageSummary.read(got["summary"])
        wrong = (~advantages.isfinite()).nonzero()
        assert read.non_finite == len(wrong) > 0
        assert read.first_non_finite == tuple(wrong[0].tolist())
        finite = advantages[advantages.isfinite()].double()
        assert read.count == len(finite)
        assert read.mean == pytest.approx(finite.mean().item(), rel=1e-12)
        assert read.variance() == pytest.approx(finite.var().item(), rel=1e-12)
        assert got["priorities"].isfinite().all()
        assert (got["priorities"][[2, 4]] == 0).all()


def test_a_common_offset_costs_no_digits() -> None:
    # Sums of squares in float32, or around zero, would lose all digits of this variance.
    g = torch.Generator().manual_seed(0)
    rewards = torch.randn(300, 200, generator=g, dtype=torch.float64) + 1e6
    zeros, summary = torch.zeros(300, 200, dtype=torch.float64), AdvantageSummary.tensor()
    last = torch.zeros(300, dtype=torch.float64)
    ops.gae(rewards, zeros, zeros, last_values=last, gamma=0.0, gae_lambda=0.0, summary=summary)
    read = AdvantageSummary.read(summary)
    assert read.mean == pytest.approx(rewards.mean().item(), rel=1e-14)
    assert read.variance() == pytest.approx((rewards - 1e6).var().item(), rel=1e-9)


def test_nothing_to_summarize() -> None:
    read = AdvantageSummary.read(AdvantageSummary.tensor())
    assert (read.count, read.mean, read.first_non_finite) == (0, 0.0, None)
    assert math.isnan(read.variance())
    x = departure((2, 3))
    x["valid"].zero_()
    summary = AdvantageSummary.tensor() + 7
    gae(x, summary=summary)
    assert summary.tolist() == [0.0, 0.0, 0.0, 0.0, -1.0, -1.0]


@every_op
def test_bits_do_not_depend_on_threads(op: Op, threads: None) -> None:
    for layout in ("contiguous", "transposed"):
        x = place(departure((1030, 129)), layout)
        results = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            got = requests(1030)
            op(x, **got)
            results.append(got)
        for other in results[1:]:
            assert torch.equal(other["summary"], results[0]["summary"])
            assert torch.equal(other["priorities"], results[0]["priorities"])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_returns_of_puff_advantage(layout: str, dtype: torch.dtype, isa: str) -> None:
    for shape in SHAPES:
        x = departure(shape, dtype)
        returns = LAYOUTS[layout](torch.full(shape, 7.0).to(dtype))
        expected = torch.zeros(shape, dtype=dtype)
        advantages = puff(place(x, layout), returns=returns)
        assert same(advantages, puff(x, reference, returns=expected)), shape
        assert same(returns, expected), shape


def test_what_is_asked_for_is_traced_by_compile() -> None:
    torch.compiler.reset()
    x = departure((9, 33))

    def face(values: Tensor) -> tuple[Tensor, ...]:
        got, returns = requests(9), torch.zeros(9, 33)
        return puff({**x, "values": values}, **got, returns=returns), returns, *got.values()

    compiled = torch.compile(face, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(compiled(x["values"]), face(x["values"]), strict=True):
        assert torch.equal(actual, expected)
    got = requests(9)
    advantages, returns = torch.zeros(9, 33), torch.zeros(9, 33)
    torch.library.opcheck(
        torch.ops.hotloop.gae.out,
        (*(x[n] for n in ("rewards", "values", "terminated")), None, x["last_values"], None, None, 0.9, 0.8),
        {**got, "advantages": advantages, "returns": returns},
    )


def test_a_write_advances_the_version_counter(backend: str) -> None:
    if backend == "cuda":
        pytest.skip("copies on the device are what is written to here: test_cuda_gpu.py has this test")
    x = departure((4, 5))
    for op in (gae, puff):
        got = requests(4)
        before = {n: t._version for n, t in got.items()}
        op(x, **got)
        assert all(t._version > before[n] for n, t in got.items())
    returns = torch.zeros(4, 5)
    puff(x, returns=returns)
    assert returns._version > 0


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 20),
    horizon=st.integers(0, 300),
    layout=st.sampled_from(sorted(LAYOUTS)),
    seed=st.integers(0, 2**31),
    poison=st.lists(st.sampled_from([math.nan, math.inf, -math.inf, 1e30]), max_size=3),
)
def test_property_any_shape_layout_and_value(
    rows: int, horizon: int, layout: str, seed: int, poison: list[float]
) -> None:
    x = departure((rows, horizon), seed=seed)
    for i, bad in enumerate(poison if rows * horizon else []):
        x["rewards"].view(-1)[(seed + 7 * i) % (rows * horizon)] = bad
    got, expected = requests(rows), requests(rows)
    puff(place(x, layout), **got)
    puff(x, reference, **expected)
    torch.testing.assert_close(got["summary"], expected["summary"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got["priorities"], expected["priorities"])


@every_op
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"summary": torch.zeros(5).double()},
            ValueError,
            r"summary must be \[6\] = \[6\], got float64 \[5\]",
        ),
        ({"summary": torch.zeros(6)}, TypeError, "summary must be float64, got float32"),
        ({"summary": torch.zeros(12).double()[::2]}, ValueError, "summary must be contiguous"),
        (
            {"priorities": torch.zeros(3)},
            ValueError,
            r"priorities must be \[[NS]\] = \[4\], got float32 \[3\]",
        ),
        ({"priorities": torch.zeros(4).double()}, TypeError, "priorities must be float32, got float64"),
        ({"priorities": [0.0] * 4}, TypeError, "priorities must be a torch.Tensor, got list"),
    ],
)
def test_errors_name_argument_expectation_and_actual(
    op: Op, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        op(departure((4, 5)), **change)


def test_returns_overlap_nothing() -> None:
    x = departure((4, 5))
    with pytest.raises(
        ValueError, match=r"puff_advantage: returns must be memory of its own.*overlaps values"
    ):
        puff(x, returns=x["values"])
    out = torch.zeros(4, 5)
    with pytest.raises(ValueError, match=r"puff_advantage: returns must be memory of its own.*overlaps out"):
        puff(x, returns=out, out=out)
