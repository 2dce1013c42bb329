"""`PuffDraw` beside the operations of torch that PufferLib's trainer calls, to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hotloop import _core, ops

SHAPES = [
    (64, 64, 16),
    (1024, 64, 128),
    (4096, 16, 128),
    (33, 7, 7),
    (1025, 17, 256),
    (8, 1, 3),
    (600, 1030, 600),
]


def by_torch(advantages: Tensor, alpha: float, count: int) -> tuple[Tensor, Tensor]:
    powers = torch.nan_to_num(advantages.abs().sum(dim=1) ** alpha, 0, 0, 0)
    chances = (powers + 1e-6) / (powers.sum() + 1e-6)
    return chances, torch.multinomial(chances, count)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(("segments", "horizon", "count"), SHAPES)
def test_rows_are_those_of_multinomial(
    segments: int, horizon: int, count: int, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:  # a build of torch that adds in another order
        monkeypatch.setattr(ops.PuffDraw, "_tried", lambda _: (False, False))
    draw = ops.PuffDraw(segments, horizon, count)
    advantages = torch.randn(segments, horizon, generator=torch.Generator().manual_seed(3))
    draw.sum_up(advantages)
    assert torch.equal(draw.sums, advantages.abs().sum(dim=1))
    for seed in range(4):
        torch.manual_seed(seed)
        chances, expected = by_torch(advantages, 0.8, count)
        after = torch.get_rng_state()
        torch.manual_seed(seed)
        assert torch.equal(draw.draw(0.8), expected)
        assert torch.equal(draw.chances, chances)
        assert torch.equal(draw.picked, segments * chances[expected, None])
        assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 31, 64, 100, 513, 4099, 30000])
def test_sums_are_in_the_order_of_torch(count: int) -> None:
    draw = ops.PuffDraw(count, 8, 1)
    draw.powers.copy_(torch.rand(count, generator=torch.Generator().manual_seed(count)))
    assert draw._native.total() == draw.powers.sum().item()
    assert draw._as_torch == (True, True)


@pytest.mark.parametrize("segments", [64, 2000])
def test_where_equal_numbers_leave_it_open_torch_decides(segments: int) -> None:
    size = 8
    _, powers, chances, race = (torch.ones(segments) for _ in range(4))
    rows, picked = torch.full((size,), -1), torch.zeros(size)
    native = _core.PuffDraw(torch.zeros(segments), powers, chances, race, rows, picked)
    order = torch.randperm(segments, generator=torch.Generator().manual_seed(1))

    def raced(values: Tensor) -> bool:
        chances.copy_(values)
        race.fill_(1)
        rows.fill_(-1)
        return native.choose()

    values = torch.arange(segments, dtype=torch.float32)[order]
    assert raced(values)
    assert torch.equal(rows, torch.topk(values, size).indices)
    for low, high in ((segments - size, segments - size - 1), (segments - 1, segments - 2)):  # last, first
        tied = torch.where(values == low, float(high), values)
        assert not raced(tied)
        assert (rows == -1).all()
    assert raced(torch.where(values == 3, 4.0, values))  # nobody of those who win
    assert not raced(torch.where(values == 3, torch.nan, values))
    assert raced(torch.where(values == 3, torch.inf, values))
    assert rows[0] == (values == 3).nonzero()


@pytest.mark.parametrize(
    ("segments", "horizon", "count"), [(64, 64, 16), (40, 7, 40), (9, 1, 2), (300, 33, 13)]
)
def test_rows_that_changed_are_computed_anew_and_no_others(segments: int, horizon: int, count: int) -> None:
    source = torch.Generator().manual_seed(segments)
    values, rewards = (torch.randn(segments, horizon, generator=source) for _ in range(2))
    dones = (torch.rand(segments, horizon, generator=source) < 0.1).float()
    ratio = 2 * torch.rand(segments, horizon, generator=source)
    draw = ops.PuffDraw(segments, horizon, count)
    draw.rows.copy_(torch.randperm(segments, generator=source)[:count])
    advantages, returns = torch.full((2, segments, horizon), 7.0)
    draw.sums.fill_(7.0)
    version = advantages._version
    assert draw.renew(values, rewards, dones, ratio, 0.97, 0.9, 1.1, 0.9, advantages, returns)
    expected = ops.puff_advantage(values, rewards, dones, ratio, 0.97, 0.9, 1.1, 0.9)
    drawn = torch.zeros(segments, dtype=torch.bool)
    drawn[draw.rows] = True
    assert torch.equal(advantages[drawn], expected[drawn])
    assert torch.equal(returns[drawn], (expected + values)[drawn])
    assert torch.equal(draw.sums[drawn], expected.abs().sum(dim=1)[drawn])
    for each in (advantages, returns, draw.sums):
        assert (each[~drawn] == 7.0).all()
    assert advantages._version > version


def test_what_does_not_fit_is_left_to_others() -> None:
    draw = ops.PuffDraw(8, 4, 2)
    plain = [torch.zeros(8, 4) for _ in range(6)]
    numbers = (0.9, 0.9, 1.0, 1.0)
    for odd in (torch.zeros(8, 4).double(), torch.zeros(4, 8).t(), torch.zeros(7, 4)):
        assert not draw.renew(odd, *plain[1:4], *numbers, *plain[4:])
        assert not draw.renew(*plain[:4], *numbers, plain[4], odd)
    with pytest.raises(ValueError, match=r"PuffDraw: advantages must .*"):
        draw.renew(*plain[:4], *numbers, plain[0], plain[5])
    draw.rows[1] = 8
    with pytest.raises(ValueError, match="PuffDraw: rows must be those of a draw, got 8"):
        draw.renew(*plain[:4], *numbers, *plain[4:])
    with pytest.raises(ValueError, match="PuffDraw: rows must be at most 8, got"):
        ops.PuffDraw(8, 4, 9)


def test_a_change_of_threads_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = ops.PuffDraw(64, 8, 4)
    tries: list[int] = []
    monkeypatch.setattr(ops.PuffDraw, "_tried", lambda _: (tries.append(1), (False, False))[1])
    draw.prepare()
    assert not tries
    torch.set_num_threads(2)
    draw.prepare()
    assert len(tries) == 1
    assert draw._as_torch == (False, False)
