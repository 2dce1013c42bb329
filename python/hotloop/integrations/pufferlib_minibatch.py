"""Minibatches of `PuffeRL.train`, and its losses as PuffeRL computes them."""

from __future__ import annotations

import functools
import importlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hotloop.ops import scatter_


class Minibatch(NamedTuple):
    """Rows of the rollout, in memory that the next one overwrites.

    Attributes:
        rows: `[k]` int64, which.
        weights: `[k, 1]`, corrections of their probabilities.
        observations: `[k, T, ...]`, or `[k * T, ...]` for a policy without memory.
        actions: `[k, T, ...]`.
        logprobs, values, advantages, returns: `[k, T]`.
        valid: `[k, T]` bool, or None where every step counts.
    """

    rows: Tensor
    weights: Tensor
    observations: Tensor
    actions: Tensor
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    valid: Tensor | None


class Outcome(NamedTuple):
    """Of the losses of one minibatch.

    Attributes:
        told: what is logged, by name in PuffeRL's order.
        tensors, gradients: what the backward pass begins with, as of `torch.autograd.backward`.
    """

    told: dict[str, float]
    tensors: list[Tensor]
    gradients: list[Tensor] | None = None


def evaluated(minibatch: Minibatch, logits: Any) -> tuple[Tensor, Tensor]:
    """Log-probabilities `[k, T]` of the minibatch's actions, and entropies, by PufferLib's function."""
    sample_logits = importlib.import_module("pufferlib.pytorch").sample_logits
    _, logprobs, entropy = sample_logits(logits, action=minibatch.actions)
    return logprobs.reshape(minibatch.logprobs.shape), entropy


def exact_losses(
    trainer: Any, minibatch: Minibatch, logprobs: Tensor, entropy: Tensor, values: Tensor
) -> Outcome:
    """PuffeRL's losses, its operations in its order; ratios and values are written into the rollout.

    Args:
        logprobs, entropy: see `evaluated`.
        values: as the policy shapes them.
    """
    log_ratio = logprobs - minibatch.logprobs
    ratio = log_ratio.exp()
    values = values.view(minibatch.returns.shape)
    scatter_([trainer.ratio, trainer.values], minibatch.rows, [ratio.detach(), values.detach()])
    told, loss = _losses(trainer.config, minibatch, log_ratio, ratio, values, entropy)
    return Outcome({name: value.item() for name, value in told.items()}, [loss])


def _losses(
    config: Any,
    minibatch: Minibatch,
    log_ratio: Tensor,
    ratio: Tensor,
    values: Tensor,
    entropy: Tensor,
) -> tuple[dict[str, Tensor], Tensor]:
    """What is logged, in PuffeRL's order, and the loss: PPO's clipped surrogate (Schulman et al. 2017) of
    normalised advantages, the clipped value loss, and the entropy bonus. Means are of steps that count."""
    clip, value_clip = config["clip_coef"], config["vf_clip_coef"]
    valid, returns = minibatch.valid, minibatch.returns
    mean = functools.partial(_mean, valid=valid)
    with torch.no_grad():
        old_kl = mean(-log_ratio)
        kl = mean((ratio - 1) - log_ratio)
        clipped = mean(((ratio - 1.0).abs() > clip).float())
        centred = minibatch.advantages - mean(minibatch.advantages)
        deviation = minibatch.advantages.std() if valid is None else _deviation(centred, valid)
        advantages = minibatch.weights * centred / (deviation + 1e-8)
    surrogate = torch.max(-advantages * ratio, -advantages * torch.clamp(ratio, 1 - clip, 1 + clip))
    near = minibatch.values + torch.clamp(values - minibatch.values, -value_clip, value_clip)
    value_loss = 0.5 * mean(torch.max((values - returns) ** 2, (near - returns) ** 2))
    policy_loss = mean(surrogate)
    entropy = entropy.mean() if valid is None else mean(entropy.reshape(returns.shape))
    loss = policy_loss + config["vf_coef"] * value_loss - config["ent_coef"] * entropy
    told = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "old_approx_kl": old_kl,
        "approx_kl": kl,
        "clipfrac": clipped,
        "importance": mean(ratio),
    }
    return told, loss


def _mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """Of the steps that count; 0 where none does."""
    return x.mean() if valid is None else torch.where(valid, x, 0.0).sum() / valid.sum().clamp(min=1)


def _deviation(centred: Tensor, valid: Tensor) -> Tensor:
    """The standard deviation, as `Tensor.std`, of the steps that count; 0 where there are fewer than two."""
    squares = torch.where(valid, centred, 0.0).square().sum()
    return (squares / (valid.sum() - 1).clamp(min=1)).sqrt()
