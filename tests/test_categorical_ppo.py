"""`CategoricalPPO` gives the bits of the ops that it joins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop import ops

ROWS, HORIZON, SEGMENTS = 5, 7, 9
SETTINGS = ops.PPOSettings(
    gamma=0.9,
    gae_lambda=0.8,
    rho_clip=1.1,
    c_clip=0.9,
    clip_coef=0.1,
    vf_clip_coef=0.2,
    vf_coef=0.7,
    ent_coef=0.01,
    normalize_advantage=True,
)


def stored_rows(*, masked: bool, after: bool) -> ops.PPORows:
    planes = torch.randn(6, ROWS, HORIZON).unbind()
    return ops.PPORows(
        *planes[:4],
        dones=(torch.rand(ROWS, HORIZON) < 0.2).float(),
        prio_weights=torch.rand(ROWS, 1).expand(ROWS, HORIZON),
        valid=torch.rand(ROWS, HORIZON) < 0.8 if masked else None,
        next_values=torch.randn(ROWS) if after else None,
        next_rewards=torch.randn(ROWS) if after else None,
        next_dones=torch.zeros(ROWS) if after else None,
    )


def by_ops(
    logits: Tensor, values: Tensor, actions: Tensor, nvec: Any, stored: ops.PPORows
) -> tuple[Tensor, Tensor, Tensor]:
    """Log probabilities, advantages and statistics; leaves gradients in the first two arguments."""
    at, shape = SETTINGS, (ROWS, HORIZON)
    flat = actions.flatten(0, 1)
    log_prob, entropy = (each.view(shape) for each in ops.categorical_evaluate(logits, flat, nvec=nvec))
    importance = ops.importance_ratio(log_prob.detach(), stored.log_prob, stored.valid, 0.0)
    advantages = ops.puff_advantage(
        stored.values,
        stored.rewards,
        stored.dones,
        importance,
        at.gamma,
        at.gae_lambda,
        at.rho_clip,
        at.c_clip,
        next_values=stored.next_values,
        next_rewards=stored.next_rewards,
        next_dones=stored.next_dones,
    )
    loss, statistics = ops.ppo_loss(
        log_prob,
        stored.log_prob,
        advantages,
        values.view(shape),
        stored.values,
        stored.advantages + stored.values,
        entropy,
        prio_weights=stored.prio_weights,
        valid=stored.valid,
        **{name: getattr(at, name) for name in ("clip_coef", "vf_clip_coef", "vf_coef", "ent_coef")},
        normalize_advantage=at.normalize_advantage,
    )
    loss.backward()
    return log_prob.detach(), advantages, statistics


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("nvec", [None, (2, 4)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_equals_the_ops_and_their_backward_passes(
    nvec: tuple[int, ...] | None, dtype: torch.dtype, masked: bool, after: bool
) -> None:
    count, size = ROWS * HORIZON, 6
    joined = ops.CategoricalPPO(ROWS, HORIZON, size, dtype, nvec)
    buffer = torch.zeros(SEGMENTS, HORIZON)
    for seed in range(3):  # the second one finds memory that was used
        torch.manual_seed(seed)
        logits = torch.randn(count, size, dtype=dtype, requires_grad=True)
        values = torch.randn(count, dtype=dtype, requires_grad=True)
        width = () if nvec is None else (2,)
        actions = torch.randint(0, 2, (ROWS, HORIZON, *width))
        stored = stored_rows(masked=masked, after=after)
        log_prob, advantages, expected = by_ops(logits, values, actions, nvec, stored)

        indices, statistics = torch.randperm(SEGMENTS)[:ROWS], torch.empty(12, dtype=torch.float64)
        with torch.no_grad():
            joined.bind(stored, SETTINGS, buffer)
            joined.differentiate(logits, values, actions, indices, statistics)
        assert torch.equal(joined.log_prob, log_prob)
        assert torch.equal(joined.advantages, advantages)
        assert torch.equal(joined.returns, stored.advantages + stored.values)
        assert torch.equal(statistics, expected)
        assert torch.equal(joined.grad_logits, logits.grad)
        assert torch.equal(joined.grad_values, values.grad)
        assert joined.grad_logits.any()
        assert torch.equal(buffer[indices], values.detach().view(ROWS, HORIZON).float())


@pytest.mark.parametrize("masked", [False, True])
def test_without_rewards_the_advantages_are_those_that_were_given(masked: bool) -> None:
    torch.manual_seed(0)
    stored = stored_rows(masked=masked, after=False)._replace(rewards=None, dones=None)
    logits = torch.randn(ROWS * HORIZON, 6, requires_grad=True)
    values = torch.randn(ROWS, HORIZON, requires_grad=True)
    actions, indices = torch.randint(0, 6, (ROWS, HORIZON)), torch.randperm(SEGMENTS)[:ROWS]
    log_prob, entropy = (
        each.view(ROWS, HORIZON) for each in ops.categorical_evaluate(logits, actions.flatten())
    )
    at = SETTINGS
    loss, expected = ops.ppo_loss(
        log_prob, stored.log_prob, stored.advantages, values, stored.values,
        stored.advantages + stored.values, entropy, prio_weights=stored.prio_weights, valid=stored.valid,
        clip_coef=at.clip_coef, vf_clip_coef=at.vf_clip_coef, vf_coef=at.vf_coef, ent_coef=at.ent_coef,
    )  # fmt: skip
    loss.backward()
    joined = ops.CategoricalPPO(ROWS, HORIZON, 6, torch.float32, None)
    new_values, ratios = torch.zeros(2, SEGMENTS, HORIZON).unbind()
    statistics = torch.empty(12, dtype=torch.float64)
    with torch.no_grad():
        joined.bind(stored, SETTINGS, new_values, write_importance_to=ratios)
        joined.differentiate(logits, values.flatten(), actions, indices, statistics)
    assert torch.equal(statistics, expected)
    assert torch.equal(joined.grad_logits, logits.grad)
    assert torch.equal(joined.grad_values.view(ROWS, HORIZON), values.grad)
    importance = ops.importance_ratio(log_prob.detach(), stored.log_prob, stored.valid, 0.0)
    assert torch.equal(ratios[indices], importance)
    assert torch.equal(new_values[indices], values.detach())


def test_writes_values_nowhere_where_nobody_wants_them() -> None:
    joined, stored = (
        ops.CategoricalPPO(ROWS, HORIZON, 3, torch.float32, None),
        stored_rows(masked=False, after=False),
    )
    before = [each.clone() for each in stored[:6]]
    joined.bind(stored, SETTINGS, None)
    actions = torch.zeros(ROWS, HORIZON, dtype=torch.int64)
    statistics = torch.empty(12, dtype=torch.float64)
    joined.differentiate(
        torch.zeros(ROWS * HORIZON, 3), torch.ones(ROWS * HORIZON), actions, torch.arange(ROWS), statistics
    )
    assert all(map(torch.equal, before, stored[:6]))


def test_errors_are_those_of_the_ops() -> None:
    joined = ops.CategoricalPPO(ROWS, HORIZON, 3, torch.float32, None)
    logits, values = torch.zeros(ROWS * HORIZON, 3), torch.zeros(ROWS * HORIZON)
    actions, indices = torch.zeros(ROWS, HORIZON, dtype=torch.int64), torch.arange(ROWS)
    statistics = torch.empty(12, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="bind must be called before"):
        joined.differentiate(logits, values, actions, indices, statistics)
    stored = stored_rows(masked=False, after=False)
    joined.bind(stored, SETTINGS, torch.zeros(SEGMENTS, HORIZON))
    with pytest.raises(IndexError, match="must be in"):
        joined.differentiate(logits, values, actions + 3, indices, statistics)
    with pytest.raises(IndexError, match="indices"):
        joined.differentiate(logits, values, actions, indices + SEGMENTS, statistics)
    with pytest.raises(ValueError, match="does not require grad"):
        joined.differentiate(logits.clone().requires_grad_(), values, actions, indices, statistics)
    subclass = type("Subclass", (torch.Tensor,), {})
    with pytest.raises(TypeError, match="must be plain ones, got a subclass in categorical_evaluate"):
        joined.differentiate(logits.as_subclass(subclass), values, actions, indices, statistics)
    with pytest.raises(TypeError, match="must be plain ones, got a subclass in ppo_loss"):
        joined.differentiate(logits, values.as_subclass(subclass), actions, indices, statistics)
    joined.bind(stored, SETTINGS._replace(clip_coef=-1.0), None)
    with pytest.raises(ValueError, match="clip_coef"):
        joined.differentiate(logits, values, actions, indices, statistics)
