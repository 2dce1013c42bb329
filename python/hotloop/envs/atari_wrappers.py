"""What changes the episodes and rewards of an Atari game, as Mnih et al. (2015) trained on it."""

from __future__ import annotations

from typing import Any, SupportsFloat, TypeAlias

from hotloop.envs.gymnasium_make import gymnasium

_Step: TypeAlias = "tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]"


class EpisodicLife(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Terminates when a life is lost; ``reset`` then goes on with the game, by a step without action."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self._lives = 0
        self._game_over = True

    def step(self, action: Any) -> _Step:
        """One step; ``terminated`` where a life was lost."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._game_over = terminated or truncated
        lives = _lives_of(self.env)
        lost = 0 < lives < self._lives
        self._lives = lives
        return observation, reward, bool(terminated or lost), truncated, info

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """A new game if the last one is over, or a seed is given; otherwise the next life of it."""
        kept: dict[str, Any] = {}
        if not self._game_over and seed is None:
            observation, _, terminated, truncated, info = self.env.step(0)
            self._game_over, kept = terminated or truncated, _episode_of(info)
        if self._game_over or seed is not None:
            observation, info = self.env.reset(seed=seed, options=options)
            self._game_over = False
        self._lives = _lives_of(self.env)
        return observation, {**info, **kept}


class FireOnReset(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Presses FIRE after a reset, so that games that wait for it begin."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self._fire = env.unwrapped.get_action_meanings().index("FIRE")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """The observation after FIRE; reset once more should the game end by it."""
        _, before = self.env.reset(seed=seed, options=options)
        observation, _, terminated, truncated, info = self.env.step(self._fire)
        kept = {**_episode_of(before), **_episode_of(info)}
        if terminated or truncated:
            observation, info = self.env.reset(options=options)
        return observation, {**info, **kept}


class SignOfReward(gymnasium.RewardWrapper[Any, Any]):
    """Rewards -1, 0 and 1."""

    def reward(self, reward: SupportsFloat) -> float:
        """The sign of the reward."""
        value = float(reward)
        return float(value > 0) - float(value < 0)


def _lives_of(env: Any) -> int:
    return int(env.unwrapped.ale.lives())


def _episode_of(info: dict[str, Any]) -> dict[str, Any]:
    """The record of a game that ended in a step made during a reset, which must not be lost."""
    return {"episode": info["episode"]} if "episode" in info else {}
