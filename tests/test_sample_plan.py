"""`SamplePlan` gives the bits of `sample_segments` and `gather`."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from hotloop import ops

LAWS = ["sequential", "permutation", "successive", "with_replacement", "systematic"]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("segments", "count"), [(1, 1), (9, 3), (129, 33)])
def test_equals_the_two_ops(law: str, segments: int, count: int) -> None:
    torch.manual_seed(0)
    sources = [torch.randn(segments, 5, 2), torch.randint(0, 9, (segments, 7)), torch.randn(segments)]
    out = [torch.empty(count, *each.shape[1:], dtype=each.dtype) for each in sources]
    priorities = torch.rand(segments) if law in LAWS[2:] else None
    indices, weights = torch.empty(count, dtype=torch.int64), torch.empty(count)
    plan = ops.SamplePlan(sources, out, indices=indices, weights=weights, law=law)
    for minibatch in range(3):
        plan.gather(priorities, 3, 2, minibatch, 0.5)
        rows, expected = ops.sample_segments(
            priorities, segments, count, law=law, seed=3, epoch=2, minibatch=minibatch, beta=0.5
        )
        assert torch.equal(indices, rows)
        assert torch.equal(weights, expected)
        for mine, source in zip(out, sources, strict=True):
            assert torch.equal(mine, source[rows])


def test_a_copy_is_bound_to_its_own_tensors() -> None:
    source, out = torch.randn(9, 2), torch.zeros(3, 2)
    indices, weights = torch.empty(3, dtype=torch.int64), torch.empty(3)
    plan = ops.SamplePlan([source], [out], indices=indices, weights=weights, law="permutation")
    for copied in (copy.deepcopy((plan, out, indices)), pickle.loads(pickle.dumps((plan, out, indices)))):
        twin, its_out, its_indices = copied
        out.zero_()
        twin.gather(None, 0, 1, 0, 1.0)
        assert not out.any()
        assert torch.equal(its_out, source[its_indices])


def test_errors_are_those_of_the_ops() -> None:
    indices, weights = torch.empty(2, dtype=torch.int64), torch.empty(2)

    def plan(law: str, out: Any) -> ops.SamplePlan:
        return ops.SamplePlan([torch.zeros(4, 3)], [out], indices=indices, weights=weights, law=law)

    with pytest.raises(ValueError, match="sample_segments: law"):
        plan("none", torch.zeros(2, 3)).gather(None, 0, 0, 0, 1.0)
    with pytest.raises(ValueError, match="sample_segments: minibatch"):
        plan("permutation", torch.zeros(2, 3)).gather(None, 0, 0, -1, 1.0)
    with pytest.raises(ValueError, match="sample_segments: priorities"):
        plan("successive", torch.zeros(2, 3)).gather(None, 0, 0, 0, 1.0)
    with pytest.raises(ValueError, match="gather"):
        plan("permutation", torch.zeros(2, 4)).gather(None, 0, 0, 0, 1.0)
    with pytest.raises(ValueError, match="SamplePlan: sources must be one tensor at least"):
        ops.SamplePlan([], [], indices=indices, weights=weights, law="permutation")
