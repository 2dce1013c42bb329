"""A stand-in for the package mettagrid that does what its simulators do with our memory, and nothing else."""

from __future__ import annotations

import copy
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

ACTIONS = ["noop", "move_north", "change_vibe_red", "move_south"]
OURS = ("hotloop.envs.mettagrid", "hotloop.envs.mettagrid_arenas")


class MapBuilder:
    seed: int | None = None

    def model_copy(self, update: dict[str, Any]) -> MapBuilder:
        made = copy.copy(self)
        made.__dict__.update(update)
        return made


class Config:
    """Agents, tokens and steps; ``ends`` says when which agent is done: {step: (terminated, truncated)}."""

    label = "double"

    def __init__(self, agents: int = 2, tokens: int = 3, max_steps: int = 4) -> None:
        obs = SimpleNamespace(num_tokens=tokens, token_dim=3)
        self.game: Any = _Namespace(
            num_agents=agents, obs=obs, max_steps=max_steps, map_builder=MapBuilder(), ends={}
        )

    def model_copy(self, update: dict[str, Any] | None = None, deep: bool = False) -> Config:
        made = copy.deepcopy(self) if deep else copy.copy(self)
        made.__dict__.update(update or {})
        return made

    def override(self, key: str, value: Any) -> None:
        *path, last = key.split(".")
        target = self
        for part in path:
            target = getattr(target, part)
        if not hasattr(target, last):
            raise ValueError(f"Override failed. Full config:\n...\nno {last}")
        setattr(target, last, value)

    @classmethod
    def model_validate(cls, settings: Any) -> Config:
        if not isinstance(settings, dict):
            raise ValueError("not a mapping")
        return cls(**settings)


class Box:
    def __init__(self, low: float, high: float, shape: tuple[int, ...], dtype: Any) -> None:
        self.low, self.high, self.shape, self.dtype = low, high, shape, np.dtype(dtype)


class _Namespace(SimpleNamespace):
    def model_copy(self, update: dict[str, Any]) -> _Namespace:
        return _Namespace(**{**self.__dict__, **update})


class Simulation:
    """Observations tell the seed and the step, rewards the action; memory is cleared by a new simulation."""

    made: list[Simulation]

    def __init__(self, config: Config, seed: int, buffers: Any) -> None:
        self.config, self.seed, self.buffers = config, seed, buffers
        self.count, self.closed = 0, False
        self.action_ids = {name: i for i, name in enumerate(ACTIONS)}
        buffers.rewards[:] = 0
        self._show()
        Simulation.made.append(self)

    def step(self) -> None:
        self.count += 1
        self.buffers.rewards[:] = self.buffers.actions
        for agent, (terminated, truncated) in enumerate(self.config.game.ends.get(self.count, [])):
            self.buffers.terminals[agent] |= terminated
            self.buffers.truncations[agent] |= truncated
        if self.count == self.config.game.max_steps:
            self.buffers.truncations[:] = True
        self._show()

    def _show(self) -> None:
        self.buffers.observations[:] = 255
        self.buffers.observations[:, 0] = [self.seed, self.count, 0]
        self.buffers.observations[:, -1, 2] = self.count

    def close(self) -> None:
        self.closed = True


def _interface(config: Config) -> Any:
    names = [name for name in ACTIONS if "vibe" not in name]
    shape = (config.game.obs.num_tokens, 3)
    return SimpleNamespace(
        num_agents=config.game.num_agents,
        observation_space=Box(0, 255, shape, np.uint8),
        action_space=SimpleNamespace(n=len(names), shape=(), dtype=np.dtype(np.int64), start=0),
        action_names=names,
    )


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the double where `import mettagrid` finds it; afterwards the real one, if any, is back."""
    for name in [name for name in sys.modules if name.split(".")[0] == "mettagrid" or name in OURS]:
        monkeypatch.delitem(sys.modules, name)
    contents: dict[str, dict[str, Any]] = {
        "mettagrid": {},
        "mettagrid.builder": {
            "envs": SimpleNamespace(make_arena=Config, make_navigation=lambda agents: Config(agents, 5))
        },
        "mettagrid.config": {},
        "mettagrid.config.handler_config": {"Handler": object, "withdraw": object},
        "mettagrid.config.mettagrid_config": {
            "GridObjectConfig": object,
            "InventoryConfig": object,
            "MettaGridConfig": Config,
        },
        "mettagrid.map_builder": {},
        "mettagrid.map_builder.map_builder": {"HasSeed": MapBuilder},
        "mettagrid.policy": {},
        "mettagrid.policy.policy_env_interface": {
            "PolicyEnvInterface": SimpleNamespace(from_mg_cfg=_interface)
        },
        "mettagrid.simulator": {"Simulation": Simulation},
        "mettagrid.simulator.simulator": {"Buffers": SimpleNamespace},
    }
    for name, members in contents.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    Simulation.made = []
    for name in OURS:  # imported anew by whoever needs them, and forgotten with the double
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.delitem(sys.modules, name)


def configuration() -> Config:
    """What `"mettagrid_double:configuration"` names."""
    return Config(agents=3)


def no_configuration() -> int:
    return 3
