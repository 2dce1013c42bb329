"""The self-check of recurrent policies: the training forward repeats what the rollout computed.

A reset that is applied one step late, a state of the wrong segment or observations that are not those that
the policy saw do not stop a run; it only learns worse. But they all show in the log probabilities and values:
until the first update of the parameters, the training forward must give those that the rollout stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from tensordict import TensorDictBase
from torch import Tensor

from hotloop.experience import Experience
from hotloop.loop_policy_state import PolicyStates
from hotloop.loop_training import forward_policy_for_training
from hotloop.spec import Key

if TYPE_CHECKING:
    from hotloop.policies import Policy

RecurrentCheck = Literal["first", "always", "off"]

# Of float32 results whose sums are taken in another order; relative above 1.
TOLERANCE = 1e-4


class RecurrentSelfCheck:
    """Compares once (``"first"``), before every training phase (``"always"``: one more forward pass over the
    rollout each) or never (``"off"``)."""

    def __init__(self, mode: RecurrentCheck, states: PolicyStates | None) -> None:
        self._mode = mode
        self._states = states
        self._pending = states is not None and mode != "off"

    @property
    def always(self) -> bool:
        """Whether every phase begins with a comparison, which reads the device."""
        return self._states is not None and self._mode == "always"

    @torch.no_grad()
    def __call__(self, policy: Policy, experience: Experience, keys: Sequence[Key]) -> None:
        """Before the first update of a training phase. RuntimeError where the two differ by more than
        `TOLERANCE`, or the policy's own `repeat_tolerance`, in any valid entry, naming the worst."""
        if not self._pending or self._states is None:
            return
        # Values, too: the first policies are nearly uniform, whatever their state.
        names = [name for name in ("act_log_prob", "values") if name in experience.buffer]
        tolerance = float(getattr(policy, "repeat_tolerance", TOLERANCE))
        for mb_idx in range(experience.num_minibatches):
            minibatch, rows = experience.sample_sequential(mb_idx)
            state = self._states.of_segments(rows)
            policy_td = forward_policy_for_training(policy, minibatch, keys, {"state": state})
            for name in names:
                stored = minibatch[name]
                again = policy_td[name].reshape(stored.shape)
                _compare(name, stored, again, minibatch, rows, tolerance)
        self._pending = self._mode == "always"


def _compare(
    name: str, stored: Tensor, again: Tensor, minibatch: TensorDictBase, rows: Tensor, tolerance: float
) -> None:
    difference = (again.double() - stored.double()).abs()
    excess = difference / stored.double().abs().clamp(min=1.0)
    if excess.dim() > 2:
        excess = excess.flatten(2).amax(-1)
    valid = minibatch.get("valid", None)
    if valid is not None:
        excess = torch.where(valid.bool(), excess, 0.0)
    # NaN is a difference, too.
    wrong = ~(excess <= tolerance)
    if not wrong.any():
        return
    row, column = divmod(int(excess.nan_to_num(nan=torch.inf).argmax()), excess.shape[1])
    was, now = stored[row, column].flatten()[0].item(), again[row, column].flatten()[0].item()
    raise RuntimeError(
        f"CoreTrainingLoop.training_phase: the training forward must repeat the rollout, but {name!r} of "
        f"segment {int(rows[row])}, step {column} was {was:.6g} and is now {now:.6g}, a difference of "
        f"{abs(now - was):.3g} (tolerance {tolerance:g}); {int(wrong.sum())} of {wrong.numel()} entries "
        f"compared here are off. {_cause(wrong, minibatch['resets'].bool())} recurrent_check='off' trains "
        "all the same."
    )


def _cause(wrong: Tensor, resets: Tensor) -> str:
    """What the pattern of the differences speaks for."""
    began = resets.clone()
    began[:, 0] = False  # the stored state is reset already
    after_reset = began.cumsum(1) > 0
    if wrong[:, 0].any():
        return (
            "Likely cause: the first step of a segment differs already, so the policy does not start from "
            "the given state, does not see what it saw in the rollout (other observations, noise, dropout), "
            "or has been changed since."
        )
    if not (wrong & ~after_reset).any():
        return (
            "Likely cause: only steps after a reset differ, so forward(td, action, state=) does not begin "
            "anew where td['resets'] says so, or does so at another step than the rollout."
        )
    return (
        "Likely cause: the steps of a segment do not follow each other as in the rollout: forward() must "
        "carry the state from column to column, row by row of [B, T]."
    )
