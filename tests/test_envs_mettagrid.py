"""MettaGridEnvironment on a double of the package, step by step, and on the package itself."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mettagrid_double as double
from hotloop.envs import PeeksObservations, ReportsAutoreset, TrainingEnvironment


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Builds environments of the double."""
    double.install(monkeypatch)
    module = importlib.import_module("hotloop.envs.mettagrid")
    environments = []

    def build(*arguments: Any, **options: Any) -> Any:
        environments.append(module.MettaGridEnvironment(*arguments, **{"seed": 10, **options}))
        return environments[-1]

    yield build
    for environment in environments:
        environment.close()


def run(env: Any, steps: int, actions: list[int] | None = None) -> list[dict[str, Any]]:
    """What is served at each step, copied."""
    seen = []
    for _ in range(steps):
        observations, rewards, terminals, truncations, infos, window, mask, num_steps = env.get_observations()
        finals = env.final_observations()
        seen.append(
            {
                "first": observations[:, 0, :2].tolist(),
                "rewards": rewards.tolist(),
                "terminals": terminals.tolist(),
                "truncations": truncations.tolist(),
                "infos": infos,
                "mask": mask.tolist(),
                "num_steps": num_steps,
                "finals": None if finals is None else (finals[0].tolist(), finals[1][:, 0, :2].tolist()),
            }
        )
        assert window == slice(0, env.total_parallel_agents)
        env.send_actions(np.array(actions or [1] * env.total_parallel_agents))
    return seen


def test_serves_all_arenas_from_memory_that_the_simulators_write(made: Any) -> None:
    env = made(double.Config(agents=2, tokens=5), 3)
    assert isinstance(env, TrainingEnvironment)
    assert isinstance(env, ReportsAutoreset)
    assert (env.total_parallel_agents, env.agents_per_arena, env.batch_info.num_envs) == (6, 2, 3)
    assert (env.single_observation_space.shape, env.single_action_space.n) == ((5, 3), 3)
    step = env.get_observations()
    assert (step[0].dtype, step[0].shape) == (torch.uint8, (6, 5, 3))
    assert [tensor.dtype for tensor in step[1:4]] == [torch.float32, torch.bool, torch.bool]
    assert step[0][:, 0, 0].tolist() == [10, 10, 11, 11, 12, 12]  # arena i has seed + i
    assert env.get_observations()[0] is step[0]
    env.send_actions(np.array([0, 1, 2, 0, 1, 2]))
    again = env.get_observations()
    assert again[0].data_ptr() == step[0].data_ptr()
    assert again[0][:, 0, 1].tolist() == [1] * 6
    # The third action of the policy is the fourth of the simulator: those of vibes are left out.
    assert again[1].tolist() == [0.0, 1.0, 3.0, 0.0, 1.0, 3.0]


def test_arenas_restart_within_the_step(made: Any) -> None:
    env = made(double.Config(agents=2, max_steps=3), 2)
    double.Simulation.made[1].config.game.max_steps = 5
    seen = run(env, 6)
    assert [step["truncations"] for step in seen] == [[False] * 4] * 3 + [[True, True, False, False]] + (
        [[False] * 4, [False, False, True, True]]
    )
    assert [step["first"][0] for step in seen] == [[10, 0], [10, 1], [10, 2], [12, 0], [12, 1], [12, 2]]
    assert seen[3]["rewards"] == [1.0] * 4  # of the last action, though the new simulation cleared its memory
    assert seen[3]["finals"] == ([0, 1], [[10, 3], [10, 3]])
    assert seen[4]["finals"] is None
    assert seen[5]["finals"] == ([2, 3], [[11, 5], [11, 5]])
    assert [step["mask"] for step in seen] == [[True] * 4] * 6
    assert seen[3]["infos"] == [
        {"episode_return": 3.0, "episode_length": 3, "agent_id": agent} for agent in (0, 1)
    ]
    assert [info["agent_id"] for info in seen[5]["infos"]] == [2, 3]
    closed = [simulation.closed for simulation in double.Simulation.made]
    assert closed == [True, True, False, False]


