"""`verify=True`: PuffeRL's own `evaluate` and `train` beside ours, on a copy of the trainer."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hotloop.integrations.pufferlib_rollout import STORED, Rollout, evaluate
from hotloop.integrations.pufferlib_training import Training, train
from hotloop.integrations.verify import Verifier

_WRITTEN = (*STORED, "truncations", "ratio")
_LEARNS = ("policy", "uncompiled_policy", "optimizer", "scheduler")


def verified_evaluate(
    trainer: Any, rollout: Rollout, verifier: Verifier, theirs: Callable[[Any], Any]
) -> Any:
    """Our rollout, then PuffeRL's on what the environments told during ours.

    Raises:
        VerificationError: what they stored, or what they sent, differs.
    """
    twin, before = _twin(trainer), torch.get_rng_state()
    tape = _Recorder(trainer.vecenv)
    trainer.vecenv = tape
    try:
        stats = evaluate(trainer, rollout)
    finally:
        trainer.vecenv = tape.vecenv
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    twin.vecenv = _Player(tape)
    theirs(twin)
    torch.set_rng_state(after)
    ours, expected = _written(trainer), _written(twin)
    for name in ("lstm_h", "lstm_c"):
        for start, state in getattr(trainer, name, {}).items():
            ours[f"{name}[{start}]"], expected[f"{name}[{start}]"] = state, getattr(twin, name)[start]
    for number, (sent, wanted) in enumerate(zip(tape.sent, twin.vecenv.sent, strict=True)):
        ours[f"actions sent at step {number}"], expected[f"actions sent at step {number}"] = sent, wanted
    ours["global_step"], expected["global_step"] = trainer.global_step, twin.global_step
    verifier.compare("evaluate", ours, expected)
    return stats


def verified_train(trainer: Any, training: Training, verifier: Verifier, theirs: Callable[[Any], Any]) -> Any:
    """PuffeRL's updates on a copy, then ours.

    Raises:
        VerificationError: losses, parameters, values or ratios differ.
    """
    twin, before = _twin(trainer), torch.get_rng_state()
    theirs(twin)
    torch.set_rng_state(before)
    logs = train(trainer, training)
    ours, expected = _written(trainer), _written(twin)
    for side, owner in ((ours, trainer), (expected, twin)):
        side.update(owner.uncompiled_policy.state_dict())
    ours.update({f"losses/{name}": value for name, value in training.losses.items()})
    expected.update({f"losses/{name}": value for name, value in twin.losses.items()})
    verifier.compare("train", ours, expected)
    return logs


def _twin(trainer: Any) -> Any:
    """A copy that may be trained: of its own are buffers, policy, optimizer and schedule; it logs nothing."""
    twin = copy.copy(trainer)
    learns = copy.deepcopy({name: getattr(trainer, name) for name in _LEARNS})
    buffers = {name: getattr(trainer, name).clone() for name in (*_WRITTEN, "ep_lengths", "ep_indices")}
    states = {
        name: {start: state.clone() for start, state in getattr(trainer, name).items()}
        for name in ("lstm_h", "lstm_c")
        if hasattr(trainer, name)
    }
    vars(twin).update(learns | buffers | states)
    twin.stats = defaultdict(list)
    twin.profile = _Silent()
    twin.last_log_time = float("-inf")  # always due, so that it keeps its losses
    twin.mean_and_log = twin.print_dashboard = twin.save_checkpoint = _Silent()
    return twin


def _written(trainer: Any) -> dict[str, Any]:
    return {name: getattr(trainer, name) for name in _WRITTEN}


class _Silent:
    """Stands in for what a copy must not do."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        return

    end = clear = __call__


class _Recorder:
    """Environments that remember what they told and what they were sent."""

    def __init__(self, vecenv: Any) -> None:
        self.vecenv = vecenv
        self.told: list[tuple[Any, ...]] = []
        self.sent: list[Any] = []

    def recv(self) -> tuple[Any, ...]:
        told = tuple(self.vecenv.recv())
        self.told.append(copy.deepcopy(told))
        return told

    def send(self, actions: Any) -> None:
        self.sent.append(np.array(actions))
        self.vecenv.send(actions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vecenv, name)


class _Player:
    """Environments that tell the same once more, whatever they are sent."""

    def __init__(self, tape: _Recorder) -> None:
        self._tape = tape
        self._told = iter(tape.told)
        self.sent: list[Any] = []

    def recv(self) -> tuple[Any, ...]:
        return next(self._told)

    def send(self, actions: Any) -> None:
        self.sent.append(np.array(actions))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tape.vecenv, name)
