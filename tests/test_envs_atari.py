"""The wrappers of Atari games on a game made up here, and whole games of ale-py and EnvPool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from hotloop.envs import GymnasiumEnvironment
from hotloop.envs.atari_wrappers import EpisodicLife, FireOnReset, SignOfReward


class Game(gymnasium.Env[int, int]):
    """Three lives, one of which action 2 loses; shows how many steps it has made, and wants FIRE first."""

    observation_space = gymnasium.spaces.Discrete(1000)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self) -> None:
        self.games, self.actions = 0, list[int]()
        self.ale = self

    def lives(self) -> int:
        return self.left

    def get_action_meanings(self) -> list[str]:
        return ["NOOP", "FIRE", "LOSE"]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        self.games, self.left, self.count = self.games + 1, 3, 0
        return 0, {"new": True}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.actions.append(action)
        self.count += 1
        self.left -= action == 2
        return self.count, -7.0 * action, self.left == 0, self.count == 50, {}


def test_a_lost_life_terminates_and_the_game_goes_on() -> None:
    game = Game()
    env = EpisodicLife(gymnasium.wrappers.RecordEpisodeStatistics(game))
    env.reset(seed=0)
    assert env.step(0)[2:4] == (False, False)
    *_, terminated, truncated, info = env.step(2)
    assert (terminated, truncated, "episode" in info) == (True, False, False)
    observation, info = env.reset()
    assert (game.games, observation, game.lives()) == (1, 3, 2)  # a step without action was made
    assert game.actions == [0, 2, 0]
    env.step(2)
    env.reset()
    *_, terminated, _, info = env.step(2)
    assert (terminated, info["episode"]["r"], info["episode"]["l"]) == (True, -42.0, 6)  # of the whole game
    observation, info = env.reset()
    assert (game.games, observation, info) == (2, 0, {"new": True})
    env.step(2)
    made = len(game.actions)
    env.reset(seed=1)
    assert (game.games, len(game.actions)) == (3, made)  # a seed starts a new game at once


def test_a_life_that_is_won_does_not_terminate() -> None:
    game = Game()
    env = EpisodicLife(game)
    env.reset()
    game.left = 5
    assert not env.step(0)[2]
    game.left = 4
    assert env.step(0)[2]


def test_a_game_that_ends_while_the_next_life_begins_is_not_lost() -> None:
    game = Game()
    env = EpisodicLife(gymnasium.wrappers.RecordEpisodeStatistics(game))
    env.reset()
    game.count = 48
    assert env.step(2)[2]
    _, info = env.reset()  # its step is the 50th, which truncates the game
    assert (game.games, info["episode"]["l"], info["new"]) == (2, 2, True)


def test_fire_starts_the_game() -> None:
    game = Game()
    env = FireOnReset(game)
    observation, _ = env.reset()
    assert (observation, game.actions) == (1, [1])
    game.count = 48
    game.reset = lambda **_: (game.count, {})  # type: ignore[method-assign]
    env.reset()
    assert game.actions == [1, 1]


def test_fire_that_ends_the_game_resets_once_more() -> None:
    game = Game()
    resets = []

    def reset(**options: Any) -> tuple[int, dict[str, Any]]:
        resets.append(options)
        game.left, game.count = 3, 49 if len(resets) == 1 else 0
        return game.count, {}

    game.reset = reset  # type: ignore[method-assign]
    env = FireOnReset(gymnasium.wrappers.RecordEpisodeStatistics(game))
    observation, info = env.reset(seed=4)
    assert [options["seed"] for options in resets] == [4, None]
    assert observation == 0
    assert info["episode"]["l"] == 1


def test_rewards_are_reduced_to_their_sign() -> None:
    env = SignOfReward(Game())
    env.reset()
    assert env.step(2)[1] == -1.0
    assert [env.reward(r) for r in (0.0, 0.5, -3.0)] == [0.0, 1.0, -1.0]


atari_needed = pytest.mark.environments


@pytest.fixture
def package() -> None:
    for module in ("ale_py", "cv2"):
        pytest.importorskip(module, reason=f"{module} is not installed (extra atari)")


def play(env: Any, steps: int, actions: int) -> dict[str, Any]:
    """Random play: what was seen, the rewards, and the episodes."""
    rng = np.random.default_rng(0)
    rewards, terminals, infos, seen = set[float](), 0, list[dict[str, Any]](), []
    for _ in range(steps):
        step = env.get_observations()
        seen.append(step[0].clone())
        rewards |= set(step[1].tolist())
        terminals += int(step[2].sum())
        infos += step[4]
        env.send_actions(rng.integers(0, actions, env.total_parallel_agents))
    env.close()
    return {"seen": seen, "rewards": rewards, "terminals": terminals, "infos": infos}


@atari_needed
def test_games_are_shown_as_the_paper_has_it(package: None) -> None:
    from hotloop.envs import make_atari

    env = make_atari("ALE/Breakout-v5", 2, seed=0)
    assert isinstance(env, GymnasiumEnvironment)
    assert env.single_action_space.n == 4
    played = play(env, 400, 4)
    first, second = played["seen"][10], played["seen"][11]
    assert (first.dtype, first.shape) == (torch.uint8, (2, 4, 84, 84))
    assert torch.equal(first[:, 1:], second[:, :-1])  # frames move up
    assert not torch.equal(first[0], first[1])  # another seed, another number of no-ops
    assert played["rewards"] <= {-1.0, 0.0, 1.0}
    # Five lives a game: an episode that is reported is a game, one that terminates is a life.
    assert played["terminals"] >= 4 * len(played["infos"]) > 0
    assert min(info["episode_length"] for info in played["infos"]) > 50


@atari_needed
def test_options_of_the_games(package: None) -> None:
    from hotloop.envs import make_atari

    env = make_atari(
        "ALE/SpaceInvaders-v5",
        1,
        seed=0,
        screen_size=48,
        frame_stack=2,
        episodic_life=False,
        clip_rewards=False,
        full_action_space=True,
        repeat_action_probability=0.25,
        noop_max=0,
    )
    assert (env.single_observation_space.shape, env.single_action_space.n) == ((2, 48, 48), 18)
    game = env.vector_env.envs[0].unwrapped  # type: ignore[attr-defined]
    assert game.ale.getFloat("repeat_action_probability") == 0.25
    played = play(env, 500, 18)
    assert max(played["rewards"]) >= 5.0  # an invader's worth
    assert played["terminals"] == len(played["infos"])


@atari_needed
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env_id": "ALE/NoSuchGame-v5"}, "'ALE/NoSuchGame-v5' cannot be made"),
        ({"vectorization": "auto"}, "vectorization must be 'sync' or 'async', got 'auto'"),
        ({"frame_skip": 0}, "frame_skip must be an int of at least 1, got 0"),
        ({"frame_stack": 2.5}, "frame_stack must be an int of at least 1, got 2.5"),
        ({"noop_max": -1}, "noop_max must be an int of at least 0, got -1"),
    ],
)
def test_bad_arguments(package: None, change: dict[str, Any], message: str) -> None:
    from hotloop.envs import make_atari

    with pytest.raises(ValueError, match=message):
        make_atari(**{"env_id": "ALE/Pong-v5", "num_envs": 1, "seed": 0, **change})


@atari_needed
def test_envpool_reports_whole_games(package: None) -> None:
    pytest.importorskip("envpool", reason="envpool is not installed (extra envpool)")
    from hotloop.envs import EnvPoolEnvironment

    env = EnvPoolEnvironment(
        "SpaceInvaders-v5", 2, seed=0, env_kwargs={"episodic_life": True, "reward_clip": True}
    )
    assert env.single_observation_space.shape == (4, 84, 84)
    played = play(env, 700, 6)
    assert played["rewards"] <= {-1.0, 0.0, 1.0}
    assert played["terminals"] > len(played["infos"]) > 0
    assert max(info["episode_return"] for info in played["infos"]) >= 50  # the game's own score


@atari_needed
@pytest.mark.parametrize(("backend", "env_id"), [("atari", "ALE/Breakout-v5"), ("envpool", "Breakout-v5")])
def test_trains(package: None, tmp_path: Path, backend: str, env_id: str) -> None:
    """Two epochs for real; what is learnt in them is nothing, but every weight has moved."""
    if backend == "envpool":
        pytest.importorskip("envpool", reason="envpool is not installed (extra envpool)")
    from hotloop.policies import NatureCNNPolicy
    from hotloop.trainer import TrainConfig, Trainer

    config = TrainConfig.from_settings(
        {
            "env": env_id,
            "env_backend": backend,
            "num_envs": 4,
            "total_timesteps": 256,
            "rollout": {"update_epochs": 1},
            "quiet": True,
            "run_dir": tmp_path / "run",
            "output": {"tensorboard": False, "plot": False},
        },
        source="test",
    )
    trainer = Trainer(config)
    assert isinstance(trainer.policy, NatureCNNPolicy)
    before = [parameter.clone() for parameter in trainer.policy.parameters()]
    result = trainer.train()
    assert result.agent_steps == 256
    after = trainer.policy.parameters()
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
