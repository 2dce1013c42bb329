"""The limit: the environment, the network forward and backward, clipping and Adam, and nothing else.

Actions were drawn before, uniformly, as an untrained policy acts. A minibatch is a view of observations that
are there already, its loss the mean square of the outputs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from .contestants import VectorContestant
from .environments import make_vector
from .jobs import HYPER, Job
from .networks import make_network


def make(job: Job, threads: int, seed: int) -> Bare:
    return Bare(job, threads, seed)


class Bare(VectorContestant):
    note = "stores nothing, samples nothing, learns nothing: the network and the environment alone"

    def __init__(self, job: Job, threads: int, seed: int) -> None:
        self.job = job
        self.network = make_network(job)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=HYPER.learning_rate, eps=HYPER.adam_eps, fused=True
        )
        self.vector = make_vector(job, threads, seed)
        self.actions = np.random.default_rng(seed).integers(0, job.actions, (job.horizon, job.agents))
        shape = (job.batch_size, *job.obs_shape)
        byte = job.obs_dtype == "uint8"
        self.batch = torch.randint(0, 256, shape, dtype=torch.uint8) if byte else torch.randn(shape)
        self.obs = torch.as_tensor(self.vector.reset())

    def epoch(self) -> None:
        with torch.no_grad():
            for actions in self.actions:
                self.network(self.obs)
                self.obs = torch.as_tensor(self.vector.step(actions)[0])
        for _ in range(self.job.update_epochs):
            for obs in self.batch.split(self.job.minibatch_size):
                logits, value = self.network(obs)
                self.optimizer.zero_grad()
                (logits.square().mean() + value.square().mean()).backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), HYPER.max_grad_norm)
                self.optimizer.step()
