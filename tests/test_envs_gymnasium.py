"""GymnasiumEnvironment against Gymnasium itself and against environments whose every step is known."""

from __future__ import annotations

import os
import signal
import time
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from hotloop.envs import (
    GymnasiumEnvironment,
    PeeksObservations,
    ReportsAutoreset,
    SavesState,
    TrainingEnvironment,
)

SAME, NEXT = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP
STEP_CALLS = [0]


class Clock(gymnasium.Env[np.ndarray, int]):
    """Shows [episode, step]; the reward is the step. Ends after ``length`` steps, or by action 1."""

    def __init__(self, length: int = 3, dtype: Any = np.float32, shape: tuple[int, ...] = (2,)) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, dtype)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.length, self.episode, self.count = length, -1, 0

    def _see(self) -> np.ndarray:
        seen = np.zeros(self.observation_space.shape, dtype=self.observation_space.dtype)
        seen.flat[0], seen.flat[1] = self.episode, self.count
        return seen

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.count = self.episode + 1, 0
        return self._see(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        STEP_CALLS[0] += 1
        self.count += 1
        return self._see(), float(self.count), action == 1, self.count >= self.length, {}


def clocks(mode: AutoresetMode, lengths: list[int], **kwargs: Any) -> GymnasiumEnvironment:
    vector_env = SyncVectorEnv([lambda n=n: Clock(n, **kwargs) for n in lengths], autoreset_mode=mode)
    return GymnasiumEnvironment.from_vector_env(vector_env, seed=0)


def seen(env: GymnasiumEnvironment) -> list[list[float]]:
    return env.get_observations()[0].tolist()


def step(env: GymnasiumEnvironment, actions: list[int]) -> Any:
    env.send_actions(np.array(actions, dtype=np.int32))
    return env.get_observations()


@pytest.mark.parametrize("vectorization", ["vector_entry_point", "sync"])
def test_is_a_training_environment(vectorization: Any) -> None:
    with GymnasiumEnvironment("CartPole-v1", 3, seed=0, vectorization=vectorization) as env:
        for protocol in (TrainingEnvironment, ReportsAutoreset, SavesState):
            assert isinstance(env, protocol)
        assert env.total_parallel_agents == env.batch_info.num_envs == 3
        assert env.single_action_space.n == 2
        assert env.single_observation_space.shape == (4,)
        obs, rewards, terminals, truncations, infos, env_slice, mask, num_steps = env.get_observations()
    assert (obs.dtype, obs.shape) == (torch.float32, (3, 4))
    assert (rewards.dtype, rewards.tolist()) == (torch.float32, [0.0] * 3)
    assert (terminals.dtype, terminals.tolist()) == (torch.bool, [False] * 3)
    assert (truncations.dtype, truncations.tolist()) == (torch.bool, [False] * 3)
    assert (mask.dtype, mask.tolist(), num_steps) == (torch.bool, [True] * 3, 3)
    assert (infos, env_slice) == ([], slice(0, 3))


@pytest.mark.parametrize(
    ("env_id", "vectorization", "autoreset", "env_kwargs"),
    [
        ("CartPole-v1", "vector_entry_point", "next_step", {"max_episode_steps": 30}),
        ("CartPole-v1", "sync", "next_step", {"max_episode_steps": 30}),
        ("CartPole-v1", "sync", "same_step", {"max_episode_steps": 30}),
        ("CartPole-v1", "async", "same_step", {"max_episode_steps": 30}),
        ("CartPole-v1", "async", "next_step", {"max_episode_steps": 30}),
        ("Pendulum-v1", "sync", "same_step", {"max_episode_steps": 7}),
    ],
)
def test_steps_and_statistics_equal_gymnasium(
    env_id: str, vectorization: Any, autoreset: Any, env_kwargs: dict[str, Any]
) -> None:
    n, seed = 5, 11
    if vectorization == "vector_entry_point":
        theirs = gymnasium.wrappers.vector.RecordEpisodeStatistics(
            gymnasium.make_vec(env_id, n, vectorization, **env_kwargs)
        )
    else:  # one recorder for each environment: older versions of the one above miscount under SAME_STEP
        theirs = gymnasium.make_vec(
            env_id,
            n,
            vectorization,
            vector_kwargs={"autoreset_mode": NEXT if autoreset == "next_step" else SAME},
            wrappers=[gymnasium.wrappers.RecordEpisodeStatistics],
            **env_kwargs,
        )
    expected, _ = theirs.reset(seed=seed)
    random = np.random.default_rng(0)
    finished = 0
    with GymnasiumEnvironment(
        env_id, n, seed=seed, vectorization=vectorization, autoreset=autoreset, env_kwargs=env_kwargs
    ) as ours:
        assert ours.autoreset == autoreset
        assert np.array_equal(ours.get_observations()[0].numpy(), expected)
        for _ in range(120):
            if env_id == "CartPole-v1":
                actions = random.integers(0, 2, n)
            else:
                actions = random.uniform(-2, 2, (n, 1)).astype(np.float32)
            expected, rewards, terminals, truncations, infos = theirs.step(actions)
            ours.send_actions(actions)
            got = ours.get_observations()
            assert np.array_equal(got[0].numpy(), expected)
            assert np.array_equal(got[1].numpy(), rewards.astype(np.float32))
            assert np.array_equal(got[2].numpy(), terminals)
            assert np.array_equal(got[3].numpy(), truncations)
            dones = terminals | truncations
            assert [info["agent_id"] for info in got[4]] == np.flatnonzero(dones).tolist()
            recorded = infos.get("final_info", infos).get("episode")
            for info in got[4]:
                agent = info["agent_id"]
                assert info["episode_return"] == recorded["r"][agent]
                assert info["episode_length"] == recorded["l"][agent]
                assert {type(info[key]) for key in ("episode_length", "agent_id")} == {int}
            finished += len(got[4])
            final = ours.final_observations()
            if autoreset == "same_step" and truncations.any():
                agents, observations = final
                assert agents.tolist() == np.flatnonzero(truncations).tolist()
                assert np.array_equal(observations.numpy(), np.stack(list(infos["final_obs"][truncations])))
            else:
                assert final is None
    theirs.close()
    assert finished > 2 * n


def test_same_step_shows_the_next_episode_and_keeps_final_observations() -> None:
    env = clocks(SAME, [2, 3])
    step(env, [0, 0])
    _, rewards, terminals, truncations, infos, _, mask, num_steps = step(env, [0, 1])
    assert seen(env) == [[1, 0], [1, 0]]  # both episodes ended, the first step of the next one is shown
    assert rewards.tolist() == [2.0, 2.0]
    assert terminals.tolist() == [False, True]
    assert truncations.tolist() == [True, False]
    assert infos == [
        {"episode_return": 3.0, "episode_length": 2, "agent_id": 0},
        {"episode_return": 3.0, "episode_length": 2, "agent_id": 1},
    ]
    assert (mask.tolist(), num_steps) == ([True, True], 2)
    agents, observations = env.final_observations()
    assert (agents.dtype, agents.tolist()) == (torch.int64, [0])  # the terminated one needs no bootstrap
    assert observations.tolist() == [[0, 2]]
    step(env, [0, 0])
    assert env.final_observations() is None


def test_next_step_marks_the_row_whose_action_is_ignored() -> None:
    env = clocks(NEXT, [2, 3])
    step(env, [0, 0])
    _, _, _, truncations, infos, _, mask, num_steps = step(env, [0, 0])
    assert seen(env) == [[0, 2], [0, 2]]  # agent 0: the final observation itself
    assert truncations.tolist() == [True, False]
    assert infos == [{"episode_return": 3.0, "episode_length": 2, "agent_id": 0}]
    assert (mask.tolist(), num_steps) == ([False, True], 1)
    assert env.final_observations() is None
    # Action 1 would terminate at once; for agent 0 it is ignored, for agent 1 it is not.
    _, rewards, terminals, _, infos, _, mask, num_steps = step(env, [1, 1])
    assert seen(env) == [[1, 0], [0, 3]]
    assert rewards.tolist() == [0.0, 3.0]
    assert terminals.tolist() == [False, True]
    assert infos == [{"episode_return": 6.0, "episode_length": 3, "agent_id": 1}]
    assert (mask.tolist(), num_steps) == ([True, False], 1)


@pytest.mark.parametrize("mode", [SAME, NEXT])
def test_num_steps_counts_the_steps_that_environments_really_make(mode: Any) -> None:
    env = clocks(mode, [1, 2, 3, 5])
    random = np.random.default_rng(1)
    STEP_CALLS[0] = claimed = 0
    for _ in range(60):
        claimed += env.get_observations()[7]
        env.send_actions((random.random(4) < 0.2).astype(np.int32))
    env.get_observations()
    assert claimed == STEP_CALLS[0]
    assert (claimed == 60 * 4) == (mode == SAME)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_observations_keep_their_dtype_and_shape(dtype: Any) -> None:
    env = clocks(SAME, [3, 3], dtype=dtype, shape=(4, 5, 3))
    obs = env.get_observations()[0]
    assert obs.shape == (2, 4, 5, 3)
    assert obs.numpy().dtype == dtype


def test_tensors_are_views_of_buffers_that_stay() -> None:
    env = clocks(SAME, [2, 3])
    batch = env.get_observations()
    tensors = [part for part in batch if isinstance(part, torch.Tensor)]
    before = [tensor.data_ptr() for tensor in tensors]
    obs = batch[0]
    step(env, [0, 0])
    assert obs.tolist() == [[0, 1], [0, 1]]  # the old name shows the new step
    again = [part for part in env.get_observations() if isinstance(part, torch.Tensor)]
    assert [tensor.data_ptr() for tensor in again] == before
    assert len(set(before)) == 5


def test_a_step_can_be_fetched_twice_and_holds_until_the_next_fetch() -> None:
    env = clocks(SAME, [1, 3])
    first = step(env, [0, 0])
    second = env.get_observations()
    assert first[4] == second[4] != []
    env.send_actions(np.zeros(2, dtype=np.int32))
    assert first[0].tolist() == [[1, 0], [0, 1]]
    assert seen(env) == [[2, 0], [0, 2]]
    with pytest.raises(RuntimeError, match="call get_observations first"):
        [env.send_actions(np.zeros(2, dtype=np.int32)) for _ in range(2)]


def test_peeking_takes_no_turn() -> None:
    env = clocks(SAME, [1, 3])
    assert isinstance(env, PeeksObservations)
    env.send_actions(np.zeros(2, dtype=np.int32))
    before = STEP_CALLS[0]
    (peeked,) = env.peek_observations()
    assert peeked[4] == env.get_observations()[4] != []
    assert peeked[0].tolist() == seen(env) == [[1, 0], [0, 1]]
    assert STEP_CALLS[0] == before + 2
    assert step(env, [0, 0])[0].tolist() == [[2, 0], [0, 2]]


def test_equal_seeds_give_equal_episodes_and_others_do_not() -> None:
    def first(seed: int) -> list[list[float]]:
        with GymnasiumEnvironment("CartPole-v1", 3, seed=seed) as env:
            return seen(env)

    assert first(4) == first(4) != first(5)


def test_reset_starts_over() -> None:
    env = clocks(SAME, [3, 3])
    step(env, [0, 0])
    env.send_actions(np.zeros(2, dtype=np.int32))
    env.reset()
    assert seen(env) == [[1, 0], [1, 0]]  # the pending actions were dropped
    step(env, [0, 0])
    infos = step(env, [1, 0])[4]
    assert infos == [{"episode_return": 3.0, "episode_length": 2, "agent_id": 0}]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"env_id": "CartPole-v1"}, ("vector_entry_point", "next_step")),
        ({"env_id": "CartPole-v1", "autoreset": "next_step"}, ("vector_entry_point", "next_step")),
        ({"env_id": "CartPole-v1", "autoreset": "same_step"}, ("sync", "same_step")),
        (
            {"env_id": "CartPole-v1", "wrappers": [gymnasium.wrappers.TimeAwareObservation]},
            ("sync", "same_step"),
        ),
        ({"env_id": "Pendulum-v1"}, ("sync", "same_step")),
        ({"env_id": "Pendulum-v1", "autoreset": "next_step"}, ("sync", "next_step")),
        ({"env_id": "Pendulum-v1", "vectorization": "async"}, ("async", "same_step")),
    ],
)
def test_choice_of_vectorization_and_autoreset(arguments: Any, expected: Any) -> None:
    with GymnasiumEnvironment(num_envs=2, seed=0, **arguments) as env:
        assert (env.vectorization, env.autoreset) == expected


