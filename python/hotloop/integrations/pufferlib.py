"""PufferLib's `PuffeRL` with hotloop's storage, advantages and minibatches.

    import hotloop.integrations.pufferlib
    hotloop.integrations.pufferlib.install()

`PuffeRL.evaluate`, `PuffeRL.train` and `compute_puff_advantage` become ours; the policy, the optimizer, the
losses, the environments, logs and checkpoints stay PufferLib's. Without options training gives the same
losses and parameters to the last bit. See docs/integrations/pufferlib.md.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch

from hotloop.integrations.hosts import find_host
from hotloop.integrations.patches import Patches, installed
from hotloop.integrations.pufferlib_rollout import Options, Rollout, evaluate
from hotloop.integrations.pufferlib_training import Training, compute_puff_advantage, train
from hotloop.integrations.pufferlib_twin import verified_evaluate, verified_train
from hotloop.integrations.verify import Verifier

__all__ = ["compute_puff_advantage", "install", "uninstall"]

_PATCHES = Patches("pufferlib")
_WORK: WeakKeyDictionary[Any, tuple[Rollout, Training]] = WeakKeyDictionary()


def install(
    force: bool = False,
    verify: bool | int = False,
    *,
    truncations: str = "ignore",
    masks: bool = False,
    losses: str = "exact",
) -> None:
    """Every `PuffeRL` of this process, made before or after, goes on with hotloop. A second call changes the
    options.

    Args:
        force: go on with a version of pufferlib-core that was not tested.
        verify: run the host's own `evaluate` and `train` beside ours, on copies, in their first 16 calls (or
            so many), and compare buffers, losses and parameters to the last bit. Without options only.
        truncations: what becomes of them. `"ignore"`: as PuffeRL does, the trace crosses them. `"terminal"`:
            they end an episode as terminals do. `"final"`: the observation that arrives with one is the
            episode's last (PufferLib's emulation of Gymnasium and PettingZoo, which resets a step later): its
            value is what the episode would have gone on with, and the step it takes to reset counts for
            nothing. `"previous"`: that observation is of the next episode already (native environments): the
            last value before it stands in.
        masks: steps of agents that are masked out count for nothing: no advantage, no loss, no statistic.
        losses: `"exact"`: PuffeRL's operations, to the last bit. `"fused"`: native ones, which give its
            losses and gradients to about 1e-6. A trainer or a policy that they do not fit is refused when it
            trains: see `hotloop.integrations.pufferlib_fused`.

    Raises:
        ModuleNotFoundError, UntestedHostError: see `Host.require`.
        TypeError, ValueError: an option that there is not, or `verify` together with one.
    """
    find_host("pufferlib").require(force)
    options = Options(truncations, masks, losses)
    verifier = Verifier("pufferlib", verify)
    if verifier.left and options != Options():
        raise ValueError(
            "hotloop.integrations.pufferlib: verify compares with what PuffeRL does to the last bit, so "
            f"it must be alone, got truncations={truncations!r}, masks={masks}, losses={losses!r}"
        )
    pufferl: Any = importlib.import_module("pufferlib.pufferl")
    uninstall()
    evaluate_theirs = pufferl.PuffeRL.evaluate
    train_theirs = _with_op(pufferl, pufferl.compute_puff_advantage, pufferl.PuffeRL.train)
    _PATCHES.replace_everywhere(pufferl, "compute_puff_advantage", compute_puff_advantage)
    _PATCHES.replace(pufferl.PuffeRL, "evaluate", _evaluate(options, verifier, evaluate_theirs))
    _PATCHES.replace(pufferl.PuffeRL, "train", pufferl.record(_train(options, verifier, train_theirs)))


def uninstall() -> None:
    """Puts PufferLib's own code back. Does nothing where nothing is installed."""
    if installed("pufferlib") is _PATCHES:
        _PATCHES.remove()
    _WORK.clear()


def _work(trainer: Any, options: Options) -> tuple[Rollout, Training]:
    work = _WORK.get(trainer)
    if work is None:
        device = torch.device(trainer.config["device"])
        if device.type != "cpu":
            raise ValueError(
                f"hotloop.integrations.pufferlib: PuffeRL must be on the CPU, got device {str(device)!r}; "
                "hotloop.integrations.pufferlib.uninstall() puts its own code back"
            )
        rollout = Rollout(trainer, options)
        work = _WORK[trainer] = (rollout, Training(trainer, rollout.valid, options.losses == "fused"))
    return work


def _with_op(pufferl: Any, op: Any, method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The host's method with its own op, which ours stands in for elsewhere."""

    @functools.wraps(method)
    def call(trainer: Any) -> Any:
        ours, pufferl.compute_puff_advantage = pufferl.compute_puff_advantage, op
        try:
            return method(trainer)
        finally:
            pufferl.compute_puff_advantage = ours

    return call


def _evaluate(options: Options, verifier: Verifier, theirs: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(theirs)
    def method(self: Any) -> Any:
        rollout, _ = _work(self, options)
        if verifier.due():
            return verified_evaluate(self, rollout, verifier, theirs)
        return evaluate(self, rollout)

    return method


def _train(options: Options, verifier: Verifier, theirs: Callable[[Any], Any]) -> Callable[[Any], Any]:
    counter = Verifier(verifier.host, verifier.left)  # evaluate and train are counted apart

    @functools.wraps(theirs)
    def method(self: Any) -> Any:
        _, training = _work(self, options)
        if counter.due():
            return verified_train(self, training, counter, theirs)
        return train(self, training)

    return method
