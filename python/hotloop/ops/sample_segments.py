"""`sample_segments`: which segments a minibatch is made of, and the weights that correct for the draw."""

from __future__ import annotations

import torch
from torch import Tensor

from hotloop import _core
from hotloop.ops._register import register

#: the laws that `sample_segments` knows
LAWS = ("sequential", "permutation", "successive", "with_replacement", "systematic")


def _allocate(priorities: Tensor | None, num_segments: int, count: int, *_: object) -> tuple[Tensor, Tensor]:
    device = torch.device("cpu") if priorities is None else priorities.device
    return torch.empty(count, dtype=torch.int64, device=device), torch.empty(count, device=device)


_OUT_OP = register(
    "sample_segments",
    "Tensor? priorities, int num_segments, int count, str law, "
    "int seed, int epoch, int minibatch, float beta=1.0",
    ("Tensor(a!) indices", "Tensor(b!) weights"),
    _core.sample_segments,
    _allocate,
)


def sample_segments(
    priorities: Tensor | None,
    num_segments: int,
    count: int,
    *,
    law: str,
    seed: int,
    epoch: int,
    minibatch: int,
    beta: float = 1.0,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws `count` of `num_segments` segments for one minibatch.

    | law | draw | weight |
    | --- | --- | --- |
    | `sequential` | contiguous blocks in order: minibatch m gets m * count ... | 1 |
    | `permutation` | blocks of a fresh random permutation each epoch | 1 |
    | `successive` | without replacement, as `torch.multinomial` (an exponential race) | `(S p_i) ** -beta` |
    | `with_replacement` | independent draws by inversion of the distribution function | `(S p_i) ** -beta` |
    | `systematic` | without replacement, inclusion probability `pi_i` | `(S pi_i / k) ** -beta` |

    Under `systematic` the inclusion probability is exactly `pi_i = min(1, c p_i)`, which add up to k.
    `p_i` is proportional to `priorities[i] + 1e-6`. With beta = 1 the weighted mean over a minibatch is an
    unbiased estimate of the mean over all S segments under `with_replacement` and `systematic`: their weights
    are exact. The weight of `successive` is the one that PufferLib and Metta use, `p_i = (priorities[i] +
    1e-6) / (sum + 1e-6)`; it would be exact for draws with replacement and is an approximation here.

    `systematic` lays segments of lengths `pi_i` end to end in a random order and takes those in which the
    equidistant points u, u + 1, ... fall, for one uniform u (Madow 1949, "On the theory of systematic
    sampling, II"). Its estimates vary less than those of `with_replacement`, and no segment comes twice.

    The epoch's permutation is made once and remembered: its later minibatches cost what they copy.

    Random numbers are Philox4x32-10 (Salmon et al. 2011) keyed by (seed, epoch, minibatch): the draw does not
    depend on the number of threads or on what ran before, and a resumed run draws the same.

    Args:
        priorities: `[S]`, float32 or float64, finite and >= 0, of a finite sum, for `successive`,
            `with_replacement` and `systematic`; None otherwise.
        num_segments: S, at least 1.
        count: k, segments in the minibatch; at most S for `successive` and `systematic`.
        law: see the table.
        seed: any 64-bit integer.
        epoch, minibatch: 0 ... 2**32 - 1.
        beta: strength of the importance correction, >= 0; 1 corrects fully.
        out: `(indices, weights)` to write into.

    Returns:
        indices `[k]` int64 and weights `[k]` float32.

    Raises:
        TypeError: `priorities` is no CPU `torch.Tensor` of a supported dtype.
        ValueError: an unknown law, a value out of range, or a priority that is negative, NaN or infinite.
    """
    indices, weights = _allocate(priorities, num_segments, count) if out is None else out
    native = _core.sample_segments(
        priorities, num_segments, count, law, seed, epoch, minibatch, beta, indices, weights
    )
    if native is NotImplemented:
        _OUT_OP(
            priorities,
            num_segments,
            count,
            law,
            seed,
            epoch,
            minibatch,
            beta,
            indices=indices,
            weights=weights,
        )
    return indices, weights