def test_peeking_steps_once(made: Any) -> None:
    env = made(double.Config(max_steps=1), 1)
    assert isinstance(env, PeeksObservations)
    run(env, 1)
    (peeked,) = env.peek_observations()
    assert peeked[3].tolist() == [True, True]
    assert env.final_observations() is not None
    again = env.get_observations()
    assert (again[0] is peeked[0], again[4] == peeked[4], len(again[4])) == (True, True, 2)
    assert len(double.Simulation.made) == 2


def test_every_simulation_has_a_seed_and_a_map_of_its_own(made: Any) -> None:
    config = double.Config(max_steps=1)
    run(made(config, 2), 3)
    assert [simulation.seed for simulation in double.Simulation.made] == [10, 11, 12, 13, 14, 15]
    maps = [simulation.config.game.map_builder.seed for simulation in double.Simulation.made]
    assert maps == [10, 11, 12, 13, 14, 15]
    assert config.game.map_builder.seed is None  # the caller's own was left alone
    config.game.map_builder.seed = 4
    double.Simulation.made.clear()
    run(made(config, 1), 2)
    assert {simulation.config.game.map_builder.seed for simulation in double.Simulation.made} == {4}


def test_terminated_agents_have_no_final_observation(made: Any) -> None:
    config = double.Config(max_steps=0)
    config.game.ends = {1: [(True, False), (False, True)]}
    seen = run(made(config, 1), 2)
    assert (seen[1]["terminals"], seen[1]["truncations"]) == ([True, False], [False, True])
    assert seen[1]["finals"] == ([1], [[10, 1]])
    assert seen[1]["first"] == [[11, 0], [11, 0]]


def test_an_agent_that_is_done_first_waits_for_its_arena(made: Any) -> None:
    config = double.Config(max_steps=3)
    config.game.ends = {1: [(True, False), (False, False)]}
    seen = run(made(config, 1), 5)
    assert [step["mask"][0] for step in seen] == [True, False, False, True, False]
    assert [step["mask"][1] for step in seen] == [True] * 5
    assert [step["num_steps"] for step in seen] == [2, 1, 1, 2, 1]
    assert [step["terminals"][0] for step in seen] == [False, True, False, False, True]
    assert [step["truncations"] for step in seen[:4]] == [[False, False]] * 3 + [[False, True]]
    assert [step["rewards"][0] for step in seen] == [0.0, 1.0, 0.0, 0.0, 1.0]
    ends = [(i["agent_id"], i["episode_return"], i["episode_length"]) for s in seen for i in s["infos"]]
    assert ends == [(0, 1.0, 1), (1, 3.0, 3), (0, 1.0, 1)]


def test_what_an_id_may_be(made: Any, tmp_path: Path) -> None:
    assert made("arena", 1).agents_per_arena == 24
    assert made("navigation", 1, changes={"agents": 4}).agents_per_arena == 4
    assert made("mettagrid_double:configuration", 2).total_parallel_agents == 6
    file = tmp_path / "arena.yaml"
    file.write_text("agents: 5\ntokens: 7\n")
    env = made(str(file), 1, max_steps=9, changes={"game.ends": {2: []}})
    assert (env.agents_per_arena, env.single_observation_space.shape) == (5, (7, 3))
    assert (env.config.game.max_steps, env.config.game.ends) == (9, {2: []})
    config = double.Config()
    made(config, 1, max_steps=9)
    assert config.game.max_steps == 4


def test_fewer_tokens_cut_what_the_simulators_write(made: Any) -> None:
    """They must not be asked for fewer: a budget that is too small for what an agent sees ends the run."""
    config = double.Config(agents=2, tokens=5, max_steps=2)
    env, whole = made(config, 2, tokens=4), made(config, 2)
    assert env.config.game.obs.num_tokens == 5
    assert env.single_observation_space.shape == (4, 3)
    for step in range(4):
        cut, full = env.get_observations()[0], whole.get_observations()[0]
        assert cut.is_contiguous()
        assert torch.equal(cut, full[:, :4])
        assert full[:, 4, 2].any() == (step % 2 == 1)  # what is cut off does change
        finals = env.final_observations()
        assert (finals is not None) == (step == 2)
        if finals is not None:
            assert torch.equal(finals[1], whole.final_observations()[1][:, :4])
        for each in (env, whole):
            each.send_actions(np.zeros(4, dtype=int))


