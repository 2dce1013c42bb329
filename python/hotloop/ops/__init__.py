from hotloop.ops.reference import *  # noqa: F403  (until the native ops are built)
from hotloop.ops.reference import LastActions, RowCursors, gae, gather, puff_advantage, row_priorities, sample_segments, scatter_, store_  # noqa: E501
