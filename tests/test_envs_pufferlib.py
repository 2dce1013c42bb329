"""PufferEnvironment against a vecenv whose every step is written down, and against PufferLib's own."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hotloop.envs import PeeksObservations, PufferEnvironment, ReportsAutoreset, TrainingEnvironment

OBSERVATIONS = SimpleNamespace(shape=(2,), dtype=np.dtype(np.float32))
CHOICES = SimpleNamespace(n=3, shape=(), dtype=np.dtype(np.int64), start=0)


class Script:
    """A vecenv that serves the steps it was given, through memory that `send` spoils as a worker would.

    A step is ``(ids, rewards, terminals, truncations, masks)``.
    """

    def __init__(self, agents: int, steps: list[Any], *, emulated: bool = False, entries: int = 8) -> None:
        self.num_agents = agents
        self.agents_per_batch = len(steps[0][0])
        self.single_observation_space, self.single_action_space = OBSERVATIONS, CHOICES
        self.driver_env = SimpleNamespace(emulated={"dtype": 1} if emulated else False, num_agents=1)
        self.steps, self.entries = list(steps), entries
        self.sent: list[Any] = []
        self.seeds: list[int] = []
        self.closed = self.received = 0
        self._memory = np.zeros((self.agents_per_batch, 2), dtype=np.float32)

    def async_reset(self, seed: int) -> None:
        self.seeds.append(seed)

    def recv(self) -> tuple[Any, ...]:
        ids, rewards, terminals, truncations, masks = self.steps[self.received]
        self._memory[:, 0], self._memory[:, 1] = np.asarray(ids), self.received
        self.received += 1
        flags = [np.asarray(x, dtype=bool) for x in (terminals, truncations, masks)]
        teacher = [np.full(len(ids), 2)] if self.entries == 8 else []
        rewards = np.asarray(rewards, dtype=np.float32)
        return (self._memory, rewards, flags[0], flags[1], *teacher, [{"a": 1}], np.asarray(ids), flags[2])

    def send(self, actions: Any) -> None:
        self.sent.append(actions)
        self._memory[:] = -1.0

    def close(self) -> None:
        self.closed += 1


def run(env: PufferEnvironment, steps: int) -> list[Any]:
    """What is served at each step, cloned before actions are sent."""
    seen = []
    for _ in range(steps):
        step = env.get_observations()
        n = len(step[1])
        seen.append(
            SimpleNamespace(
                rewards=step[1].tolist(),
                terminals=step[2].tolist(),
                truncations=step[3].tolist(),
                infos=step[-4],
                window=step[-3],
                mask=step[-2].tolist(),
                num_steps=step[-1],
                observations=step[0],
            )
        )
        env.send_actions(np.zeros(n, dtype=np.int64))
    return seen


def quiet(ids: list[int], **changes: Any) -> tuple[Any, ...]:
    n = len(ids)
    step = {"rewards": [0.0] * n, "terminals": [0] * n, "truncations": [0] * n, "masks": [1] * n, **changes}
    return ids, step["rewards"], step["terminals"], step["truncations"], step["masks"]


@pytest.mark.parametrize("entries", [7, 8])
def test_serves_what_recv_returned_out_of_memory_of_its_own(entries: int) -> None:
    vecenv = Script(2, [quiet([0, 1], rewards=[0.5, -1.0])] * 2, entries=entries)
    env = PufferEnvironment(vecenv, seed=7)
    assert isinstance(env, TrainingEnvironment)
    assert vecenv.seeds == [7]
    observations, rewards, terminals, truncations, infos, window, mask, steps = env.get_observations()
    assert env.get_observations()[0] is observations
    assert vecenv.received == 1  # asking twice does not step
    env.send_actions(np.array([2, 0]))
    assert observations.tolist() == [[0.0, 0.0], [1.0, 0.0]]  # though the worker has overwritten its own
    assert rewards.tolist() == [0.5, -1.0]
    assert (terminals.dtype, truncations.dtype, mask.dtype) == (torch.bool,) * 3
    assert (terminals.any().item(), truncations.any().item(), mask.tolist()) == (False, False, [True, True])
    assert (infos, window, steps) == ([], slice(0, 2), 2)
    assert vecenv.sent[0].tolist() == [2, 0]
    assert vecenv.sent[0].dtype == np.int32
    assert env.get_observations()[0].data_ptr() == observations.data_ptr()


def test_slices_may_come_in_any_order() -> None:
    vecenv = Script(6, [quiet([2, 3]), quiet([0, 1]), quiet([0, 1]), quiet([4, 5])])
    env = PufferEnvironment(vecenv, seed=0)
    assert (env.total_parallel_agents, env.batch_info.num_envs) == (6, 2)
    seen = run(env, 4)
    assert [step.window for step in seen] == [slice(2, 4), slice(0, 2), slice(0, 2), slice(4, 6)]
    # Each slice still shows its own newest step: nothing was written over another's.
    assert [step.observations.tolist()[0] for step in seen] == [
        [2.0, 0.0],
        [0.0, 2.0],
        [0.0, 2.0],
        [4.0, 3.0],
    ]


def test_peeking_takes_no_turn_and_needs_all_agents_in_a_step() -> None:
    vecenv = Script(2, [quiet([0, 1]), quiet([0, 1], rewards=[1.0, 2.0], terminals=[1, 0])])
    env = PufferEnvironment(vecenv, seed=0)
    run(env, 1)
    assert isinstance(env, PeeksObservations)
    (peeked,) = env.peek_observations()
    assert (peeked[1].tolist(), vecenv.received) == ([1.0, 2.0], 2)
    again = env.get_observations()
    assert (again[0] is peeked[0], again[4], vecenv.received) == (True, peeked[4], 2)
    assert len(again[4]) == 1
    # Of two slices, the second cannot be had before the first was sent actions.
    assert not isinstance(PufferEnvironment(Script(4, [quiet([0, 1])]), seed=0), PeeksObservations)


def test_statistics_are_kept_for_every_agent_whatever_the_order() -> None:
    steps = [
        quiet([2, 3]),
        quiet([0, 1]),
        quiet([2, 3], rewards=[1.0, 2.0]),
        quiet([2, 3], rewards=[10.0, 0.5], truncations=[1, 0]),
        quiet([0, 1], rewards=[4.0, 5.0], terminals=[0, 1]),
    ]
    seen = run(PufferEnvironment(Script(4, steps), seed=0), 5)
    assert [step.infos for step in seen[:3]] == [[], [], []]
    assert seen[3].infos == [{"episode_return": 11.0, "episode_length": 2, "agent_id": 2}]
    assert seen[4].infos == [{"episode_return": 5.0, "episode_length": 1, "agent_id": 1}]


def test_emulated_environments_reset_in_the_step_after() -> None:
    steps = [
        quiet([0, 1]),
        quiet([0, 1], rewards=[1.0, 1.0], truncations=[1, 0]),
        quiet([0, 1], rewards=[0.0, 1.0]),  # agent 0 only reset, whatever was sent
        quiet([0, 1], rewards=[3.0, 1.0], terminals=[1, 0]),
    ]
    env = PufferEnvironment(Script(2, steps, emulated=True), seed=0)
    assert isinstance(env, ReportsAutoreset)
    assert (env.autoreset, env.final_observations()) == ("next_step", None)
    seen = run(env, 4)
    assert [step.mask for step in seen] == [[True, True], [False, True], [True, True], [False, True]]
    assert [step.num_steps for step in seen] == [2, 1, 2, 1]
    assert seen[1].infos == [{"episode_return": 1.0, "episode_length": 1, "agent_id": 0}]
    assert seen[3].infos == [{"episode_return": 3.0, "episode_length": 1, "agent_id": 0}]


def test_native_environments_do_not_say_where_the_final_observation_is() -> None:
    steps = [quiet([0]), quiet([0], rewards=[2.0], truncations=[1]), quiet([0], rewards=[5.0], terminals=[1])]
    env = PufferEnvironment(Script(1, steps), seed=0)
    assert env.autoreset is None
    seen = run(env, 3)
    assert [step.mask for step in seen] == [[True]] * 3  # the action after a done is one of the next episode
    assert [step.infos[0]["episode_return"] for step in seen[1:]] == [2.0, 5.0]
    assert PufferEnvironment(Script(1, steps), seed=0, autoreset="next_step").autoreset == "next_step"
    emulated = Script(1, steps, emulated=True)
    assert PufferEnvironment(emulated, seed=0, autoreset="none").autoreset is None


@pytest.mark.parametrize("emulated", [False, True])
def test_absent_agents_are_masked_and_end_once(emulated: bool) -> None:
    """As PettingZoo's emulation has it: agent 1 ends, is away for two steps, `terminals` all the while."""
    away = {"terminals": [0, 1], "masks": [1, 0]}
    steps = [
        quiet([0, 1]),
        quiet([0, 1], rewards=[1.0, 7.0], terminals=[0, 1]),
        quiet([0, 1], rewards=[1.0, 0.0], **away),
        quiet([0, 1], rewards=[1.0, 0.0], **away),
        quiet([0, 1]),
        quiet([0, 1], rewards=[1.0, 2.0], terminals=[0, 1]),
    ]
    seen = run(PufferEnvironment(Script(2, steps, emulated=emulated), seed=0), 6)
    assert [step.mask[1] for step in seen] == [True, not emulated, False, False, True, not emulated]
    assert [step.terminals[1] for step in seen] == [False, True, False, False, False, True]
    assert [step.mask[0] for step in seen] == [True] * 6
    ends = [info for step in seen for info in step.infos]
    assert ends == [
        {"episode_return": 7.0, "episode_length": 1, "agent_id": 1},
        {"episode_return": 2.0, "episode_length": 1, "agent_id": 1},
    ]