def test_more_tokens_widen_what_the_simulators_write(made: Any) -> None:
    config = double.Config(tokens=5)
    env = made(config, 1, tokens=9)
    assert (env.config.game.obs.num_tokens, config.game.obs.num_tokens) == (9, 5)
    assert env.get_observations()[0].shape == (2, 9, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"env_id": "nowhere"}, ValueError, "env_id must be one of .*'hearts'.*, got 'nowhere'"),
        ({"env_id": "no_such_module:f"}, ValueError, "'no_such_module:f' cannot be imported"),
        ({"env_id": "mettagrid_double:nothing"}, ValueError, "cannot be imported"),
        (
            {"env_id": "mettagrid_double:no_configuration"},
            TypeError,
            "must return a MettaGridConfig, got int",
        ),
        ({"env_id": "none.yaml"}, ValueError, "none.yaml cannot be read: No such file"),
        ({"env_id": double.__file__ + "/x.yml"}, ValueError, "x.yml cannot be read"),
        ({"num_arenas": 0}, ValueError, "num_arenas must be an int of at least 1, got 0"),
        ({"num_arenas": 1.5}, ValueError, "num_arenas must be an int of at least 1, got 1.5"),
        ({"seed": -1}, ValueError, "seed must be an int of at least 0, got -1"),
        ({"tokens": 0}, ValueError, "tokens must be an int of at least 1, got 0"),
        ({"max_steps": -3}, ValueError, "max_steps must be an int of at least 0, got -3"),
        ({"changes": {"game.nothing": 1}}, ValueError, "game.nothing=1 cannot be set: no nothing"),
        ({"changes": {"game.obs.token_dim": 4}}, ValueError, "token_dim must be 3, got 4"),
        (
            {"env_id": "mettagrid_double:configuration", "changes": {"agents": 3}},
            ValueError,
            "agents can be chosen for .*'arena'",
        ),
    ],
)
def test_bad_arguments(made: Any, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        made(**{"env_id": "arena", **arguments})
    assert double.Simulation.made == []


def test_files_that_hold_something_else(made: Any, tmp_path: Path) -> None:
    for text in ("- 1\n", "agents: [\n"):
        (tmp_path / "arena.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"arena.yaml holds no MettaGridConfig"):
            made(str(tmp_path / "arena.yaml"), 1)


def test_misuse(made: Any) -> None:
    env = made(double.Config(), 1)
    with pytest.raises(ValueError, match="actions must be at least 0 and below 3, got 3 for agent 1"):
        env.send_actions(np.array([0, 3]))
    env.send_actions(np.array([[0], [1]]))
    with pytest.raises(RuntimeError, match="the previous actions are still pending"):
        env.send_actions(np.array([0, 1]))
    assert (env.can_save_state, "cannot be read out" in env.why_unsavable) == (False, True)
    env.close()
    env.close()
    assert double.Simulation.made[0].closed
    with pytest.raises(RuntimeError, match="get_observations: the environment is closed"):
        env.get_observations()


mettagrid_needed = pytest.mark.environments


@pytest.fixture
def package() -> Any:
    return pytest.importorskip("mettagrid", reason="mettagrid is not installed (extra mettagrid)")


@mettagrid_needed
def test_equals_the_simulator_stepped_by_hand(package: Any) -> None:
    from mettagrid.simulator import Simulation

    from hotloop.envs import MettaGridEnvironment
    from hotloop.envs.mettagrid_arenas import hearts

    env = MettaGridEnvironment("hearts", 2, seed=5, tokens=40, max_steps=30)
    rng, episode = np.random.default_rng(0), 0
    simulations: list[Any] = [None, None]

    def start(arena: int, seed: int) -> None:
        config = hearts(max_steps=30)
        config.game.map_builder.seed = seed
        simulations[arena] = Simulation(config, seed=seed)

    start(0, 5)
    start(1, 6)
    total = 0.0
    for step in range(70):
        observations, rewards, terminals, truncations, infos, _, mask, _ = env.get_observations()
        total += float(rewards.sum())
        ended = step > 0 and step % 30 == 0
        by_hand = np.concatenate([s._c_sim.observations() for s in simulations])
        if ended:
            finals = env.final_observations()
            assert finals is not None
            np.testing.assert_array_equal(finals[1], by_hand[:, :40])
            episode += 1
            assert [i["agent_id"] for i in infos] == list(range(48))
            start(0, 5 + 2 * episode)
            start(1, 6 + 2 * episode)
            by_hand = np.concatenate([s._c_sim.observations() for s in simulations])
        np.testing.assert_array_equal(observations, by_hand[:, :40])
        assert (truncations.all().item(), terminals.any().item(), mask.all().item()) == (ended, False, True)
        actions = rng.integers(0, 5, 48)
        env.send_actions(actions)
        for arena, simulation in enumerate(simulations):
            simulation._c_sim.actions()[:] = actions[24 * arena : 24 * arena + 24]
            simulation.step()
    assert total > 20  # hearts were found
    env.close()


@mettagrid_needed
@pytest.mark.parametrize("env_id", ["arena", "navigation"])
def test_arenas_of_the_package(package: Any, env_id: str) -> None:
    from hotloop.envs import MettaGridEnvironment

    env = MettaGridEnvironment(env_id, 1, seed=0, changes={"agents": 6})
    observations = env.get_observations()[0]
    assert observations.shape == (6, 500, 3)
    assert env.single_action_space.n == 5
    env.close()


@mettagrid_needed
def test_the_farthest_tokens_are_those_that_are_cut(package: Any) -> None:
    from hotloop.envs import MettaGridEnvironment

    env = MettaGridEnvironment("hearts", 1, seed=0)
    rows, columns = env.config.game.obs.height // 2, env.config.game.obs.width // 2
    rng = np.random.default_rng(0)
    for _ in range(20):
        locations = env.get_observations()[0].numpy()[..., 0].astype(int)
        env.send_actions(rng.integers(0, 5, 24))
        for seen in locations:
            seen = seen[seen < 0xFE]
            distance = abs((seen >> 4) - rows) + abs((seen & 15) - columns)
            assert (np.diff(distance) >= 0).all()
    env.close()


@mettagrid_needed
def test_settings_reach_the_configuration(package: Any) -> None:
    from hotloop.envs.mettagrid_arenas import arena_config

    config = arena_config("hearts", {"agents": 12, "max_steps": 7, "game.obs.width": 11})
    assert (config.game.num_agents, config.game.max_steps, config.game.obs.width) == (12, 7, 11)
    with pytest.raises(ValueError, match=r"game.nothing=1 cannot be set"):
        arena_config("hearts", {"game.nothing": 1})


@mettagrid_needed
def test_trains(package: Any, tmp_path: Path) -> None:
    """Fifteen epochs for real: agents find more hearts than random moves do."""
    from hotloop.policies import TokenPolicy
    from hotloop.trainer import TrainConfig, Trainer

    config = TrainConfig.from_settings(
        {
            "env": "hearts",
            "env_backend": "mettagrid",
            "num_envs": 96,
            "total_timesteps": 46_000,
            "environment": {"kwargs": {"tokens": 200}},
            "quiet": True,
            "run_dir": tmp_path / "run",
            "output": {"tensorboard": False, "plot": False},
        },
        source="test",
    )
    trainer = Trainer(config)
    assert isinstance(trainer.policy, TokenPolicy)
    trainer.train()
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    returns = [float(row.split(",")[4] or "nan") for row in rows[1:]]
    finished = [r for r in returns if not math.isnan(r)]
    assert finished[0] < 5
    assert finished[-1] > finished[0] + 2
