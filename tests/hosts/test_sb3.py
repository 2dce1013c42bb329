"""Stable-Baselines3 with `HotRolloutBuffer` and without: the same training, to the last bit."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3", reason="stable-baselines3 is missing: make test-peers")

import gymnasium
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.vec_env import DummyVecEnv

from hotloop import integrations
from hotloop.integrations import hosts, sb3
from hotloop.integrations.sb3 import HotDictRolloutBuffer, HotRolloutBuffer

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
DICT = spaces.Dict({"place": spaces.Discrete(5), "view": BOX, "pixels": spaces.Box(0, 255, (7,), np.uint8)})
TWO = spaces.Discrete(2)


class Walk(gymnasium.Env[Any, Any]):
    """Random observations of any space; some episodes end, others hit a time limit."""

    def __init__(self, observations: spaces.Space[Any], actions: spaces.Space[Any], seed: int) -> None:
        self.observation_space, self.action_space = copy.deepcopy(observations), actions
        self.observation_space.seed(seed)
        self.rng = np.random.default_rng(seed)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(np.mean(action)) + self.rng.normal()
        terminated, truncated = (bool(self.rng.random() < chance) for chance in (0.1, 0.05))
        return self.observation_space.sample(), reward, terminated, truncated, {}


def environments(observations: spaces.Space[Any], actions: spaces.Space[Any], count: int = 4) -> DummyVecEnv:
    return DummyVecEnv([lambda seed=seed: Walk(observations, actions, seed) for seed in range(count)])


def train(
    algorithm: type[Any],
    observations: spaces.Space[Any],
    actions: spaces.Space[Any],
    buffer: type[RolloutBuffer] | None,
    iterations: int = 3,
    buffer_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    kind = "MultiInputPolicy" if isinstance(observations, spaces.Dict) else "MlpPolicy"
    env = environments(observations, actions)
    model = algorithm(
        kind, env, seed=3, device="cpu", rollout_buffer_class=buffer,
        rollout_buffer_kwargs=buffer_kwargs, **kwargs,
    )  # fmt: skip
    return model.learn(iterations * model.n_steps * env.num_envs)


def outcome(model: Any) -> dict[str, Any]:
    """Parameters and the last losses."""
    losses = {name: value for name, value in model.logger.name_to_value.items() if name.startswith("train/")}
    assert {"train/value_loss", "train/explained_variance"} <= losses.keys()
    return {**model.policy.state_dict(), **losses}


def assert_equal(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(
            torch.as_tensor(ours[name]), torch.as_tensor(theirs[name]), rtol=0, atol=0, equal_nan=True,
            msg=lambda text, name=name: f"{name}: {text}",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("observations", "actions"),
    [
        (BOX, TWO),
        (BOX, spaces.Box(-2.0, 2.0, (2,), np.float32)),
        (BOX, spaces.MultiDiscrete([2, 3])),
        (spaces.Box(0, 255, (5,), np.uint8), spaces.MultiBinary(3)),
        (spaces.Discrete(6), TWO),
        (DICT, TWO),
    ],
    ids=["box", "continuous", "multi-discrete", "bytes, multi-binary", "discrete", "dict"],
)
# 64: several minibatches in one piece of memory; 50: each on its own, the last one short; 128: all at once
@pytest.mark.parametrize("batch_size", [64, 50, 128])
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_ppo_trains_to_the_same_bits(
    observations: spaces.Space[Any], actions: spaces.Space[Any], batch_size: int
) -> None:
    sizes = {"n_steps": 32, "batch_size": batch_size, "n_epochs": 3}
    ours = HotDictRolloutBuffer if isinstance(observations, spaces.Dict) else HotRolloutBuffer
    hot = train(PPO, observations, actions, ours, **sizes)
    state = np.random.get_state()[1:3]
    plain = train(PPO, observations, actions, None, **sizes)
    assert isinstance(hot.rollout_buffer, ours)
    assert_equal(outcome(hot), outcome(plain))
    assert all(np.array_equal(a, b) for a, b in zip(state, np.random.get_state()[1:3], strict=True))


def test_a2c_trains_to_the_same_bits() -> None:
    hot, plain = (train(A2C, BOX, TWO, buffer, iterations=20) for buffer in (HotRolloutBuffer, None))
    assert_equal(outcome(hot), outcome(plain))


def test_a_factor_off_by_one_unit_stays_within_1e_5() -> None:
    """gamma 0.52 and lambda 0.197: no float32 lambda gives their product as SB3 rounds it."""
    discounts = {"gamma": 0.5233898429783992, "gae_lambda": 0.19686075756080945}
    hot, plain = (
        outcome(train(PPO, BOX, TWO, buffer, n_steps=32, batch_size=64, n_epochs=3, **discounts))
        for buffer in (HotRolloutBuffer, None)
    )
    for name in plain:
        torch.testing.assert_close(
            torch.as_tensor(hot[name]), torch.as_tensor(plain[name]), rtol=1e-5, atol=1e-5
        )


def fill(buffer: Any, seed: int = 0) -> Any:
    """One rollout of random steps, with advantages."""
    rng, count = np.random.default_rng(seed), buffer.n_envs
    buffer.reset()
    for space in (buffer.observation_space, buffer.action_space):
        space.seed(seed)

    def sample(space: spaces.Space[Any]) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: sample(each) for key, each in space.items()}
        return np.stack([space.sample() for _ in range(count)])

    for _ in range(buffer.buffer_size):
        values, log_probs = (torch.from_numpy(rng.normal(size=count).astype(np.float32)) for _ in range(2))
        buffer.add(
            sample(buffer.observation_space), sample(buffer.action_space), rng.normal(size=count),
            rng.random(count) < 0.1, values[:, None], log_probs,
        )  # fmt: skip
    last = torch.from_numpy(rng.normal(size=(count, 1)).astype(np.float32))
    buffer.compute_returns_and_advantage(last, rng.random(count) < 0.3)
    return buffer


def make(kind: type[Any], observations: spaces.Space[Any] = BOX, **kwargs: Any) -> Any:
    sizes = {"gamma": 0.99, "gae_lambda": 0.95, "n_envs": 4, "device": "cpu"}
    return kind(16, copy.deepcopy(observations), copy.deepcopy(TWO), **(sizes | kwargs))


ARRAYS = (
    "observations", "actions", "rewards", "returns", "values", "log_probs", "advantages", "episode_starts",
)  # fmt: skip


def arrays(buffer: Any) -> dict[str, Any]:
    found = {name: getattr(buffer, name) for name in ARRAYS}
    held = found.pop("observations")
    return {**found, **(held if isinstance(held, dict) else {"observations": held})}


@pytest.mark.parametrize(
    ("ours", "theirs", "observations"),
    [(HotRolloutBuffer, RolloutBuffer, BOX), (HotDictRolloutBuffer, DictRolloutBuffer, DICT)],
)
def test_every_array_and_minibatch_is_the_hosts(ours: Any, theirs: Any, observations: Any) -> None:
    hot, plain = make(ours, observations), make(theirs, observations)
    for seed in range(3):  # the second time in used memory
        np.random.seed(seed)
        state = np.random.get_state()
        found = []
        for buffer in (hot, plain):
            np.random.set_state(state)
            buffer.reset()
            zeros = {name: array.copy() for name, array in arrays(buffer).items()}
            fill(buffer, seed)
            rollout = {name: array.copy() for name, array in arrays(buffer).items()}
            minibatches = [sb3._parts(each) for size in (16, 10, None) for each in buffer.get(size)]
            found.append([zeros, rollout, arrays(buffer), *minibatches])
        for each, other in zip(*found, strict=True):
            assert each.keys() == other.keys()
            for name in other:
                assert each[name].dtype == other[name].dtype, name
                assert each[name].shape == other[name].shape, name
                assert bool((each[name] == other[name]).all()), name


def test_what_somebody_holds_is_never_written_again() -> None:
    buffer = make(HotRolloutBuffer)
    held: list[tuple[Any, Any]] = []
    for seed in range(6):
        fill(buffer, seed)
        held += [(array[2:], array[2:].copy()) for array in arrays(buffer).values()]
        for minibatch in [*buffer.get(16), *buffer.get(10)]:
            held += [(part, part.clone()) for part in sb3._parts(minibatch).values()]
        held += [(array, array.copy()) for array in arrays(buffer).values()]
        assert all(bool((now == then).all()) for now, then in held)


def test_memory_that_nobody_holds_is_used_again() -> None:
    buffer = fill(make(HotRolloutBuffer))

    def addresses() -> set[int]:
        return {part.data_ptr() for each in buffer.get(16) for part in sb3._parts(each).values()}

    addresses(), addresses()
    first, second = addresses(), addresses()
    assert len(first) == 4 * 6
    assert len(first | second | addresses() | addresses()) <= 2 * 4 * 6
    before = buffer.observations.ctypes.data
    fill(buffer)
    list(buffer.get())
    assert buffer.observations.ctypes.data == before


def test_a_minibatch_changed_in_place_counts_for_itself() -> None:
    first, second = list(fill(make(HotRolloutBuffer)).get(16))[:2]
    before = second.advantages.clone(), second.advantages._version
    first.advantages.zero_()
    assert bool((second.advantages == before[0]).all())
    assert second.advantages._version == before[1]


def test_arrays_that_a_callback_replaced_are_read() -> None:
    hot, plain = make(HotRolloutBuffer), make(RolloutBuffer)
    for buffer in (hot, plain):
        fill(buffer, 5)
        buffer.episode_starts = np.roll(buffer.episode_starts, 1, axis=1)
        buffer.rewards = buffer.rewards * np.float32(2)
        buffer.compute_returns_and_advantage(torch.ones(4), np.array([True, False, True, False]))
        buffer.observations = buffer.observations[::-1] + 1
    for name, array in arrays(plain).items():
        assert np.array_equal(array, arrays(hot)[name]), name
    np.random.seed(0)
    theirs = [sb3._parts(each) for each in plain.get(16)]
    np.random.seed(0)
    for minibatch, other in zip(hot.get(16), theirs, strict=True):
        assert_equal(sb3._parts(minibatch), other)


def test_a_subclass_is_asked_for_its_samples() -> None:
    class Scaled(HotRolloutBuffer):
        def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
            samples = super()._get_samples(batch_inds, env)
            return samples._replace(advantages=samples.advantages * 2)

    buffer = fill(make(Scaled))
    np.random.seed(0)
    doubled = [each.advantages for each in buffer.get(16)]
    np.random.seed(0)
    plain = [each.advantages for each in fill(make(HotRolloutBuffer)).get(16)]
    assert all(bool((2 * one == two).all()) for one, two in zip(plain, doubled, strict=True))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda buffer: pickle.loads(pickle.dumps(buffer))])
def test_copies_are_on_their_own(duplicate: Callable[[Any], Any]) -> None:
    buffer = fill(make(HotRolloutBuffer))
    before = {name: array.copy() for name, array in arrays(buffer).items()}
    other = duplicate(buffer)
    assert all(np.array_equal(array, before[name]) for name, array in arrays(other).items())
    other.compute_returns_and_advantage(torch.zeros(4), np.ones(4, bool))
    fill(other, 1)
    assert all(np.array_equal(array, before[name]) for name, array in arrays(buffer).items())


def test_a_saved_model_goes_on(tmp_path: Path) -> None:
    sizes = {"n_steps": 32, "batch_size": 64, "n_epochs": 2}
    train(PPO, BOX, TWO, HotRolloutBuffer, buffer_kwargs={"verify": 2}, **sizes).save(tmp_path / "model")
    model = PPO.load(tmp_path / "model", env=environments(BOX, TWO))
    assert isinstance(model.rollout_buffer, HotRolloutBuffer)
    model.learn(128)


def test_verify_passes() -> None:
    for kind, observations in ((HotRolloutBuffer, BOX), (HotDictRolloutBuffer, DICT)):
        model = train(
            PPO, observations, TWO, kind, n_steps=32, batch_size=50, n_epochs=3,
            buffer_kwargs={"verify": True, "force": True},
        )  # fmt: skip
        left = {name: verifier.left for name, verifier in model.rollout_buffer._verifiers.items()}
        assert left == {"add": 0, "compute": 13, "get": 7}
        plain = train(PPO, observations, TWO, None, n_steps=32, batch_size=50, n_epochs=3)
        assert_equal(outcome(model), outcome(plain))


def test_verify_catches_a_step_stored_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    original = HotRolloutBuffer._add_observations
    monkeypatch.setattr(HotRolloutBuffer, "_add_observations", lambda b, obs, at: original(b, obs + 1, at))
    with pytest.raises(integrations.VerificationError, match=r"HotRolloutBuffer\.add: observations differs"):
        fill(make(HotRolloutBuffer, verify=True))


def test_verify_catches_a_wrong_advantage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sb3, "matching_lambda", lambda gamma, gae_lambda: gae_lambda * 0.999)
    with pytest.raises(
        integrations.VerificationError, match=r"compute_returns_and_advantage: advantages dif"
    ):
        fill(make(HotRolloutBuffer, verify=True))


def test_verify_catches_a_wrong_minibatch(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = fill(make(HotRolloutBuffer, verify=True))
    original = HotRolloutBuffer._take
    monkeypatch.setattr(HotRolloutBuffer, "_take", lambda b, leaves, order: original(b, leaves, order[::-1]))
    with pytest.raises(integrations.VerificationError, match=r"HotRolloutBuffer\.get: observations differs"):
        list(buffer.get(16))


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts.Host, "version", property(lambda self: "1.8.0"))
    with pytest.raises(integrations.UntestedHostError, match=r"stable-baselines3 2\.9\.2, got 1\.8\.0"):
        make(HotRolloutBuffer)
    make(HotRolloutBuffer, force=True)


def test_bad_input_is_refused() -> None:
    with pytest.raises(TypeError, match="observation_space must be no Dict: HotDictRolloutBuffer"):
        make(HotRolloutBuffer, DICT)
    with pytest.raises(ValueError, match="verify must not be negative, got -1"):
        make(HotRolloutBuffer, verify=-1)
    buffer = make(HotRolloutBuffer)
    with pytest.raises(ValueError, match=r"HotRolloutBuffer\.get: the buffer must be full, got 0 of 16"):
        next(buffer.get())
    compute = buffer.compute_returns_and_advantage
    with pytest.raises(ValueError, match="last_values must hold 4 elements, got 3"):
        compute(torch.zeros(3), np.zeros(4, bool))
    with pytest.raises(ValueError, match="dones must hold 4 elements, got 5"):
        compute(torch.zeros(4), np.zeros(5, bool))
    fill(buffer)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        next(buffer.get(0))
    next(buffer.get())
    with pytest.raises(ValueError, match=r"must come before get\(\), which flattens"):
        compute(torch.zeros(4), np.zeros(4, bool))
    buffer.reset()
    buffer.pos = 16
    with pytest.raises(IndexError):
        buffer.add(np.zeros((4, 3)), np.zeros(4), np.zeros(4), np.zeros(4), torch.zeros(4), torch.zeros(4))