def test_an_agent_that_vanishes_without_a_last_row_ends_there() -> None:
    gone = {"terminals": [1], "masks": [0]}
    steps = [quiet([0]), quiet([0], rewards=[3.0]), quiet([0], **gone), quiet([0], **gone)]
    seen = run(PufferEnvironment(Script(1, steps), seed=0), 4)
    assert [step.terminals for step in seen] == [[False], [False], [True], [False]]
    assert [step.mask for step in seen] == [[True], [True], [False], [False]]
    assert [step.infos for step in seen[3:]] == [[]]
    assert seen[2].infos[0]["episode_return"] == 3.0


def test_teacher_actions_on_request() -> None:
    env = PufferEnvironment(Script(2, [quiet([0, 1])]), seed=0, teacher_actions=True)
    step = env.get_observations()
    assert len(step) == 9
    assert (step[4].dtype, step[4].tolist()) == (torch.int64, [2, 2])
    env = PufferEnvironment(Script(2, [quiet([0, 1])], entries=7), seed=0, teacher_actions=True)
    with pytest.raises(ValueError, match="teacher_actions=True, but recv\\(\\) returned none"):
        env.get_observations()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (quiet([0, 2]), r"recv\(\) must serve 2 neighbouring agents of 4, got \[0 2\]"),
        (quiet([1, 0]), r"recv\(\) must serve 2 neighbouring agents of 4, got \[1 0\]"),
        (quiet([3, 4]), r"recv\(\) must serve 2 neighbouring agents of 4, got \[3 4\]"),
    ],
)
def test_steps_that_are_of_no_slice(step: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PufferEnvironment(Script(4, [step]), seed=0).get_observations()


def test_bad_arguments_and_misuse() -> None:
    script = Script(2, [quiet([0, 1])] * 2)
    with pytest.raises(TypeError, match=r"vecenv must have async_reset, send, recv, .*, got int"):
        PufferEnvironment(3, seed=0)
    with pytest.raises(ValueError, match="autoreset must be 'auto', 'next_step' or 'none', got 'same_step'"):
        PufferEnvironment(script, seed=0, autoreset="same_step")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        PufferEnvironment(script, seed=-1)
    odd = Script(2, [quiet([0, 1])])
    odd.single_action_space = SimpleNamespace(shape=(2,))
    with pytest.raises(TypeError, match="action space must be Discrete, MultiDiscrete or a floating Box"):
        PufferEnvironment(odd, seed=0)
    assert script.seeds == []  # refused before anything was started
    env = PufferEnvironment(script, seed=0)
    with pytest.raises(RuntimeError, match="call get_observations first"):
        env.send_actions(np.zeros(2, dtype=int))
    env.get_observations()
    with pytest.raises(ValueError, match="actions must be at least 0 and below 3, got 3 for agent 1"):
        env.send_actions(np.array([0, 3]))
    env.close()
    env.close()
    assert script.closed == 1
    with pytest.raises(RuntimeError, match="get_observations: the environment is closed"):
        env.get_observations()


pufferlib_needed = pytest.mark.environments


def puffer(**kwargs: Any) -> PufferEnvironment:
    pytest.importorskip("pufferlib", reason="pufferlib-core is not installed (docs/environments.md)")
    from hotloop.envs.pufferlib_make import make_puffer

    return PufferEnvironment(make_puffer("CartPole-v1", 4, **kwargs), seed=3)


@pufferlib_needed
def test_equals_gymnasium_stepped_by_hand() -> None:
    env = puffer(env_kwargs={"max_episode_steps": 12})
    import gymnasium

    games = [gymnasium.make("CartPole-v1", max_episode_steps=12) for _ in range(4)]
    observations = [game.reset(seed=3 + i)[0] for i, game in enumerate(games)]
    over, rng, truncated = [False] * 4, np.random.default_rng(0), 0
    rewards, flags = [0.0] * 4, [(False, False)] * 4
    for _ in range(60):
        seen, reward, terminals, truncations, _, window, mask, _ = env.get_observations()
        np.testing.assert_array_equal(seen, np.stack(observations))
        assert (reward.tolist(), mask.tolist(), window) == (rewards, [not o for o in over], slice(0, 4))
        assert list(zip(terminals.tolist(), truncations.tolist(), strict=True)) == flags
        truncated += int(truncations.sum())
        actions = rng.integers(0, 2, 4)
        env.send_actions(actions)
        for i, game in enumerate(games):
            if over[i]:
                observations[i], rewards[i], flags[i] = game.reset()[0], 0.0, (False, False)
            else:
                observations[i], reward_i, *ends, _ = game.step(int(actions[i]))
                rewards[i], flags[i] = float(reward_i), (ends[0], ends[1])
            over[i] = any(flags[i])
    assert truncated > 3
    env.close()


@pufferlib_needed
def test_worker_processes_serve_slices() -> None:
    env = puffer(workers=2, slices=2)
    try:
        starts = set()
        for _ in range(20):
            step = env.get_observations()
            starts.add(step[5].start)
            assert step[0].shape == (2, 4)
            env.send_actions(np.zeros(2, dtype=np.int64))
        assert starts == {0, 2}
    finally:
        env.close()


@pufferlib_needed
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"slices": 2}, "environment.slices = 2 needs environment.workers"),
        ({"workers": 3}, "environment.workers must divide the 4 environments"),
        ({"workers": 2, "slices": 4}, "got workers = 2 and slices = 4"),
    ],
)
def test_sizes_that_do_not_divide(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        puffer(**kwargs)


@pufferlib_needed
def test_trains(tmp_path: Path) -> None:
    pytest.importorskip("pufferlib", reason="pufferlib-core is not installed (docs/environments.md)")
    from hotloop.trainer import TrainConfig, Trainer

    config = TrainConfig(
        env_backend="pufferlib",
        num_envs=16,
        total_timesteps=40_000,
        quiet=True,
        run_dir=tmp_path / "run",
        seed=1,
    )
    Trainer(config).train()
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    returns = [float(row.split(",")[4] or "nan") for row in rows[1:]]
    assert max(r for r in returns if not math.isnan(r)) > 60
