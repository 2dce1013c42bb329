"""Every other system that the benchmarks time gives the same results as ours, where it is installed."""

from __future__ import annotations

import pytest

from hotloop.bench.case import Case, Contestant, floor, run_case
from hotloop.bench.estimators import BATCH, ESTIMATORS, expected, make_inputs
from hotloop.bench.peers import PEERS, Peer, Unfit, peers_for

SHAPES = ((3, 5), (9, 17))
JOBS = [
    (peer, op, layout, shape)
    for peer in PEERS
    for op, layout in peer.jobs
    if op != "call"
    for shape in (SHAPES[:1] if peer.module == "compiled" else SHAPES)  # compiling takes seconds
]


@pytest.mark.peers
@pytest.mark.parametrize(
    ("peer", "op", "layout", "shape"), JOBS, ids=lambda value: str(getattr(value, "module", value))
)
def test_a_peer_agrees(
    peer: Peer, op: str, layout: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hotloop.bench.peers.PEERS", (peer,))
    estimator = next(e for e in ESTIMATORS if e.op == op)
    inputs = [make_inputs(estimator.reads, *shape, layout, seed) for seed in range(2)]
    absent: dict[str, str] = {}
    entered = peers_for(op, layout, inputs, True, absent)
    if absent:
        pytest.skip(f"{peer.name}: {absent[peer.name]}")
    (contestant,) = entered
    assert len(contestant.calls) == 2
    case = Case("s", op, shape, 1024, [floor(1024, 2), contestant])
    case.expected = lambda: expected(estimator, inputs[0])
    record = run_case(case, 0.01)
    assert record["contestants"][1]["difference"] is not None


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = Peer("nobody", "nobody", "no-such-distribution", (("gae", BATCH),))
    monkeypatch.setattr("hotloop.bench.peers.PEERS", (nobody,))
    absent: dict[str, str] = {}
    assert peers_for("gae", BATCH, [], True, absent) == []
    assert absent == {"nobody": "no-such-distribution is not installed"}


@pytest.mark.parametrize(
    ("error", "said"),
    [(ImportError("no module x"), "does not import: no module x"), (Unfit("too long"), "too long")],
    ids=["import", "unfit"],
)
def test_a_peer_that_cannot_take_part_is_named(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def broken(*_: object) -> list[Contestant]:
        raise error

    monkeypatch.setattr("hotloop.bench.peers.loops.contestants", broken)
    absent: dict[str, str] = {}
    assert peers_for("puff_advantage", BATCH, [], False, absent) == []
    assert absent == {"a loop over time in torch": said}


def test_without_peers_only_the_plain_loop_takes_part() -> None:
    x = make_inputs(ESTIMATORS[0].reads, 4, 4, BATCH, 0)
    absent: dict[str, str] = {}
    entered = peers_for("puff_advantage", BATCH, [x], False, absent)
    assert [contestant.name for contestant in entered] == ["torch loop over time"]
    assert absent == {}
