"""PPOActor against the plain formulas: what it reads, what it ignores, when it stops."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from hotloop.losses import PPOActor, PPOActorConfig
from hotloop.policies import MLPPolicy
from test_losses_statistics import HostReads

B, T = 4, 6
CONTEXT: Any = SimpleNamespace(training_env_id=slice(0, B), loss_run_gates={})


def actor(**cfg: Any) -> PPOActor:
    return PPOActor(MLPPolicy((3,), 2), PPOActorConfig(**cfg), instance_name="ppo_actor")


def draw(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(B, T, generator=torch.Generator().manual_seed(seed))


def some_valid() -> Tensor:
    return torch.rand(B, T, generator=torch.Generator().manual_seed(50)) > 0.4


def minibatch(valid: Tensor | None = None, **replaced: Any) -> TensorDict:
    """A `shared` as the loop hands it over; entries may be replaced, or left out with None."""
    sampled = TensorDict({"act_log_prob": draw(1, 0.3)}, batch_size=[B, T])
    if valid is not None:
        sampled["valid"] = valid
    policy_td = TensorDict(
        {
            "act_log_prob": draw(2, 0.3).requires_grad_(),
            "entropy": draw(3).abs().requires_grad_(),
            "values": draw(4).requires_grad_(),
        },
        batch_size=[B, T],
    )
    entries = {
        "sampled_mb": sampled,
        "policy_td": policy_td,
        "advantages": draw(5),
        "advantages_pg": draw(6, 3.0) + 1.0,
        "prio_weights": draw(7).exp(),
        **replaced,
    }
    return TensorDict({k: v for k, v in entries.items() if v is not None}, batch_size=[B, T])


def expected_loss(
    shared: TensorDict,
    advantages: Tensor,
    *,
    clip: float = 0.2,
    ent: float = 0.01,
    norm: bool = True,
    keep: Tensor | None = None,
) -> float:
    """The loss in plain numbers."""
    keep = torch.ones(B, T, dtype=torch.bool) if keep is None else keep
    a = advantages[keep].double()
    if norm:
        a = (a - a.mean()) / a.std()
    a = a * shared["prio_weights"][keep].double()
    new, old = shared["policy_td", "act_log_prob"][keep], shared["sampled_mb", "act_log_prob"][keep]
    terms = []
    for adv, log_ratio in zip(a.tolist(), (new - old).tolist(), strict=True):
        r = math.exp(log_ratio)
        terms.append(max(-adv * r, -adv * min(max(r, 1 - clip), 1 + clip)))
    entropy = shared["policy_td", "entropy"][keep].double().mean().item()
    return sum(terms) / len(terms) - ent * entropy


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("with_mask", [False, True], ids=["all", "some_invalid"])
def test_loss_matches_the_plain_formula(norm: bool, with_mask: bool) -> None:
    keep = some_valid() if with_mask else None
    shared = minibatch(keep)
    loss, returned, stop = actor(norm_adv=norm, clip_coef=0.3, ent_coef=0.05).train(shared, CONTEXT, 0)
    want = expected_loss(shared, shared["advantages_pg"], clip=0.3, ent=0.05, norm=norm, keep=keep)
    assert loss.item() == pytest.approx(want, rel=1e-5)
    assert returned is shared
    assert stop is False


def test_plain_advantages_stand_in_for_missing_corrected_ones() -> None:
    shared = minibatch(advantages_pg=None)
    assert actor().train(shared, CONTEXT, 0)[0].item() == pytest.approx(
        expected_loss(shared, shared["advantages"]), rel=1e-5
    )


def test_priority_weights_scale_each_entry_after_normalisation() -> None:
    plain = actor(ent_coef=0.0).train(minibatch(prio_weights=None), CONTEXT, 0)[0].item()
    ones = actor(ent_coef=0.0).train(minibatch(prio_weights=torch.ones(B, T)), CONTEXT, 0)[0].item()
    twice = actor(ent_coef=0.0).train(minibatch(prio_weights=torch.full((B, T), 2.0)), CONTEXT, 0)[0].item()
    assert ones == plain != 0.0
    assert twice == pytest.approx(2 * plain, rel=1e-6)


def test_the_loop_s_ratio_is_used_with_its_graph() -> None:
    shared = minibatch()
    source = torch.full((B, T), 1.1, requires_grad=True)
    shared["importance_sampling_ratio"] = source * 1.0
    loss = actor(norm_adv=False, ent_coef=0.0)
    value = loss.train(shared, CONTEXT, 0)[0]
    weighted = shared["prio_weights"] * shared["advantages_pg"]
    assert value.item() == pytest.approx(float(-(weighted * 1.1).mean()), rel=1e-5)
    value.backward()
    assert source.grad is not None
    torch.testing.assert_close(source.grad, -weighted / (B * T))
    assert loss.stats()["importance"] == pytest.approx(1.1)


def test_gradients_reach_log_probabilities_and_entropies_only() -> None:
    shared = minibatch(advantages_pg=draw(6).requires_grad_())
    actor(ent_coef=0.1).train(shared, CONTEXT, 0)[0].backward()
    policy_td = shared["policy_td"]
    assert policy_td["act_log_prob"].grad.count_nonzero() > 0
    torch.testing.assert_close(policy_td["entropy"].grad, torch.full((B, T), -0.1 / (B * T)))
    assert policy_td["values"].grad is None
    assert shared["advantages_pg"].grad is None


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_invalid_entries_change_neither_loss_nor_gradient_nor_statistics(dtype: torch.dtype) -> None:
    keep = some_valid()
    clean, spoilt = minibatch(keep), minibatch(keep.to(dtype))
    for key in ("advantages_pg", "prio_weights"):
        spoilt[key] = torch.where(keep, spoilt[key], math.nan)
    spoilt["sampled_mb", "act_log_prob"] = torch.where(keep, spoilt["sampled_mb", "act_log_prob"], math.nan)
    with torch.no_grad():
        spoilt["policy_td", "entropy"][~keep] = math.inf
    results = []
    for shared in (clean, spoilt):
        loss = actor()
        value = loss.train(shared, CONTEXT, 0)[0]
        value.backward()
        results.append((value.item(), loss.stats(), shared["policy_td", "act_log_prob"].grad))
    assert results[0][:2] == results[1][:2]
    assert torch.equal(results[0][2], results[1][2])
    assert not results[0][2][~keep].any()


def test_a_minibatch_without_valid_or_any_entries_is_a_harmless_zero() -> None:
    loss = actor()
    nothing = minibatch(torch.zeros(B, T, dtype=torch.bool))
    value = loss.train(nothing, CONTEXT, 0)[0]
    assert value.item() == 0.0
    value.backward()
    assert not nothing["policy_td", "act_log_prob"].grad.any()
    value = loss.train(minibatch()[torch.zeros(B, dtype=torch.bool)], CONTEXT, 1)[0]
    assert value.item() == 0.0
    loss.train(minibatch(), CONTEXT, 2)
    alone = actor()
    alone.train(minibatch(), CONTEXT, 0)
    assert loss.stats() == alone.stats()


def test_statistics_match_the_plain_formulas() -> None:
    keep = some_valid()
    shared = minibatch(keep)
    loss = actor(clip_coef=0.25, ent_coef=0.0)
    value = loss.train(shared, CONTEXT, 0)[0].item()
    new, old = shared["policy_td", "act_log_prob"][keep], shared["sampled_mb", "act_log_prob"][keep]
    logs = (new - old).tolist()
    ratios = [math.exp(x) for x in logs]
    outside = [r for r in ratios if abs(r - 1) > 0.25]
    assert 0 < len(outside) < len(ratios)
    assert loss.stats() == pytest.approx(
        {
            "policy_loss": value,
            "entropy": shared["policy_td", "entropy"][keep].mean().item(),
            "approx_kl": sum(r - 1 - x for r, x in zip(ratios, logs, strict=True)) / len(logs),
            "clipfrac": len(outside) / len(ratios),
            "importance": sum(ratios) / len(ratios),
            "current_logprobs": new.mean().item(),
        },
        rel=1e-5,
    )


def test_statistics_of_several_minibatches_count_every_valid_entry_alike() -> None:
    few, many = torch.zeros(B, T, dtype=torch.bool), torch.ones(B, T, dtype=torch.bool)
    few[0, 0] = True
    loss, entropies = actor(), minibatch()["policy_td", "entropy"]
    loss.train(minibatch(few), CONTEXT, 0)
    loss.train(minibatch(many), CONTEXT, 1)
    want = (entropies[0, 0] + entropies.sum()).item() / (B * T + 1)
    assert loss.stats()["entropy"] == pytest.approx(want, rel=1e-6)


def shifted(amount: float) -> TensorDict:
    """A minibatch whose every log ratio is `amount`: approx_kl = exp(amount) - 1 - amount."""
    shared = minibatch()
    shared["policy_td", "act_log_prob"] = (shared["sampled_mb", "act_log_prob"] + amount).requires_grad_()
    return shared


def test_training_stops_once_the_mean_kl_of_the_phase_exceeds_the_target() -> None:
    kl = math.exp(0.5) - 1.5  # 0.149 for the shifted minibatches, 0 for the others
    loss = actor(target_kl=0.6 * kl)
    stops = [loss.train(shifted(amount), CONTEXT, i)[2] for i, amount in enumerate((0.0, 0.5, 0.5, 0.5))]
    # Means before each minibatch: none, 0, 1/2, 2/3 of kl.
    assert stops == [False, False, False, True]


def test_the_stopping_minibatch_has_no_loss_and_is_not_counted() -> None:
    loss = actor(target_kl=0.01)
    assert not loss.train(shifted(0.5), CONTEXT, 0)[2]
    before = loss.stats()
    shared = shifted(1.0)
    value, returned, stop = loss.train(shared, CONTEXT, 1)
    assert (value.item(), value.requires_grad, stop) == (0.0, False, True)
    assert returned is shared
    assert loss.stats() == before
    loss.zero_loss_tracker()
    assert not loss.train(shifted(0.5), CONTEXT, 0)[2]


def test_settings_are_read_at_every_use() -> None:
    loss, shared = actor(ent_coef=0.0), minibatch()
    without = loss.train(shared, CONTEXT, 0)[0].item()
    loss.cfg.ent_coef = 1.0
    entropy = shared["policy_td", "entropy"].mean().item()
    assert loss.train(shared, CONTEXT, 1)[0].item() == pytest.approx(without - entropy, rel=1e-5)


@pytest.mark.parametrize("target_kl", [None, 10.0])
def test_the_host_reads_the_device_only_for_a_kl_target_and_then_once(
    target_kl: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfers: list[int] = []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: transfers.append(self.numel()) or tolist(self))
    loss, shared = actor(target_kl=target_kl), minibatch(some_valid())
    with HostReads() as reads:
        loss.train(shared, CONTEXT, 0)[0].backward()
    assert reads.count == 0
    assert transfers == ([] if target_kl is None else [2])


def test_outputs_that_it_differentiates() -> None:
    assert actor().policy_output_keys(None) == {"act_log_prob", "entropy"}


@pytest.mark.parametrize("key", ["sampled_mb", "policy_td"])
def test_a_missing_entry_is_named(key: str) -> None:
    shared = minibatch()
    del shared[key]
    with pytest.raises(ValueError, match=rf"PPOActor.train: shared must hold '{key}', got only \["):
        actor().train(shared, CONTEXT, 0)


def test_missing_advantages_and_log_probabilities_are_named() -> None:
    with pytest.raises(ValueError, match=r"PPOActor.train: shared must hold 'advantages'"):
        actor().train(minibatch(advantages=None, advantages_pg=None), CONTEXT, 0)
    shared = minibatch()
    del shared["sampled_mb"]["act_log_prob"]
    with pytest.raises(ValueError, match=r"sampled_mb must hold 'act_log_prob', got only \[\]"):
        actor().train(shared, CONTEXT, 0)
