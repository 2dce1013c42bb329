"""What the benchmarks time: bytes that must move, inputs, oracles, and that a wrong result is noticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop import ops
from hotloop.bench import estimators, suite_sampling, suite_step, suite_store, suites
from hotloop.bench.case import (
    FLOOR,
    REAL_STEPS,
    Case,
    Contestant,
    DisagreementError,
    floor,
    run_case,
    sets_for,
)
from hotloop.bench.estimators import BATCH, ESTIMATORS, TIME, Estimator, expected, make_inputs
from hotloop.bench.machine import last_level_cache
from hotloop.bench.rollout_keys import STEP_BYTES
from hotloop.bench.suite import Options
from hotloop.ops import reference

# Bytes that each op must read and write once, for N rows of T steps, counted by hand from its definition.
BYTES: dict[str, Callable[[int, int], int]] = {
    # values, rewards, dones, importance in; advantages out: five float32
    "puff_advantage": lambda n, t: 20 * n * t,
    # rewards, values float32 and terminated bool in, last_values once a row; advantages, returns out
    "gae": lambda n, t: (4 + 4 + 1) * n * t + 4 * n + 8 * n * t,
    # the same and importance in; targets, policy-gradient advantages out
    "vtrace": lambda n, t: (4 + 4 + 1 + 4) * n * t + 4 * n + 8 * n * t,
    # rewards, values, terminated, last_values in; returns out
    "td_lambda": lambda n, t: (4 + 4 + 1) * n * t + 4 * n + 4 * n * t,
    # rewards, terminated, last_values in; returns out
    "discounted_return": lambda n, t: (4 + 1) * n * t + 4 * n + 4 * n * t,
    # values, rewards, dones in; advantages out
    "delta_lambda": lambda n, t: 16 * n * t,
    # a, b in; y out
    "reverse_scan": lambda n, t: 12 * n * t,
    # rewards, Q, V, importance float32 and terminated in, last_values once a row; targets out
    "retrace": lambda n, t: (16 + 1) * n * t + 4 * n + 4 * n * t,
}
AVAILABLE = [estimator for estimator in ESTIMATORS if estimator.available]
SMALL = [(1, 1), (3, 7), (8, 8), (9, 33)]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.op)
@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (4096, 128)], ids=str)
def test_bytes_of_an_estimator(estimator: Estimator, shape: tuple[int, int]) -> None:
    assert estimator.moved(*shape) == BYTES[estimator.op](*shape)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.op)
def test_bytes_are_those_of_the_tensors(estimator: Estimator) -> None:
    x = make_inputs(estimator.reads, 5, 7, estimator.layouts[0], 0)
    read = sum(t.numel() * t.element_size() for t in vars(x).values() if isinstance(t, Tensor))
    assert estimator.moved(5, 7) == read + estimator.writes * 5 * 7 * 4


def test_bytes_of_the_other_suites() -> None:
    step = 200 * 3 + 7 * 4
    assert step == STEP_BYTES
    assert suite_store.moved(1024) == 2 * 1024 * step
    assert suite_sampling.draw_bytes(1024) == 1024 * 4 + 256 * (8 + 4)
    # advantages of all segments, then the rows of a quarter of them and their advantages, in and out
    assert suite_sampling.Minibatch.moved(64, 32) == 64 * 32 * 4 + 2 * 16 * 32 * (step + 4)


def test_the_floor_copies_half_of_the_bytes_from_here_to_there() -> None:
    contestant = floor(4096, 3)
    assert len(contestant.calls) == 3
    copied: Any = contestant.calls[1]()
    assert copied.numel() * copied.element_size() * 2 == 4096
    assert bool((copied == 1).all())


def test_rotating_inputs_fill_the_cache_twice() -> None:
    assert sets_for((64, 64), 81920, True) == 1
    assert sets_for((4096, 128), 20 * 4096 * 128, False) == 1
    moved = 20 * REAL_STEPS
    sets = sets_for((REAL_STEPS // 64, 64), moved, True)
    assert sets == 64 or (sets - 1) * moved < 2 * last_level_cache() <= sets * moved
    assert sets_for((1 << 20, 512), 20 << 29, True) == 2


@pytest.mark.parametrize("estimator", AVAILABLE, ids=lambda e: e.op)
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_ours_agrees_with_the_oracle_in_every_layout(estimator: Estimator, shape: tuple[int, int]) -> None:
    for layout in estimator.layouts:
        x = make_inputs(estimator.reads, *shape, layout, 3)
        size = shape if layout == BATCH else shape[::-1]
        out = tuple(torch.empty(size) for _ in range(estimator.writes))
        got = estimator.call(getattr(ops, estimator.op), x, out)
        got = got if isinstance(got, tuple) else (got,)
        for tensor, wanted in zip(got, expected(estimator, x), strict=True):
            torch.testing.assert_close(tensor.double(), wanted, rtol=1e-5, atol=1e-5)


def test_the_oracles_agree_with_the_references() -> None:
    x = make_inputs(ESTIMATORS[0].reads, 5, 9, BATCH, 1)
    (puff,) = expected(ESTIMATORS[0], x)
    theirs = reference.puff_advantage(
        x.values.double(), x.rewards.double(), x.dones.double(), x.importance.double(), 0.99, 0.95
    )
    torch.testing.assert_close(puff, theirs)
    gae = next(e for e in ESTIMATORS if e.op == "gae")
    x = make_inputs(gae.reads, 5, 9, TIME, 1)
    advantages, returns = expected(gae, x)
    wanted = reference.gae(
        x.rewards.double(),
        x.values.double(),
        x.terminated,
        last_values=x.last_values.double(),
        gamma=0.99,
        gae_lambda=0.95,
        time_major=True,
    )
    torch.testing.assert_close(advantages, wanted[0])
    torch.testing.assert_close(returns, wanted[1])


def test_the_oracles_of_one_family_agree() -> None:
    """With ratios of 1, Q = V and lambda = 1 or the same one, they are each other."""
    by_name = {estimator.op: estimator for estimator in ESTIMATORS}
    reads = tuple(dict.fromkeys(name for estimator in ESTIMATORS for name in estimator.reads))
    x = estimators.batch_major(make_inputs(reads, 6, 11, BATCH, 2), torch.float64)
    x.importance, x.q_values = torch.ones_like(x.values), x.values
    advantages, returns = by_name["gae"].oracle(x)
    torch.testing.assert_close(by_name["td_lambda"].oracle(x)[0], returns)
    torch.testing.assert_close(by_name["retrace"].oracle(x)[0], returns)
    torch.testing.assert_close(by_name["delta_lambda"].oracle(x)[0], by_name["puff_advantage"].oracle(x)[0])
    targets, pg_advantages = by_name["vtrace"].oracle(x)
    torch.testing.assert_close(targets, by_name["discounted_return"].oracle(x)[0])
    torch.testing.assert_close(pg_advantages, targets - x.values)
    assert not torch.allclose(advantages, pg_advantages)


def test_inputs_are_reproducible_and_differ_from_set_to_set() -> None:
    reads = ("values", "terminated", "last_values", "importance")
    first, again, other = (make_inputs(reads, 8, 9, BATCH, seed) for seed in (0, 0, 1))
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values, other.values)
    assert first.terminated.dtype == torch.bool
    assert first.last_values.shape == (8,)
    assert make_inputs(reads, 8, 9, TIME, 0).importance.shape == (9, 8)


def test_an_op_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimators, "WANTED", ("gae", "magic", "row_priorities"))
    assert suites.absent("advantages", Options()) == {
        "magic": "hotloop.ops has no magic",
        "row_priorities": "not registered in hotloop.bench.estimators",
    }
    assert suites.absent("advantages", Options(only=("gae",))) == {}
    assert suites.absent("store", Options()) == {}


def contestant(name: str, result: Tensor) -> Contestant:
    return Contestant(name, "ours", [lambda: result], lambda returned: [returned])


def case_of(*contestants: Contestant) -> Case:
    return Case("s", "thing", (2, 2), 32, [*contestants], expected=lambda: [torch.tensor([1.0, -100.0])])


def test_a_record_holds_times_and_differences() -> None:
    case = case_of(floor(32, 1), contestant("good", torch.tensor([1.0, -100.0001])))
    record = run_case(case, 0.01)
    first, second = record["contestants"]
    assert (first["name"], first["to_floor"], first["difference"]) == (FLOOR, 1.0, None)
    assert second["to_floor"] == pytest.approx(second["median"] / first["median"])
    assert 0.0 < second["difference"] < second["allowed"] == pytest.approx(2e-4)
    assert second["minimum"] <= second["median"] <= second["maximum"]
    assert (record["title"], record["moved_bytes"], record["input_sets"]) == ("thing 2x2", 32, 1)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (torch.tensor([1.0, -100.1]), "thing 2x2: bad differs from the expected result by 0.1"),
        (torch.tensor([float("nan"), -100.0]), "differs"),
        (torch.tensor([1.0]), r"must be \[2\], got \[1\]"),
    ],
)
def test_a_wrong_result_is_no_result(result: Tensor, message: str) -> None:
    with pytest.raises(DisagreementError, match=message):
        run_case(case_of(contestant("bad", result)), 0.01)


@pytest.mark.parametrize("suite", ["sampling", "store", "step", "call", "advantages"])
def test_small_cases_of_every_suite_agree(suite: str) -> None:
    options = Options(shapes=((8, 6),))
    records = [run_case(case, 0.005) for case in suites.SUITES[suite](options)]
    assert records
    for record in records:
        kinds = [c["kind"] for c in record["contestants"]]
        assert kinds[0] == "floor"
        assert "ours" in kinds
        assert record["moved_bytes"] > 0


def test_only_the_ops_that_are_asked_for() -> None:
    options = Options(shapes=((8, 8),), only=("gae", "draw"))
    assert [c.title for c in suites.SUITES["advantages"](options)] == [
        "gae 8x8 batch-major",
        "gae 8x8 time-major",
    ]
    assert [c.op for c in suites.SUITES["sampling"](options)] == ["draw"]
    assert list(suites.SUITES["store"](options)) == []


def test_segments_must_divide_into_minibatches() -> None:
    with pytest.raises(ValueError, match="rows must be a multiple of 4"):
        next(suites.SUITES["sampling"](Options(shapes=((6, 8),))))


def test_a_broken_contestant_of_each_suite_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    minibatch = suite_sampling.Minibatch((8, 6))
    whole = minibatch.ours
    monkeypatch.setattr(minibatch, "ours", lambda: whole()._replace(weights=torch.ones(2)))
    with pytest.raises(DisagreementError, match="weights of hotloop"):
        minibatch.check()

    store = suite_store.Store((4, 5))
    monkeypatch.setattr(suite_store.Store, "by_rows", lambda self: None)
    with pytest.raises(DisagreementError, match="did not write"):
        store.check()

    run = suite_step.ReferenceStep.run

    def forgetful(self: suite_step.ReferenceStep, world: suite_step.World) -> None:
        run(self, world)
        self.last_action.zero_()

    monkeypatch.setattr(suite_step.ReferenceStep, "run", forgetful)
    step = suite_step.step_case(4, 5)
    assert step.check is not None
    with pytest.raises(DisagreementError, match="what the policy sees"):
        step.check()

    monkeypatch.setattr(
        reference, "sample_segments", lambda *_, **__: (torch.zeros(2, dtype=torch.int64), torch.ones(2))
    )
    draw = suite_sampling.draw_case((8, 6))
    assert draw.check is not None
    with pytest.raises(DisagreementError, match="draws other segments"):
        draw.check()
