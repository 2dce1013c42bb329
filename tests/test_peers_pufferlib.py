"""`puff_advantage` beside the op that it is named after, where that can be built.

    PUFFERLIB_DISABLE_CUDA=1 pip install --no-deps --no-build-isolation --no-binary pufferlib-core \\
        pufferlib-core==3.0.23
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from hotloop import ops

pytestmark = pytest.mark.peers


def load_extension() -> None:
    """Loads PufferLib's compiled op without the package around it, whose imports need many more packages."""
    spec = importlib.util.find_spec("pufferlib")
    if spec is None or spec.origin is None:
        pytest.skip("pufferlib-core is not installed (see the head of this file)")
    found = sorted(Path(spec.origin).parent.glob("_C*.so"))
    if not found:
        pytest.skip("pufferlib-core is installed without its compiled op")
    extension = importlib.util.spec_from_file_location("pufferlib._C", found[0])
    assert extension is not None
    assert extension.loader is not None
    try:
        extension.loader.exec_module(importlib.util.module_from_spec(extension))
    except ImportError as error:
        pytest.skip(f"pufferlib-core's compiled op does not load beside torch {torch.__version__}: {error}")


@pytest.mark.parametrize("shape", [(1, 2), (7, 33), (64, 64), (129, 257)], ids=str)
@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0)])
def test_agrees_with_compute_puff_advantage(shape: tuple[int, int], gamma: float, gae_lambda: float) -> None:
    load_extension()
    g = torch.Generator().manual_seed(0)
    values, rewards = (torch.randn(shape, generator=g) for _ in range(2))
    dones = (torch.rand(shape, generator=g) < 0.1).float()
    ratio = 2 * torch.rand(shape, generator=g)
    theirs = torch.zeros(shape)
    torch.ops.pufferlib.compute_puff_advantage(
        values, rewards, dones, ratio, theirs, gamma, gae_lambda, 1.1, 0.9
    )
    ours = ops.puff_advantage(values, rewards, dones, ratio, gamma, gae_lambda, 1.1, 0.9)
    scale = theirs.abs().max().item()
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6 * max(scale, 1.0))
