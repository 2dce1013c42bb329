"""Building Gymnasium vector environments, and checking that a training loop can step them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from hotloop.envs.actions import ActionBounds, ContinuousActions, DiscreteActions
from hotloop.envs.protocol import AutoresetMode

try:
    import gymnasium
    from gymnasium.vector import AutoresetMode as GymnasiumAutoreset
except ImportError as error:
    raise ImportError(
        f"hotloop.envs.GymnasiumEnvironment needs gymnasium>=1.1 ({error}): pip install 'hotloop[train]'"
    ) from error

__all__ = [
    "MAKE_ERRORS",
    "Vectorization",
    "actions_of",
    "autoreset_of",
    "gymnasium",
    "make_vector_env",
    "observation_space_of",
]

Vectorization: TypeAlias = Literal["auto", "vector_entry_point", "sync", "async"]

# What making an environment raises for an unknown id, or for settings that it does not take.
MAKE_ERRORS: tuple[type[Exception], ...] = (gymnasium.error.Error, TypeError)

_MODES: dict[AutoresetMode, GymnasiumAutoreset] = {
    "same_step": GymnasiumAutoreset.SAME_STEP,
    "next_step": GymnasiumAutoreset.NEXT_STEP,
}


def make_vector_env(
    env_id: Any,
    num_envs: int,
    vectorization: Vectorization,
    autoreset: AutoresetMode | None,
    env_kwargs: dict[str, Any],
    vector_kwargs: dict[str, Any],
    wrappers: list[Callable[[Any], Any]],
) -> tuple[Any, str]:
    """The vector environment, and the vectorisation that ``"auto"`` came to.

    Arguments as in ``GymnasiumEnvironment``.
    """
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
        raise ValueError(f"GymnasiumEnvironment: num_envs must be a positive int, got {num_envs!r}")
    if vectorization not in get_args(Vectorization):
        raise ValueError(
            f"GymnasiumEnvironment: vectorization must be one of {get_args(Vectorization)},"
            f" got {vectorization!r}"
        )
    if autoreset is not None and autoreset not in _MODES:
        raise ValueError(
            f"GymnasiumEnvironment: autoreset must be one of {tuple(_MODES)} or None, got {autoreset!r}"
            " (a training loop does not reset environments by hand)"
        )
    if "autoreset_mode" in vector_kwargs:
        raise ValueError(
            "GymnasiumEnvironment: vector_kwargs must not hold autoreset_mode; use the argument autoreset"
        )
    if vectorization == "vector_entry_point":
        vector_env = gymnasium.make_vec(
            env_id, num_envs, vectorization, vector_kwargs=vector_kwargs, wrappers=wrappers, **env_kwargs
        )
        mode = vector_env.metadata.get("autoreset_mode")
        if autoreset is not None and mode != _MODES[autoreset]:
            vector_env.close()
            raise ValueError(
                f"GymnasiumEnvironment: the vector entry point of {env_id} has autoreset mode {mode}, not"
                f" {autoreset!r}; use vectorization='sync' or 'async'"
            )
        return vector_env, vectorization
    if vectorization == "auto":
        if not wrappers and not vector_kwargs:
            vector_env = _try_entry_point(env_id, num_envs, autoreset, env_kwargs)
            if vector_env is not None:
                return vector_env, "vector_entry_point"
        vectorization = "sync"
    # copy=False: the observations are copied into our own buffers anyway.
    options = {"copy": False, **vector_kwargs, "autoreset_mode": _MODES[autoreset or "same_step"]}
    if vectorization == "async":
        wrappers = [*wrappers, _signals_of_worker(os.getpid())]
    vector_env = gymnasium.make_vec(
        env_id, num_envs, vectorization, vector_kwargs=options, wrappers=wrappers, **env_kwargs
    )
    return vector_env, vectorization


def _try_entry_point(
    env_id: Any, num_envs: int, autoreset: AutoresetMode | None, env_kwargs: dict[str, Any]
) -> Any:
    """The environment's own vector class, or None where there is none or its autoreset mode does not fit."""
    try:
        vector_env = gymnasium.make_vec(env_id, num_envs, "vector_entry_point", **env_kwargs)
    except gymnasium.error.Error:
        return None  # a real mistake, such as an unknown id, comes back from the synchronous attempt
    mode = vector_env.metadata.get("autoreset_mode")
    if mode in ([_MODES[autoreset]] if autoreset else _MODES.values()):
        return vector_env
    vector_env.close()
    return None


def _signals_of_worker(parent: int) -> Callable[[Any], Any]:
    """A wrapper that leaves the environment alone and sets the signals of its worker process.

    Ctrl-C reaches every process of a terminal's group; a worker that dies of it takes the trainer down before
    it can save. And a worker forked from a trainer that handles SIGTERM inherits the handler, so it could not
    be ended.

    Args:
        parent: id of the process whose signals stay as they are.
    """

    def apply(env: Any) -> Any:
        if os.getpid() != parent:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return env

    return apply


def autoreset_of(vector_env: Any) -> AutoresetMode:
    """How the environment restarts episodes; ValueError where it does not say, or only on demand."""
    # The attribute first: older Gymnasium versions keep the metadata of all instances in one dict.
    mode = getattr(vector_env.unwrapped, "autoreset_mode", None) or vector_env.metadata.get("autoreset_mode")
    for name, value in _MODES.items():
        if mode == value:
            return name
    if mode is None:
        raise ValueError(
            f"GymnasiumEnvironment: {vector_env} does not say how it resets; set metadata['autoreset_mode']"
            " to a gymnasium.vector.AutoresetMode"
        )
    raise ValueError(
        f"GymnasiumEnvironment: autoreset mode of {vector_env} must be SAME_STEP or NEXT_STEP, got {mode}"
    )


def observation_space_of(vector_env: Any) -> gymnasium.spaces.Box:
    """The single observation space; TypeError unless it is a Box."""
    space = vector_env.single_observation_space
    if not isinstance(space, gymnasium.spaces.Box):
        raise TypeError(
            f"GymnasiumEnvironment: observation space must be Box, got {space};"
            " wrappers=[gymnasium.wrappers.FlattenObservation] makes a Box of it"
        )
    return space


def actions_of(
    space: Any, n: int, bounds: ActionBounds
) -> tuple[gymnasium.Space[Any], Callable[[npt.NDArray[Any]], npt.NDArray[Any]]]:
    """The space that a policy acts in, and the function from n of its actions to the environment's."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return space, DiscreteActions(space.n, space.start, space.dtype, n)
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return space, DiscreteActions(space.nvec, space.start, space.dtype, n)
    if isinstance(space, gymnasium.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        convert = ContinuousActions(space.low, space.high, space.dtype, n, bounds)
        if bounds == "scale":
            space = gymnasium.spaces.Box(-1.0, 1.0, space.shape, space.dtype.type)
        return space, convert
    raise TypeError(f"action space must be Discrete, MultiDiscrete or a floating Box, got {space}")
