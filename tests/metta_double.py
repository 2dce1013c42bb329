"""A double of what surrounds Metta's training loop: environment, policies, context, specs.

Metta's trainer is not on PyPI. What it does was written down from its source, and this was written from
that description; the folders `doubles/metta_oct` and `doubles/metta_head` hold a package `metta` each, with
a plain torch implementation of a layout of its loop. `loaded(layout)` imports one of them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "doubles"
LAYOUTS = ("oct", "head")
F32 = torch.float32


class Leaf(NamedTuple):
    """Of a spec: what torchrl's `Unbounded` has of `shape` and `dtype`."""

    shape: torch.Size
    dtype: torch.dtype


SCALAR = Leaf(torch.Size(()), F32)


class Spec(dict[str, Any]):
    """As much of torchrl's `Composite` as Metta uses."""

    def keys(self, include_nested: bool = False, leaves_only: bool = False) -> Any:  # type: ignore[override]
        if not include_nested:
            return list(super().keys())
        return [key for key, _ in self.leaves()]

    def leaves(self, prefix: tuple[str, ...] = ()) -> Iterator[tuple[Any, Leaf]]:
        for name, value in self.items():
            path = (*prefix, name)
            if isinstance(value, Spec):
                yield from value.leaves(path)
            else:
                yield (path if len(path) > 1 else name), value

    def zeros(self, *batch: int) -> TensorDict:
        td = TensorDict({}, batch_size=batch, device=torch.device("cpu"))
        for key, leaf in self.leaves():
            td[key] = torch.zeros((*batch, *leaf.shape), dtype=leaf.dtype)
        return td


class Space(NamedTuple):
    nvec: np.ndarray[Any, Any]
    dtype: Any = np.int32


class Env:
    """Serves slices of agents in turn from buffers that the next step of a slice overwrites. Rewards depend
    on the actions that were sent."""

    def __init__(
        self,
        layout: str,
        agents: int,
        *,
        slices: int = 1,
        order: tuple[int, ...] | None = None,
        obs_shape: tuple[int, ...] = (200, 3),
        nvec: tuple[int, ...] = (5,),
        seed: int = 0,
        steps: int = 8,
    ) -> None:
        self.layout = layout
        self.total_parallel_agents = agents
        self.single_action_space = Space(np.array(nvec))
        n = agents // slices
        # Slices of unequal speed come up unequally often.
        self.windows = [slice(i * n, (i + 1) * n) for i in order or range(slices)]
        self.batch_info = SimpleNamespace(num_envs=n)
        random = np.random.default_rng(seed)
        self._obs = random.integers(0, 256, (steps, n, *obs_shape), dtype=np.uint8)
        self._numbers = random.random((steps, 5, n), dtype=np.float32)
        self._buffers = [
            [
                np.empty((n, *obs_shape), np.uint8),
                np.zeros(n, np.float32),
                np.zeros(n, np.bool_),
                np.zeros(n, np.bool_),
                np.zeros(n, np.int32),
                np.ones(n, np.bool_),
            ]
            for _ in self.windows
        ]
        self._acted = [np.zeros(n, np.float32) for _ in self.windows]
        self.calls = 0
        self.sent: list[np.ndarray[Any, Any]] | None = []

    def get_observations(self) -> tuple[Any, ...]:
        number, t = self.calls % len(self.windows), self.calls % len(self._obs)
        obs, rewards, terminals, truncations, teacher, mask = self._buffers[number]
        noise = self._numbers[t]
        np.copyto(obs, self._obs[t])
        np.subtract(noise[0], self._acted[number], out=rewards)
        np.less(noise[1], 0.1, out=terminals)
        np.less(noise[2], 0.05, out=truncations)
        np.copyto(teacher, noise[3] * 4, casting="unsafe")
        np.less(noise[4], 0.9, out=mask)
        infos = [{"call": self.calls}] if self.calls % 3 else []
        self.calls += 1
        step = [torch.as_tensor(array) for array in (obs, rewards, terminals, truncations)]
        if self.layout == "head":
            step.append(torch.as_tensor(teacher))
        return (*step, infos, self.windows[number], torch.as_tensor(mask), int(mask.sum()))

    def send_actions(self, actions: np.ndarray[Any, Any]) -> None:
        number = (self.calls - 1) % len(self.windows)
        self._acted[number] = 0.1 * actions.reshape(len(actions), -1).sum(1).astype(np.float32)
        if self.sent is not None:
            self.sent.append(actions.copy())


