"""Puts environment, policy, losses, experience, optimizer and loop together from a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hotloop.context import ComponentContext
from hotloop.experience import Experience
from hotloop.loop import CoreTrainingLoop
from hotloop.loop_audit import check_auditable
from hotloop.losses import Loss, ppo_losses
from hotloop.optim import Adam
from hotloop.trainer.checks import check_environment, check_policy
from hotloop.trainer.config import TrainConfig
from hotloop.trainer.environments import make_environment, make_policy
from hotloop.trainer.normalization import normalized


@dataclass
class Components:
    """The parts of a run, wired."""

    environment: Any
    policy: Any
    losses: dict[str, Loss]
    experience: Experience
    optimizer: torch.optim.Optimizer
    context: ComponentContext
    loop: CoreTrainingLoop


def build_components(config: TrainConfig, *, environment: Any = None, policy: Any = None) -> Components:
    """Builds every part of a run.

    Args:
        config: resolved (`TrainConfig.resolved`). torch's generator should be seeded already.
        environment: a `hotloop.envs.TrainingEnvironment`, which serves a step again when it is asked twice;
            made by `make_environment` when None. Normalised here, where the settings say so.
        policy: a `hotloop.policies.Policy` module on the run's device; made by `make_policy` when None.

    Raises:
        ValueError: the environment or the policy does not fit the configuration (see
            `hotloop.trainer.checks`), or the device is not there.
    """
    device = usable_device(config.device)
    if environment is None:
        environment = make_environment(config, seed=config.seed)
    check_environment(environment, config)
    environment = normalized(environment, config)
    agents = int(environment.total_parallel_agents)
    if policy is None:
        policy = make_policy(config, environment).to(device)
    check_policy(policy, environment, device)
    loop_config = config.loop_config()
    losses = ppo_losses(
        policy,
        trainer_cfg=loop_config,
        env=environment,
        device=device,
        fused=config.fused_loss,
        **config.actor.model_dump(),
        **config.critic.model_dump(),
    )
    experience = Experience.from_losses(
        total_agents=agents,
        batch_size=loop_config.batch_size,
        bptt_horizon=loop_config.bptt_horizon,
        minibatch_size=loop_config.minibatch_size,
        max_minibatch_size=loop_config.minibatch_size // config.rollout.accumulate,
        policy_experience_spec=policy.get_agent_experience_spec(),
        losses=losses,
        device=device,
        sampling_config=loop_config.sampling,
        seed=config.seed,
    )
    optimizer = make_optimizer(policy, config)
    context = ComponentContext(
        config=loop_config, policy=policy, env=environment, experience=experience, optimizer=optimizer
    )
    loop = CoreTrainingLoop(
        policy=policy,
        experience=experience,
        losses=losses,
        optimizer=optimizer,
        device=device,
        context=context,
        boundary=config.rollout.boundary,
        burn_in=config.policy.burn_in,
        recurrent_check=config.policy.recurrent_check,
        sync_audit=config.sync_audit,
        capture_optimizer_step=config.capture_optimizer_step,
    )
    if config.sync_audit:  # now, and not after the first rollout
        undoes, always = config.on_nan == "skip", config.policy.recurrent_check == "always"
        check_auditable(losses, may_undo=undoes, checks_always=always)
    context.losses = losses
    for loss in losses.values():
        loss.attach_context(context)
    return Components(environment, policy, losses, experience, optimizer, context, loop)


def usable_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: torch knows no such device, or this machine has none.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # torch answers with either, depending on how it was built.
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def make_optimizer(policy: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam over all parameters."""
    # fused: one kernel for all parameters, ours on the CPU and torch's elsewhere. For an MLP the default's
    # calls cost more than their arithmetic.
    return Adam(policy.parameters(), fused=True, **optimizer_settings(config))


def optimizer_settings(config: TrainConfig) -> dict[str, Any]:
    """The hyperparameters of the optimizer's groups."""
    settings = config.optimizer
    return {
        "lr": settings.learning_rate,
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
        "capturable": config.capture_optimizer_step,
    }
