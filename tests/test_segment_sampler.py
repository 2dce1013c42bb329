from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

import hotloop
from hotloop import SegmentSampler, ops
from hotloop.ops.sample_segments import LAWS
from hotloop.segment_sampler import SCHEDULES, importance_exponent

BY_PRIORITY = ("successive", "with_replacement", "systematic")
S, K = 40, 10


def advantages(seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(S, 6, generator=torch.Generator().manual_seed(seed)).to(dtype)


def make(**options: Any) -> SegmentSampler:
    return SegmentSampler(S, K, **{"law": "successive", "total_epochs": 10, "seed": 3, **options})


def test_it_is_exported() -> None:
    assert hotloop.SegmentSampler is SegmentSampler
    assert "SegmentSampler" in hotloop.__all__


@pytest.mark.parametrize("law", LAWS)
def test_it_draws_what_the_op_draws(law: str) -> None:
    sampler = make(law=law, alpha=0.7, beta0=0.5)
    for epoch, minibatch in ((0, 0), (0, 1), (5, 2)):
        indices, weights = sampler.draw(advantages(), epoch=epoch, minibatch=minibatch)
        expected = ops.sample_segments(
            ops.row_priorities(advantages(), 0.7) if law in BY_PRIORITY else None,
            S,
            K,
            law=law,
            seed=3,
            epoch=epoch,
            minibatch=minibatch,
            beta=0.5 + 0.5 * epoch / 10,
        )
        assert indices.equal(expected[0])
        assert weights.equal(expected[1])


def test_the_published_annealing_and_the_reference_one() -> None:
    """Schaul et al. 2016, section 3.4: linearly from beta0 to 1, which is reached at the end of training."""
    linear = [importance_exponent("linear", 0.4, 0.6, epoch, 4) for epoch in range(6)]
    assert linear == pytest.approx([0.4, 0.55, 0.7, 0.85, 1.0, 1.0])
    reference = [importance_exponent("reference", 0.4, 0.5, epoch, 4) for epoch in range(5)]
    assert reference == pytest.approx([0.4, 0.475, 0.55, 0.625, 0.7])
    assert importance_exponent("reference", 0.4, 2.0, 4, 4) == 1.0
    assert importance_exponent("constant", 0.4, 0.5, 4, 4) == 0.4
    assert importance_exponent("linear", 0.4, 0.5, 0, 0) == 0.4
    with pytest.raises(ValueError, match=r"schedule must be one of .* got 'cosine'"):
        importance_exponent("cosine", 0.4, 0.5, 0, 1)
    assert make().schedule == "linear"
    assert make(beta0=0.4).beta(10) == 1.0
    assert make(beta0=0.4, alpha=0.5, schedule="reference").beta(10) == pytest.approx(0.7)
    assert make(beta0=0.4, schedule="constant", total_epochs=None).beta(10**6) == 0.4


@pytest.mark.parametrize("law", BY_PRIORITY)
def test_at_beta_zero_all_weights_are_one(law: str) -> None:
    sampler = make(law=law, beta0=0.0)
    assert (sampler.draw(advantages(), epoch=0, minibatch=0)[1] == 1).all()
    assert (sampler.draw(advantages(), epoch=7, minibatch=0, beta=0.0)[1] == 1).all()
    assert (sampler.draw(advantages(), epoch=7, minibatch=0)[1] != 1).any()


def test_outputs_are_used_again_unless_others_are_given() -> None:
    sampler = make()
    first = sampler.draw(advantages(), epoch=0, minibatch=0)
    kept = [each.clone() for each in first]
    second = sampler.draw(advantages(), epoch=0, minibatch=1)
    assert [each.data_ptr() for each in first] == [each.data_ptr() for each in second]
    own = torch.empty(K, dtype=torch.int64), torch.empty(K)
    assert sampler.draw(advantages(), epoch=0, minibatch=0, out=own)[0] is own[0]
    assert own[0].equal(kept[0])
    assert own[1].equal(kept[1])
    assert not second[0].equal(own[0])


def test_priorities_follow_advantages_that_change_and_alpha() -> None:
    sampler = make(law="systematic", alpha=1.0)

    def drawn(full: torch.Tensor) -> list[int]:
        return sorted(sampler.draw(full, epoch=0, minibatch=0)[0].tolist())

    full = torch.zeros(S, 2)
    full[:K] = 1.0
    assert drawn(full) == list(range(K))
    full.zero_()
    full[-K:] = 1.0  # the same tensor, written to
    assert drawn(full) == list(range(S - K, S))
    sampler.alpha = 0.0
    assert drawn(full) != list(range(S - K, S))
    with torch.inference_mode():
        full = torch.zeros(S, 2)
        full[:K] = 1.0
        sampler.alpha = 1.0
        assert drawn(full) == list(range(K))
        full.zero_()
        full[-K:] = 1.0  # not counted there
        assert drawn(full) == list(range(S - K, S))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_advantages_of_any_floating_dtype(dtype: torch.dtype) -> None:
    sampler = make(alpha=1.0)
    indices, _ = sampler.draw(advantages(dtype=dtype), epoch=0, minibatch=0)
    priorities = advantages(dtype=dtype).double().abs().sum(1)
    expected, _ = make().draw(priorities=priorities, epoch=0, minibatch=0)
    assert len(set(indices.tolist()) & set(expected.tolist())) >= K - 1


def test_own_priorities_are_taken_as_they_are() -> None:
    priorities = torch.rand(S, generator=torch.Generator().manual_seed(1))
    indices, weights = make(alpha=3.0).draw(priorities=priorities, epoch=1, minibatch=2)
    beta = make().beta(1)
    expected = ops.sample_segments(
        priorities, S, K, law="successive", seed=3, epoch=1, minibatch=2, beta=beta
    )
    assert indices.equal(expected[0])
    assert weights.equal(expected[1])


@pytest.mark.parametrize("through", ["state_dict", "pickle", "deepcopy"])
def test_a_restored_sampler_draws_the_same(through: str) -> None:
    sampler = make(law="systematic", alpha=0.9, beta0=0.3, schedule="reference", seed=11)
    sampler.draw(advantages(), epoch=0, minibatch=0)
    if through == "state_dict":
        other = SegmentSampler(S, K)
        other.load_state_dict(pickle.loads(pickle.dumps(sampler.state_dict())))
    else:
        other = pickle.loads(pickle.dumps(sampler)) if through == "pickle" else copy.deepcopy(sampler)
    assert other.state_dict() == sampler.state_dict()
    sampler.draw(advantages(7), epoch=9, minibatch=9)  # what ran before does not matter
    for minibatch in range(3):
        ours = sampler.draw(advantages(1), epoch=4, minibatch=minibatch)
        theirs = other.draw(advantages(1), epoch=4, minibatch=minibatch)
        assert ours[0].equal(theirs[0])
        assert ours[1].equal(theirs[1])


def test_a_permutation_serves_every_segment_as_often_at_every_place() -> None:
    """Each epoch covers all segments; over 3000 epochs segment 0 falls into each of the 4 minibatches alike:
    chi-square, false alarm 1e-4 (3 degrees of freedom: 21.1), fixed seed."""
    sampler = make(law="permutation")
    counts = torch.zeros(4)
    for epoch in range(3000):
        blocks = [sampler.draw(epoch=epoch, minibatch=m)[0].clone() for m in range(4)]
        if epoch < 20:
            assert torch.cat(blocks).sort().values.tolist() == list(range(S))
        counts[next(m for m, block in enumerate(blocks) if (block == 0).any())] += 1
    assert float(((counts - 750) ** 2 / 750).sum()) < 21.1


@pytest.mark.parametrize("law", LAWS)
def test_a_million_segments(law: str) -> None:
    """Sizes that go to threads and beyond 16 bits; the weights against their formula."""
    segments, count = 1_000_003, 250_000
    priorities = torch.rand(segments, generator=torch.Generator().manual_seed(5))
    sampler = SegmentSampler(segments, count, law=law, schedule="constant", beta0=0.5)
    given = {"priorities": priorities} if law in BY_PRIORITY else {}
    indices, weights = sampler.draw(epoch=0, minibatch=1, **given)
    assert int(indices.min()) >= 0
    assert int(indices.max()) < segments
    assert int(indices.max()) > 2**18
    if law != "with_replacement":
        assert len(indices.unique()) == count
    w = priorities.double() + 1e-6
    if law == "systematic":
        p = (count * w / w.sum()).clamp(max=1)[indices] * segments / count
        if bool((count * w / w.sum() > 1).any()):
            return  # capped: tests/test_sample_segments.py has that at other sizes
    else:
        p = (w / w.sum() * segments)[indices]
    if law in BY_PRIORITY:
        torch.testing.assert_close(weights.double(), p**-0.5, rtol=1e-5, atol=0)
    else:
        assert (weights == 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"law": "lottery"}, "law must be one of .* got 'lottery'"),
        ({"schedule": "cosine"}, "schedule must be one of .* got 'cosine'"),
        ({"alpha": -0.1}, r"alpha must be at least 0, got -0\.1"),
        ({"alpha": float("nan")}, "alpha must be at least 0, got nan"),
        ({"beta0": 1.5}, r"beta0 must be in \[0, 1\], got 1\.5"),
        ({"total_epochs": 0}, "total_epochs must be at least 1, got 0"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"SegmentSampler: {message}"):
        make(**options)


