"""CoreTrainingLoop around a module of one's own: CartPole-v1 to 500 steps an episode."""

import torch
from torch import Tensor, nn

from hotloop.context import ComponentContext, LoopConfig
from hotloop.envs import GymnasiumEnvironment
from hotloop.experience import Experience
from hotloop.loop import CoreTrainingLoop
from hotloop.losses import ppo_losses
from hotloop.policies import wrap_actor_critic


class Net(nn.Module):
    """Any module that returns (logits, value)."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Sequential(
            nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)
        )
        self.critic = nn.Sequential(
            nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
        )

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(obs), self.critic(obs)


def main(total_timesteps: int = 50_000, seed: int = 0) -> list[float]:
    """Train; print and return the mean length of the episodes that ended in each rollout."""
    torch.manual_seed(seed)
    env = GymnasiumEnvironment("CartPole-v1", 8, seed=seed)
    policy = wrap_actor_critic(Net(), env.single_action_space, obs_shape=(4,))
    losses = ppo_losses(policy, ent_coef=0.0, clip_vloss=False)
    config = LoopConfig(batch_size=1024, minibatch_size=256, bptt_horizon=32, update_epochs=4, seed=seed)
    config.sampling.method, config.advantage.gamma = "permutation", 0.98
    experience = Experience.from_losses(
        total_agents=env.total_parallel_agents,
        batch_size=config.batch_size,
        bptt_horizon=config.bptt_horizon,
        minibatch_size=config.minibatch_size,
        max_minibatch_size=None,
        policy_experience_spec=policy.get_agent_experience_spec(),
        losses=losses,
        device="cpu",
        sampling_config=config.sampling,
    )
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    context = ComponentContext(config=config)
    loop = CoreTrainingLoop(policy, experience, losses, optimizer, "cpu", context)

    history: list[float] = []
    while context.agent_step < total_timesteps:
        loop.on_epoch_start(context)
        rollout = loop.rollout_phase(env, context)
        context.record_rollout(rollout.agent_steps)
        stats, epochs = loop.training_phase(context, config.update_epochs)
        context.advance_epoch(epochs)
        lengths = [info["episode_length"] for info in rollout.raw_infos]
        if lengths:
            history.append(sum(lengths) / len(lengths))
            print(f"{context.agent_step:6d} steps   length {history[-1]:5.1f}   kl {stats['approx_kl']:.4f}")
    env.close()
    return history


if __name__ == "__main__":
    main()
