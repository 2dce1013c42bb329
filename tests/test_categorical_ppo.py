"""`CategoricalPPO` gives the bits of the two ops that it joins."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hotloop import ops

ROWS, HORIZON = 5, 7
SETTINGS: dict[str, Any] = {
    "clip_coef": 0.1,
    "vf_clip_coef": 0.2,
    "vf_coef": 0.7,
    "ent_coef": 0.01,
    "normalize_advantage": True,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("nvec", [None, (2, 4)])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_two_ops_and_their_backward_passes(
    nvec: tuple[int, ...] | None, dtype: torch.dtype, masked: bool
) -> None:
    count, size = ROWS * HORIZON, 6
    joined = ops.CategoricalPPO(ROWS, HORIZON, size, dtype, nvec)
    for seed in range(3):  # the second one finds memory that was used
        torch.manual_seed(seed)
        logits = torch.randn(count, size, dtype=dtype, requires_grad=True)
        values = torch.randn(count, dtype=dtype, requires_grad=True)
        width = () if nvec is None else (2,)
        actions = torch.randint(0, 2, (ROWS, HORIZON, *width))
        old_log_prob, advantages, old_values, returns, weights = torch.randn(5, ROWS, HORIZON).unbind()
        options = {"prio_weights": weights.abs(), "valid": torch.rand(ROWS, HORIZON) < 0.8} if masked else {}

        log_prob, entropy = ops.categorical_evaluate(logits, actions.reshape(count, *width), nvec=nvec)
        shape = (ROWS, HORIZON)
        loss, expected = ops.ppo_loss(
            log_prob.view(shape),
            old_log_prob,
            advantages,
            values.view(shape),
            old_values,
            returns,
            entropy.view(shape),
            **options,
            **SETTINGS,
        )
        loss.backward()
        with torch.no_grad():
            joined.evaluate(logits, actions)
            statistics = joined.differentiate(
                old_log_prob, advantages, values.view(shape), old_values, returns, **options, **SETTINGS
            )
        assert torch.equal(joined.log_prob, log_prob.view(shape))
        assert torch.equal(joined.entropy, entropy.view(shape))
        assert torch.equal(statistics, expected)
        assert torch.equal(joined.grad_logits, logits.grad)
        assert torch.equal(joined.grad_values, values.grad)
        assert joined.grad_logits.any()


def test_errors_are_those_of_the_ops() -> None:
    joined = ops.CategoricalPPO(ROWS, HORIZON, 3, torch.float32, None)
    logits, actions = torch.zeros(ROWS * HORIZON, 3), torch.zeros(ROWS, HORIZON, dtype=torch.int64)
    plane = torch.zeros(ROWS, HORIZON)
    with pytest.raises(RuntimeError, match="evaluate must be called before"):
        joined.differentiate(plane, plane, plane, plane, plane, **SETTINGS)
    with pytest.raises(IndexError, match="must be in"):
        joined.evaluate(logits, actions + 3)
    with pytest.raises(ValueError, match="does not require grad"):
        joined.evaluate(logits.requires_grad_(), actions)
    subclass = type("Subclass", (torch.Tensor,), {})
    with pytest.raises(TypeError, match="must be plain tensors, got a subclass"):
        joined.evaluate(logits.detach().as_subclass(subclass), actions)
    joined.evaluate(logits.detach(), actions)
    with pytest.raises(TypeError, match="must be plain ones, got a subclass"):
        joined.differentiate(plane.as_subclass(subclass), plane, plane, plane, plane, **SETTINGS)
    with pytest.raises(ValueError, match="clip_coef"):
        joined.differentiate(plane, plane, plane, plane, plane, **{**SETTINGS, "clip_coef": -1.0})
