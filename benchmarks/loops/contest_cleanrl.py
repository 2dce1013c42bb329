"""A loop as CleanRL's `ppo.py` has it (Huang et al. 2022), written here.

Storage is time-major; every call makes a distribution object; advantages are a loop over time; minibatches
are of single steps, and statistics are read at each of them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from .contestants import VectorContestant
from .environments import make_vector
from .jobs import HYPER, Job
from .networks import make_network


def make(job: Job, threads: int, seed: int) -> CleanRL:
    return CleanRL(job, threads, seed)


class CleanRL(VectorContestant):
    def __init__(self, job: Job, threads: int, seed: int) -> None:
        self.job = job
        self.network = make_network(job)
        self.optimizer = self.make_optimizer()
        self.vector = make_vector(job, threads, seed)
        self.random = np.random.default_rng(seed)
        steps = (job.horizon, job.agents)
        self.obs = torch.zeros((*steps, *job.obs_shape), dtype=getattr(torch, job.obs_dtype))
        self.actions = torch.zeros(steps, dtype=torch.int64)
        self.logprobs = torch.zeros(steps)
        self.rewards = torch.zeros(steps)
        self.dones = torch.zeros(steps)
        self.values = torch.zeros(steps)
        self.next_obs = torch.as_tensor(self.vector.reset())
        self.next_done = torch.zeros(job.agents)

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=HYPER.learning_rate, eps=HYPER.adam_eps)

    def act(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, their log probabilities and the values, each [n]."""
        logits, value = self.network(obs)
        choice = Categorical(logits=logits)
        action = choice.sample()
        return action, choice.log_prob(action), value.flatten()

    def epoch(self) -> None:
        self.rollout()
        with torch.no_grad():
            next_value = self.network(self.next_obs)[1].flatten()
            advantages = self.gae(next_value, self.next_done, self.rewards, self.values, self.dones)
        self.train(advantages, advantages + self.values)

    def rollout(self) -> None:
        for t in range(self.job.horizon):
            self.obs[t] = self.next_obs
            self.dones[t] = self.next_done
            with torch.no_grad():
                action, logprob, value = self.act(self.next_obs)
                self.values[t] = value
            self.actions[t] = action
            self.logprobs[t] = logprob
            obs, rewards, terminated, truncated = self.vector.step(action.numpy())
            self.rewards[t] = torch.as_tensor(rewards)
            self.next_obs = torch.as_tensor(obs)
            self.next_done = torch.as_tensor(np.logical_or(terminated, truncated)).float()

    def gae(
        self, next_value: Tensor, next_done: Tensor, rewards: Tensor, values: Tensor, dones: Tensor
    ) -> Tensor:
        return gae(next_value, next_done, rewards, values, dones)

    def train(self, advantages: Tensor, returns: Tensor) -> None:
        flat_obs, flat_actions = self.obs.flatten(0, 1), self.actions.flatten()
        columns = [x.flatten() for x in (self.logprobs, advantages, returns, self.values)]
        order = np.arange(self.job.batch_size)
        clipped: list[float] = []
        for _ in range(self.job.update_epochs):
            self.random.shuffle(order)
            for start in range(0, self.job.batch_size, self.job.minibatch_size):
                rows = order[start : start + self.job.minibatch_size]
                self.update(flat_obs[rows], flat_actions[rows], *(x[rows] for x in columns), clipped=clipped)
        self.clip_fraction = float(np.mean(clipped))
        predicted, wanted = columns[3].numpy(), columns[2].numpy()
        variance = np.var(wanted)
        self.explained_variance = np.nan if variance == 0 else 1 - np.var(wanted - predicted) / variance

    def update(
        self,
        obs: Tensor,
        actions: Tensor,
        old_logprobs: Tensor,
        advantages: Tensor,
        returns: Tensor,
        old_values: Tensor,
        *,
        clipped: list[float],
    ) -> None:
        logits, values = self.network(obs)
        choice = Categorical(logits=logits)
        logratio = choice.log_prob(actions) - old_logprobs
        ratio = logratio.exp()
        with torch.no_grad():
            self.approx_kl = ((ratio - 1) - logratio).mean()
            clipped.append(((ratio - 1.0).abs() > HYPER.clip_coef).float().mean().item())
        loss = ppo_loss(ratio, advantages, values.flatten(), old_values, returns, choice.entropy())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), HYPER.max_grad_norm)
        self.optimizer.step()


def gae(next_value: Tensor, next_done: Tensor, rewards: Tensor, values: Tensor, dones: Tensor) -> Tensor:
    """Advantages [T, N], departure-indexed; `next_value` and `next_done` [N] are those of step T."""
    horizon = len(rewards)
    advantages = torch.zeros_like(rewards)
    trace = torch.zeros_like(next_value)
    for t in reversed(range(horizon)):
        last = t == horizon - 1
        alive = 1.0 - (next_done if last else dones[t + 1])
        following = next_value if last else values[t + 1]
        delta = rewards[t] + HYPER.gamma * following * alive - values[t]
        trace = delta + HYPER.gamma * HYPER.gae_lambda * alive * trace
        advantages[t] = trace
    return advantages


def ppo_loss(
    ratio: Tensor, advantages: Tensor, values: Tensor, old_values: Tensor, returns: Tensor, entropy: Tensor
) -> Tensor:
    """Clipped surrogate with normalised advantages, clipped value loss and entropy bonus; all are [n]."""
    clip = HYPER.clip_coef
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    policy = torch.max(-advantages * ratio, -advantages * torch.clamp(ratio, 1 - clip, 1 + clip)).mean()
    near = old_values + torch.clamp(values - old_values, -clip, clip)
    value = 0.5 * torch.max((values - returns) ** 2, (near - returns) ** 2).mean()
    return policy - HYPER.ent_coef * entropy.mean() + HYPER.vf_coef * value
