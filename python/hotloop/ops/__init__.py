"""The native ops. Each has a slow, obvious twin of the same name in `hotloop.ops.reference`; `ActPlan`,
`CategoricalPPO`, `ColumnStore`, `PuffDraw`, `SamplePlan` and `StepEndPlan`, which join several ops for a
loop, are measured by these, or by operations of torch.

Every op is also registered as `torch.ops.hotloop.<name>` and traces under `torch.compile(fullgraph=True)`.
"""

from hotloop.ops.act_plan import ActPlan
from hotloop.ops.adam import adam_
from hotloop.ops.categorical import categorical_evaluate, categorical_sample
from hotloop.ops.categorical_ppo import CategoricalPPO, PPORows, PPOSettings
from hotloop.ops.clip_grad_norm import clip_grad_norm_
from hotloop.ops.column_store import ColumnStore
from hotloop.ops.delta_lambda import delta_lambda
from hotloop.ops.determinism import determinism
from hotloop.ops.discounted_return import discounted_return
from hotloop.ops.gae import gae
from hotloop.ops.gather import gather
from hotloop.ops.gather_plan import GatherPlan
from hotloop.ops.gaussian import gaussian_evaluate, gaussian_sample
from hotloop.ops.importance_ratio import importance_ratio
from hotloop.ops.last_actions import LastActions
from hotloop.ops.pixel_linear import (
    PIXEL_LINEAR_WIDTH,
    pixel_linear,
    pixel_linear_grad,
    pixel_linear_is_fast,
)
from hotloop.ops.ppo_loss import PPO_STATISTICS, ppo_loss
from hotloop.ops.puff_advantage import puff_advantage
from hotloop.ops.puff_draw import PuffDraw
from hotloop.ops.retrace import retrace
from hotloop.ops.return_moments import return_moments
from hotloop.ops.reverse_scan import reverse_scan
from hotloop.ops.row_cursors import RowCursors
from hotloop.ops.row_priorities import row_priorities
from hotloop.ops.sample_plan import SamplePlan
from hotloop.ops.sample_segments import sample_segments
from hotloop.ops.scale_pixels import scale_pixels
from hotloop.ops.scatter import scatter_
from hotloop.ops.stage_plan import StagePlan
from hotloop.ops.step_end_plan import StepEndPlan
from hotloop.ops.store import store_
from hotloop.ops.store_plan import StorePlan
from hotloop.ops.summary import AdvantageSummary
from hotloop.ops.tanh import tanh
from hotloop.ops.td_lambda import td_lambda
from hotloop.ops.vtrace import vtrace

__all__ = [
    "PIXEL_LINEAR_WIDTH",
    "PPO_STATISTICS",
    "ActPlan",
    "AdvantageSummary",
    "CategoricalPPO",
    "ColumnStore",
    "GatherPlan",
    "LastActions",
    "PPORows",
    "PPOSettings",
    "PuffDraw",
    "RowCursors",
    "SamplePlan",
    "StagePlan",
    "StepEndPlan",
    "StorePlan",
    "adam_",
    "categorical_evaluate",
    "categorical_sample",
    "clip_grad_norm_",
    "delta_lambda",
    "determinism",
    "discounted_return",
    "gae",
    "gather",
    "gaussian_evaluate",
    "gaussian_sample",
    "importance_ratio",
    "pixel_linear",
    "pixel_linear_grad",
    "pixel_linear_is_fast",
    "ppo_loss",
    "puff_advantage",
    "retrace",
    "return_moments",
    "reverse_scan",
    "row_priorities",
    "sample_segments",
    "scale_pixels",
    "scatter_",
    "store_",
    "tanh",
    "td_lambda",
    "vtrace",
]
