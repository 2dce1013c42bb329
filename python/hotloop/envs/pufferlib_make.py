"""PufferLib vecenvs from an id: a Gymnasium environment under emulation, or a function of one's own."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from hotloop.envs.gymnasium_make import gymnasium

try:
    import pufferlib.emulation
    import pufferlib.vector
except ImportError as error:
    raise ImportError(
        f"env_backend 'pufferlib' needs pufferlib ({error}): docs/environments.md says how to install it"
    ) from error

_WHERE = "make_puffer"


def make_puffer(
    env_id: str,
    num_agents: int,
    *,
    workers: int = 0,
    slices: int = 1,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """A PufferLib vecenv of so many agents.

    Args:
        env_id: an id of Gymnasium's registry, which PufferLib's emulation wraps, or ``"module:function"``: a
            function or class that PufferLib takes for a creator of environments, called with ``buf`` and
            ``seed`` beside ``env_kwargs``.
        num_agents: agents over all environments; a multiple of those of one.
        workers: processes; 0 steps all environments in this one (``pufferlib.vector.Serial``).
        slices: batches that the workers are divided over; more than one needs as many workers or a multiple.
        env_kwargs: arguments of the environment.

    Raises:
        ValueError: an unknown id, or sizes that do not divide.
    """
    creator = _creator(env_id)
    kwargs = dict(env_kwargs or {})
    probe = creator(**kwargs)
    each = int(probe.num_agents)
    probe.close()
    if num_agents < each or num_agents % each:
        raise ValueError(
            f"{_WHERE}: num_envs must be a multiple of the {each} agents of one, got {num_agents}"
        )
    environments = num_agents // each
    if workers == 0:
        if slices != 1:
            raise ValueError(f"{_WHERE}: environment.slices = {slices} needs environment.workers, got 0")
        return pufferlib.vector.make(
            creator, env_kwargs=kwargs, backend=pufferlib.vector.Serial, num_envs=environments
        )
    if environments % workers or workers % slices:
        raise ValueError(
            f"{_WHERE}: environment.workers must divide the {environments} environments and be a multiple of "
            f"environment.slices, got workers = {workers} and slices = {slices}"
        )
    return pufferlib.vector.make(
        creator,
        env_kwargs=kwargs,
        backend=pufferlib.vector.Multiprocessing,
        num_envs=environments,
        num_workers=workers,
        batch_size=environments // slices,
        overwork=True,
    )


def _creator(env_id: str) -> Callable[..., Any]:
    module, colon, name = env_id.partition(":")
    if colon and name.isidentifier():
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{_WHERE}: {env_id!r} cannot be imported: {error}") from error
        creator: Callable[..., Any] = found
        return creator
    try:
        gymnasium.spec(env_id)
    except gymnasium.error.Error as error:
        raise ValueError(
            f"{_WHERE}: env must be an id of Gymnasium's registry or 'module:function', got {env_id!r}"
            f" ({error})"
        ) from error
    return functools.partial(_emulated, env_id)


def _emulated(env_id: str, buf: Any = None, seed: int = 0, **kwargs: Any) -> Any:
    return pufferlib.emulation.GymnasiumPufferEnv(
        env_creator=gymnasium.make, env_args=[env_id], env_kwargs=kwargs, buf=buf, seed=seed
    )
