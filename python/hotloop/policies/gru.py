"""The GRU policy."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from hotloop.policies.recurrent import RecurrentActorCritic


class GRUPolicy(RecurrentActorCritic):
    """`RecurrentActorCritic` with a gated recurrent unit (Cho et al. 2014). Its state is the entry ``h``."""

    core_type: ClassVar[type[nn.RNNBase]] = nn.GRU
    state_keys: ClassVar[tuple[str, ...]] = ("h",)
