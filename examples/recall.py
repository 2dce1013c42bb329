"""A policy with memory solves what one without cannot: recall a cue from the beginning of the episode.

python examples/recall.py --policy lstm        (or gru, mlp)
"""

import argparse
from typing import Any

import torch

from hotloop.context import ComponentContext, LoopConfig
from hotloop.envs import AutoresetMode
from hotloop.envs.recall import RecallEnvironment
from hotloop.experience import Experience
from hotloop.loop import CoreTrainingLoop
from hotloop.losses import ppo_losses
from hotloop.policies import GRUPolicy, LSTMPolicy, MLPPolicy

POLICIES: dict[str, Any] = {"mlp": MLPPolicy, "lstm": LSTMPolicy, "gru": GRUPolicy}


def main(
    policy: str = "lstm",
    total_timesteps: int = 60_000,
    seed: int = 0,
    delay: tuple[int, int] = (6, 10),
    autoreset: AutoresetMode = "same_step",
) -> list[float]:
    """Train; print and return the mean return of the episodes that ended in each rollout."""
    torch.manual_seed(seed)
    env = RecallEnvironment(64, cues=4, delay=delay, seed=seed, autoreset=autoreset)
    net = POLICIES[policy].from_spaces(env.single_observation_space, env.single_action_space)
    losses = ppo_losses(net, ent_coef=0.01, clip_vloss=False, fused=True)
    config = LoopConfig(batch_size=2048, minibatch_size=512, bptt_horizon=32, update_epochs=4, seed=seed)
    config.sampling.method, config.advantage.gamma = "permutation", 0.98
    experience = Experience.from_losses(
        total_agents=env.total_parallel_agents,
        batch_size=config.batch_size,
        bptt_horizon=config.bptt_horizon,
        minibatch_size=config.minibatch_size,
        max_minibatch_size=None,
        policy_experience_spec=net.get_agent_experience_spec(),
        losses=losses,
        device="cpu",
        sampling_config=config.sampling,
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    context = ComponentContext(config=config)
    loop = CoreTrainingLoop(net, experience, losses, optimizer, "cpu", context)

    history: list[float] = []
    while context.agent_step < total_timesteps:
        loop.on_epoch_start(context)
        rollout = loop.rollout_phase(env, context)
        context.record_rollout(rollout.agent_steps)
        stats, epochs = loop.training_phase(context, config.update_epochs)
        context.advance_epoch(epochs)
        returns = [info["episode_return"] for info in rollout.raw_infos]
        history.append(sum(returns) / max(1, len(returns)))
        print(f"{context.agent_step:6d} steps   return {history[-1]:.2f}   entropy {stats['entropy']:.3f}")
    return history


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--policy", choices=sorted(POLICIES), default="lstm")
    parser.add_argument("--total-timesteps", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.policy, arguments.total_timesteps, arguments.seed)
