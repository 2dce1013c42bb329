"""A native function in the place of a host's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from hotloop.integrations.verify import Verifier

Function = Callable[..., Any]


def stand_in(
    host: Function,
    native: Function,
    results: Sequence[str],
    verifier: Callable[[], Verifier | None],
    tolerance: float = 0.0,
) -> Function:
    """A function with the signature of the host's: `native`, and the host's for calls that it does not do.

    Args:
        host: the host's function.
        native: takes the host's arguments; returns its results, or None for a call that is the host's.
        results: what the results are called in messages; several for a tuple.
        verifier: gives who compares, if anybody.
        tolerance: what may differ, of the largest element of a result (of 1 where that is smaller).
    """

    @functools.wraps(host)
    def function(*args: Any, **kwargs: Any) -> Any:
        ours = native(*args, **kwargs)
        if ours is None:
            return host(*args, **kwargs)
        checking = verifier()
        if checking is not None and checking.due():
            theirs = host(*args, **kwargs)
            for name, each, wanted in zip(results, _listed(ours), _listed(theirs), strict=True):
                largest = float(torch.as_tensor(wanted).nan_to_num(0.0, 0.0, 0.0).abs().max())
                checking.compare(
                    host.__name__, {name: each}, {name: wanted}, atol=tolerance * max(1.0, largest)
                )
        return ours

    return function


def _listed(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)
