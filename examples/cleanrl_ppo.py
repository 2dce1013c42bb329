"""PPO in one file, the way CleanRL writes it, before and after: `python examples/cleanrl_ppo.py [--plain]`.

`--plain` computes advantages in the script's own loop over time; without it one call of hotloop takes its
place. Both print the same lines to the last digit; the seconds tell what the loop cost.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from hotloop.integrations.cleanrl import gae

STEPS, AGENTS, MINIBATCHES, EPOCHS = 128, 8, 4, 4
GAMMA, GAE_LAMBDA, CLIP, ENT_COEF, VF_COEF = 0.99, 0.95, 0.2, 0.01, 0.5


class Agent(nn.Module):
    def __init__(self, inputs: int, actions: int) -> None:
        super().__init__()
        self.critic = nn.Sequential(
            nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), _linear(1, 1.0)
        )
        self.actor = nn.Sequential(
            nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), _linear(actions, 0.01)
        )

    def act(self, obs: Tensor, action: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Actions, their log-probabilities, entropies and values, `[n]` each."""
        choice = Categorical(logits=self.actor(obs))
        action = choice.sample() if action is None else action
        return action, choice.log_prob(action), choice.entropy(), self.critic(obs).flatten()


def _linear(outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(64, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def advantages_before(
    rewards: Tensor,
    values: Tensor,
    dones: Tensor,
    next_value: Tensor,
    next_done: Tensor,
    gamma: float,
    gae_lambda: float,
) -> tuple[Tensor, Tensor]:
    """The loop that a script has. `[T, N]`, and `[N]` for what comes after."""
    advantages = torch.zeros_like(rewards)
    trace: Tensor | float = 0.0
    for t in reversed(range(len(rewards))):
        last = t == len(rewards) - 1
        alive = 1.0 - (next_done if last else dones[t + 1])
        delta = rewards[t] + gamma * (next_value if last else values[t + 1]) * alive - values[t]
        advantages[t] = trace = delta + gamma * gae_lambda * alive * trace
    return advantages, advantages + values


def main(
    total_timesteps: int = 100_000, seed: int = 1, plain: bool = False
) -> tuple[list[float], float, nn.Module]:
    """Trains on CartPole-v1; returns the mean length of the episodes ended in each iteration, the seconds
    spent on advantages, and the agent."""
    estimate: Callable[..., tuple[Tensor, Tensor]] = advantages_before if plain else gae
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    envs = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * AGENTS)
    agent = Agent(4, 2)
    optimizer = torch.optim.Adam(agent.parameters(), lr=2.5e-4, eps=1e-5)

    obs = torch.zeros(STEPS, AGENTS, 4)
    actions = torch.zeros(STEPS, AGENTS, dtype=torch.int64)
    logprobs, rewards, dones, values = (torch.zeros(STEPS, AGENTS) for _ in range(4))
    next_obs = torch.as_tensor(envs.reset(seed=seed)[0])
    next_done = torch.zeros(AGENTS)
    lengths, running, seconds = [], np.zeros(AGENTS), 0.0

    for iteration in range(total_timesteps // (STEPS * AGENTS)):
        ended: list[float] = []
        for t in range(STEPS):
            obs[t], dones[t] = next_obs, next_done
            with torch.no_grad():
                actions[t], logprobs[t], _, values[t] = agent.act(next_obs)
            seen, reward, terminated, truncated, _ = envs.step(actions[t].numpy())
            over = terminated | truncated
            rewards[t] = torch.as_tensor(reward)
            next_obs, next_done = torch.as_tensor(seen), torch.as_tensor(over).float()
            running += reward
            ended += running[over].tolist()
            running[over] = 0.0

        start = time.perf_counter()
        with torch.no_grad():
            next_value = agent.critic(next_obs).reshape(1, -1)
            advantages, returns = estimate(rewards, values, dones, next_value, next_done, GAMMA, GAE_LAMBDA)
        seconds += time.perf_counter() - start

        order = np.arange(STEPS * AGENTS)
        for _ in range(EPOCHS):
            random.shuffle(order)
            for rows in np.split(order, MINIBATCHES):
                _, new_logprobs, entropy, new_values = agent.act(
                    obs.flatten(0, 1)[rows], actions.flatten()[rows]
                )
                ratio = (new_logprobs - logprobs.flatten()[rows]).exp()
                chosen = advantages.flatten()[rows]
                chosen = (chosen - chosen.mean()) / (chosen.std() + 1e-8)
                policy = -torch.min(chosen * ratio, chosen * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()
                value = 0.5 * (new_values - returns.flatten()[rows]).square().mean()
                optimizer.zero_grad()
                (policy + VF_COEF * value - ENT_COEF * entropy.mean()).backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
        lengths.append(float(np.mean(ended)) if ended else float("nan"))
        print(f"{(iteration + 1) * STEPS * AGENTS:7} steps   length {lengths[-1]:.2f}")
    envs.close()
    return lengths, seconds, agent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain", action="store_true", help="the script's own loop over time")
    parser.add_argument("--total-timesteps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    spent = main(options.total_timesteps, options.seed, options.plain)[1]
    print(f"{spent:.3f} s on advantages")
