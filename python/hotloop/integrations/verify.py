"""The host's own code beside ours, for the first calls of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

CALLS = 16  # of `verify=True`


class VerificationError(RuntimeError):
    """hotloop's result differs from the host's by more than was allowed."""


class Verifier:
    """Counts the calls that are still to be compared, and compares them.

    Args:
        host: the integration's name, for messages.
        verify: False for no call, True for the first `CALLS`, or their number.

    Raises:
        TypeError: `verify` is neither a bool nor an int.
        ValueError: it is negative.
    """

    def __init__(self, host: str, verify: bool | int) -> None:
        if not isinstance(verify, int):
            raise TypeError(
                f"hotloop.integrations.{host}: verify must be a bool or a number of calls, got {verify!r}"
            )
        if verify < 0:
            raise ValueError(f"hotloop.integrations.{host}: verify must not be negative, got {verify}")
        self.host = host
        self.left = CALLS if verify is True else int(verify)

    def due(self) -> bool:
        """Whether this call is to be compared. Each call that is counts."""
        if self.left == 0:
            return False
        self.left -= 1
        return True

    def compare(
        self,
        what: str,
        ours: Mapping[str, Any],
        theirs: Mapping[str, Any],
        *,
        rtol: float = 0.0,
        atol: float = 0.0,
    ) -> None:
        """Compares results by name: tensors, arrays or numbers.

        Args:
            what: was called, for the message.
            ours, theirs: results under the same names.
            rtol, atol: what may differ, as in `torch.testing.assert_close`; 0: not a bit.

        Raises:
            VerificationError: keys, shape, dtype or values differ.
        """
        if ours.keys() != theirs.keys():
            raise VerificationError(
                f"hotloop.integrations.{self.host}: {what} gives {sorted(ours)}, "
                f"the host's own {sorted(theirs)}"
            )
        for name in theirs:
            complaint = _difference(torch.as_tensor(ours[name]), torch.as_tensor(theirs[name]), rtol, atol)
            if complaint:
                raise VerificationError(
                    f"hotloop.integrations.{self.host}: {what}: {name} differs from the host's own: "
                    f"{complaint}"
                )


def _difference(ours: Tensor, theirs: Tensor, rtol: float, atol: float) -> str:
    """What differs, or nothing."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return f"{ours.dtype} {list(ours.shape)} beside {theirs.dtype} {list(theirs.shape)}"
    ours, theirs = ours.detach().to("cpu"), theirs.detach().to("cpu")
    same = (ours == theirs) | ((ours != ours) & (theirs != theirs))
    if bool(same.all()):
        return ""
    difference = (ours.double() - theirs.double()).abs()
    # A NaN or an infinity on one side only is the largest difference that there is.
    difference = torch.where(same, 0.0, difference.nan_to_num(nan=torch.inf))
    excess = difference - (atol + rtol * theirs.double().abs().nan_to_num(posinf=0.0))
    if not bool((excess > 0).any()):
        return ""
    worst = tuple(int(i) for i in torch.unravel_index(difference.argmax(), difference.shape))
    return (
        f"by {float(difference[worst]):.3g} at {list(worst)} ({ours[worst].item()} beside "
        f"{theirs[worst].item()}; {int((excess > 0).sum())} of {difference.numel()} beyond rtol {rtol:g}, "
        f"atol {atol:g})"
    )
