"""The same loop as LeanRL has it (the compiled variant of CleanRL), written here.

Acting, advantages and the whole update, optimizer included, are compiled; steps are stacked after the
rollout; distributions check nothing and no statistic is read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from .contest_cleanrl import CleanRL, gae, ppo_loss
from .jobs import HYPER, Job


def make(job: Job, threads: int, seed: int) -> LeanRL:
    return LeanRL(job, threads, seed)


class LeanRL(CleanRL):
    note = "torch.compile; compiling is part of its warm-up, which is not timed"

    def __init__(self, job: Job, threads: int, seed: int) -> None:
        super().__init__(job, threads, seed)
        Distribution.set_default_validate_args(False)
        self._act: Any = torch.compile(self.act)
        self.gae: Any = torch.compile(gae, fullgraph=True)
        self._update: Any = torch.compile(self._learn)

    def rollout(self) -> None:
        steps: list[tuple[Tensor, ...]] = []
        for _ in range(self.job.horizon):
            with torch.no_grad():
                action, logprob, value = self._act(self.next_obs)
            obs, rewards, terminated, truncated = self.vector.step(action.numpy())
            reward = torch.as_tensor(rewards, dtype=torch.float32)
            steps.append((self.next_obs, self.next_done, value, action, logprob, reward))
            self.next_obs = torch.as_tensor(obs)
            self.next_done = torch.as_tensor(terminated | truncated).float()
        columns = (torch.stack(column) for column in zip(*steps, strict=True))
        self.obs, self.dones, self.values, self.actions, self.logprobs, self.rewards = columns

    def train(self, advantages: Tensor, returns: Tensor) -> None:
        columns = (self.obs, self.actions, self.logprobs, advantages, returns, self.values)
        flat = [x.flatten(0, 1) for x in columns]
        for _ in range(self.job.update_epochs):
            for rows in torch.randperm(self.job.batch_size).split(self.job.minibatch_size):
                self.statistics = self._update(*(x[rows] for x in flat))

    def _learn(
        self,
        obs: Tensor,
        actions: Tensor,
        old_logprobs: Tensor,
        advantages: Tensor,
        returns: Tensor,
        old_values: Tensor,
    ) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad()
        logits, values = self.network(obs)
        choice = Categorical(logits=logits)
        logratio = choice.log_prob(actions) - old_logprobs
        ratio = logratio.exp()
        loss = ppo_loss(ratio, advantages, values.flatten(), old_values, returns, choice.entropy())
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), HYPER.max_grad_norm)
        self.optimizer.step()
        kl = ((ratio - 1) - logratio).mean().detach()
        return kl, ((ratio - 1.0).abs() > HYPER.clip_coef).float().mean()
