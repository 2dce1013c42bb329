"""PufferLib's PuffeRL (Suarez 2024), the class itself out of pufferlib-core, with the same network.

Its dashboard, its thread that watches the machine and its checkpoints are off. Its rollout clips rewards to
[-1, 1], and it draws segments without replacement within a minibatch but anew for each.
"""

from __future__ import annotations

import importlib
import tempfile
from typing import Any

import numpy as np
from torch import Tensor, nn

from .contestants import AbsentError, VectorContestant
from .environments import Array, Vector, make_vector
from .jobs import HYPER, Job
from .networks import make_network

_ENDLESS = 10**12  # agent steps


def make(job: Job, threads: int, seed: int) -> Puffer:
    return Puffer(job, threads, seed)


class Puffer(VectorContestant):
    def __init__(self, job: Job, threads: int, seed: int) -> None:
        try:
            pufferl: Any = importlib.import_module("pufferlib.pufferl")
        except ImportError as error:
            raise AbsentError(f"pufferlib.pufferl does not import: {error}") from error
        if not pufferl._C_AVAILABLE:
            raise AbsentError("pufferlib's compiled extension does not load")
        self.job = job
        self.note = f"pufferlib-core {importlib.import_module('pufferlib').__version__}"
        self.network = make_network(job)
        self.vector = make_vector(job, threads, seed)

        class Quiet(pufferl.PuffeRL):  # type: ignore[misc]
            def print_dashboard(self, *args: Any, **kwargs: Any) -> None:
                pass

        self.trainer = Quiet(_config(job, seed), Adapter(job, self.vector), _Policy(self.network))
        self.trainer.utilization.stop()

    def epoch(self) -> None:
        self.trainer.evaluate()
        self.trainer.train()


class _Policy(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, obs: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        logits, value = self.network(obs)
        return logits, value

    forward_eval = forward


class Adapter:
    """The environments as one of PufferLib's, with `recv` and `send`."""

    def __init__(self, job: Job, vector: Vector) -> None:
        spaces: Any = importlib.import_module("gymnasium.spaces")
        low, high = (0, 255) if job.obs_dtype == "uint8" else (-np.inf, np.inf)
        self.single_observation_space = spaces.Box(low, high, job.obs_shape, np.dtype(job.obs_dtype))
        self.single_action_space = spaces.Discrete(job.actions)
        self.num_agents = self.agents_per_batch = job.agents
        self._vector = vector
        self._ids = np.arange(job.agents)
        self._mask = np.ones(job.agents, dtype=np.bool_)

    def async_reset(self, seed: int) -> None:
        nothing = np.zeros(self.num_agents, dtype=np.bool_)
        self._step = (self._vector.reset(), np.zeros(self.num_agents, np.float32), nothing, nothing)

    def recv(self) -> tuple[Any, ...]:
        obs, rewards, terminated, truncated = self._step
        return obs, rewards, terminated, truncated, None, [], self._ids, self._mask

    def send(self, actions: Array) -> None:
        obs, rewards, terminated, truncated = self._vector.step(actions)
        self._step = (obs, rewards.astype(np.float32, copy=False), terminated, truncated)

    def close(self) -> None:
        pass


def _config(job: Job, seed: int) -> dict[str, Any]:
    return {
        "env": job.name,
        "torch_deterministic": False,
        "seed": seed,
        "batch_size": job.batch_size,
        "bptt_horizon": job.horizon,
        "minibatch_size": job.minibatch_size,
        "max_minibatch_size": job.minibatch_size,
        "update_epochs": job.update_epochs,
        "device": "cpu",
        "cpu_offload": False,
        "use_rnn": False,
        "compile": False,
        "optimizer": "adam",
        "learning_rate": HYPER.learning_rate,
        "anneal_lr": False,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_eps": HYPER.adam_eps,
        "total_timesteps": _ENDLESS,
        "precision": "float32",
        "gamma": HYPER.gamma,
        "gae_lambda": HYPER.gae_lambda,
        "clip_coef": HYPER.clip_coef,
        "vf_clip_coef": HYPER.clip_coef,
        "vf_coef": HYPER.vf_coef,
        "ent_coef": HYPER.ent_coef,
        "max_grad_norm": HYPER.max_grad_norm,
        # every segment is as likely as any other
        "prio_alpha": 0.0,
        "prio_beta0": 1.0,
        "vtrace_rho_clip": 1.0,
        "vtrace_c_clip": 1.0,
        "checkpoint_interval": _ENDLESS,
        "data_dir": tempfile.gettempdir(),
    }