def test_environment_arguments_arrive() -> None:
    with GymnasiumEnvironment("CartPole-v1", 2, seed=0, env_kwargs={"max_episode_steps": 4}) as env:
        assert [step(env, [0, 1])[3].tolist() for _ in range(4)][-1] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs must be a positive int, got 0"),
        ({"num_envs": 2.0}, "num_envs must be a positive int, got 2.0"),
        ({"vectorization": "threads"}, r"vectorization must be one of .*sync.*'threads'"),
        ({"autoreset": "disabled"}, r"autoreset must be one of .*same_step.*'disabled'"),
        ({"vectorization": "vector_entry_point", "autoreset": "same_step"}, "use vectorization='sync'"),
        ({"vector_kwargs": {"autoreset_mode": SAME}}, "use the argument autoreset"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"action_bounds": "tanh", "env_id": "Pendulum-v1"}, "action_bounds must be one of"),
    ],
)
def test_wrong_arguments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GymnasiumEnvironment(**{"env_id": "CartPole-v1", "num_envs": 2, "seed": 0, **arguments})


def test_unknown_environments_are_refused_by_gymnasium() -> None:
    with pytest.raises(gymnasium.error.Error, match="NoSuchEnvironment"):
        GymnasiumEnvironment("NoSuchEnvironment-v0", 2, seed=0)


