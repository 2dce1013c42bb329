"""Builds a loop as the trainer of January 2026 does, and runs its epochs."""

from __future__ import annotations

from typing import Any

import torch

from metta.rl.loss.ppo import Loss, PPOActor, PPOCritic, Slicer
from metta.rl.training import CoreTrainingLoop, Experience
from metta_double import Context, Env, Policy


class Trainer:
    def __init__(
        self, config: Any, *, env: Env, policy: Policy, log: list[Any] | None = None,
        learning_rate: float = 0.01, sliced: bool = False,
    ) -> None:  # fmt: skip
        self.config, self.env, self.policy, self.log = config, env, policy, log
        agents = env.total_parallel_agents
        losses: dict[str, Loss] = {}
        if sliced:
            losses["slicer"] = Slicer("slicer", policy, env, object(), log)
        losses["ppo_critic"] = PPOCritic("ppo_critic", policy, env, config, log)
        losses["ppo_actor"] = PPOActor("ppo_actor", policy, env, config, log)
        losses["watcher"] = Loss("watcher", policy, env, object(), log)
        self.experience = Experience.from_losses(
            total_agents=agents,
            batch_size=config.batch_size,
            bptt_horizon=config.bptt_horizon,
            minibatch_size=config.minibatch_size,
            max_minibatch_size=config.minibatch_size,
            policy_experience_spec=policy.get_agent_experience_spec(),
            losses=losses,
            device="cpu",
            sampling_config=config.sampling,
        )
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
        self.context = Context(config, agents)
        self.core_loop = CoreTrainingLoop(
            policy=policy, experience=self.experience, losses=losses, optimizer=self.optimizer,
            device=torch.device("cpu"), context=self.context,
        )  # fmt: skip
        self.context.losses = losses

    def run_epoch(self) -> Any:
        context, core = self.context, self.core_loop
        context.reset_for_epoch()
        core.on_epoch_start(context)
        result = core.rollout_phase(self.env, context)
        context.training_env_id = result.training_env_id
        stats, epochs = core.training_phase(
            context=context, update_epochs=self.config.update_epochs, max_grad_norm=0.5
        )
        context.epoch += epochs
        context.latest_losses_stats = stats
        return result
