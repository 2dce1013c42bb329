"""The contestants of the suite `loops` do the same job with the same network, each in its own way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from hotloop import ops
from hotloop.bench import loops

if not loops.folder().is_dir():
    pytest.skip("benchmarks/loops is part of the checkout only", allow_module_level=True)

cleanrl, contestants, environments, figures, jobs, networks = map(
    loops.load, ("contest_cleanrl", "contestants", "environments", "figures", "jobs", "networks")
)

OWN = ("hotloop", "hotloop-plain", "cleanrl", "bare")
OTHERS = ("sb3", "sb3-native", "puffer")


def make(name: str, job: str, threads: int = 1) -> Any:
    """A contestant at a tiny job, or a visible skip where its package is missing."""
    try:
        return contestants.make_contestant(name, jobs.JOBS[job].quick(), threads=threads, seed=0)
    except contestants.AbsentError as error:
        pytest.skip(f"{name}: {error}")


@pytest.mark.parametrize(
    ("name", "job"), [*((name, job) for name in OWN for job in ("E1", "E3")), ("reference", "E3")]
)
def test_an_epoch_trains(name: str, job: str) -> None:
    _check_epochs(make(name, job))


@pytest.mark.environments
@pytest.mark.parametrize("name", OWN)
def test_an_epoch_of_envpool_trains(name: str) -> None:
    _check_epochs(make(name, "E2"))


@pytest.mark.peers
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("job", ["E1", "E3"])
def test_an_epoch_of_another_system_trains(name: str, job: str) -> None:
    _check_epochs(make(name, job))


@pytest.mark.peers
@pytest.mark.slow
def test_an_epoch_of_the_compiled_loop_trains() -> None:
    _check_epochs(make("leanrl", "E3"))


def _check_epochs(contestant: Any) -> None:
    before = [p.detach().clone() for p in contestant.network.parameters()]
    for _ in range(2):
        contestant.epoch()
    changed = [
        not torch.equal(p, old) for p, old in zip(contestant.network.parameters(), before, strict=True)
    ]
    assert all(changed)
    assert all(math.isfinite(float(p.detach().sum())) for p in contestant.network.parameters())
    returns = contestant.take_returns()
    if contestant.job.environment == "gymnasium":
        # 2 x 16 steps of 8 CartPoles that fall within some 22 steps of random play
        assert returns
        assert all(8 <= value <= 32 for value in returns)
    assert contestant.take_returns() == []
    contestant.close()


def test_returns_of_episodes() -> None:
    episodes = environments.Episodes(2)
    for rewards, dones in (([1, 2], [0, 0]), ([1, 2], [1, 0]), ([5, 2], [1, 1])):
        episodes.add(np.array(rewards), np.array(dones, dtype=np.bool_))
    assert episodes.finished == [2.0, 5.0, 6.0]


def test_who_cannot_play_says_why() -> None:
    with pytest.raises(contestants.AbsentError, match="plays E3 only"):
        contestants.make_contestant("reference", jobs.JOBS["E1"].quick(), threads=1, seed=0)


@pytest.mark.parametrize("job", ["E1", "E3"])
@pytest.mark.parametrize("name", ["hotloop", "cleanrl", "reference"])
def test_everybody_trains_the_same_network(name: str, job: str) -> None:
    if (name, job) != ("reference", "E1"):
        _check_network(name, job)


@pytest.mark.peers
@pytest.mark.parametrize("job", ["E1", "E3"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_systems_train_the_same_network(name: str, job: str) -> None:
    _check_network(name, job)


def _check_network(name: str, job: str) -> None:
    contestant = make(name, job)
    expected = networks.make_network(jobs.JOBS[job])
    assert sorted(p.shape for p in contestant.network.parameters()) == sorted(
        p.shape for p in expected.parameters()
    )
    # orthogonal, gain sqrt(2): the first layer's singular values
    first = max((p for p in contestant.network.parameters() if p.dim() == 2), key=lambda p: p.shape[1])
    assert torch.allclose(torch.linalg.svdvals(first), torch.tensor(2.0).sqrt(), atol=1e-4)
    contestant.close()


def test_the_plain_loop_computes_what_the_ops_do() -> None:
    g = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(9, 5, generator=g), torch.randn(9, 5, generator=g)
    dones = (torch.rand(10, 5, generator=g) < 0.2).float()
    last = torch.randn(5, generator=g)
    got = cleanrl.gae(last, dones[9], rewards, values, dones[:9])
    hyper = jobs.HYPER
    wanted, _ = ops.gae(
        rewards, values, dones[1:], last_values=last, gamma=hyper.gamma, gae_lambda=hyper.gae_lambda,
        time_major=True,
    )  # fmt: skip
    torch.testing.assert_close(got, wanted)

    n = 64
    new, old, advantages, value, old_value, returns = (torch.randn(n, generator=g) * 0.3 for _ in range(6))
    entropy = torch.rand(n, generator=g)
    loss = cleanrl.ppo_loss((new - old).exp(), advantages, value, old_value, returns, entropy)
    fused, _ = ops.ppo_loss(
        new, old, advantages, value, old_value, returns, entropy,
        clip_coef=hyper.clip_coef, vf_clip_coef=hyper.clip_coef, vf_coef=hyper.vf_coef,
        ent_coef=hyper.ent_coef, normalize_advantage=True,
    )  # fmt: skip
    torch.testing.assert_close(loss, fused)


def test_the_reference_double_keeps_its_rollout() -> None:
    """What it stores is what the environment said, and its `update` changes nothing."""
    contestant = make("reference", "E3")
    contestant.rollout()
    ring = contestant.vector
    horizon = contestant.job.horizon
    for t in range(horizon):
        assert torch.equal(contestant.buffer["env_obs"][:, t], torch.from_numpy(ring.ring[t]))
    acted = contestant.buffer["actions"][:, :-1].numpy()
    assert (contestant.buffer["rewards"][:, 1:].numpy() == (acted == ring.wanted[: horizon - 1].T)).all()
    before = contestant.buffer["values"].clone()
    contestant.train()
    assert torch.equal(contestant.buffer["values"], before)


def test_the_memory_environment_is_one_to_hotloop() -> None:
    contestant = make("hotloop", "E3")
    contestant.epoch()
    buffer, ring = contestant.loop.experience.buffer, contestant.env.vector
    for t in range(contestant.job.horizon):
        assert torch.equal(buffer["env_obs"][:, t], torch.from_numpy(ring.ring[t]))
        if t:
            assert torch.equal(buffer["dones"][:, t].bool(), torch.from_numpy(ring.dones[t]))


@pytest.mark.parametrize("job", ["E1", "E3"])
def test_a_profile_of_hotloop(job: str) -> None:
    contestant = make("hotloop", job)
    usual = contestant.context.stopwatch
    profile = contestant.profile(2)
    assert contestant.context.stopwatch is usual
    shares = figures.profile_shares(profile)["shares"]
    assert all(0.0 < value < 1.0 for value in shares.values()), shares
    contestant.epoch()  # what was put around the environment and the network is gone
    contestant.close()
