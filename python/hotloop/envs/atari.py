"""Atari games of ale-py, preprocessed as the literature has it."""

from __future__ import annotations

import importlib
from typing import Any, Literal, TypeAlias

from hotloop.envs.atari_wrappers import EpisodicLife, FireOnReset, SignOfReward
from hotloop.envs.gymnasium import GymnasiumEnvironment
from hotloop.envs.gymnasium_make import gymnasium

try:
    import ale_py
    import cv2  # noqa: F401  (AtariPreprocessing resizes with it)
except ImportError as error:
    raise ImportError(
        f"hotloop.envs.make_atari needs ale-py and opencv-python-headless ({error}):"
        " pip install 'hotloop[atari]'"
    ) from error

AtariVectorization: TypeAlias = Literal["sync", "async"]


def make_atari(
    env_id: str,
    num_envs: int,
    *,
    seed: int | None,
    vectorization: AtariVectorization = "sync",
    noop_max: int = 30,
    frame_skip: int = 4,
    screen_size: int = 84,
    frame_stack: int = 4,
    episodic_life: bool = True,
    fire_on_reset: bool = True,
    clip_rewards: bool = True,
    repeat_action_probability: float = 0.0,
    full_action_space: bool = False,
    max_frames: int = 108_000,
) -> GymnasiumEnvironment:
    """Atari environments that show uint8 ``[frame_stack, screen_size, screen_size]``.

    The defaults are the preprocessing of Mnih et al. (2015) in the form that PPO's implementations use
    (Huang et al. 2022, "The 37 Implementation Details of Proximal Policy Optimization"): up to 30 no-ops
    after a reset, every action held for 4 frames, the last two frames' brightest pixels, grey, 84 x 84, a
    lost life as the end of an episode, FIRE where a game waits for it, the sign of the reward, 4 frames
    stacked. For the protocol of Machado et al. (2018), "Revisiting the Arcade Learning Environment": sticky
    actions (``repeat_action_probability=0.25``), ``full_action_space=True``, ``episodic_life=False``,
    ``fire_on_reset=False`` and ``noop_max=0``.

    The episodes that are reported are whole games with the game's own score, whatever the rewards that
    training sees; their length counts agent steps.

    Args:
        env_id: of ale-py's games, such as ``"ALE/Pong-v5"``.
        num_envs: number of environments, n.
        seed: environment i is seeded with ``seed + i``; None for an unpredictable one.
        vectorization: ``"async"`` runs every game in a process of its own.
        noop_max: most no-ops after a reset, drawn evenly from 1 to this; 0 for none.
        frame_skip: frames that an action is held for.
        screen_size: height and width, in pixels.
        frame_stack: frames in an observation.
        episodic_life: a lost life terminates; the game itself goes on.
        fire_on_reset: press FIRE after a reset, in games that have it.
        clip_rewards: rewards -1, 0 and 1, by the sign.
        repeat_action_probability: of the simulator holding the previous action for one more frame.
        full_action_space: all 18 actions instead of those that the game reads.
        max_frames: frames after which a game is truncated; 0 for no limit.

    Raises:
        ValueError: no such game, or an argument out of range.
    """
    if vectorization not in ("sync", "async"):
        raise ValueError(f"make_atari: vectorization must be 'sync' or 'async', got {vectorization!r}")
    for name, value, least in (
        ("noop_max", noop_max, 0),
        ("frame_skip", frame_skip, 1),
        ("screen_size", screen_size, 1),
        ("frame_stack", frame_stack, 1),
        ("max_frames", max_frames, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"make_atari: {name} must be an int of at least {least}, got {value!r}")
    gymnasium.register_envs(ale_py)

    def preprocess(env: Any) -> Any:
        wrappers = gymnasium.wrappers
        env = wrappers.AtariPreprocessing(
            env, noop_max=noop_max, frame_skip=frame_skip, screen_size=screen_size
        )
        # Below what changes episodes and rewards: what is reported is the game.
        env = wrappers.RecordEpisodeStatistics(env)
        if episodic_life:
            env = EpisodicLife(env)
        if fire_on_reset and "FIRE" in env.unwrapped.get_action_meanings():
            env = FireOnReset(env)
        if clip_rewards:
            env = SignOfReward(env)
        return wrappers.FrameStackObservation(env, frame_stack)

    limit: dict[str, Any] = {"max_num_frames_per_episode": max_frames} if max_frames else {}
    try:
        return GymnasiumEnvironment(
            env_id,
            num_envs,
            seed=seed,
            vectorization=vectorization,
            env_kwargs={
                "frameskip": 1,
                "repeat_action_probability": repeat_action_probability,
                "full_action_space": full_action_space,
                **limit,
            },
            wrappers=[preprocess],
            recorded_episodes=True,
        )
    except (gymnasium.error.Error, TypeError) as error:
        raise ValueError(f"make_atari: {env_id!r} cannot be made: {error}") from error


def atari_ids() -> list[str]:
    """Ids of ale-py's games under their current version."""
    gymnasium.register_envs(importlib.import_module("ale_py"))
    return sorted(env_id for env_id in gymnasium.registry if env_id.startswith("ALE/"))
