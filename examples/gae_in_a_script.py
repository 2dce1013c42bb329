"""Advantages in a script of one's own: departure-indexed rollouts, as Gymnasium and CleanRL keep them."""

import torch

import hotloop.ops

rewards, values = torch.rand(8, 128), torch.rand(8, 128)  # [environments, steps]
terminated = torch.rand(8, 128) < 0.01
last_values = torch.rand(8)  # V of the observation after the last step
advantages, returns = hotloop.ops.gae(
    rewards, values, terminated, last_values=last_values, gamma=0.99, gae_lambda=0.95
)
print(f"advantages {list(advantages.shape)}, mean return {returns.mean():.2f}")
