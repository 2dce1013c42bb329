"""Running moments, and what a rollout sees of an environment that is normalised."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from hotloop.envs import GymnasiumEnvironment, TrainingEnvironment
from hotloop.normalize import (
    NormalizedEnvironment,
    ObservationNormalizer,
    RewardNormalizer,
    RunningMoments,
)
from hotloop.trainer import Trainer
from trainer_support import Recorder, settings


def test_batches_of_any_size_give_the_moments_of_all() -> None:
    rng = np.random.default_rng(0)
    # Far from 0: sums of squares would cancel.
    numbers = rng.normal(1e6, 2.0, (1000, 3)) * [1.0, 10.0, 0.0]
    moments = RunningMoments((3,))
    edges = [0, 1, 2, 10, 10, 500, 1000]
    for start, stop in itertools.pairwise(edges):
        moments.update(numbers[start:stop])
    assert moments.count == 1000
    np.testing.assert_allclose(moments.mean, numbers.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, numbers.var(0), rtol=1e-9)
    halves = [RunningMoments((3,)) for _ in range(2)]
    for half, part in zip(halves, (numbers[:300], numbers[300:]), strict=True):
        half.update(part)
    halves[0].merge(halves[1].count, halves[1].mean, halves[1].squares)
    np.testing.assert_allclose(halves[0].variance, numbers.var(0), rtol=1e-9)


def test_no_entry_means_variance_one_and_wrong_shapes_are_refused() -> None:
    moments = RunningMoments((2,))
    assert moments.variance.tolist() == [1.0, 1.0]
    moments.update(np.zeros((0, 2)))
    assert moments.count == 0
    with pytest.raises(ValueError, match=r"entries must be \[n, 2\], got \[4, 3\]"):
        moments.update(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"shape \[2\], got \[3\]"):
        moments.load_state_dict(RunningMoments((3,)).state_dict())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_observations_are_centred_scaled_and_clipped(dtype: torch.dtype) -> None:
    normalizer = ObservationNormalizer((2,), clip=1.5)
    observations = torch.tensor([[0, 50], [100, 50], [200, 51], [40, 49]]).to(dtype)
    normal = normalizer(observations, update=True)
    numbers = observations.double().numpy()
    expected = (numbers - numbers.mean(0)) / np.sqrt(numbers.var(0) + 1e-8)
    np.testing.assert_allclose(normal, np.clip(expected, -1.5, 1.5), rtol=1e-6)
    assert normal.dtype == torch.float32
    assert (np.abs(expected) > 1.4).any()
    again = normalizer(observations + 1, update=False)
    assert normalizer.moments.count == 4
    assert not torch.equal(again, normal)


def test_rewards_follow_the_wrapper_of_gymnasium() -> None:
    """Through both, with one environment and no episode's end, where the two definitions agree."""

    class Rewards(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-1, 1, (1,))
        action_space = gymnasium.spaces.Discrete(2)
        given = iter(rewards := np.random.default_rng(1).normal(3, 2, 50))

        def reset(self, **_: Any) -> Any:
            return np.zeros(1, np.float32), {}

        def step(self, action: Any) -> Any:
            return np.zeros(1, np.float32), float(next(self.given)), False, False, {}

    wrapped = gymnasium.wrappers.NormalizeReward(Rewards(), gamma=0.9)
    wrapped.reset()
    theirs = [float(wrapped.step(0)[1]) for _ in range(50)]
    normalizer = RewardNormalizer(1, gamma=0.9, clip=1e9)
    no, yes = np.zeros(1, np.bool_), np.ones(1, np.bool_)
    ours = [float(normalizer(torch.tensor([r]), no, yes, slice(0, 1))) for r in Rewards.rewards]
    # Gymnasium's statistics begin with 1e-4 entries of mean 0 and variance 1; ours with none.
    np.testing.assert_allclose(ours[10:], theirs[10:], rtol=1e-3)


def test_returns_end_with_episodes_and_skip_steps_without_an_action() -> None:
    normalizer = RewardNormalizer(3, gamma=0.5, clip=1e9)
    steps = [
        ([1, 2, 3], [0, 0, 1], [1, 1, 0]),
        ([4, 5, 6], [0, 1, 0], [1, 1, 1]),
        ([7, 0, 9], [0, 0, 0], [1, 0, 1]),
    ]
    shown = []
    for rewards, dones, counts in steps:
        normalizer(
            torch.tensor(rewards, dtype=torch.float32),
            np.array(dones, np.bool_),
            np.array(counts, np.bool_),
            slice(0, 3),
        )
        shown.append(normalizer.returns.tolist())
    assert shown == [[1, 2, 0], [4.5, 0, 6], [9.25, 0, 12]]
    entries = [1, 2, 4.5, 6, 6, 9.25, 12]
    assert normalizer.moments.count == len(entries)
    assert float(normalizer.moments.variance) == pytest.approx(np.var(entries))


def cartpole(**options: Any) -> NormalizedEnvironment:
    environment = GymnasiumEnvironment("CartPole-v1", 4, seed=3, **options)
    return NormalizedEnvironment(
        environment, observations=ObservationNormalizer((4,)), rewards=RewardNormalizer(4, gamma=0.9)
    )