@pytest.mark.parametrize("mode", [AutoresetMode.DISABLED, None])
def test_vector_environments_without_autoreset_are_refused_and_closed(mode: Any) -> None:
    vector_env = SyncVectorEnv([Clock], autoreset_mode=mode or SAME)
    if mode is None:
        vector_env.autoreset_mode = None
        vector_env.metadata = {}
    with pytest.raises(
        ValueError, match="must be SAME_STEP or NEXT_STEP" if mode else "does not say how it resets"
    ):
        GymnasiumEnvironment.from_vector_env(vector_env, seed=0)
    assert vector_env.closed


@pytest.mark.parametrize(
    ("field", "space", "message"),
    [
        (
            "observation_space",
            gymnasium.spaces.Dict({"a": gymnasium.spaces.Box(0, 1, (2,))}),
            r"observation space must be Box, got Dict.*FlattenObservation",
        ),
        ("observation_space", gymnasium.spaces.Discrete(3), r"observation space must be Box, got Discrete"),
        ("action_space", gymnasium.spaces.MultiBinary(3), r"action space must be Discrete, MultiDiscrete or"),
        (
            "action_space",
            gymnasium.spaces.Box(0, 9, (1,), np.int64),
            r"action space must be .* a floating Box",
        ),
    ],
)
def test_spaces_that_no_policy_here_handles_are_refused(field: str, space: Any, message: str) -> None:
    def build() -> Clock:
        env = Clock()
        setattr(env, field, space)
        return env

    with pytest.raises(TypeError, match=message):
        GymnasiumEnvironment.from_vector_env(SyncVectorEnv([build], autoreset_mode=SAME), seed=0)


