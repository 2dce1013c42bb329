"""Stable-Baselines3's PPO (Raffin et al. 2021), the package itself, with the same network."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hotloop.policies import native_activations

from .contestants import AbsentError, VectorContestant
from .environments import Array, Vector, make_vector
from .jobs import HYPER, Job
from .networks import TokenNet


def make(job: Job, threads: int, seed: int) -> StableBaselines3:
    return StableBaselines3(job, threads, seed)


class StableBaselines3(VectorContestant):
    """`native`: whether the policy's tanh is hotloop's."""

    def __init__(self, job: Job, threads: int, seed: int, *, native: bool = False) -> None:
        try:
            sb3 = importlib.import_module("stable_baselines3")
        except ImportError as error:
            raise AbsentError(f"stable-baselines3 does not import: {error}") from error
        self.job = job
        self.note = f"stable-baselines3 {sb3.__version__}"
        self.vector = make_vector(job, threads, seed)
        self.model = sb3.PPO(
            "MlpPolicy",
            adapt(job, self.vector),
            learning_rate=HYPER.learning_rate,
            n_steps=job.horizon,
            batch_size=job.minibatch_size,
            n_epochs=job.update_epochs,
            gamma=HYPER.gamma,
            gae_lambda=HYPER.gae_lambda,
            clip_range=HYPER.clip_coef,
            clip_range_vf=HYPER.clip_coef,
            ent_coef=HYPER.ent_coef,
            vf_coef=HYPER.vf_coef,
            max_grad_norm=HYPER.max_grad_norm,
            policy_kwargs=_policy(job),
            seed=seed,
            device="cpu",
        )
        self.network = self.model.policy
        if native:
            native_activations(self.network)
        _, self._callback = self.model._setup_learn(1_000_000_000, callback=None)

    def epoch(self) -> None:
        model = self.model
        model.collect_rollouts(model.env, self._callback, model.rollout_buffer, self.job.horizon)
        model.train()


def _policy(job: Job) -> dict[str, Any]:
    """What makes its policy the network of `networks`."""
    optimizer = {"eps": HYPER.adam_eps}
    if job.obs_dtype != "uint8":
        net_arch = {"pi": [64, 64], "vf": [64, 64]}
        return {"net_arch": net_arch, "activation_fn": nn.Tanh, "optimizer_kwargs": optimizer}
    layers: Any = importlib.import_module("stable_baselines3.common.torch_layers")

    class Trunk(layers.BaseFeaturesExtractor):  # type: ignore[misc]
        def __init__(self, observation_space: Any) -> None:
            super().__init__(observation_space, features_dim=128)
            self.trunk = TokenNet(job.obs_size, job.actions).trunk

        def forward(self, obs: Tensor) -> Tensor:  # float32 already
            return torch.relu(self.trunk(obs.flatten(1) / 255.0))

    return {"net_arch": [], "features_extractor_class": Trunk, "optimizer_kwargs": optimizer}


def adapt(job: Job, vector: Vector) -> Any:
    """The environments as a `VecEnv`."""
    vec_env: Any = importlib.import_module("stable_baselines3.common.vec_env")
    spaces: Any = importlib.import_module("gymnasium.spaces")

    class Adapter(vec_env.VecEnv):  # type: ignore[misc]
        def __init__(self) -> None:
            byte = job.obs_dtype == "uint8"
            low, high = (0, 255) if byte else (-np.inf, np.inf)
            box = spaces.Box(low, high, job.obs_shape, np.dtype(job.obs_dtype))
            super().__init__(job.agents, box, spaces.Discrete(job.actions))

        def reset(self) -> Array:
            return vector.reset()

        def step_async(self, actions: Array) -> None:
            self._actions = actions

        def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
            obs, rewards, terminated, truncated = vector.step(self._actions)
            dones = terminated | truncated
            infos: list[dict[str, Any]] = [{} for _ in range(job.agents)]
            for agent in np.flatnonzero(truncated & ~terminated):
                finals = vector.final_obs
                infos[agent]["terminal_observation"] = obs[agent] if finals is None else finals[agent]
                infos[agent]["TimeLimit.truncated"] = True
            # It adds the value of what was cut off in place.
            return obs, np.array(rewards, dtype=np.float32), dones, infos

        def close(self) -> None:
            pass

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [None] * job.agents

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            raise NotImplementedError

        def env_method(self, *args: Any, **kwargs: Any) -> list[Any]:
            raise NotImplementedError

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * job.agents

    return Adapter()
