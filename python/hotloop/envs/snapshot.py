"""The state of Gymnasium's simple environments as plain values, so that a run resumes to the last bit.

What can be saved: environments whose whole state is known here (classic control, the grid worlds of toy text,
through stateless wrappers and TimeLimit), and any environment or wrapper that has ``state_dict()`` and
``load_state_dict()`` of its own. Everything else (simulators with hidden state, other processes) is refused
with the reason.

Classes are recognised by their exact qualified name: a subclass may hold state that nobody listed. Values are
tensors, lists, dicts, numbers and strings, which ``torch.load(weights_only=True)`` reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

_SYNC = "gymnasium.vector.sync_vector_env.SyncVectorEnv"

_CONTROL = "gymnasium.envs.classic_control"
_TOY = "gymnasium.envs.toy_text"
_WRAPPERS = "gymnasium.wrappers"

# Attributes that decide an environment's future, besides its random generator. Not listed: what only
# rendering reads, and what the reset after an episode puts back anyway.
_FIELDS: dict[str, tuple[str, ...]] = {
    f"{_CONTROL}.cartpole.CartPoleVectorEnv": ("state", "steps", "prev_done"),
    f"{_CONTROL}.cartpole.CartPoleEnv": ("state",),
    f"{_CONTROL}.acrobot.AcrobotEnv": ("state",),
    f"{_CONTROL}.pendulum.PendulumEnv": ("state",),
    f"{_CONTROL}.mountain_car.MountainCarEnv": ("state",),
    f"{_CONTROL}.continuous_mountain_car.Continuous_MountainCarEnv": ("state",),
    f"{_TOY}.frozen_lake.FrozenLakeEnv": ("s",),
    f"{_TOY}.cliffwalking.CliffWalkingEnv": ("s",),
    f"{_WRAPPERS}.common.TimeLimit": ("_elapsed_steps",),
    f"{_WRAPPERS}.common.OrderEnforcing": (),
    f"{_WRAPPERS}.common.PassiveEnvChecker": (),
    f"{_WRAPPERS}.transform_observation.FlattenObservation": (),
    f"{_WRAPPERS}.transform_observation.RescaleObservation": (),
    f"{_WRAPPERS}.transform_observation.DtypeObservation": (),
    f"{_WRAPPERS}.transform_observation.ReshapeObservation": (),
    f"{_WRAPPERS}.transform_action.ClipAction": (),
    f"{_WRAPPERS}.transform_action.RescaleAction": (),
    f"{_WRAPPERS}.transform_reward.ClipReward": (),
}


def why_unsavable(vector_env: Any) -> str | None:
    """None when ``capture`` works for this vector environment, else the reason why not."""
    if _keeps_own_state(vector_env):
        return None
    name = _name(vector_env)
    if name != _SYNC:
        return _why_layer_unsavable(vector_env)
    if not hasattr(vector_env, "_autoreset_envs"):
        return f"{name} of this Gymnasium version keeps its pending resets elsewhere"
    reasons = (_why_layer_unsavable(layer) for env in vector_env.envs for layer in _layers(env))
    return next((reason for reason in reasons if reason is not None), None)


def capture(vector_env: Any) -> dict[str, Any]:
    """State of a vector environment for which ``why_unsavable`` is None."""
    if _name(vector_env) != _SYNC or _keeps_own_state(vector_env):
        return {"layers": [_capture_layer(vector_env)]}
    return {
        "autoreset_envs": pack(vector_env._autoreset_envs),
        "envs": [[_capture_layer(layer) for layer in _layers(env)] for env in vector_env.envs],
    }


def restore(vector_env: Any, state: Mapping[str, Any]) -> None:
    """Puts what ``capture`` returned into an equally built vector environment."""
    if _name(vector_env) != _SYNC or _keeps_own_state(vector_env):
        _restore_layers([vector_env], state["layers"])
        return
    for env, saved in zip(vector_env.envs, state["envs"], strict=True):
        _restore_layers(list(_layers(env)), saved)
    vector_env._autoreset_envs = unpack(state["autoreset_envs"])


def pack(value: Any) -> Any:
    """Turns numbers, strings, arrays and containers of them into tensors and builtins; exact, dtypes kept.

    Raises:
        TypeError: for anything else.
    """
    if value is None or (isinstance(value, (str, float, torch.Tensor)) and not isinstance(value, np.generic)):
        return value
    if isinstance(value, (bool, int)):
        # Generators hold 128-bit integers, which not every reader of pickles accepts.
        return value if -(2**63) <= value < 2**63 else {"~int": hex(value)}
    if isinstance(value, np.ndarray):
        return {"~array": torch.from_numpy(value.copy(order="C"))}
    if isinstance(value, np.generic):
        return {"~scalar": torch.from_numpy(np.asarray(value).copy())}
    if isinstance(value, tuple):
        return {"~tuple": [pack(item) for item in value]}
    if isinstance(value, list):
        return [pack(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) and not key.startswith("~") for key in value):
        return {key: pack(item) for key, item in value.items()}
    raise TypeError(
        f"pack: expected numbers, strings, arrays or containers of them, got {type(value).__name__}"
    )


def unpack(value: Any) -> Any:
    """Inverse of ``pack``; arrays are fresh."""
    if isinstance(value, list):
        return [unpack(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "~int" in value:
        return int(value["~int"], 16)
    if "~array" in value:
        return value["~array"].numpy().copy()
    if "~scalar" in value:
        return value["~scalar"].numpy()[()]
    if "~tuple" in value:
        return tuple(unpack(item) for item in value["~tuple"])
    return {key: unpack(item) for key, item in value.items()}


def _name(env: Any) -> str:
    return f"{type(env).__module__}.{type(env).__qualname__}"


def _keeps_own_state(env: Any) -> bool:
    # Asked of the class: wrappers of some libraries forward unknown attributes of the instance.
    return all(callable(getattr(type(env), method, None)) for method in ("state_dict", "load_state_dict"))


def _layers(env: Any) -> Iterator[Any]:
    """The wrappers of one environment from the outside in, the environment itself last."""
    while env.unwrapped is not env:
        yield env
        env = env.env
    yield env


def _why_layer_unsavable(layer: Any) -> str | None:
    if _keeps_own_state(layer):
        return None
    name = _name(layer)
    if name not in _FIELDS:
        return f"the state of {name} is not known; give the class state_dict() and load_state_dict()"
    missing = [field for field in _FIELDS[name] if not hasattr(layer, field)]
    return f"{name} of this Gymnasium version has no attribute {missing[0]!r}" if missing else None


def _capture_layer(layer: Any) -> dict[str, Any]:
    name = _name(layer)
    if _keeps_own_state(layer):
        saved: dict[str, Any] = {"class": name, "own": pack(layer.state_dict())}
    else:
        saved = {"class": name, "fields": {field: pack(getattr(layer, field)) for field in _FIELDS[name]}}
    if layer.unwrapped is layer:
        saved["generator"] = pack(layer.np_random.bit_generator.state)
    return saved


def _restore_layers(layers: list[Any], saved: list[dict[str, Any]]) -> None:
    have, want = [_name(layer) for layer in layers], [item["class"] for item in saved]
    if have != want:
        raise ValueError(f"load_state_dict: the state is of {want}, the environment is {have}")
    for layer, item in zip(layers, saved, strict=True):
        if "own" in item:
            layer.load_state_dict(unpack(item["own"]))
        for field, value in item.get("fields", {}).items():
            setattr(layer, field, unpack(value))
        if "generator" in item:
            layer.np_random.bit_generator.state = unpack(item["generator"])
