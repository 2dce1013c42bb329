"""Epochs of the double's trainer, with hotloop or without, and whether two such runs are equal."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import metta_double
from hotloop.integrations import metta
from hotloop.integrations.patches import Patches
from metta_double import Env, Policy, Spec

SMALL: dict[str, Any] = {"obs_shape": (6, 3)}
_MODULES = {"CoreTrainingLoop": "training.core", "Experience": "training.experience"}


def exchange(name: str, new: Any) -> None:
    """As `install()` does it, for one name."""
    module = importlib.import_module(f"metta.rl.{_MODULES.get(name, 'advantage')}")
    Patches("metta").replace_everywhere(module, name, new)


class Run:
    """Some epochs of a trainer: everything that can be told afterwards.

    `ours`: names that are exchanged; "install" for all. `options`: of `install()`. `change(trainer)`: before
    the first epoch. `each(trainer, epoch)`: between the rollout and the training of each epoch.
    """

    def __init__(
        self,
        layout: str,
        ours: str | tuple[str, ...] = (),
        *,
        options: dict[str, Any] | None = None,
        epochs: int = 3,
        agents: int = 6,
        slices: int = 1,
        order: tuple[int, ...] | None = None,
        nvec: tuple[int, ...] = (5,),
        recurrent: bool = False,
        extra: Spec | None = None,
        sliced: bool = False,
        stop_at: int | None = None,
        plant: Callable[[SimpleNamespace], None] | None = None,
        change: Callable[[Any], None] | None = None,
        each: Callable[[Any, int], None] | None = None,
        **config: Any,
    ) -> None:
        with self._host(layout, ours, options or {}, plant) as host:
            torch.manual_seed(3)
            self.log: list[Any] = []
            env = Env(layout, agents, slices=slices, order=order, nvec=nvec, **SMALL)
            policy = Policy(layout, nvec=nvec, recurrent=recurrent, log=self.log, extra=extra, **SMALL)
            made = metta_double.config(agents, **config)
            sliding = {"sliced": True} if sliced else {}
            trainer = host.trainer.Trainer(made, env=env, policy=policy, log=self.log, **sliding)
            trainer.core_loop.losses["watcher"].stop_at = stop_at
            self.trainer, self.kinds = trainer, {type(trainer.core_loop), type(trainer.experience)}
            if change is not None:
                change(trainer)
            if each is not None:
                train, numbers = trainer.core_loop.training_phase, iter(range(epochs))

                def after_rollout(**given: Any) -> Any:
                    each(trainer, next(numbers))
                    return train(**given)

                trainer.core_loop.training_phase = after_rollout
            self.results, self.generators, self.stats, self.buffers = [], [], [], []
            for _ in range(epochs):
                result = trainer.run_epoch()
                self.results.append((result.raw_infos, result.agent_steps, result.training_env_id))
                self.generators.append(torch.get_rng_state())
                self.stats.append({**trainer.context.latest_losses_stats, **trainer.experience.stats()})
                items = trainer.experience.buffer.items(True, True)
                self.buffers.append({key: leaf.clone() for key, leaf in items})
            self.tensors = [
                *policy.parameters(),
                *(parameter.grad for parameter in policy.parameters()),
                trainer.core_loop.last_action,
                trainer.context.state.avg_reward,
            ]
            self.sent, self.served = env.sent, trainer.context.served
            self.timed = trainer.context.stopwatch.names

    @staticmethod
    def _host(
        layout: str, ours: str | tuple[str, ...], options: dict[str, Any], plant: Any
    ) -> AbstractContextManager[SimpleNamespace]:
        return _Host(layout, ours, options, plant)


class _Host(AbstractContextManager[SimpleNamespace]):
    """The package of a layout with some of it exchanged, and torch on one thread."""

    def __init__(self, layout: str, ours: str | tuple[str, ...], options: dict[str, Any], plant: Any) -> None:
        self.given = layout, ours, options, plant

    def __enter__(self) -> SimpleNamespace:
        layout, ours, options, plant = self.given
        self.threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self.loaded = metta_double.loaded(layout)
        host = self.loaded.__enter__()
        if plant is not None:
            plant(host)
        if ours == "install":
            assert metta.install(**options) == layout
        for name in () if ours == "install" else ours:
            exchange(name, getattr(getattr(metta, layout), name))
        return metta_double.modules()

    def __exit__(self, *error: Any) -> None:
        metta.uninstall()
        torch.set_num_threads(self.threads)
        self.loaded.__exit__(None, None, None)


def assert_equal(ours: Run, theirs: Run, tolerance: float | None = None) -> None:
    """Every hook with its arguments, what was sent and served, the generator's states, buffers, parameters
    and gradients, statistics, the last actions and the average rewards. `tolerance`: of floating numbers."""

    def same(a: Any, b: Any) -> None:
        assert (a is None) == (b is None)
        if a is None:
            return
        assert a.dtype == b.dtype
        if tolerance is None or not a.dtype.is_floating_point:
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)

    assert ours.log == theirs.log
    assert ours.served == theirs.served
    assert ours.timed == theirs.timed
    assert ours.results == theirs.results
    assert len(ours.sent) == len(theirs.sent)
    for a, b in zip(ours.sent, theirs.sent, strict=True):
        assert a.dtype == b.dtype
        assert (a == b).all()
    for a, b in zip(ours.generators, theirs.generators, strict=True):
        same(a, b)
    for a, b in zip(ours.buffers, theirs.buffers, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    for a, b in zip(ours.tensors, theirs.tensors, strict=True):
        same(a, b)
    for a, b in zip(ours.stats, theirs.stats, strict=True):
        assert a == (b if tolerance is None else pytest.approx(b, rel=tolerance, abs=tolerance))
