from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from hotloop import ops
from hotloop.ops import reference

KEY: dict[str, Any] = {"seed": 11, "epoch": 3, "minibatch": 2}
SIZES = (1, 2, 7, 8, 9, 31, 33, 127, 129)
LAWS = ("sequential", "permutation", "successive", "with_replacement", "systematic")
BY_PRIORITY = LAWS[2:]
# Priorities that crowd, spread over magnitudes, tie, or leave all but a few at the floor.
SHAPES = {
    "equal": torch.ones(2000),
    "zero": torch.zeros(2000),
    "spread": torch.logspace(-30, 30, 2000)[torch.randperm(2000, generator=torch.Generator().manual_seed(0))],
    "one": torch.zeros(2000).index_fill(0, torch.tensor([777]), 1e30),
    "few": torch.zeros(2000).index_fill(0, torch.arange(0, 2000, 97), 5.0),
    "steps": (torch.arange(2000) % 7).float(),
    "doubles": torch.rand(2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 8,
}

# Thousands of draws, for a law that each is held to on every device by `test_equals_reference`.
of_many_draws = pytest.mark.cpu_only


def test_philox_equals_the_published_vectors() -> None:
    # known-answer vectors of the Random123 distribution (Salmon et al. 2011), philox4x32 with 10 rounds
    ones = 0xFFFFFFFF
    assert reference.philox4x32((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert reference.philox4x32((ones,) * 4, (ones,) * 2) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    digits_of_pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    assert reference.philox4x32(*digits_of_pi) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("segments", SIZES)
def test_equals_reference(law: str, segments: int) -> None:
    priorities = torch.rand(segments, generator=torch.Generator().manual_seed(segments))
    for count in {0, 1, segments // 2, segments, 3 * segments if law == "with_replacement" else 0}:
        for seed in (0, 1, -5, 2**63 - 1):
            key: dict[str, Any] = {"seed": seed, "epoch": 3, "minibatch": 2}
            actual = ops.sample_segments(priorities, segments, count, law=law, beta=0.7, **key)
            expected = reference.sample_segments(priorities, segments, count, law=law, beta=0.7, **key)
            assert torch.equal(actual[0], expected[0])
            torch.testing.assert_close(actual[1], expected[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("law", BY_PRIORITY)
@pytest.mark.parametrize("shape", list(SHAPES))
def test_equals_reference_for_awkward_priorities(law: str, shape: str, isa: str) -> None:
    for count in (1, 5, 500, 1990, 2000):
        actual = ops.sample_segments(SHAPES[shape], 2000, count, law=law, beta=0.9, **KEY)
        expected = reference.sample_segments(SHAPES[shape], 2000, count, law=law, beta=0.9, **KEY)
        assert torch.equal(actual[0], expected[0])
        torch.testing.assert_close(actual[1], expected[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("law", BY_PRIORITY)
@pytest.mark.parametrize("beta", [0.0, 1e-3, 0.5, 1.0, 2.0, 300.0, 1e7, math.inf])
def test_weights_for_any_beta(law: str, beta: float) -> None:
    priorities = SHAPES["spread"]
    _, actual = ops.sample_segments(priorities, 2000, 300, law=law, beta=beta, **KEY)
    _, expected = reference.sample_segments(priorities, 2000, 300, law=law, beta=beta, **KEY)
    torch.testing.assert_close(actual, expected, rtol=2e-6 * max(1.0, min(beta, 1e3)), atol=0)


def test_sequential_walks_in_blocks() -> None:
    drawn = [
        ops.sample_segments(None, 8, 2, law="sequential", seed=0, epoch=0, minibatch=m)[0].tolist()
        for m in range(5)
    ]
    assert drawn == [[0, 1], [2, 3], [4, 5], [6, 7], [0, 1]]


@pytest.mark.parametrize("segments", [1, 8, 96, 1000])
def test_permutation_covers_every_segment_exactly_once_an_epoch(segments: int) -> None:
    count = max(segments // 4, 1)
    epochs = []
    for epoch in range(3):
        minibatches = [
            ops.sample_segments(None, segments, count, law="permutation", seed=5, epoch=epoch, minibatch=m)[0]
            for m in range(segments // count)
        ]
        epochs.append(torch.cat(minibatches))
        assert sorted(epochs[-1].tolist()) == list(range(segments))
    if segments > 8:
        assert not torch.equal(epochs[0], epochs[1]), "the order must be fresh each epoch"


@of_many_draws
def test_permutation_is_uniform() -> None:
    # chi-square over the 24 orders of 4 segments; false alarm 1e-4 (23 degrees of freedom: 56.4), fixed seeds
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(4800):
        order = ops.sample_segments(None, 4, 4, law="permutation", seed=seed, epoch=0, minibatch=0)[0]
        counts[tuple(order.tolist())] = counts.get(tuple(order.tolist()), 0) + 1
    assert len(counts) == 24
    assert sum((n - 200) ** 2 / 200 for n in counts.values()) < 56.4


def test_successive_draws_without_replacement() -> None:
    priorities = torch.rand(300) ** 4
    indices, _ = ops.sample_segments(priorities, 300, 200, law="successive", **KEY)
    assert len(set(indices.tolist())) == 200


@of_many_draws
def test_successive_first_draw_is_proportional_to_priority() -> None:
    # chi-square of the first pick of an exponential race; false alarm 1e-4 (5 degrees of freedom: 25.7)
    priorities = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 10.0])
    n = 6000
    counts = torch.zeros(6)
    for epoch in range(n):
        counts[
            ops.sample_segments(priorities, 6, 1, law="successive", seed=3, epoch=epoch, minibatch=0)[0]
        ] += 1
    expected = n * (priorities[1:] + 1e-6) / (priorities + 1e-6).sum()
    assert ((counts[1:] - expected) ** 2 / expected).sum() < 25.7
    assert counts[0] == 0


@of_many_draws
def test_successive_pairs_match_torch_multinomial() -> None:
    # The law of both draws together, against its closed form p_i * p_j / (1 - p_i);
    # chi-square over 12 ordered pairs, false alarm 1e-4 (11 degrees of freedom: 37.4)
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    n = 6000
    counts = torch.zeros(4, 4)
    for minibatch in range(n):
        i, j = ops.sample_segments(p, 4, 2, law="successive", seed=9, epoch=0, minibatch=minibatch)[
            0
        ].tolist()
        counts[i, j] += 1
    expected = n * p[:, None] * p[None, :] / (1 - p[:, None])
    off_diagonal = ~torch.eye(4, dtype=torch.bool)
    assert ((counts - expected) ** 2 / expected)[off_diagonal].sum() < 37.4


def test_successive_weights_are_the_legacy_ones() -> None:
    priorities = torch.rand(64)
    indices, weights = ops.sample_segments(priorities, 64, 16, law="successive", beta=0.4, **KEY)
    p = (priorities.double() + 1e-6) / (priorities.double().sum() + 1e-6)
    torch.testing.assert_close(weights, ((64 * p[indices]) ** -0.4).float(), rtol=1e-6, atol=0)
    _, unweighted = ops.sample_segments(priorities, 64, 16, law="successive", beta=0.0, **KEY)
    assert (unweighted == 1).all()


def inclusion(priorities: torch.Tensor, count: int) -> torch.Tensor:
    """pi by bisection for the scale: no copy of the rescaling that the op and its reference do."""
    w = priorities.double() + 1e-6
    low, high = 0.0, 1.0 / float(w.min())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((w * middle).clamp(max=1).sum()) < count else (low, middle)
    return (w * high).clamp(max=1)


@of_many_draws
@pytest.mark.parametrize("count", [1, 3, 7, 11])
def test_systematic_includes_each_segment_with_its_own_probability(count: int) -> None:
    """Each frequency against pi by a z-test. Over the 12 segments and 4 counts of this test, Bonferroni at
    1e-4 together: |z| < 4.9 has a false-alarm rate of 48 * 9.6e-7 < 1e-4."""
    priorities = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.0, 1.0, 2.0, 4.0, 9.0])
    pi, n = inclusion(priorities, count), 6000
    assert float(pi.sum()) == pytest.approx(count)
    counts = torch.zeros(12, dtype=torch.float64)
    for epoch in range(n):
        indices, _ = ops.sample_segments(
            priorities, 12, count, law="systematic", seed=21, epoch=epoch, minibatch=1
        )
        assert len(indices.unique()) == count
        counts[indices] += 1
    assert (counts[pi >= 1] == n).all()
    unsure = pi < 1
    z = (counts - n * pi)[unsure] / (n * pi * (1 - pi))[unsure].sqrt()
    assert float(z.abs().max()) < 4.9


@of_many_draws
def test_systematic_draws_every_pair_of_equal_segments() -> None:
    """A fixed order would never draw neighbours together. With the order drawn, all 15 pairs of 6 equal
    segments are alike: chi-square, false alarm 1e-4 (14 degrees of freedom: 42.6)."""
    n, counts = 6000, torch.zeros(6, 6)
    for epoch in range(n):
        indices, _ = ops.sample_segments(
            torch.ones(6), 6, 2, law="systematic", seed=2, epoch=epoch, minibatch=0
        )
        i, j = sorted(indices.tolist())
        counts[i, j] += 1
    pairs = counts[torch.ones(6, 6).triu(1).bool()]
    assert float(((pairs - n / 15) ** 2 / (n / 15)).sum()) < 42.6


@of_many_draws
def test_with_replacement_draws_in_proportion_to_priority() -> None:
    # chi-square over 500 segments, false alarm 1e-4 (499 degrees of freedom: 624.3)
    priorities = torch.rand(500, generator=torch.Generator().manual_seed(4)) + 0.2
    count = 200_000
    indices, _ = ops.sample_segments(priorities, 500, count, law="with_replacement", **KEY)
    expected = count * priorities.double() / priorities.double().sum()
    counts = torch.bincount(indices, minlength=500)
    assert float(((counts - expected) ** 2 / expected).sum()) < 624.3


@of_many_draws
def test_with_replacement_draws_are_independent() -> None:
    # chi-square over 16 pairs of neighbouring draws, false alarm 1e-4 (15 degrees of freedom: 44.3)
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    indices, _ = ops.sample_segments(p, 4, 40_000, law="with_replacement", **KEY)
    pairs = torch.bincount(indices[::2] * 4 + indices[1::2], minlength=16).reshape(4, 4)
    expected = 20_000 * p[:, None] * p[None, :]
    assert float(((pairs - expected) ** 2 / expected).sum()) < 44.3


@of_many_draws
@pytest.mark.parametrize("law", ["with_replacement", "systematic"])
def test_the_weighted_mean_is_unbiased(law: str) -> None:
    """With beta = 1, the mean of weight * f over a minibatch against the mean of f over all segments,
    averaged over 4000 draws: |z| < 4.1 has a false-alarm rate of 4.1e-5 for each of the two laws."""
    generator = torch.Generator().manual_seed(8)
    priorities = torch.rand(40, generator=generator) ** 2
    f = torch.randn(40, generator=generator, dtype=torch.float64) + 3 * priorities  # linked with the priority
    estimates = torch.empty(4000, dtype=torch.float64)
    for minibatch in range(4000):
        indices, weights = ops.sample_segments(
            priorities, 40, 10, law=law, seed=6, epoch=0, minibatch=minibatch, beta=1.0
        )
        estimates[minibatch] = (weights * f[indices]).mean()
    error = float(estimates.mean() - f.mean()) / float(estimates.std() / 4000**0.5)
    assert abs(error) < 4.1


@of_many_draws
def test_legacy_weights_are_biased_and_systematic_ones_are_not() -> None:
    """What the exact laws are for: f proportional to the priority, half of the segments drawn."""
    priorities = torch.cat([torch.full((10,), 0.1), torch.ones(10)])

    def estimate(law: str) -> float:
        total = 0.0
        for epoch in range(500):
            indices, weights = ops.sample_segments(
                priorities, 20, 10, law=law, seed=1, epoch=epoch, minibatch=0, beta=1.0
            )
            total += float((weights * priorities[indices]).mean())
        return total / 500

    assert estimate("systematic") == pytest.approx(0.55, abs=1e-3)  # of an f ~ pi the estimate is constant
    assert estimate("successive") < 0.6  # the weights are the legacy ones: see below


@pytest.mark.parametrize("law", LAWS[1:])
def test_a_draw_depends_on_its_key_alone(law: str, threads: None, backend: str) -> None:
    # enough for several threads, or for several blocks that are sorted
    segments, count = (4_099, 1_001) if backend == "cuda_host" else (100_003, 20_001)
    priorities = torch.rand(segments)

    def draw(**change: int) -> torch.Tensor:
        drawn = ops.sample_segments(priorities, segments, count, law=law, **{**KEY, **change})
        return torch.cat([drawn[0].double(), drawn[1].double()])

    first = draw()
    torch.manual_seed(1)
    torch.rand(3)
    for number in (2, 4, 1):
        torch.set_num_threads(number)
        assert torch.equal(draw(), first)
    for change in ({"seed": 12}, {"epoch": 4}, {"minibatch": 3}):
        assert not torch.equal(draw(**change), first), change


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_strided_priorities_and_outputs(law: str, dtype: torch.dtype) -> None:
    priorities = torch.rand(50, 3, dtype=dtype)[:, 1]
    out = torch.zeros(10, 2, dtype=torch.int64)[:, 0], torch.zeros(10, 2)[:, 1]
    expected = ops.sample_segments(priorities.clone(), 50, 10, law=law, **KEY)
    ops.sample_segments(priorities, 50, 10, law=law, out=out, **KEY)
    assert torch.equal(out[0], expected[0])
    assert torch.equal(out[1], expected[1])


ASKS = pytest.mark.asks_for_values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"law": "lottery"}, "law must be 'sequential', .* or 'systematic', got 'lottery'"),
        ({"priorities": None, "law": "systematic"}, r".* for law 'systematic', got None"),
        ({"priorities": None, "law": "with_replacement"}, r".* for law 'with_replacement', got None"),
        ({"count": 9, "law": "systematic"}, "count must be at most num_segments = 8 without replacement"),
        pytest.param(
            {"priorities": torch.full((8,), 1e308, dtype=torch.float64)},
            "priorities must be of a finite sum, got inf",
            marks=ASKS,
        ),
        pytest.param(
            {"priorities": torch.tensor([1.0] * 7 + [-1.0]), "law": "with_replacement"},
            r"priorities\[7\] must be finite and >= 0, got -1",
            marks=ASKS,
        ),
        ({"priorities": None}, r"priorities must be a tensor \[S\] for law 'successive', got None"),
        ({"count": 9}, "count must be at most num_segments = 8 without replacement, got 9"),
        ({"num_segments": 0}, r"num_segments must be in \[1, "),
        ({"count": -1}, r"count must be in \[0, .*got -1"),
        pytest.param(
            {"priorities": torch.tensor([1.0] * 7 + [-1.0])},
            r"priorities\[7\] must be finite and >= 0, got -1",
            marks=ASKS,
        ),
        pytest.param(
            {"priorities": torch.tensor([1.0] * 7 + [math.nan])},
            r"priorities\[7\] must be finite and >= 0, got nan",
            marks=ASKS,
        ),
        pytest.param(
            {"priorities": torch.tensor([math.inf] * 8)},
            r"priorities\[0\] must be finite and >= 0, got inf",
            marks=ASKS,
        ),
        ({"priorities": torch.ones(7)}, r"priorities must be \[S\] = \[8\], got float32 \[7\]"),
        ({"epoch": -1}, r"epoch must be in \[0, 4294967295\], got -1"),
        ({"seed": 2**64}, "seed must be in .*got 18446744073709551616"),
        ({"beta": -0.5}, "beta must be >= 0"),
        ({"out": (torch.zeros(4), torch.zeros(4))}, r"out\[0\] must be int64, got float32 \[4\]"),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "priorities": torch.ones(8), "num_segments": 8, "count": 4, "law": "successive", **KEY,
        "out": (torch.full((4,), 77), torch.full((4,), 7.0)), **change,
    }  # fmt: skip
    with pytest.raises((ValueError, TypeError), match=f"sample_segments: {message}"):
        ops.sample_segments(**arguments)
    if "out" not in change:
        assert (arguments["out"][0] == 77).all()
