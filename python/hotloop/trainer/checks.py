"""What is refused before training starts, because it could only fail, or go wrong silently, later."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from hotloop.trainer.config import TrainConfig


def check_environment(environment: Any, config: TrainConfig) -> None:
    """The environment has the agents that the sizes were made for, and serves what its space announces.

    Its first step is looked at, and must be handed out again to the rollout.

    Raises:
        ValueError: it does not.
    """
    agents = int(environment.total_parallel_agents)
    if agents != config.num_envs:
        raise ValueError(
            f"build_components: the environment has {agents} agents, num_envs says {config.num_envs}: "
            f"num_envs={agents} would work"
        )
    space = environment.single_observation_space
    announced = (tuple(space.shape), str(space.dtype))
    observations = environment.get_observations()[0]
    served = (tuple(observations.shape[1:]), str(observations.dtype).removeprefix("torch."))
    if announced != served:
        raise ValueError(
            f"env {config.env!r} announces observations {_described(announced)} in its observation space and "
            f"serves {_described(served)}: they must be the same for the whole run; a wrapper that reshapes "
            "or resizes them, or a space that tells the truth, would work"
        )


def check_policy(policy: Any, environment: Any, device: torch.device) -> None:
    """A policy that was handed in lives on the run's device and reads what the environment serves.

    Raises:
        ValueError: it does not.
    """
    for name, parameter in getattr(policy, "named_parameters", tuple)():
        if not _same_device(parameter.device, device):
            raise ValueError(
                f"device is '{device}', but the policy's parameter {name!r} is on '{parameter.device}': "
                f"policy.to('{device}'), or device='{parameter.device}', would work"
            )
    reads = getattr(policy, "obs_shape", None)
    served = tuple(environment.single_observation_space.shape)
    if reads is not None and tuple(reads) != served:
        raise ValueError(
            f"the policy reads observations of shape {list(reads)}, the environment serves {list(served)}: "
            f"a policy built with obs_shape={served} would work"
        )


def check_outputs(config: TrainConfig) -> None:
    """The packages that the settings ask for are there.

    Raises:
        ImportError: one is not; the message names the extra to install and the setting to leave out.
    """
    output = config.output
    if output.wandb is not None and importlib.util.find_spec("wandb") is None:
        raise ImportError(
            f"output.wandb={output.wandb!r} needs wandb: pip install 'hotloop[wandb]', or leave the setting "
            "out"
        )


def _same_device(one: torch.device, other: torch.device) -> bool:
    # "cuda" stands for the current device, whatever its number.
    return one.type == other.type and (one.index is None or other.index is None or one.index == other.index)


def _described(kind: tuple[tuple[int, ...], str]) -> str:
    return f"{list(kind[0])} of {kind[1]}"
