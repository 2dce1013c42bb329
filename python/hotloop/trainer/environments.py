"""The environment that a configuration names, and the policy that fits its observations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hotloop.policies import GRUPolicy, LSTMPolicy, MLPPolicy, NatureCNNPolicy, TokenPolicy
from hotloop.policies.nature_cnn import reads_images
from hotloop.policies.token_policy import reads_tokens
from hotloop.trainer.config import TrainConfig
from hotloop.trainer.config_sections import EnvBackend, EnvironmentConfig, PolicyConfig

# Fields of `EnvironmentConfig` that a backend reads. Others, which would be ignored, are refused when set.
_READS: dict[EnvBackend, frozenset[str]] = {
    "gymnasium": frozenset({"vectorization", "autoreset", "action_bounds", "kwargs"}),
    "envpool": frozenset({"action_bounds", "slices", "kwargs"}),
    "pufferlib": frozenset({"action_bounds", "slices", "workers", "kwargs"}),
    "mettagrid": frozenset({"kwargs"}),
    "atari": frozenset({"vectorization", "kwargs"}),
}
_POLICIES: dict[str, Any] = {
    "mlp": MLPPolicy,
    "token": TokenPolicy,
    "nature_cnn": NatureCNNPolicy,
    "lstm": LSTMPolicy,
    "gru": GRUPolicy,
}


def make_environment(config: TrainConfig, *, seed: int) -> Any:
    """`config.env` by `config.env_backend`.

    Raises:
        ImportError: the backend is not installed; the message names the extra that installs it.
        ValueError: there is no such environment, it does not take these settings, or the backend does not.
    """
    backend, settings = config.env_backend, config.environment
    untouched = EnvironmentConfig()
    for name in EnvironmentConfig.model_fields:
        if name not in _READS[backend] and getattr(settings, name) != getattr(untouched, name):
            raise ValueError(
                f"environment.{name} = {getattr(settings, name)!r} has no meaning for env_backend = "
                f"{backend!r}: leave it at {getattr(untouched, name)!r}"
            )
    try:
        return _MAKERS[backend](config, seed)
    except (ValueError, TypeError) as error:
        raise ValueError(f"env {config.env!r} cannot be made: {error}") from error


# Adapters are imported where they are used: a run over an environment of one's own needs none of them.


def _gymnasium(config: TrainConfig, seed: int) -> Any:
    from hotloop.envs.gymnasium import GymnasiumEnvironment
    from hotloop.envs.gymnasium_make import MAKE_ERRORS

    try:
        return GymnasiumEnvironment(
            config.env,
            config.num_envs,
            seed=seed,
            vectorization=config.environment.vectorization,
            autoreset=config.environment.autoreset,
            env_kwargs=config.environment.kwargs,
            action_bounds=config.environment.action_bounds,
        )
    except MAKE_ERRORS as error:
        raise ValueError(str(error)) from error


def _envpool(config: TrainConfig, seed: int) -> Any:
    from hotloop.envs.envpool import EnvPoolEnvironment

    settings = config.environment
    return EnvPoolEnvironment(
        config.env,
        config.num_envs,
        seed=seed,
        slices=settings.slices,
        env_kwargs=settings.kwargs,
        action_bounds=settings.action_bounds,
    )


def _pufferlib(config: TrainConfig, seed: int) -> Any:
    from hotloop.envs.pufferlib import PufferEnvironment
    from hotloop.envs.pufferlib_make import make_puffer

    settings = config.environment
    vecenv = make_puffer(
        config.env,
        config.num_envs,
        workers=settings.workers,
        slices=settings.slices,
        env_kwargs=settings.kwargs,
    )
    return PufferEnvironment(vecenv, seed=seed, action_bounds=settings.action_bounds)


def _mettagrid(config: TrainConfig, seed: int) -> Any:
    from hotloop.envs.mettagrid import MettaGridEnvironment
    from hotloop.envs.mettagrid_arenas import arena_config

    changes: dict[str, Any] = dict(config.environment.kwargs or {})
    tokens = changes.pop("tokens", None)
    arena = arena_config(config.env, changes)
    agents = int(arena.game.num_agents)
    arenas, rest = divmod(config.num_envs, agents)
    if rest or not arenas:
        near = sorted({max(1, arenas) * agents, (arenas + 1) * agents})
        raise ValueError(
            f"num_envs must be a multiple of the {agents} agents of an arena, got {config.num_envs}: "
            f"{' or '.join(map(str, near))} would work"
        )
    return MettaGridEnvironment(arena, arenas, seed=seed, tokens=tokens)


def _atari(config: TrainConfig, seed: int) -> Any:
    from hotloop.envs.atari import make_atari

    vectorization = config.environment.vectorization
    if vectorization == "vector_entry_point":
        raise ValueError("environment.vectorization must be auto, sync or async for env_backend = 'atari'")
    kind = "sync" if vectorization == "auto" else vectorization
    options: dict[str, Any] = dict(config.environment.kwargs or {})
    return make_atari(config.env, config.num_envs, seed=seed, vectorization=kind, **options)


_MAKERS: dict[EnvBackend, Callable[[TrainConfig, int], Any]] = {
    "gymnasium": _gymnasium,
    "envpool": _envpool,
    "pufferlib": _pufferlib,
    "mettagrid": _mettagrid,
    "atari": _atari,
}


def make_policy(config: TrainConfig, environment: Any) -> Any:
    """The policy that `config.policy.kind` names, or, for ``auto``, the one that fits the observations.

    Images uint8 ``[k, h, w]`` of at least 36 x 36 pixels get a `NatureCNNPolicy`, uint8 ``[n, 3]`` a
    `TokenPolicy`, everything else an `MLPPolicy`.

    Raises:
        TypeError: the policy cannot read these observations.
    """
    settings, space = config.policy, environment.single_observation_space
    kind = settings.kind
    if kind == "auto":
        kind = "nature_cnn" if reads_images(space) else "token" if reads_tokens(space) else "mlp"
    return _POLICIES[kind].from_spaces(space, environment.single_action_space, **_options(kind, settings))


def _options(kind: str, settings: PolicyConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"log_std_init": settings.log_std_init}
    if kind != "nature_cnn":
        options["hidden"] = settings.hidden
    if kind in ("lstm", "gru"):
        options["core_size"] = settings.core_size
    return options
