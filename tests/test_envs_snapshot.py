"""Saving environments in the middle of their episodes: what comes after must be equal to the last bit."""

from __future__ import annotations

import io
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from hotloop.envs import GymnasiumEnvironment
from hotloop.envs.snapshot import pack, unpack


def newest(name: str) -> str:
    """Id of the newest version that the installed Gymnasium has."""
    return max(
        (spec for spec in gymnasium.registry.values() if spec.name == name and spec.namespace is None),
        key=lambda spec: spec.version,
    ).id


FLATTEN = {"wrappers": [gymnasium.wrappers.FlattenObservation]}
CASES: dict[str, dict[str, Any]] = {
    "cartpole vector": {"env_id": "CartPole-v1", "env_kwargs": {"max_episode_steps": 25}},
    "cartpole sync": {
        "env_id": "CartPole-v1",
        "autoreset": "same_step",
        "env_kwargs": {"max_episode_steps": 25},
    },
    "cartpole sync next": {"env_id": "CartPole-v1", "vectorization": "sync", "autoreset": "next_step"},
    "pendulum": {"env_id": "Pendulum-v1", "env_kwargs": {"max_episode_steps": 13}},
    "acrobot": {"env_id": "Acrobot-v1", "env_kwargs": {"max_episode_steps": 40}},
    "mountain car": {"env_id": "MountainCar-v0", "env_kwargs": {"max_episode_steps": 40}},
    "continuous mountain car": {
        "env_id": "MountainCarContinuous-v0",
        "env_kwargs": {"max_episode_steps": 40},
        "autoreset": "next_step",
    },
    "frozen lake": {"env_id": "FrozenLake-v1", **FLATTEN},
    "cliff walking": {"env_id": newest("CliffWalking"), "env_kwargs": {"max_episode_steps": 30}, **FLATTEN},
}
NUM_ENVS = 3


def build(case: str, seed: int) -> GymnasiumEnvironment:
    return GymnasiumEnvironment(num_envs=NUM_ENVS, seed=seed, **CASES[case])


def draw(env: GymnasiumEnvironment, random: np.random.Generator) -> np.ndarray:
    space = env.single_action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return random.integers(0, space.n, NUM_ENVS)
    return random.uniform(-1.5, 1.5, (NUM_ENVS, *space.shape)).astype(np.float32)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint does; weights_only refuses everything but tensors and builtins."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def record(env: GymnasiumEnvironment) -> list[Any]:
    batch = [part.clone() if isinstance(part, torch.Tensor) else part for part in env.get_observations()]
    final = env.final_observations()
    return batch if final is None else [*batch, final[0].clone(), final[1].clone()]


def same(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("sent", [True, False], ids=["actions sent", "step fetched"])
@pytest.mark.parametrize("case", CASES)
def test_a_restored_environment_goes_on_to_the_last_bit(case: Any, sent: Any) -> None:
    with build(case, seed=3) as env, build(case, seed=99) as fresh, build(case, seed=99) as other:
        assert env.can_save_state
        random = np.random.default_rng(7)
        start = env.get_observations()[0].clone()
        for count in range(1000):
            obs, *_, mask, _ = env.get_observations()
            actions = draw(env, random)
            # A telling moment: away from the start and, under NEXT_STEP, with a reset under way.
            telling = not torch.equal(obs, start) and (env.autoreset == "same_step" or not mask.all())
            if count > 37 and telling and not sent:
                break
            env.send_actions(actions)
            if count > 37 and telling:
                break
        assert telling
        state = through_a_file(env.state_dict())
        fresh.load_state_dict(state)
        different = episodes = 0
        for _ in range(120):
            expected = record(env)
            assert same(record(fresh), expected)
            different += not same(record(other), expected)
            episodes += len(expected[4])
            actions = draw(env, random)
            for each in (env, fresh, other):
                each.get_observations()
                each.send_actions(actions)
        assert episodes >= NUM_ENVS, "the generators were not used"
        assert different, "any environment gives these steps, restored or not"


def test_saving_changes_nothing_and_later_steps_do_not_reach_the_saved_state() -> None:
    with build("cartpole vector", seed=0) as env, build("cartpole vector", seed=0) as twin:
        random = np.random.default_rng(0)
        states = []
        for _ in range(30):
            states.append((env.state_dict(), record(env)))
            assert same(record(twin), states[-1][1])
            actions = draw(env, random)
            env.send_actions(actions)
            twin.send_actions(actions)
        for state, expected in states:
            twin.load_state_dict(state)
            assert same(record(twin), expected)


def test_final_observations_of_the_saved_step_come_back() -> None:
    def steps(env: GymnasiumEnvironment, count: int) -> None:
        for _ in range(count):
            env.send_actions(np.zeros((NUM_ENVS, 1), dtype=np.float32))
            env.get_observations()

    with build("pendulum", seed=0) as env, build("pendulum", seed=1) as fresh:
        steps(env, 13)
        fresh.load_state_dict(env.state_dict())
        (agents, observations), (want_agents, want) = fresh.final_observations(), env.final_observations()
        assert agents.tolist() == want_agents.tolist() == [0, 1, 2]
        assert torch.equal(observations, want)
        steps(fresh, 1)
        assert fresh.final_observations() is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 0}, "version of the state is 0, of the environment 1"),
        ({"env_id": "Acrobot-v1"}, "env_id of the state is 'Acrobot-v1', of the environment 'Pendulum-v1'"),
        ({"num_envs": 4}, "num_envs of the state is 4, of the environment 3"),
        ({"vectorization": "async"}, "vectorization of the state is 'async'"),
        ({"autoreset": "next_step"}, "autoreset of the state is 'next_step'"),
    ],
)
def test_states_of_other_environments_are_refused(change: Any, message: str) -> None:
    with build("pendulum", seed=0) as env, pytest.raises(ValueError, match=message):
        env.load_state_dict({**env.state_dict(), **change})


