"""Slow, obvious twins of the policy-head ops: differentiable torch in float64, rounded once at the end."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hotloop.ops.reference.sampling import random_bits64

#: head h of several adds h << 8
STREAM_CATEGORICAL = 6


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
    mask: Tensor | None = None,
    nvec: Sequence[int] | None = None,
    out: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Choices by inversion, their log probability and the entropy; see `hotloop.ops.categorical_sample`."""
    heads = _heads(logits, mask, nvec)
    actions = torch.zeros(logits.shape[0], len(heads), dtype=torch.int32)
    key = {"seed": seed, "epoch": step >> 32, "minibatch": step & 0xFFFFFFFF}
    for h, log_p in enumerate(heads):
        for n, row in enumerate(log_p.exp().tolist()):
            ends = list(itertools.accumulate(row))
            bits = random_bits64(n, stream=STREAM_CATEGORICAL + (h << 8), **key)
            drawn = bisect.bisect_right(ends, (bits >> 11) * 2.0**-53 * ends[-1])
            actions[n, h] = min(drawn, len(row) - 1)
    if nvec is None:
        actions = actions.squeeze(1)
    log_prob, entropy = categorical_evaluate(logits, actions, mask=mask, nvec=nvec)
    if out is not None:
        return out[0].copy_(actions), out[1].copy_(log_prob), out[2].copy_(entropy)
    return actions, log_prob, entropy
