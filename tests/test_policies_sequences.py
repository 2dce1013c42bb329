"""Recurrent cores over segments with resets, against one step at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hotloop.policies import sequences
from hotloop.policies.sequences import cut_at_resets, step, unroll
from recurrent_support import slow_unroll

F, H = 3, 4
CORES = [nn.LSTM, nn.GRU]
cores = pytest.mark.parametrize("kind", CORES, ids=lambda kind: kind.__name__)


def patterns(rows: int, horizon: int) -> dict[str, Tensor]:
    none = torch.zeros(rows, horizon, dtype=torch.bool)
    first, last, one = none.clone(), none.clone(), none.clone()
    first[:, 0] = last[:, -1] = True
    one[rows // 2, horizon // 2] = True
    generator = torch.Generator().manual_seed(5)
    return {
        "none": none,
        "all": ~none,
        "first": first,
        "last": last,
        "one": one,
        "few": torch.rand(rows, horizon, generator=generator) < 0.1,
        "many": torch.rand(rows, horizon, generator=generator) < 0.5,
    }


def make(
    kind: type[nn.RNNBase], rows: int, horizon: int, layers: int = 1
) -> tuple[nn.RNNBase, Tensor, tuple]:
    torch.manual_seed(1)
    core = kind(F, H, layers, batch_first=True).double()  # type: ignore[call-arg, arg-type]
    state = tuple(torch.randn(layers, rows, H).double() for _ in range(2 if kind is nn.LSTM else 1))
    return core, torch.randn(rows, horizon, F).double().requires_grad_(), state


@cores
@pytest.mark.parametrize("slack", [0, 3, 10**9], ids=["exact", "some", "one batch"])
@pytest.mark.parametrize("name", list(patterns(2, 2)))
@pytest.mark.parametrize(("rows", "horizon", "layers"), [(1, 1, 1), (5, 9, 1), (3, 6, 2)])
def test_outputs_and_gradients_are_those_of_a_slow_loop(
    kind: type[nn.RNNBase],
    slack: int,
    name: str,
    rows: int,
    horizon: int,
    layers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core, inputs, state = make(kind, rows, horizon, layers)
    resets = patterns(rows, horizon)[name]
    monkeypatch.setattr(sequences, "_CALL_COST", slack * H * (H + F))
    weights = torch.randn(rows, horizon, H, dtype=torch.float64)
    results = []
    for run in (unroll, slow_unroll):
        outputs = run(core, inputs, state, resets)[0]
        gradients = torch.autograd.grad((outputs * weights).sum(), [inputs, *core.parameters()])
        results.append([outputs, *gradients])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)


@cores
@pytest.mark.parametrize("name", list(patterns(2, 2)))
def test_the_state_after_the_last_column(kind: type[nn.RNNBase], name: str) -> None:
    core, inputs, state = make(kind, 5, 9)
    resets = patterns(5, 9)[name]
    outputs, after = unroll(core, inputs, state, resets, need_state=True)
    expected_outputs, expected = slow_unroll(core, inputs, state, resets)
    assert after is not None
    torch.testing.assert_close(outputs, expected_outputs)
    for fast, slow in zip(after, expected, strict=True):
        torch.testing.assert_close(fast, slow)
    assert unroll(core, inputs, state, resets)[1] is None


@cores
def test_one_step(kind: type[nn.RNNBase]) -> None:
    core, inputs, state = make(kind, 5, 1)
    outputs, after = step(core, inputs[:, 0], state)
    expected_outputs, expected = slow_unroll(core, inputs, state, torch.zeros(5, 1, dtype=torch.bool))
    torch.testing.assert_close(outputs, expected_outputs[:, 0])
    for fast, slow in zip(after, expected, strict=True):
        torch.testing.assert_close(fast, slow)


def test_without_resets_there_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    core, inputs, state = make(nn.LSTM, 4, 6)
    shapes = []
    core.register_forward_pre_hook(lambda module, given: shapes.append(tuple(given[0].shape)))
    unroll(core, inputs, state, None)
    unroll(core, inputs, state, torch.zeros(4, 6, dtype=torch.bool))
    assert shapes == [(4, 6, F), (4, 6, F)]
    shapes.clear()
    resets = torch.zeros(4, 6, dtype=torch.bool)
    resets[0, 2] = True  # pieces of 6, 6, 6, 4 and 2 steps
    monkeypatch.setattr(sequences, "_CALL_COST", 0)
    unroll(core, inputs, state, resets)
    assert shapes == [(5, 2, F), (4, 2, F), (3, 2, F)]
    shapes.clear()
    monkeypatch.setattr(sequences, "_CALL_COST", 4 * H * (H + F))
    unroll(core, inputs, state, resets)  # the fifth column makes the wasted places 3 + 1, the sixth 4 + 2
    assert shapes == [(5, 5, F), (3, 1, F)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**20), st.floats(0.0, 1.0), st.integers(0, 20))
def test_the_pieces_hold_every_step_once(
    rows: int, horizon: int, seed: int, density: float, slack: int
) -> None:
    resets = torch.rand(rows, horizon, generator=torch.Generator().manual_seed(seed)) < density
    pieces = cut_at_resets(resets, slack)
    total = rows * horizon
    torch.testing.assert_close(pieces.steps[pieces.places], torch.arange(total))
    real = torch.ones(len(pieces.steps), dtype=torch.bool) if pieces.real is None else pieces.real.flatten()
    assert int(real.sum()) == total
    assert torch.equal(pieces.places.sort().values, real.nonzero().flatten())
    assert len(pieces.steps) == sum(batch.pieces * (batch.end - batch.begin) for batch in pieces.batches)
    if slack == 0:
        assert pieces.real is None
    begins = resets.clone()
    begins[:, 0] = True
    assert len(pieces.rows) == int(begins.sum())
    assert int(pieces.continued.sum()) == int((~resets[:, 0]).sum())
