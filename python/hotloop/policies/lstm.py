"""The LSTM policy."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from hotloop.policies.recurrent import RecurrentActorCritic


class LSTMPolicy(RecurrentActorCritic):
    """`RecurrentActorCritic` with a long short-term memory (Hochreiter and Schmidhuber 1997).

    Its state has the entries ``h`` and ``c``. The bias of the forget gates starts at 1, so that what is
    stored lasts from the beginning (Gers et al. 2000; Jozefowicz et al. 2015).
    """

    core_type: ClassVar[type[nn.RNNBase]] = nn.LSTM
    state_keys: ClassVar[tuple[str, ...]] = ("h", "c")

    def _reset_core(self) -> None:
        super()._reset_core()
        for name, parameter in self.core.named_parameters():
            if name.startswith("bias_ih"):  # torch adds bias_hh to it; gates are input, forget, cell, output
                parameter.detach()[self.core_size : 2 * self.core_size] = 1.0
