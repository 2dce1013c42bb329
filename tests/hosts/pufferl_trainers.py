"""Small trainers of PufferLib, and what tests compare of them."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor, nn

pufferlib = pytest.importorskip("pufferlib")
pytest.importorskip("pufferlib.pufferl", reason="what it imports is missing: make test-peers")
from pufferlib import models, pufferl  # noqa: E402

HORIZON = 8


class Agents:
    """`slices` slices of 4 agents each, which arrive in turn; what they tell depends on what they got."""

    def __init__(self, space: gymnasium.Space[Any], slices: int = 1, masked: bool = False) -> None:
        self.single_observation_space = gymnasium.spaces.Box(-1, 1, (3, 2), np.float32)
        self.observation_space = self.single_observation_space
        self.single_action_space = space
        self.agents_per_batch = 4
        self.num_agents = 4 * slices
        self.action_space = pufferlib.spaces.joint_space(space, self.agents_per_batch)
        self.random, self.turn, self.sent, self.masked = np.random.default_rng(0), 0, 0.0, masked
        self.env = self  # what models.Default looks at

    def async_reset(self, seed: int) -> None:
        self.random, self.turn, self.sent = np.random.default_rng(seed), 0, 0.0

    def recv(self) -> tuple[Any, ...]:
        n = self.agents_per_batch
        observations = self.random.uniform(-1, 1, (n, 3, 2)).astype(np.float32) * np.float32(
            np.cos(self.sent)
        )
        rewards = self.random.normal(size=n).astype(np.float32)
        over = self.random.uniform(size=(3, n))
        start = n * (self.turn % (self.num_agents // n))
        infos = [{"score": float(rewards[0]), "parts": [1.0, 2.0], "nested": {"array": rewards.copy()}}]
        return (
            observations.astype(np.float32), rewards, over[0] < 0.1, over[1] < 0.1, None, infos,
            np.arange(start, start + n), (over[2] < 0.8) | (not self.masked),
        )  # fmt: skip

    def send(self, actions: Any) -> None:
        self.turn, self.sent = self.turn + 1, self.sent + float(np.abs(actions).sum())

    def close(self) -> None:
        pass


SPACES = {
    "discrete": gymnasium.spaces.Discrete(3),
    "multidiscrete": gymnasium.spaces.MultiDiscrete([2, 3]),
    "continuous": gymnasium.spaces.Box(-0.5, 0.5, (2,), np.float32),
}


def config(agents: int, **changed: Any) -> dict[str, Any]:
    batch = agents * HORIZON
    return {
        "env": "test", "torch_deterministic": True, "seed": 1, "batch_size": batch, "bptt_horizon": HORIZON,
        "minibatch_size": batch // 4, "max_minibatch_size": batch // 4, "update_epochs": 2, "device": "cpu",
        "cpu_offload": False, "use_rnn": False, "compile": False, "optimizer": "adam", "learning_rate": 0.01,
        "anneal_lr": True, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_eps": 1e-8, "total_timesteps": 10**6,
        "precision": "float32", "gamma": 0.97, "gae_lambda": 0.9, "clip_coef": 0.2, "vf_clip_coef": 0.2,
        "vf_coef": 2.0, "ent_coef": 0.01, "max_grad_norm": 0.5, "prio_alpha": 0.7, "prio_beta0": 0.4,
        "vtrace_rho_clip": 1.0, "vtrace_c_clip": 1.0, "checkpoint_interval": 10**9, "data_dir": "/nowhere",
        **changed,
    }  # fmt: skip


def trainer(kind: str = "discrete", slices: int = 2, masked: bool = False, **changed: Any) -> Any:
    """A new trainer; the same arguments make the same one."""
    torch.manual_seed(0)
    environments = Agents(SPACES[kind], slices, masked)
    policy: nn.Module = models.Default(environments, hidden_size=16)
    if changed.get("use_rnn"):
        policy = models.LSTMWrapper(environments, policy, 16, 16)
    made = pufferl.PuffeRL(config(4 * slices, **changed), environments, policy)
    made.utilization.stop()
    return made


def run(made: Any, epochs: int = 3) -> list[dict[str, Any]]:
    """What the trainer holds and told after each epoch."""
    told = []
    for _ in range(epochs):
        made.last_log_time = 0.0  # always due
        stats = copy.deepcopy(dict(made.evaluate()))
        rollout = {name: getattr(made, name).clone() for name in ("observations", "actions", "rewards")}
        made.train()
        buffers = {name: getattr(made, name).clone() for name in ("values", "ratio", "logprobs", "terminals")}
        learned = {name: p.detach().clone() for name, p in made.policy.state_dict().items()}
        told.append(
            {**rollout, **buffers, **learned, **made.losses, "step": made.global_step, "epoch": made.epoch}
            | {f"stats/{name}": torch.tensor(values) for name, values in stats.items()}
            | {"rate": made.optimizer.param_groups[0]["lr"], "free": made.free_idx, "rows": made.full_rows}
        )
    return told


def assert_equal(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for epoch, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert list(a) == list(b)
        for name in b:
            same = torch.equal(a[name], b[name]) if isinstance(b[name], Tensor) else a[name] == b[name]
            assert same, (epoch, name, a[name], b[name])
