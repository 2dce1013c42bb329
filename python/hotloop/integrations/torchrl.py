"""TorchRL: `HotGAE` instead of `torchrl.objectives.value.GAE`, and the functions under its estimators.

    advantage = HotGAE(gamma=0.99, lmbda=0.95, value_network=critic)
    hotloop.integrations.torchrl.install()    # all estimators of TorchRL, in place

`torchrl_estimators` says which calls are hotloop's; TorchRL's own functions do the others. Importing this
module imports TorchRL.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import FunctionType
from typing import Any

from tensordict.nn import dispatch
from torchrl.objectives.value import GAE, advantages, functional

from hotloop.integrations import torchrl_estimators
from hotloop.integrations.hosts import find_host
from hotloop.integrations.patches import Patches, installed
from hotloop.integrations.stand_in import Function, stand_in
from hotloop.integrations.verify import Verifier

__all__ = [
    "HotGAE",
    "generalized_advantage_estimate",
    "install",
    "uninstall",
    "vec_generalized_advantage_estimate",
    "vec_td_lambda_return_estimate",
    "vtrace_advantage_estimate",
]

# The host's functions, and ours that stand in for them.
_NATIVE: Mapping[str, Function] = {
    "generalized_advantage_estimate": torchrl_estimators.gae,
    "vec_generalized_advantage_estimate": torchrl_estimators.gae,
    "vec_td_lambda_return_estimate": torchrl_estimators.td_lambda_return,
    "vtrace_advantage_estimate": torchrl_estimators.vtrace,
}
# The vectorised functions of the host sum in another order and leave out small terms.
_TOLERANCE = 1e-5
_VERIFIER: ContextVar[Verifier | None] = ContextVar("hotloop.integrations.torchrl", default=None)


def _estimator(name: str, verifier: Verifier | None = None) -> Function:
    return stand_in(
        getattr(functional, name),
        _NATIVE[name],
        ("return",) if "return" in name else ("advantage", "value_target"),
        lambda: verifier or _VERIFIER.get(),
        _TOLERANCE,
    )


generalized_advantage_estimate = _estimator("generalized_advantage_estimate")
vec_generalized_advantage_estimate = _estimator("vec_generalized_advantage_estimate")
vec_td_lambda_return_estimate = _estimator("vec_td_lambda_return_estimate")
vtrace_advantage_estimate = _estimator("vtrace_advantage_estimate")


def install(force: bool = False, verify: bool | int = False) -> None:
    """Exchanges the four functions wherever TorchRL has imported them, and so speeds up `GAE`,
    `MultiAgentGAE`, `TDLambdaEstimator(vectorized=True)` and `VTrace`. A second call begins anew.

    Args:
        force: goes on with a version that was not tested.
        verify: compares the first 16 calls (or so many) with the host's own functions.

    Raises:
        UntestedHostError: the installed version was not tested.
    """
    find_host("torchrl").require(force)
    verifier = Verifier("torchrl", verify)
    uninstall()
    patches = Patches("torchrl")
    for name in _NATIVE:
        patches.replace_everywhere(functional, name, _estimator(name, verifier))


def uninstall() -> None:
    """Puts TorchRL's own functions back."""
    patches = installed("torchrl")
    if patches is not None:
        patches.remove()


def _with_ours(function: Any) -> Any:
    """The host's method, in whose eyes the estimators are ours: whatever it does beside calling them (value
    networks, keys, shifts, standardisation) stays the host's."""
    host = inspect.unwrap(function)
    seen = host.__globals__ | {name: globals()[name] for name in _NATIVE}
    ours = FunctionType(host.__code__, seen, host.__name__, host.__defaults__, host.__closure__)
    ours.__kwdefaults__ = host.__kwdefaults__
    return ours


@contextmanager
def _verifying(verifier: Verifier) -> Iterator[None]:
    token = _VERIFIER.set(verifier)
    try:
        yield
    finally:
        _VERIFIER.reset(token)


_FORWARD = advantages._self_set_skip_existing(
    advantages._self_set_grad_enabled(dispatch(_with_ours(GAE.forward)))
)
_VALUE_ESTIMATE = _with_ours(GAE.value_estimate)


class HotGAE(GAE):  # type: ignore[misc]
    """`GAE` with hotloop's estimator: the host's own `forward`, arguments, keys and hooks.

    `vectorized` is accepted and changes nothing: either way the result is that of the host's loop over time,
    to the last bit. Calls that `torchrl_estimators` does not do take the host's function:
    `differentiable=True` with values that require grad, gamma for each step (`steps_to_next_obs`), tensors
    of another device than the CPU.

    Args:
        verify: compares the first 16 calls (or so many) with the host's function.
        force: goes on with a version of the host that was not tested.

    Raises:
        UntestedHostError: the installed version was not tested.
        VerificationError: a result differs from the host's.
    """

    def __init__(self, *, verify: bool | int = False, force: bool = False, **kwargs: Any) -> None:
        find_host("torchrl").require(force)
        super().__init__(**kwargs)
        self._verifier = Verifier("torchrl", verify)

    @functools.wraps(GAE.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self._verifier.left:
            return _FORWARD(self, *args, **kwargs)
        with _verifying(self._verifier):
            return _FORWARD(self, *args, **kwargs)

    @functools.wraps(GAE.value_estimate)
    def value_estimate(self, *args: Any, **kwargs: Any) -> Any:
        if not self._verifier.left:
            return _VALUE_ESTIMATE(self, *args, **kwargs)
        with _verifying(self._verifier):
            return _VALUE_ESTIMATE(self, *args, **kwargs)