def test_flattening_makes_discrete_observations_usable() -> None:
    with GymnasiumEnvironment(
        "FrozenLake-v1", 2, seed=0, wrappers=[gymnasium.wrappers.FlattenObservation]
    ) as env:
        assert env.get_observations()[0].sum(1).tolist() == [1, 1]


def test_scaled_actions_reach_the_bounds_of_the_space() -> None:
    with GymnasiumEnvironment("Pendulum-v1", 2, seed=0, action_bounds="scale") as env:
        assert env.single_action_space.high.tolist() == [1.0]
        env.send_actions(np.array([[1.0], [-1.0]], dtype=np.float32))
        env.get_observations()
        assert [float(pendulum.unwrapped.last_u) for pendulum in env.vector_env.envs] == [2.0, -2.0]


def test_a_truncation_without_its_final_observation_is_an_error() -> None:
    class Forgetful(SyncVectorEnv):  # type: ignore[type-arg]
        def step(self, actions: Any) -> Any:
            return (*super().step(actions)[:4], {})

    env = GymnasiumEnvironment.from_vector_env(Forgetful([lambda: Clock(1)], autoreset_mode=SAME), seed=0)
    with pytest.raises(RuntimeError, match=r"without.*final_obs"):
        step(env, [0])


def test_nothing_works_after_close() -> None:
    env = clocks(SAME, [3])
    env.close()
    env.close()
    for call in (env.get_observations, env.reset, env.state_dict, lambda: env.send_actions(np.zeros(1))):
        with pytest.raises(RuntimeError, match="closed"):
            call()


def test_async_closes_quietly_with_a_step_under_way() -> None:
    env = GymnasiumEnvironment("CartPole-v1", 2, seed=0, vectorization="async")
    processes = env.vector_env.processes
    env.send_actions(np.zeros(2, dtype=np.int32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.close()
    assert not any(process.is_alive() for process in processes)


def test_async_workers_survive_an_interrupt_and_end_when_told() -> None:
    old = signal.signal(signal.SIGTERM, lambda *_: None)  # a trainer's handler, which forked workers inherit
    try:
        env = GymnasiumEnvironment("CartPole-v1", 2, seed=0, vectorization="async")
    finally:
        signal.signal(signal.SIGTERM, old)
    processes = env.vector_env.processes
    try:
        step(env, [0, 1])
        for process in processes:
            os.kill(process.pid, signal.SIGINT)
        time.sleep(0.2)
        assert torch.isfinite(step(env, [1, 0])[0]).all()
        processes[0].terminate()
        processes[0].join(timeout=10)
        assert processes[0].exitcode == -signal.SIGTERM
    finally:
        for process in processes:
            process.kill()
        env.vector_env.close(terminate=True)
