"""Sampling with the CUDA kernels under the host runner, where it takes more than one block."""

from __future__ import annotations

import pytest
import torch

from cuda_host_support import CUDA_SOURCES, on_backend
from hotloop import ops

pytestmark = pytest.mark.skipif(
    not CUDA_SOURCES.is_dir(), reason="an installed package carries no C++ sources"
)


@pytest.mark.parametrize("law", ["permutation", "successive", "with_replacement", "systematic"])
@pytest.mark.parametrize("segments", [2049, 4096, 4500])
def test_a_draw_is_that_of_the_cpu(law: str, segments: int) -> None:
    # 2048 keys are sorted in one block; 4500 are padded to 8192, whose runs are merged across four
    generator = torch.Generator().manual_seed(segments)
    priorities = torch.rand(segments, generator=generator) ** 3
    key = {"seed": 5, "epoch": 1, "minibatch": 2}
    indices, weights = ops.sample_segments(priorities, segments, 700, law=law, beta=0.6, **key)
    with on_backend("cuda_host") as device:
        before = device.counts()["launches"]
        there, its_weights = ops.sample_segments(priorities, segments, 700, law=law, beta=0.6, **key)
        launches = device.counts()["launches"] - before
    assert torch.equal(there, indices)
    torch.testing.assert_close(its_weights, weights, rtol=1e-6, atol=0)
    assert launches <= (13 if law in ("successive", "systematic") else 3)
