"""The training pass of a recurrent core over segments with resets, forward and backward: cut into pieces,
beside a Python loop over the steps, one `PackedSequence`, and the same segments without any reset."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from hotloop.policies.sequences import cut_at_resets, unroll
from interleave import Timing, interleaved, report, save

SHAPES = [(16, 32, 64), (64, 32, 64), (128, 64, 128)]  # segments, steps, hidden units (and inputs)
# Resets a step: episodes of 200, 20 and 5 steps.
DENSITIES = [0.005, 0.05, 0.2]
GROUPS: dict[str, dict[str, Timing]] = {}
PLAIN, CUT = "no reset at all", "cut at resets"


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU], ids=lambda kind: kind.__name__)
def test_recurrent(
    benchmark: BenchmarkFixture,
    kind: type[nn.RNNBase],
    shape: tuple[int, int, int],
    density: float,
    one_thread: None,
) -> None:
    segments, horizon, width = shape
    torch.manual_seed(0)
    core = kind(width, width, batch_first=True)  # type: ignore[call-arg, arg-type]
    inputs = torch.randn(segments, horizon, width, requires_grad=True)
    state = tuple(torch.randn(1, segments, width) for _ in range(2 if kind is nn.LSTM else 1))
    resets = torch.rand(segments, horizon) < density
    keep = (~resets).float().unsqueeze(-1)
    weights = core.all_weights[0]

    def loop() -> Tensor:
        now, outputs = [each[0] for each in state], []
        for t in range(horizon):
            now = [each * keep[:, t] for each in now]
            if kind is nn.LSTM:
                now = list(torch.lstm_cell(inputs[:, t], now, *weights))
            else:
                now = [torch.gru_cell(inputs[:, t], now[0], *weights)]
            outputs.append(now[0])
        return torch.stack(outputs, dim=1)

    def packed() -> Tensor:
        pieces = cut_at_resets(resets, 0)
        flat = inputs.flatten(0, 1)
        begin = [torch.where(pieces.continued, each[:, pieces.rows], 0.0) for each in state]
        sizes = torch.cat([torch.full((b.end - b.begin,), b.pieces) for b in pieces.batches])
        # In the order of time: of every column all the pieces that are as long.
        rank = torch.empty_like(pieces.steps)
        offset = 0
        for batch in pieces.batches:
            columns = batch.end - batch.begin
            place = torch.arange(batch.pieces * columns).view(batch.pieces, columns).T.flatten()
            rank[offset : offset + len(place)] = offset + place
            offset += len(place)
        order = pieces.steps[rank]
        result, _ = core(PackedSequence(flat[order], sizes), tuple(begin) if len(begin) > 1 else begin[0])
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order))
        outputs: Tensor = result.data[places]
        return outputs.view(segments, horizon, -1)

    def trained(outputs: Tensor) -> None:
        outputs.square().sum().backward()

    contestants = {
        PLAIN: lambda: trained(unroll(core, inputs, state)[0]),
        CUT: lambda: trained(unroll(core, inputs, state, resets)[0]),
        "loop over the steps": lambda: trained(loop()),
        "PackedSequence": lambda: trained(packed()),
    }
    timings = interleaved(contestants, rounds=max(5, 20_000 // (segments * horizon)))
    group = f"{kind.__name__} {segments}x{horizon}, {width} units, {density} resets a step"
    GROUPS[group] = timings
    print("\n" + report(group, timings, PLAIN))
    expected = loop()
    torch.testing.assert_close(unroll(core, inputs, state, resets)[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed(), expected, rtol=1e-4, atol=1e-5)
    benchmark.pedantic(contestants[CUT], rounds=3)
    if len(GROUPS) == 2 * len(SHAPES) * len(DENSITIES):
        print(f"written to {save('recurrent', GROUPS)}")