@pytest.mark.parametrize("vectorization", ["vector_entry_point", "sync"])
def test_an_environment_serves_the_same_step_twice_and_counts_it_once(vectorization: Any) -> None:
    environment = cartpole(vectorization=vectorization)
    assert isinstance(environment, TrainingEnvironment)
    assert environment.autoreset == ("next_step" if vectorization == "vector_entry_point" else "same_step")
    assert (environment.single_observation_space.shape, environment.single_observation_space.high) == (
        (4,),
        10,
    )
    assert environment.observations is not None
    assert environment.rewards is not None
    actions = 0
    for _ in range(60):
        first, second = environment.get_observations(), environment.get_observations()
        assert all(torch.equal(a, b) for a, b in zip(first[:4], second[:4], strict=True))
        assert environment.rewards.moments.count == actions
        actions += first[-1]
        environment.send_actions(np.zeros(4, np.int64))
    assert environment.observations.moments.count == 4 * 60
    # Every step of CartPole brings 1, so what agents add up are 1, 1.9, 2.71 and so on.
    assert float(environment.rewards.moments.mean) > 1.5
    environment.close()


def test_final_observations_are_normalised_without_being_counted() -> None:
    environment = cartpole(vectorization="sync", env_kwargs={"max_episode_steps": 3})
    assert environment.observations is not None
    for _ in range(3):
        environment.get_observations()
        environment.send_actions(np.zeros(4, np.int64))
    environment.get_observations()
    count = environment.observations.moments.count
    finals, raw = environment.final_observations(), environment.environment.final_observations()
    assert finals is not None
    assert raw is not None
    assert environment.observations.moments.count == count
    torch.testing.assert_close(finals[1], environment.observations(raw[1], update=False))
    assert not torch.equal(finals[1], raw[1])
    environment.close()


@pytest.mark.parametrize("waiting", [False, True])
def test_state_goes_on_to_the_bit_and_frozen_statistics_stay(waiting: bool) -> None:
    one, other = cartpole(), cartpole()
    for _ in range(30):
        one.get_observations()
        one.send_actions(np.ones(4, np.int64))
    if waiting:  # as where a loop looks at the step after a rollout
        one.get_observations()
    other.load_normalizer_state(one.normalizer_state())
    other.load_state_dict(one.state_dict())
    for _ in range(30):
        a, b = one.get_observations(), other.get_observations()
        assert all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))
        one.send_actions(np.zeros(4, np.int64))
        other.send_actions(np.zeros(4, np.int64))
    other.update = False
    before = other.normalizer_state()["observations"]["count"]
    other.get_observations()
    assert other.normalizer_state()["observations"]["count"] == before
    one.close()
    other.close()


def test_training_sees_the_observations_that_the_rollout_saw(tmp_path: Path) -> None:
    trainer = Trainer(
        settings(tmp_path / "r", normalize={"observations": True, "rewards": True}), progress=Recorder()
    )
    acted: list[torch.Tensor] = []
    trained: list[torch.Tensor] = []
    inner = trainer.policy.forward

    def spy(td: Any, action: Any = None) -> Any:
        (acted if action is None else trained).append(td["env_obs"].clone())
        return inner(td, action=action) if action is not None else inner(td)

    trainer.policy.forward = spy
    trainer._run_epoch()
    rows = trainer.experience.buffer["env_obs"]
    # The one behind them is the look at what follows the rollout.
    assert len(acted) == rows.shape[1] + 1
    torch.testing.assert_close(torch.stack(acted[:-1], 1), rows, rtol=0, atol=0)
    seen = torch.cat(trained[: trainer.experience.num_minibatches])
    assert torch.equal(seen.sort(0).values, rows.flatten(0, 1).sort(0).values)
    assert 0.1 < float(rows.std()) < 3
    rewards = trainer.experience.buffer["rewards"]
    assert float(rewards.max()) != 1.0
    trainer.environment.close()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so_and_enters_no_statistic(bad: float) -> None:
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(5, 3))
    broken = np.concatenate((numbers, [[1.0, bad, 2.0]]))
    moments, expected = RunningMoments((3,)), RunningMoments((3,))
    assert expected.update(numbers)
    assert not moments.update(broken)
    np.testing.assert_array_equal(moments.mean, expected.mean)
    np.testing.assert_array_equal(moments.squares, expected.squares)
    assert moments.count == 5
    assert not RunningMoments((3,)).update(broken[5:])

    # An infinity is not clipped to a number, which nobody would notice.
    seen = ObservationNormalizer((3,))(torch.from_numpy(broken), update=True)
    assert seen[:5].isfinite().all()
    assert seen[5].isfinite().tolist() == [True, False, True]

    rewards = RewardNormalizer(2, gamma=0.9)
    none, both = np.zeros(2, dtype=np.bool_), np.ones(2, dtype=np.bool_)
    window = slice(0, 2)
    first = rewards(torch.tensor([1.0, bad]), none, both, window)
    assert first.isfinite().tolist() == [True, False]
    assert rewards.moments.count == 1
    assert rewards(torch.tensor([1.0, 2.0]), none, both, window).isfinite().all()
    assert np.isfinite(rewards.returns).all()
