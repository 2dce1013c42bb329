"""The slow, obvious twin of every op, in plain torch.

These definitions are what the native kernels are tested against. They are written to be read: a loop over
time where the formula has one, no vectorisation tricks, no reuse of buffers. Signatures equal those of
`hotloop.ops`.

Arithmetic is done in the dtype of `values` (`advantages` for priorities), one rounding per operation, in the
order of the formulas, so that a float32 kernel that keeps the order agrees to the last bit. bfloat16 and
float16 are widened to float32, and the result is rounded once.
"""

from __future__ import annotations

from hotloop.ops.reference.activations import pixel_linear, pixel_linear_grad, scale_pixels, tanh
from hotloop.ops.reference.departure import discounted_return, retrace, td_lambda, vtrace
from hotloop.ops.reference.estimators import gae, puff_advantage, row_priorities
from hotloop.ops.reference.heads import (
    STREAM_CATEGORICAL,
    STREAM_GAUSSIAN,
    categorical_evaluate,
    categorical_sample,
    gaussian_evaluate,
    gaussian_sample,
)
from hotloop.ops.reference.movement import (
    LastActions,
    RowCursors,
    gather,
    gather_plan,
    scatter_,
    stage_plan,
    store_,
    store_plan,
)
from hotloop.ops.reference.optimizer import adam_, clip_grad_norm_
from hotloop.ops.reference.ppo_loss import importance_ratio, ppo_loss, return_moments
from hotloop.ops.reference.sampling import (
    PRIORITY_FLOOR,
    STREAM_OFFSET,
    STREAM_ORDER,
    STREAM_PERMUTATION,
    STREAM_RACE,
    STREAM_REPLACEMENT,
    inclusion_probabilities,
    permutation,
    philox4x32,
    random_bits64,
    sample_segments,
)
from hotloop.ops.reference.scans import delta_lambda, reverse_scan

__all__ = [
    "PRIORITY_FLOOR",
    "STREAM_CATEGORICAL",
    "STREAM_GAUSSIAN",
    "STREAM_OFFSET",
    "STREAM_ORDER",
    "STREAM_PERMUTATION",
    "STREAM_RACE",
    "STREAM_REPLACEMENT",
    "LastActions",
    "RowCursors",
    "adam_",
    "categorical_evaluate",
    "categorical_sample",
    "clip_grad_norm_",
    "delta_lambda",
    "discounted_return",
    "gae",
    "gather",
    "gather_plan",
    "gaussian_evaluate",
    "gaussian_sample",
    "importance_ratio",
    "inclusion_probabilities",
    "permutation",
    "philox4x32",
    "pixel_linear",
    "pixel_linear_grad",
    "ppo_loss",
    "puff_advantage",
    "random_bits64",
    "retrace",
    "return_moments",
    "reverse_scan",
    "row_priorities",
    "sample_segments",
    "scale_pixels",
    "scatter_",
    "stage_plan",
    "store_",
    "store_plan",
    "tanh",
    "td_lambda",
    "vtrace",
]
