"""PPOLoss against the two losses that it replaces."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from hotloop.losses import PPOLoss, PPOLossConfig, ppo_losses
from hotloop.losses import ppo_loss as module
from hotloop.policies import MLPPolicy

S, B, T = 8, 4, 6
CONTEXT: Any = SimpleNamespace(training_env_id=slice(0, B), loss_run_gates={})
ROWS = torch.tensor([6, 0, 3, 5])
STATISTICS = {
    "policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "importance", "current_logprobs",
    "explained_variance",
}  # fmt: skip


def draw(seed: int, rows: int = B, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(rows, T, generator=torch.Generator().manual_seed(seed))


class Replay:
    def __init__(self) -> None:
        self.buffer = TensorDict({"values": draw(20, S), "ratio": torch.ones(S, T)}, batch_size=[S, T])

    def update(self, indices: Tensor, td: TensorDict) -> None:
        for key, column in td.items():
            self.buffer[key][indices] = column.to(self.buffer[key].dtype)


def minibatch(replay: Replay, valid: Tensor | None, dtype: torch.dtype = torch.float32) -> TensorDict:
    """A `shared` as the loop hands it over."""
    sampled = TensorDict(
        {"act_log_prob": draw(1, scale=0.3), "values": replay.buffer["values"][ROWS]}, batch_size=[B, T]
    )
    if valid is not None:
        sampled["valid"] = valid
    outputs = {"act_log_prob": draw(2, scale=0.3), "entropy": draw(3).abs(), "values": draw(4)}
    policy_td = TensorDict({n: x.to(dtype).requires_grad_() for n, x in outputs.items()}, batch_size=[B, T])
    ratio = (policy_td["act_log_prob"] - sampled["act_log_prob"]).clamp(-10, 10).exp()
    if valid is not None:
        ratio = torch.where(valid, ratio, 1.0)
    return TensorDict(
        {
            "sampled_mb": sampled,
            "policy_td": policy_td,
            "advantages": draw(5),
            "advantages_pg": draw(6, scale=3.0) + 1.0,
            "advantages_full": draw(8, S),
            "prio_weights": draw(7).exp(),
            "importance_sampling_ratio": ratio,
            "indices": ROWS[:, None].expand(B, T),
        },
        batch_size=[],
    )


def run(fused: bool, valid: Tensor | None = None, **options: Any) -> tuple[Any, ...]:
    """Loss, gradients, statistics, buffer and returns of one minibatch."""
    replay, dtype = Replay(), options.pop("dtype", torch.float32)
    losses = ppo_losses(MLPPolicy((3,), 2), fused=fused, **options)
    shared = minibatch(replay, valid, dtype)
    total = torch.zeros(())
    for loss in losses.values():
        loss.attach_replay_buffer(replay)
        value, shared, stop = loss.train(shared, CONTEXT, 0)
        assert not stop
        total = total + value
    outputs = shared["policy_td"]
    gradients = torch.autograd.grad(total, [outputs[n] for n in ("act_log_prob", "entropy", "values")])
    statistics: dict[str, float] = {}
    for loss in losses.values():
        statistics.update(loss.stats())
    return total.detach(), list(gradients), statistics, dict(replay.buffer), shared["sampled_mb", "returns"]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"norm_adv": False}, {"clip_vloss": False, "ent_coef": 0.2}, {"clip_coef": 0.05, "vf_coef": 2.0}],
    ids=str,
)
def test_it_is_the_two_losses_together(options: dict[str, Any], masked: bool) -> None:
    valid = torch.rand(B, T, generator=torch.Generator().manual_seed(50)) > 0.4 if masked else None
    fused, pair = run(True, valid, **options), run(False, valid, **options)
    assert set(fused[2]) == set(pair[2]) == STATISTICS
    torch.testing.assert_close(fused, pair, rtol=2e-5, atol=1e-6)


def test_tensors_that_the_op_does_not_take_go_through_the_two_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(True)
    called = []
    monkeypatch.setattr(module.ops, "ppo_loss", lambda *args, **kwargs: called.append(1))
    actual = run(True, dtype=torch.bfloat16)
    assert not called
    torch.testing.assert_close(actual[2], expected[2], rtol=0.05, atol=0.05)


def test_several_ranks_share_their_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(False)
    seen = []
    for where in (module.ranks, module.formulas):
        monkeypatch.setattr(where, "several_ranks", lambda: True)
    monkeypatch.setattr(module.ranks, "gathered", lambda x: [x])
    monkeypatch.setattr(
        module.formulas, "global_moments", lambda *moments: seen.append(moments) or moments
    )  # fmt: skip
    torch.testing.assert_close(run(True)[0], expected[0], rtol=2e-5, atol=1e-6)
    assert [moments[1].dim() for moments in seen] == [1, 0], "explained variance, then advantages"


def test_target_kl_stops_before_the_next_minibatch() -> None:
    (loss,) = ppo_losses(MLPPolicy((3,), 2), fused=True, target_kl=1e-6).values()
    assert isinstance(loss, PPOLoss)
    replay = Replay()
    loss.attach_replay_buffer(replay)
    assert loss.train(minibatch(replay, None), CONTEXT, 0)[2] is False
    before = replay.buffer["values"].clone()
    value, _, stop = loss.train(minibatch(replay, None), CONTEXT, 1)
    assert (value.item(), stop) == (0.0, True)
    assert torch.equal(replay.buffer["values"], before)
    loss.zero_loss_tracker()
    assert loss.train(minibatch(replay, None), CONTEXT, 0)[2] is False


def test_settings_may_be_replaced_between_phases() -> None:
    loss = PPOLoss(MLPPolicy((3,), 2), PPOLossConfig(target_kl=1e-6))
    replay = Replay()
    loss.train(minibatch(replay, None), CONTEXT, 0)
    loss.loss_cfg = PPOLossConfig()
    assert loss.train(minibatch(replay, None), CONTEXT, 1)[2] is False


def test_experience_and_outputs_are_those_of_both() -> None:
    policy = MLPPolicy((3,), 2)
    pair = ppo_losses(policy).values()
    (loss,) = ppo_losses(policy, fused=True).values()
    spec: dict[str, Any] = {}
    for each in pair:
        spec.update(each.get_experience_spec())
    assert loss.get_experience_spec() == spec
    assert loss.policy_output_keys() == {"values", "act_log_prob", "entropy"}


def test_missing_entries_are_named() -> None:
    (loss,) = ppo_losses(MLPPolicy((3,), 2), fused=True).values()
    shared = minibatch(Replay(), None)
    del shared["sampled_mb", "act_log_prob"]
    with pytest.raises(ValueError, match=r"PPOLoss\.train: sampled_mb must hold 'act_log_prob'"):
        loss.train(shared, CONTEXT, 0)
    shared = minibatch(Replay(), None)
    shared["policy_td"] = TensorDict({n: torch.zeros(3) for n in ("act_log_prob", "values", "entropy")}, [])
    with pytest.raises(ValueError, match=r"policy_td\['act_log_prob'\] must have as many entries"):
        loss.train(shared, CONTEXT, 0)
