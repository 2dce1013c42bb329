"""Slow, obvious twins of the policy-head ops: differentiable torch in float64, rounded once at the end."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hotloop.ops.reference.sampling import random_bits64

#: head h of several adds h << 8, pair p of components adds p << 8
STREAM_CATEGORICAL, STREAM_GAUSSIAN = 6, 7


def _real(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _heads(logits: Tensor, mask: Tensor | None, nvec: Sequence[int] | None) -> list[Tensor]:
    """Normalised log probabilities of each head."""
    x = logits.to(torch.float64)
    if mask is not None:
        x = x.masked_fill(~mask, -math.inf)
    sizes = [x.shape[1]] if nvec is None else list(nvec)
    return [torch.log_softmax(part, dim=1) for part in x.split(sizes, dim=1)]


def _entropy(log_p: Tensor) -> Tensor:
    # 0 * -inf is NaN, in the gradient too
    possible = torch.where(log_p == -math.inf, 0.0, log_p)
    return -(log_p.exp() * possible).sum(1)


def categorical_evaluate(
    logits: Tensor, actions: Tensor, *, mask: Tensor | None = None, nvec: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Log probability of `actions` and entropy; see `hotloop.ops.categorical_evaluate`."""
    heads = _heads(logits, mask, nvec)
    chosen = actions.reshape(logits.shape[0], len(heads)).to(torch.int64)
    log_prob = sum(log_p.gather(1, chosen[:, [h]]).squeeze(1) for h, log_p in enumerate(heads))
    entropy = sum(_entropy(log_p) for log_p in heads)
    assert isinstance(log_prob, Tensor)
    assert isinstance(entropy, Tensor)
    return log_prob.to(_real(logits)), entropy.to(_real(logits))


def categorical_sample(
    logits: Tensor,
    *,
    seed: int,
    step: int,
    first_row: int = 0,
    mask: Tensor | None = None,
    nvec: Sequence[int] | None = None,
    out: tuple[Tensor, Tensor, Tensor] | None = None,
    log_probs: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Choices by inversion, their log probability and the entropy; see `hotloop.ops.categorical_sample`."""
    heads = _heads(logits, mask, nvec)
    actions = torch.zeros(logits.shape[0], len(heads), dtype=torch.int32)
    key = {"seed": seed, "epoch": step >> 32, "minibatch": step & 0xFFFFFFFF}
    for h, log_p in enumerate(heads):
        for n, row in enumerate(log_p.exp().tolist()):
            ends = list(itertools.accumulate(row))
            bits = random_bits64(first_row + n, stream=STREAM_CATEGORICAL + (h << 8), **key)
            drawn = bisect.bisect_right(ends, (bits >> 11) * 2.0**-53 * ends[-1])
            actions[n, h] = min(drawn, len(row) - 1)
    if nvec is None:
        actions = actions.squeeze(1)
    log_prob, entropy = categorical_evaluate(logits, actions, mask=mask, nvec=nvec)
    if log_probs is not None:
        log_probs.copy_(torch.cat(heads, dim=1))
    if out is not None:
        return out[0].copy_(actions), out[1].copy_(log_prob), out[2].copy_(entropy)
    return actions, log_prob, entropy


def gaussian_evaluate(
    mean: Tensor, log_std: Tensor, actions: Tensor, *, squash: bool = False
) -> tuple[Tensor, Tensor]:
    """Log density of `actions` and entropy; see `hotloop.ops.gaussian_evaluate`."""
    mu, a = mean.to(torch.float64), actions.to(torch.float64)
    log_sigma = log_std.to(torch.float64).expand_as(mu)
    log_slope = torch.zeros_like(a)
    if squash:
        limit = 1.0 - torch.finfo(actions.dtype).eps / 2
        a = a.clamp(-limit, limit)
        log_slope = (1.0 - a).log() + (1.0 + a).log()
        a = 0.5 * ((1.0 + a).log() - (1.0 - a).log())
    z = (a - mu) / log_sigma.exp()
    log_prob = -0.5 * z.square() - log_sigma - 0.5 * math.log(2.0 * math.pi) - log_slope
    entropy = log_sigma + 0.5 + 0.5 * math.log(2.0 * math.pi)
    return log_prob.sum(1).to(_real(mean)), entropy.sum(1).to(_real(mean))


def gaussian_sample(
    mean: Tensor,
    log_std: Tensor,
    *,
    seed: int,
    step: int,
    first_row: int = 0,
    squash: bool = False,
    out: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normal numbers by Box and Muller; see `hotloop.ops.gaussian_sample`."""
    key = {"seed": seed, "epoch": step >> 32, "minibatch": step & 0xFFFFFFFF}
    noise = torch.zeros(mean.shape, dtype=torch.float64)
    for n in range(mean.shape[0]):
        for j in range(mean.shape[1]):
            stream = STREAM_GAUSSIAN + (j // 2 << 8)
            first, second = (
                random_bits64(2 * (first_row + n) + i, stream=stream, **key) >> 11 for i in (0, 1)
            )
            radius = math.sqrt(-2.0 * math.log((first + 1) * 2.0**-53))
            turn = 2.0 * math.pi * (second * 2.0**-53)
            noise[n, j] = radius * (math.sin(turn) if j % 2 else math.cos(turn))
    actions = mean.to(torch.float64) + log_std.to(torch.float64).exp() * noise
    dtype = _real(mean)
    if squash:
        limit = 1.0 - torch.finfo(dtype).eps / 2
        actions = actions.tanh().clamp(-limit, limit)
    actions = actions.to(dtype)
    log_prob, entropy = gaussian_evaluate(mean, log_std, actions, squash=squash)
    if out is not None:
        return out[0].copy_(actions), out[1].copy_(log_prob), out[2].copy_(entropy)
    return actions, log_prob, entropy