class Policy(nn.Module):
    """One hidden layer, or an LSTM behind it, and a categorical head for each component of the action."""

    def __init__(
        self,
        layout: str,
        *,
        obs_shape: tuple[int, ...] = (200, 3),
        nvec: tuple[int, ...] = (5,),
        width: int = 32,
        recurrent: bool = False,
        log: list[Any] | None = None,
        extra: Spec | None = None,
    ) -> None:
        super().__init__()
        self.layout, self.obs_shape, self.nvec = layout, obs_shape, nvec
        self.trunk = nn.Linear(int(np.prod(obs_shape)), width)
        self.cell = nn.LSTM(width, width, batch_first=True) if recurrent else None
        self.actor, self.critic = nn.Linear(width, sum(nvec)), nn.Linear(width, 1)
        self.unused = nn.Linear(width, 1)
        self.log = log
        self.extra = extra or Spec()
        self.state: tuple[Tensor, Tensor] | None = None

    def get_agent_experience_spec(self) -> Spec:
        spec = Spec(env_obs=Leaf(torch.Size(self.obs_shape), torch.uint8), dones=SCALAR, truncateds=SCALAR)
        spec.update(self.extra)
        return spec

    def reset_memory(self) -> None:
        if self.log is not None:
            self.log.append(("policy.reset_memory",))
        self.state = None

    def forward(self, td: TensorDict, action: Tensor | None = None) -> TensorDict:
        if self.log is not None:
            self.log.append(("policy.forward", sorted(map(str, td.keys())), described(action)))
        hidden = torch.relu(self.trunk(td["env_obs"].flatten(1).float() / 255.0))
        if self.cell is not None:
            batch, bptt = int(td["batch"][0].item()), int(td["bptt"][0].item())
            hidden, state = self.cell(hidden.reshape(batch, bptt, -1), self.state if action is None else None)
            hidden = hidden.reshape(batch * bptt, -1)
            self.state = state if action is None else None
        groups = [logits.log_softmax(-1) for logits in self.actor(hidden).split(self.nvec, dim=-1)]
        td["values"] = self.critic(hidden).squeeze(-1)
        if action is None:
            chosen = torch.cat([torch.multinomial(group.exp(), 1) for group in groups], dim=-1)
            td["actions"] = chosen.int() if self.layout == "oct" else chosen.int().squeeze(-1)
        else:
            chosen = action.long()
            td["entropy"] = -sum((group.exp() * group).sum(-1) for group in groups)
            td["unused"] = self.unused(hidden)
        picked = [group.gather(-1, chosen[:, i : i + 1]) for i, group in enumerate(groups)]
        td["act_log_prob"] = torch.cat(picked, dim=-1).sum(-1)
        td["full_log_probs"] = torch.cat(groups, dim=-1)
        return td


def described(value: Any) -> Any:
    """Shape and dtype of a tensor, keys of a TensorDict, else the value itself."""
    if isinstance(value, Tensor):
        return list(value.shape), value.dtype
    if isinstance(value, TensorDict):
        return list(value.batch_size), sorted(map(str, value.keys(True)))
    return value


class Stopwatch:
    """Remembers the names that were entered, in order."""

    def __init__(self) -> None:
        self.names: list[str] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.names.append(name)
        yield


class Context:
    """`ComponentContext`. Reading the configuration is counted, so that one that is remembered shows."""

    def __init__(self, config: Any, agents: int) -> None:
        self.config = config
        self.epoch = 0
        self.state = SimpleNamespace(window=None, avg_reward=torch.zeros(agents))
        self.stopwatch = Stopwatch()
        self.losses: dict[str, Any] = {}
        self.loss_run_gates: dict[str, dict[str, bool]] = {}
        self.latest_losses_stats: dict[str, float] = {}
        self.served: list[slice | None] = []

    @property
    def training_env_id(self) -> slice | None:
        window: slice | None = self.state.window
        return window

    @training_env_id.setter
    def training_env_id(self, value: slice | None) -> None:
        self.served.append(value)
        self.state.window = value

    def reset_for_epoch(self) -> None:
        self.training_env_id = None


def config(
    agents: int, *, rows: int = 2, horizon: int = 4, minibatches: int = 2, epochs: int = 1, **values: Any
) -> SimpleNamespace:
    """The trainer's configuration; `values` go into the groups of the same names."""
    batch = agents * rows * horizon
    made = SimpleNamespace(
        total_timesteps=10 * batch,
        batch_size=batch,
        minibatch_size=batch // minibatches,
        bptt_horizon=horizon,
        update_epochs=epochs,
        # of oct's PPO and head's groups alike
        clip_coef=0.2,
        ent_coef=0.01,
        vf_clip_coef=0.1,
        vf_coef=0.75,
        norm_adv=True,
        target_kl=None,
        max_grad_norm=0.5,
        critic_update="clipped",
        sampling=SimpleNamespace(method="sequential", prio_alpha=0.0, prio_beta0=0.6),
        advantage=SimpleNamespace(
            gamma=0.977,
            gae_lambda=0.891477,
            vtrace_rho_clip=1.0,
            vtrace_c_clip=1.0,
            reward_centering=SimpleNamespace(enabled=False, beta=0.1, initial_reward_mean=0.0),
        ),
    )
    for name, value in values.items():
        group = next(g for g in (made, made.sampling, made.advantage) if hasattr(g, name))
        setattr(group, name, value)
    return made


@contextmanager
def loaded(layout: str) -> Iterator[SimpleNamespace]:
    """The package `metta` of a layout, importable for as long as this lasts: its modules by short name."""
    folder = str(FOLDER / f"metta_{layout}")
    _forget()
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield modules()
    finally:
        sys.path.remove(folder)
        _forget()


def modules() -> SimpleNamespace:
    names = ("advantage", "training", "training.core", "training.experience", "loss.ppo", "trainer")
    return SimpleNamespace(
        **{name.rpartition(".")[2]: importlib.import_module(f"metta.rl.{name}") for name in names}
    )


def _forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "metta"]:
        del sys.modules[name]