def test_states_of_other_wrappers_are_refused() -> None:
    plain = {"env_id": "Pendulum-v1", "num_envs": 1, "seed": 0}
    with (
        GymnasiumEnvironment(**plain) as env,
        GymnasiumEnvironment(**plain, wrappers=[gymnasium.wrappers.FlattenObservation]) as wrapped,
        pytest.raises(ValueError, match=r"the state is of .*FlattenObservation.*, the environment is"),
    ):
        env.load_state_dict(wrapped.state_dict())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"env_id": "CartPole-v1", "vectorization": "async"}, "AsyncVectorEnv"),
        (
            {"env_id": "Pendulum-v1", "wrappers": [gymnasium.wrappers.NormalizeObservation]},
            "NormalizeObservation",
        ),
        (
            {"env_id": "Pendulum-v1", "wrappers": [gymnasium.wrappers.TimeAwareObservation]},
            "TimeAwareObservation",
        ),
    ],
)
def test_what_cannot_be_saved_says_why(arguments: Any, reason: str) -> None:
    with GymnasiumEnvironment(num_envs=2, seed=0, **arguments) as env:
        assert not env.can_save_state
        assert reason in env.why_unsavable
        with pytest.raises(RuntimeError, match=f"cannot be saved.*{reason}"):
            env.state_dict()
        with pytest.raises(RuntimeError, match=f"cannot be restored.*{reason}"):
            env.load_state_dict({})


class Walk(gymnasium.Env[np.ndarray, int]):
    """A random walk without methods for its state."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.place = np.zeros(1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.np_random.normal(size=1)
        return self.place, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place = self.place + action + self.np_random.normal(size=1)
        return self.place, 1.0, bool(abs(self.place[0]) > 5), False, {}


class SavingWalk(Walk):
    """The same with them."""

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place = state["place"]


def walks(kind: type[Walk], seed: int) -> GymnasiumEnvironment:
    return GymnasiumEnvironment.from_vector_env(
        SyncVectorEnv([kind] * NUM_ENVS, autoreset_mode=AutoresetMode.SAME_STEP), seed=seed
    )


def test_environments_may_bring_their_own_state() -> None:
    assert "Walk is not known; give the class state_dict()" in walks(Walk, 0).why_unsavable
    env, fresh = walks(SavingWalk, 0), walks(SavingWalk, 1)
    random = np.random.default_rng(0)
    for _ in range(5):
        env.send_actions(draw(env, random))
        env.get_observations()
    fresh.load_state_dict(through_a_file(env.state_dict()))
    for _ in range(50):
        assert same(record(fresh), record(env))
        actions = draw(env, random)
        env.send_actions(actions)
        fresh.send_actions(actions)


def test_a_subclass_of_a_known_environment_may_hold_more_state_and_is_refused() -> None:
    from gymnasium.envs.classic_control import PendulumEnv

    class Damped(PendulumEnv):
        pass

    env = GymnasiumEnvironment.from_vector_env(
        SyncVectorEnv([Damped], autoreset_mode=AutoresetMode.SAME_STEP), seed=0
    )
    assert "Damped" in env.why_unsavable


VALUES = [
    None,
    True,
    -3,
    2**63 - 1,
    -(2**63),
    2**127 + 12345,
    -(2**100),
    0.1,
    "text",
    np.float32(0.1),
    np.float64(0.1),
    np.int16(-4),
    np.bool_(True),
    np.array(5, dtype=np.int8),
    np.arange(6, dtype=np.float64).reshape(2, 3).T,
    np.array([True, False]),
    np.zeros((0, 3), dtype=np.uint8),
    (1, (2.0, np.float32(3))),
    [1, [np.arange(2)]],
    {"a": {"b": (np.uint64(2**64 - 1),)}},
]


def identical(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, (np.ndarray, np.generic)):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, (tuple, list)):
        return len(left) == len(right) and all(identical(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(identical(left[key], right[key]) for key in left)
    return bool(left == right)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_pack_keeps_types_and_bits_through_a_file(value: Any) -> None:
    assert identical(unpack(through_a_file({"value": pack(value)})["value"]), value)


def test_packed_arrays_are_copies() -> None:
    array = np.zeros(3)
    packed = pack(array)
    array[0] = 1
    assert unpack(packed).tolist() == [0, 0, 0]
    unpack(packed)[1] = 1
    assert unpack(packed).tolist() == [0, 0, 0]


@pytest.mark.parametrize("value", [object(), {1: 2}, {"~array": 1}, np.array([object()]), {1, 2}])
def test_what_pack_does_not_know_it_refuses(value: Any) -> None:
    with pytest.raises(TypeError):
        pack(value)
