"""PPOCritic: acting and storing in the rollout, value loss, write-back, explained variance."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensordict import NonTensorData, TensorDict, TensorDictBase
from torch import Tensor

from hotloop.losses import PPOCritic, PPOCriticConfig
from hotloop.policies import MLPPolicy

S, B, T = 8, 4, 6
CONTEXT: Any = SimpleNamespace(training_env_id=slice(2, 5), loss_run_gates={})
ROWS = torch.tensor([6, 0, 3, 5])


def draw(seed: int, rows: int = B, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(rows, T, generator=torch.Generator().manual_seed(seed))


def some_valid(rows: int = B) -> Tensor:
    return torch.rand(rows, T, generator=torch.Generator().manual_seed(50)) > 0.4


class Replay:
    """Remembers what was stored and writes updates into its buffer."""

    def __init__(self, **entries: Tensor) -> None:
        self.buffer = TensorDict({"values": draw(20, S), **entries}, batch_size=[S, T])
        self.stored: list[tuple[TensorDictBase, Any]] = []
        self.updates: list[list[str]] = []

    def store(self, data_td: TensorDictBase, env_id: slice) -> None:
        self.stored.append((data_td.clone(), env_id))

    def update(self, indices: Tensor, td: TensorDictBase) -> None:
        self.updates.append(sorted(map(str, td.keys())))
        for key, column in td.items():
            self.buffer[key][indices] = column


def critic(replay: Replay | None = None, policy: Any = None, **cfg: Any) -> PPOCritic:
    loss = PPOCritic(policy or MLPPolicy((3,), 2), PPOCriticConfig(**cfg), instance_name="ppo_critic")
    if replay is not None:
        loss.attach_replay_buffer(replay)
    return loss


def minibatch(replay: Replay | None = None, valid: Tensor | None = None, **replaced: Any) -> TensorDict:
    """A `shared` as the loop hands it over; entries may be replaced, or left out with None."""
    stored = draw(20, S)[ROWS] if replay is None else replay.buffer["values"][ROWS]
    sampled = TensorDict({"values": stored.clone()}, batch_size=[B, T])
    if valid is not None:
        sampled["valid"] = valid
    entries = {
        "sampled_mb": sampled,
        "policy_td": TensorDict({"values": draw(1).requires_grad_()}, batch_size=[B, T]),
        "advantages": draw(2, scale=2.0),
        "indices": ROWS[:, None].expand(B, T),
        **replaced,
    }
    return TensorDict({k: v for k, v in entries.items() if v is not None}, batch_size=[B, T])


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("with_mask", [False, True], ids=["all", "some_invalid"])
def test_loss_matches_the_plain_formula(clip: float | None, with_mask: bool) -> None:
    keep = some_valid() if with_mask else None
    shared = minibatch(valid=keep)
    loss = critic(vf_coef=0.7, clip_vloss=clip is not None, vf_clip_coef=clip or 0.1)
    value, returned, stop = loss.train(shared, CONTEXT, 0)
    entries = torch.ones(B, T, dtype=torch.bool) if keep is None else keep
    terms = []
    for v, old, a in zip(
        shared["policy_td", "values"][entries].tolist(),
        shared["sampled_mb", "values"][entries].tolist(),
        shared["advantages"][entries].tolist(),
        strict=True,
    ):
        error = (v - (a + old)) ** 2
        if clip is not None:
            error = max(error, (old + min(max(v - old, -clip), clip) - (a + old)) ** 2)
        terms.append(0.5 * error)
    assert value.item() == pytest.approx(0.7 * sum(terms) / len(terms), rel=1e-5)
    assert loss.stats() == {"value_loss": pytest.approx(value.item())}
    assert returned is shared
    assert stop is False


def test_gradient_is_that_of_half_the_squared_error() -> None:
    shared = minibatch()
    critic(clip_vloss=False, vf_coef=2.0).train(shared, CONTEXT, 0)[0].backward()
    new, returns = shared["policy_td", "values"], shared["sampled_mb", "returns"]
    torch.testing.assert_close(new.grad, 2.0 * (new - returns).detach() / (B * T))
    torch.testing.assert_close(returns, shared["advantages"] + shared["sampled_mb", "values"])


def test_values_may_come_flat_or_as_a_column() -> None:
    want = critic().train(minibatch(), CONTEXT, 0)[0]
    column = TensorDict({"values": draw(1).unsqueeze(-1)}, batch_size=[B, T])
    assert torch.equal(critic().train(minibatch(policy_td=column), CONTEXT, 0)[0], want)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_invalid_entries_change_neither_loss_nor_gradient(dtype: torch.dtype) -> None:
    keep = some_valid()
    clean, spoilt = minibatch(valid=keep), minibatch(valid=keep.to(dtype))
    spoilt["advantages"] = torch.where(keep, spoilt["advantages"], math.nan)
    spoilt["sampled_mb", "values"] = torch.where(keep, spoilt["sampled_mb", "values"], math.inf)
    losses = []
    for shared in (clean, spoilt):
        losses.append(critic().train(shared, CONTEXT, 0)[0])
        losses[-1].backward()
    assert torch.equal(losses[0], losses[1])
    gradients = [shared["policy_td", "values"].grad for shared in (clean, spoilt)]
    assert torch.equal(*gradients)
    assert not gradients[0][~keep].any()
    assert gradients[0][keep].any()


def test_new_values_are_written_back_to_their_rows() -> None:
    replay = Replay()
    before = replay.buffer["values"].clone()
    shared = minibatch(replay, importance_sampling_ratio=draw(3).exp())
    critic(replay).train(shared, CONTEXT, 0)
    assert replay.updates == [["values"]]  # the buffer has no ratio
    assert torch.equal(replay.buffer["values"][ROWS], shared["policy_td", "values"])
    assert not replay.buffer["values"].requires_grad
    others = [1, 2, 4, 7]
    assert torch.equal(replay.buffer["values"][others], before[others])


def test_ratios_are_written_back_where_the_buffer_keeps_them() -> None:
    replay = Replay(ratio=torch.ones(S, T))
    ratio = draw(3).exp().requires_grad_()
    critic(replay).train(minibatch(replay, importance_sampling_ratio=ratio), CONTEXT, 0)
    assert replay.updates == [["ratio", "values"]]
    assert torch.equal(replay.buffer["ratio"][ROWS], ratio)


def test_nothing_is_written_back_without_an_experience() -> None:
    assert critic().train(minibatch(indices=None), CONTEXT, 0)[0].item() > 0


def test_explained_variance_is_of_the_values_before_any_write_back() -> None:
    keep = some_valid(S)
    replay = Replay(valid=keep)
    values, advantages = replay.buffer["values"].clone(), draw(4, S, scale=0.5)
    replay.buffer["values"][~keep] = math.nan
    loss = critic(replay)
    full = NonTensorData(torch.where(keep, advantages, math.nan))
    for epoch in range(2):  # the second update epoch starts from values that were written back
        loss.train(minibatch(replay, some_valid(), advantages_full=full), CONTEXT, 0)
        loss.train(minibatch(replay, some_valid()), CONTEXT, 1)
        assert len(replay.updates) == 2 * (epoch + 1)
    residuals, returns = advantages[keep], (advantages + values)[keep]
    want = 1 - residuals.var(correction=0) / returns.var(correction=0)
    assert loss.stats()["explained_variance"] == pytest.approx(want.item(), rel=1e-5)

    loss.zero_loss_tracker()
    loss.train(minibatch(replay, some_valid()), CONTEXT, 1)
    assert "explained_variance" not in loss.stats()
    loss.train(minibatch(replay, some_valid(), advantages_full=full), CONTEXT, 0)
    assert "explained_variance" in loss.stats()


def test_a_rollout_step_acts_without_gradients_and_is_stored() -> None:
    replay = Replay()
    td = TensorDict({"env_obs": torch.randn(3, 3)}, batch_size=[3])
    critic(replay).rollout(td, CONTEXT)
    assert {"actions", "act_log_prob", "values"} <= set(td.keys())
    assert not td["values"].requires_grad
    assert len(replay.stored) == 1
    stored, env_id = replay.stored[0]
    assert env_id == slice(2, 5)
    assert torch.equal(stored["actions"], td["actions"])


def test_burn_in_steps_are_acted_but_not_stored() -> None:
    policy = MLPPolicy((3,), 2)
    policy.burn_in_steps = 2  # type: ignore[assignment]
    replay = Replay()
    loss = critic(replay, policy)
    for already_stored in (0, 0, 1, 2):
        td = TensorDict({"env_obs": torch.randn(3, 3)}, batch_size=[3])
        loss.rollout(td, CONTEXT)
        assert td.get("actions", None) is not None
        assert len(replay.stored) == already_stored


def test_a_closed_rollout_gate_neither_acts_nor_stores() -> None:
    replay = Replay()
    td = TensorDict({"env_obs": torch.randn(3, 3)}, batch_size=[3])
    gates = {"ppo_critic": {"rollout": False}}
    critic(replay).rollout(td, SimpleNamespace(training_env_id=slice(0, 3), loss_run_gates=gates))  # type: ignore[arg-type]
    assert td.get("actions", None) is None
    assert not replay.stored


def test_settings_are_read_at_every_use() -> None:
    loss = critic(vf_coef=1.0)
    first = loss.train(minibatch(), CONTEXT, 0)[0].item()
    loss.cfg.vf_coef = 3.0
    assert loss.train(minibatch(), CONTEXT, 1)[0].item() == pytest.approx(3 * first, rel=1e-6)


def test_outputs_that_it_differentiates() -> None:
    assert critic().policy_output_keys(None) == {"values"}


def test_what_is_missing_or_misshapen_is_named() -> None:
    td = TensorDict({"env_obs": torch.randn(3, 3)}, batch_size=[3])
    with pytest.raises(RuntimeError, match="PPOCritic: no experience attached"):
        critic().rollout(td, CONTEXT)
    for key in ("sampled_mb", "policy_td", "advantages"):
        with pytest.raises(ValueError, match=rf"PPOCritic.train: shared must hold '{key}'"):
            critic().train(minibatch(**{key: None}), CONTEXT, 0)
    with pytest.raises(ValueError, match=r"PPOCritic.train: shared must hold 'indices'"):
        critic(Replay()).train(minibatch(indices=None), CONTEXT, 0)
    wide = TensorDict({"values": torch.zeros(B, T, 2)}, batch_size=[B, T])
    with pytest.raises(ValueError, match=r"policy_td\['values'\] .* \[4, 6\], got \[4, 6, 2\]"):
        critic().train(minibatch(policy_td=wide), CONTEXT, 0)
    with pytest.raises(
        ValueError, match=r"shared\['indices'\] must be \[4, 6\] like the values, got \[4, 6, 1\]"
    ):
        critic(Replay()).train(minibatch(indices=ROWS[:, None, None].expand(B, T, 1)), CONTEXT, 0)
