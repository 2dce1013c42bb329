"""Metta's trainer with hotloop's loop and with its own, a plain torch one: equal to the last bit."""

from __future__ import annotations

from typing import Any

import metta_double
import pytest
import torch
from metta_double import LAYOUTS, SCALAR, Env, Leaf, Policy, Spec

from hotloop.integrations import metta

SMALL: dict[str, Any] = {"obs_shape": (6, 3)}


class Run:
    """Some epochs of a trainer: everything that can be told afterwards."""

    def __init__(
        self,
        layout: str,
        *,
        names: tuple[str, ...] | None = None,
        epochs: int = 3,
        agents: int = 6,
        slices: int = 1,
        nvec: tuple[int, ...] = (5,),
        recurrent: bool = False,
        extra: Spec | None = None,
        sliced: bool = False,
        stop_at: int | None = None,
        change: Any = None,
        **config: Any,
    ) -> None:
        """`names`: what is ours; None: nothing, (): all, by `install()`. `change(trainer)`: before the first
        epoch."""
        with metta_double.loaded(layout) as host:
            if names == ():
                assert metta.install() == layout
            for name in names or ():
                exchange(name, getattr(getattr(metta, layout), name))
            host = metta_double.modules()
            torch.manual_seed(3)
            self.log: list[Any] = []
            env = Env(layout, agents, slices=slices, nvec=nvec, **SMALL)
            policy = Policy(layout, nvec=nvec, recurrent=recurrent, log=self.log, extra=extra, **SMALL)
            options = {"sliced": True} if sliced else {}
            trainer = host.trainer.Trainer(
                metta_double.config(agents, **config), env=env, policy=policy, log=self.log, **options
            )
            trainer.core_loop.losses["watcher"].stop_at = stop_at
            if change is not None:
                change(trainer)
            self.states, self.results, self.stats, self.buffers = [], [], [], []
            for _ in range(epochs):
                result = trainer.run_epoch()
                self.results.append((result.raw_infos, result.agent_steps, result.training_env_id))
                self.states.append(torch.get_rng_state())
                self.stats.append(dict(trainer.context.latest_losses_stats))
                self.stats[-1].update(trainer.experience.stats())
                items = trainer.experience.buffer.items(True, True)
                self.buffers.append({key: leaf.clone() for key, leaf in items})
            self.parameters = [parameter.detach() for parameter in policy.parameters()]
            self.gradients = [parameter.grad for parameter in policy.parameters()]
            self.last_action = trainer.core_loop.last_action
            self.average = trainer.context.state.avg_reward
            self.sent, self.served = env.sent, trainer.context.served
            self.timed = trainer.context.stopwatch.names
            self.trainer = trainer
            metta.uninstall()


def exchange(name: str, new: Any) -> None:
    """As `install()` does it, for one name."""
    from hotloop.integrations.patches import Patches

    module = {"CoreTrainingLoop": "training.core", "Experience": "training.experience"}.get(name, "advantage")
    Patches("metta").replace_everywhere(__import__(f"metta.rl.{module}", fromlist=["x"]), name, new)


def assert_equal(ours: Run, theirs: Run, rtol: float | None = None) -> None:
    def same(a: Any, b: Any) -> None:
        if rtol is None:
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)

    assert ours.log == theirs.log
    assert ours.served == theirs.served
    assert ours.timed == theirs.timed
    assert ours.results == theirs.results
    assert len(ours.sent) == len(theirs.sent)
    for a, b in zip(ours.sent, theirs.sent, strict=True):
        assert a.dtype == b.dtype
        assert (a == b).all()
    for a, b in zip(ours.states, theirs.states, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(ours.buffers, theirs.buffers, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    for a, b in zip(ours.parameters, theirs.parameters, strict=True):
        same(a, b)
    for a, b in zip(ours.gradients, theirs.gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            same(a, b)
    for a, b in zip(ours.stats, theirs.stats, strict=True):
        assert a == (b if rtol is None else pytest.approx(b, rel=rtol, abs=rtol))
    same(ours.last_action, theirs.last_action)
    same(ours.average, theirs.average)


CASES: dict[str, dict[str, Any]] = {
    "one slice": {},
    "two slices": {"slices": 2},
    "one row an agent": {"rows": 1},
    "several passes": {"epochs": 2, "minibatches": 3},
    "recurrent": {"recurrent": True},
    "prioritised": {"method": "prioritized", "prio_alpha": 0.7, "slices": 3},
    "clipped ratios": {"vtrace_rho_clip": 0.9, "vtrace_c_clip": 0.8, "gamma": 1.0},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_epochs_are_equal_to_the_last_bit(layout: str, case: str) -> None:
    assert_equal(Run(layout, names=(), **CASES[case]), Run(layout, **CASES[case]))
