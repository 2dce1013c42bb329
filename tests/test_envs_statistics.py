"""Episodes counted over part of the agents, and those that a wrapper recorded."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from hotloop.envs import GymnasiumEnvironment
from hotloop.envs.statistics import EpisodeStatistics, StepBooks, recorded


def test_parts_count_in_the_memory_of_the_whole() -> None:
    whole = EpisodeStatistics(5)
    parts = [whole.part(slice(3, 5)), whole.part(slice(0, 3))]
    none = np.zeros(3, dtype=bool)
    assert parts[0].update(np.array([1.0, 2.0]), none[:2], ~none[:2]) == []
    assert parts[1].update(np.array([3.0, 4.0, 5.0]), none, np.array([True, False, True])) == []
    assert whole.returns.tolist() == [3.0, 0.0, 5.0, 1.0, 2.0]
    assert whole.lengths.tolist() == [1, 0, 1, 1, 1]
    ended = parts[0].update(np.array([1.0, 2.0]), np.array([False, True]), ~none[:2])
    assert ended == [{"episode_return": 4.0, "episode_length": 2, "agent_id": 1}]
    assert whole.returns.tolist() == [3.0, 0.0, 5.0, 2.0, 0.0]


class Books:
    """An adapter's arrays and what it counts."""

    def __init__(self, agents: int, next_step: bool, dtype: Any = np.float32) -> None:
        self.own = (np.zeros((agents, 3), dtype), np.zeros(agents, np.float32))
        self.own += tuple(np.full(agents, i == 2) for i in range(3))  # type: ignore[arg-type]
        self.statistics = EpisodeStatistics(agents)
        self.books = StepBooks(*self.own, self.statistics, first_agent=10, next_step=next_step)

    def state(self) -> list[Any]:
        return [each.tolist() for each in (*self.own, self.statistics.returns, self.statistics.lengths)]


@pytest.mark.parametrize("kind", ["rows", "columns", "float64", "strided", "bytes"])
@pytest.mark.parametrize("next_step", [False, True])
def test_the_native_books_are_those_of_numpy(next_step: bool, kind: str) -> None:
    """Fifty steps of random rewards and ends, in the layouts that environments give."""
    random, agents = np.random.default_rng(0), 19  # which are looked at in eights
    dtype = np.uint8 if kind == "bytes" else np.float32
    one, other, plain = (Books(agents, next_step, dtype) for _ in range(3))
    ended = truncated_steps = 0
    for _ in range(50):
        observations = random.integers(0, 9, (agents, 3)).astype(dtype)
        rewards: Any = random.normal(size=2 * agents)
        ends = [random.random(2 * agents) < 0.05 for _ in range(2)]
        step: tuple[Any, ...] = (observations, rewards[:agents], ends[0][:agents], ends[1][:agents])
        given = {
            "columns": (np.asfortranarray(observations), rewards[:agents].astype(np.float32), *step[2:]),
            "float64": (observations.astype(np.float64), *step[1:]),
            "strided": (observations, rewards[::2], ends[0][::2], ends[1][::2]),
        }.get(kind, step)
        native = one.books._native.take(*given)
        assert (native is None) is (kind in ("float64", "strided"))
        if native is None:
            assert one.state() == plain.state()
            native = one.books.take(*given)
        expected = other.books._take(*given)
        plain.books._take(*given)
        assert native == expected
        assert [list(map(type, episode.values())) for episode in native[0]] == [[float, int, int]] * len(
            native[0]
        )
        assert one.state() == other.state()
        ended += len(native[0])
        truncated_steps += native[2]
    assert ended > 20
    assert 0 < truncated_steps < 50


def test_books_are_of_arrays_that_can_be_written_in_place() -> None:
    good = Books(4, True)
    for i, wrong in (
        (0, np.zeros((3, 2))),
        (1, np.zeros(4)),
        (2, np.zeros(4, np.uint8)),
        (4, np.zeros(8, bool)[::2]),
    ):
        own: list[Any] = [*good.own]
        own[i] = wrong
        with pytest.raises(TypeError, match="must be a C-contiguous array"):
            StepBooks(*own, good.statistics, next_step=True)


def test_recorded_episodes_of_a_step() -> None:
    episode = {"r": np.array([0.0, 7.5]), "l": np.array([0, 3])}
    of_agent_1 = {"episode_return": 7.5, "episode_length": 3, "agent_id": 1}
    step = {"episode": episode, "_episode": np.array([False, True])}
    assert recorded(step) == [of_agent_1]
    assert recorded({"final_info": step, "_final_info": np.array([False, True])}) == [of_agent_1]
    assert recorded({"lives": np.array([3, 2])}) == []
    assert recorded({"final_info": {"lives": np.array([3, 2])}}) == []


class Countdown(gymnasium.Env[np.ndarray, int]):
    """Three steps of reward 5."""

    observation_space = gymnasium.spaces.Box(0, 9, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.count = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return np.zeros(1, dtype=np.float32), 5.0, self.count == 3, False, {}


def halved() -> Any:
    recording = gymnasium.wrappers.RecordEpisodeStatistics(Countdown())
    return gymnasium.wrappers.TransformReward(recording, lambda reward: reward / 2)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_an_environment_reports_what_was_recorded(mode: AutoresetMode) -> None:
    returns = {}
    for reads in (False, True):
        vector_env = SyncVectorEnv([halved, halved], autoreset_mode=mode)
        found = []
        with GymnasiumEnvironment.from_vector_env(vector_env, seed=0, recorded_episodes=reads) as env:
            for _ in range(4):
                found += env.get_observations()[4]
                env.send_actions(np.zeros(2, dtype=int))
        returns[reads] = [(i["agent_id"], i["episode_return"], i["episode_length"]) for i in found]
    assert returns == {False: [(0, 7.5, 3), (1, 7.5, 3)], True: [(0, 15.0, 3), (1, 15.0, 3)]}
