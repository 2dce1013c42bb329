"""Which arena a MettaGrid id means: the package's own, one with hearts to find, a function, or a file."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

try:
    import yaml
    from mettagrid.builder import envs as builders
    from mettagrid.config.handler_config import Handler, withdraw
    from mettagrid.config.mettagrid_config import GridObjectConfig, InventoryConfig, MettaGridConfig
except ImportError as error:
    raise ImportError(
        f"hotloop.envs.MettaGridEnvironment needs mettagrid ({error}): pip install 'hotloop[mettagrid]'"
        " (there are wheels for Python 3.11 and 3.12)"
    ) from error

__all__ = ["ARENAS", "arena_config", "hearts"]

_WHERE = "MettaGridEnvironment"


def hearts(num_agents: int = 24, *, altars: int = 24, hearts_each: int = 10, max_steps: int = 100) -> Any:
    """The package's arena of 25 x 25 cells with something to earn in it: altars that hold hearts.

    An agent that moves onto an altar takes one heart of it, for a reward of 1 (the reward for hearts is the
    package's own); an altar that was emptied is gone. The mean return of an episode is therefore at most
    ``altars * hearts_each / num_agents``: 10 with the defaults, of which random moves find about 3.

    Args:
        num_agents: agents in the arena.
        altars: how many altars are placed.
        hearts_each: hearts in each of them.
        max_steps: length of an episode; it is truncated there, not terminated.

    Returns:
        A ``MettaGridConfig``.
    """
    config = builders.make_arena(num_agents)
    config.game.objects["altar"] = GridObjectConfig(
        name="altar",
        inventory=InventoryConfig(initial={"heart": hearts_each}),
        on_use_handler=Handler(mutations=[withdraw({"heart": 1}, remove_when_empty=True)]),
    )
    config.game.map_builder.instance.objects["altar"] = altars
    config.game.max_steps = max_steps
    config.game.episode_truncates = True
    config.label = "hearts"
    return config


def _arena(num_agents: int = 24) -> Any:
    return builders.make_arena(num_agents)


def _navigation(num_agents: int = 24) -> Any:
    return builders.make_navigation(num_agents)


#: The ids that need no file: what each is, by a function of the number of agents.
ARENAS: Mapping[str, Callable[..., Any]] = {"hearts": hearts, "arena": _arena, "navigation": _navigation}


def arena_config(env_id: Any, changes: Mapping[str, Any]) -> Any:
    """A ``MettaGridConfig`` of its own, with the changes made.

    Args:
        env_id: a name in ``ARENAS``; ``"module:function"``, called for a ``MettaGridConfig``; the path of a
            YAML or JSON file of one; or a ``MettaGridConfig``, which is copied.
        changes: ``max_steps`` is short for ``game.max_steps``; ``agents`` is the number of agents, for a name
            in ``ARENAS``. Every other key is a path such as ``game.agent.rewards.heart.weight``, set by the
            configuration's own ``override``.

    Raises:
        TypeError: the function returned something else.
        ValueError: no such arena, or a change that the configuration does not take.
    """
    changes = dict(changes)
    agents = changes.pop("agents", None)
    if agents is not None and env_id not in ARENAS:
        raise ValueError(f"{_WHERE}: agents can be chosen for {sorted(ARENAS)}, not for {env_id!r}")
    if isinstance(env_id, MettaGridConfig):
        config = env_id.model_copy(deep=True)
    elif env_id in ARENAS:
        config = ARENAS[env_id]() if agents is None else ARENAS[env_id](agents)
    elif str(env_id).endswith((".yaml", ".yml", ".json")):
        config = _from_file(Path(env_id))
    else:
        config = _from_function(str(env_id))
    if "max_steps" in changes:
        changes["game.max_steps"] = changes.pop("max_steps")
    for key, value in changes.items():
        _override(config, key, value)
    if config.game.obs.token_dim != 3:
        raise ValueError(f"{_WHERE}: game.obs.token_dim must be 3, got {config.game.obs.token_dim}")
    return config


def _override(config: Any, key: str, value: Any) -> None:
    try:
        config.override(key, value)
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        # The package's message begins with the whole configuration.
        reason = str(error).splitlines()[-1] if str(error) else type(error).__name__
        raise ValueError(f"{_WHERE}: {key}={value!r} cannot be set: {reason}") from error


def _from_file(path: Path) -> Any:
    try:
        return MettaGridConfig.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise ValueError(f"{_WHERE}: {path} cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{_WHERE}: {path} holds no MettaGridConfig: {error}") from error


def _from_function(name: str) -> Any:
    module, colon, function = name.partition(":")
    if not colon:
        raise ValueError(
            f"{_WHERE}: env_id must be one of {sorted(ARENAS)}, 'module:function', or a YAML or JSON file, "
            f"got {name!r}"
        )
    try:
        config = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{_WHERE}: {name!r} cannot be imported: {error}") from error
    if not isinstance(config, MettaGridConfig):
        raise TypeError(f"{_WHERE}: {name} must return a MettaGridConfig, got {type(config).__name__}")
    return config