def test_errors() -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0 and 1"):
        SegmentSampler(0, 1)
    with pytest.raises(ValueError, match="at most num_segments 4 for law 'systematic', got 5"):
        SegmentSampler(4, 5, law="systematic")
    SegmentSampler(4, 5, law="with_replacement")
    with pytest.raises(ValueError, match="for law 'successive', got neither"):
        make().draw(epoch=0, minibatch=0)
    with pytest.raises(ValueError, match="for law 'successive', got both"):
        make().draw(advantages(), priorities=torch.ones(S), epoch=0, minibatch=0)
    with pytest.raises(ValueError, match=r"advantages must be \[S, T\] with S = 40, got \[39, 6\]"):
        make().draw(advantages()[1:], epoch=0, minibatch=0)
    with pytest.raises(ValueError, match=r"priorities must be \[S\] = \[40\]"):
        make().draw(priorities=torch.ones(3), epoch=0, minibatch=0)
    with pytest.raises(ValueError, match="total_epochs must be given for schedule 'linear', got None"):
        make(total_epochs=None).draw(advantages(), epoch=0, minibatch=0)
    sampler = make()
    state = sampler.state_dict()
    with pytest.raises(ValueError, match="num_segments must be 40, got 41"):
        sampler.load_state_dict({**state, "num_segments": 41})
    with pytest.raises(ValueError, match="alpha must be at least 0"):
        sampler.load_state_dict({**state, "seed": 99, "alpha": -1.0})
    del state["law"]
    with pytest.raises(KeyError, match="law"):
        sampler.load_state_dict(state)
    assert sampler.state_dict() == make().state_dict(), "a refused state must change nothing"


def test_schedules_are_those_of_the_function() -> None:
    assert set(SCHEDULES) == {"linear", "reference", "constant"}
    for schedule in SCHEDULES:
        assert importance_exponent(schedule, 0.5, 1.0, 0, 10) == 0.5


def test_the_device_is_one_that_the_ops_serve() -> None:
    assert SegmentSampler(8, 4).device == torch.device("cpu")
    with pytest.raises(ValueError, match="device must be cpu or a CUDA device, got meta"):
        SegmentSampler(8, 4, device="meta")
