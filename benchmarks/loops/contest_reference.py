"""A double of Metta's CoreTrainingLoop (read at commit a8d1ecee19), written here from what it does.

A TensorDict a step: a template gathered from the buffer and cloned, entries assigned one by one, stored with
`update_at_` and a tensor of rows. Minibatches by `torch.multinomial`, copied twice
(`buffer[indices].clone()`), a V-trace pass over each, and an `update` that writes into a copy of the rows.
Every segment is as likely as any other, as for the other contestants. Advantages are hotloop's op, which is
quicker than the serial one that the reference has.
"""

from __future__ import annotations

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from hotloop import ops

from .contestants import AbsentError, VectorContestant
from .environments import make_vector
from .jobs import HYPER, Job
from .networks import make_network

_AVERAGING = 1e-3
_POLICY_KEYS = ("env_obs", "dones", "truncateds")  # what the policy asks to have stored


def make(job: Job, threads: int, seed: int) -> Reference:
    if job.environment != "memory":
        raise AbsentError("it stands for one layout of observations and plays E3 only")
    return Reference(job, threads, seed)


class Policy:
    """Reads and writes a TensorDict, as the reference's policies do."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def forward(self, td: TensorDict, action: Tensor | None = None) -> TensorDict:
        logits, value = self.network(td["env_obs"])
        log_probs = torch.log_softmax(logits, dim=-1)
        probs = log_probs.exp()
        td["values"] = value.flatten()
        if action is None:
            chosen = torch.multinomial(probs, 1)
            td["actions"] = chosen.squeeze(-1).to(torch.int32)
        else:
            chosen = action.to(torch.int64)
            td["entropy"] = -(probs * log_probs).sum(-1)
        td["act_log_prob"] = log_probs.gather(-1, chosen).squeeze(-1)
        td["full_log_probs"] = log_probs
        return td


class Reference(VectorContestant):
    def __init__(self, job: Job, threads: int, seed: int) -> None:
        self.job = job
        self.network = make_network(job)
        self.policy = Policy(self.network)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=HYPER.learning_rate, eps=HYPER.adam_eps
        )
        self.vector = make_vector(job, threads, seed)
        n, shape = job.agents, (job.agents, job.horizon)
        leaves = {key: torch.zeros(shape) for key in _SCALARS}
        leaves["env_obs"] = torch.zeros((*shape, *job.obs_shape), dtype=torch.uint8)
        leaves["actions"] = torch.zeros(shape, dtype=torch.int32)
        self.buffer = TensorDict(leaves, batch_size=shape)
        self.store_keys = list(leaves)
        self.rows, self.ids = torch.arange(n), torch.arange(n)
        self.t_in_row = torch.zeros(n, dtype=torch.int64)
        self.last_action = torch.zeros(n, 1, dtype=torch.int32)
        self.average = torch.zeros(n)
        self.batch, self.bptt = torch.full((n,), n), torch.ones(n, dtype=torch.int64)
        nothing = np.zeros(n, dtype=np.bool_)
        self.step = (self.vector.reset(), np.zeros(n, dtype=np.float32), nothing, nothing)

    def epoch(self) -> None:
        self.rollout()
        self.train()

    def rollout(self) -> None:
        window = slice(0, self.job.agents)
        self.t_in_row.zero_()
        template = self.buffer[self.rows, self.t_in_row - 1].select(*_POLICY_KEYS)
        for _ in range(self.job.horizon):
            td = template[window].clone()
            obs, rewards, terminals, truncations = map(torch.as_tensor, self.step)
            td["env_obs"] = obs
            td["rewards"] = rewards
            td["training_env_ids"] = self.ids.unsqueeze(1)
            baseline = self.average[self.ids]
            td["reward_baseline"] = baseline
            td["dones"] = terminals.float()
            td["truncateds"] = truncations.float()
            td["row_id"] = self.rows[window]
            td["t_in_row"] = self.t_in_row[window]
            td["last_actions"] = self.last_action[self.ids]
            td["batch"] = self.batch
            td["bptt"] = self.bptt
            with torch.no_grad():
                self.policy.forward(td)
            self.store(td, window)
            self.average[self.ids] = baseline + _AVERAGING * (td["rewards"] - baseline)
            self.last_action[window] = td["actions"].detach().unsqueeze(1)
            self.step = self.vector.step(td["actions"].cpu().numpy())

    def store(self, td: TensorDict, window: slice) -> None:
        t = int(self.t_in_row[window.start].item())
        self.buffer.update_at_(td.select(*self.store_keys), (self.rows[window], t))
        self.t_in_row[window] += 1

    def train(self) -> None:
        job, buffer = self.job, self.buffer
        for _ in range(job.update_epochs):
            ones = torch.ones_like(buffer["values"])
            full = advantages_of(buffer, ones)
            buffer["advantages_full"] = full
            for _ in range(job.minibatches):
                self.optimizer.zero_grad(set_to_none=True)
                shared = self.sample(full)
                total = self.losses(shared)
                total.backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), HYPER.max_grad_norm)
                self.optimizer.step()

    def sample(self, advantages: Tensor) -> TensorDict:
        """A minibatch [B, T] by the law of prioritised replay with exponent 0, where all priorities are 1."""
        segments, rows = self.job.agents, self.job.agents // self.job.minibatches
        weights = torch.nan_to_num(advantages.abs().sum(1) ** 0.0, 0, 0, 0)
        probs = (weights + 1e-6) / (weights.sum() + 1e-6)
        indices = torch.multinomial(probs, rows)
        shape = (rows, self.job.horizon)
        return TensorDict(
            {
                "sampled_mb": self.buffer[indices].clone(),
                "indices": indices.unsqueeze(1).expand(shape),
                "prio_weights": ((segments * probs[indices]) ** -1.0).unsqueeze(1).expand(shape),
                "advantages": advantages[indices],
            },
            batch_size=shape,
        )

    def losses(self, shared: TensorDict) -> Tensor:
        minibatch = shared["sampled_mb"]
        rows, horizon = minibatch.batch_size
        flat = minibatch.select(*_POLICY_KEYS).reshape(rows * horizon)
        flat["bptt"] = torch.full((rows * horizon,), horizon)
        flat["batch"] = torch.full((rows * horizon,), rows)
        actions = minibatch["actions"].reshape(rows * horizon, -1)
        policy_td = self.policy.forward(flat, actions).reshape(rows, horizon)
        shared["policy_td"] = policy_td
        log_ratio = torch.clamp(policy_td["act_log_prob"] - minibatch["act_log_prob"], -10, 10)
        ratio = log_ratio.exp()
        shared["importance_sampling_ratio"] = ratio
        with torch.no_grad():
            shared["advantages_pg"] = advantages_of(minibatch, ratio.detach())
        total = self.critic(shared) + self.actor(shared, log_ratio)
        # Outputs that no loss used get a gradient of zero.
        summed: Tensor = total + 0.0 * policy_td["full_log_probs"].sum()
        return summed

    def critic(self, shared: TensorDict) -> Tensor:
        minibatch, values = shared["sampled_mb"], shared["policy_td"]["values"]
        old, clip = minibatch["values"], HYPER.clip_coef
        returns = shared["advantages"] + old
        minibatch["returns"] = returns
        near = old + torch.clamp(values - old, -clip, clip)
        loss = 0.5 * torch.max((values - returns) ** 2, (near - returns) ** 2).mean()
        self.update(shared, {"values": values.detach()})
        self.statistics = [loss.item(), returns.mean().item(), values.mean().item()]
        weighted: Tensor = HYPER.vf_coef * loss
        return weighted

    def actor(self, shared: TensorDict, log_ratio: Tensor) -> Tensor:
        ratio, clip = shared["importance_sampling_ratio"], HYPER.clip_coef
        advantages = shared["advantages_pg"]
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        advantages = shared["prio_weights"] * advantages
        loss = torch.max(-advantages * ratio, -advantages * torch.clamp(ratio, 1 - clip, 1 + clip)).mean()
        entropy = shared["policy_td"]["entropy"].mean()
        self.update(shared, {"ratio": ratio.detach()})
        with torch.no_grad():
            kl = ((ratio - 1) - log_ratio).mean()
            clipped = ((ratio - 1.0).abs() > clip).float().mean()
        self.statistics += [x.item() for x in (loss, entropy, kl, clipped, ratio.mean())]
        total: Tensor = loss - HYPER.ent_coef * entropy
        return total

    def update(self, shared: TensorDict, columns: dict[str, Tensor]) -> None:
        """Writes into a copy, as indexing with a tensor makes one."""
        self.buffer[shared["indices"][:, 0]].update(TensorDict(columns, batch_size=shared.batch_size))


_SCALARS = ("dones", "truncateds", "rewards", "act_log_prob", "values", "reward_baseline")


def advantages_of(data: TensorDict, importance: Tensor) -> Tensor:
    """Arrival-indexed, with V-trace's clipping at 1; the last column is 0."""
    rewards = data["rewards"] - data["reward_baseline"]
    return ops.puff_advantage(
        data["values"], rewards, data["dones"], importance, HYPER.gamma, HYPER.gae_lambda, 1.0, 1.0
    )
