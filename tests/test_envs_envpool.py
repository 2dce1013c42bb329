"""EnvPoolEnvironment, where envpool is installed (extra `envpool`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hotloop.envs import PeeksObservations, ReportsAutoreset, TrainingEnvironment

envpool = pytest.importorskip("envpool", reason="envpool is not installed (extra envpool)")
from hotloop.envs import EnvPoolEnvironment  # noqa: E402

pytestmark = pytest.mark.environments


@pytest.fixture(params=[1, 2, 3])
def env(request: pytest.FixtureRequest) -> Any:
    made = EnvPoolEnvironment(
        "CartPole-v1", 6, seed=3, slices=request.param, env_kwargs={"max_episode_steps": 12}
    )
    yield made
    made.close()


def test_has_the_interface(env: Any) -> None:
    assert isinstance(env, TrainingEnvironment)
    assert isinstance(env, ReportsAutoreset)
    assert isinstance(env, PeeksObservations)
    assert env.total_parallel_agents == 6
    assert env.single_observation_space.shape == (4,)
    assert env.final_observations() is None


def test_equals_one_pool_stepped_by_hand(env: Any) -> None:
    """Whatever the slices, environment i is the one with seed 3 + i; filler rows are those after a done."""
    pool = envpool.make(
        "CartPole-v1", env_type="gymnasium", num_envs=6, seed=3, num_threads=1, max_episode_steps=12
    )
    observations, _ = pool.reset()
    rewards, terminals, truncations = np.zeros(6), np.zeros(6, bool), np.zeros(6, bool)
    slices = 6 // env.batch_info.num_envs
    rng = np.random.default_rng(0)
    returns, lengths, valid = np.zeros(6), np.zeros(6, int), np.ones(6, bool)
    ended, expected, truncated = [], [], 0
    for _ in range(60):
        actions = rng.integers(0, 2, 6).astype(np.int32)
        for _ in range(slices):
            seen, reward, terminal, truncation, infos, window, mask, steps = env.get_observations()
            again = env.get_observations()
            assert again[5] == window
            # Every slice once, this one first, and nobody's turn is taken.
            peeked = list(env.peek_observations())
            assert peeked[0][5] == window
            assert peeked[0][4] == infos
            assert sorted(each[5].start for each in peeked) == list(range(0, 6, env.batch_info.num_envs))
            np.testing.assert_array_equal(seen, observations[window])
            np.testing.assert_array_equal(reward, rewards[window])
            np.testing.assert_array_equal(terminal, terminals[window])
            np.testing.assert_array_equal(truncation, truncations[window])
            np.testing.assert_array_equal(mask, valid[window])
            assert steps == valid[window].sum()
            ended += [(i["agent_id"], i["episode_return"], i["episode_length"]) for i in infos]
            env.send_actions(actions[window])
        observations, rewards, terminals, truncations, _ = pool.step(actions)
        returns += rewards * valid
        lengths += valid
        done = terminals | truncations
        truncated += int(truncations.sum())
        expected += [(int(i), returns[i], lengths[i]) for i in np.flatnonzero(done)]
        returns[done], lengths[done], valid = 0, 0, ~done
    assert sorted(ended) == sorted(expected[: len(ended)])
    assert len(ended) > 20
    assert truncated > 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env_id": "NoSuch-v0"}, "env_id must be one of envpool's, got 'NoSuch-v0'"),
        ({"num_envs": 5}, "num_envs must be a positive multiple of slices, got num_envs=5 and slices=2"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"env_id": "CartPole-v1", "num_envs": 4, "seed": 0, "slices": 2}
    with pytest.raises(ValueError, match=message):
        EnvPoolEnvironment(**{**arguments, **change})


def test_wrong_actions_and_a_closed_environment() -> None:
    env = EnvPoolEnvironment("CartPole-v1", 2, seed=0)
    env.get_observations()
    with pytest.raises(ValueError, match="actions must be at least 0 and below"):
        env.send_actions(np.array([0, 2]))
    env.send_actions(np.array([0, 1]))
    env.close()  # while it is stepping
    env.close()
    with pytest.raises(RuntimeError, match="get_observations: the environment is closed"):
        env.get_observations()


def test_trains(tmp_path: Path) -> None:
    """A few epochs for real, over two slices that step while the policy acts on the other."""
    from hotloop.trainer import TrainConfig, Trainer

    config = TrainConfig(num_envs=16, total_timesteps=40_000, quiet=True, run_dir=tmp_path / "run", seed=1)
    env = EnvPoolEnvironment("CartPole-v1", 16, seed=1, slices=2)
    trainer = Trainer(config, environment=env)
    before = [p.clone() for p in trainer.policy.parameters()]
    trainer.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.policy.parameters(), strict=True))
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    returns = [float(row.split(",")[4]) for row in rows[1:]]
    assert max(r for r in returns if not math.isnan(r)) > 60
    env.close()
