"""Metta's training loop, in the two layouts that hotloop knows.

Metta is not on PyPI: a double of it plays, the one of the tests (`tests/doubles`), written from a description
of what its code does. Advantages are hotloop's op on both sides: the double's own, a loop over time in torch,
would be slower than Metta's serial kernel at 64 agents. So the part that is replaced is larger in Metta than
here.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from hotloop.stopwatch import Stopwatch

from .race import ROOT
from .subject import Clock, Subject

OBS_SHAPE = (200, 3)
HORIZON = 64
LOSS_HOOKS = ("rollout", "train", "policy_output_keys", "on_mb_end", "on_train_phase_end", "stats")


@dataclass
class _Account:
    seconds: float = 0.0
    inner_calls: int = 0


class StackClock(Clock):
    """Time belongs to the innermost part that is under way; what is wrapped as part None belongs to nobody.
    What it costs a part to have its inner calls wrapped, as measured at the start, is taken off; that is one
    call of Python, which costs more where it is made, after a network's pass."""

    def __init__(self) -> None:
        super().__init__()
        self._accounts: dict[str | None, _Account] = {None: _Account()}
        self._stack = [self._accounts[None]]
        self._since = 0.0
        self._cost = 0.0
        self._cost = self._calibrated()

    def outside(self, owner: Any, name: str) -> None:
        """Calls of `owner.name` are the environment's, the network's or torch's business."""
        setattr(owner, name, self._counted(getattr(owner, name), None))

    def timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        return self._counted(function, part)

    def take(self) -> dict[str, float]:
        taken = {}
        for part, account in self._accounts.items():
            if part is not None and account.seconds:
                taken[part] = max(0.0, account.seconds - account.inner_calls * self._cost)
            account.seconds, account.inner_calls = 0.0, 0
        return taken

    def _counted(self, function: Callable[..., Any], part: str | None) -> Callable[..., Any]:
        account, stack = self._accounts.setdefault(part, _Account()), self._stack

        def call(*args: Any, **kwargs: Any) -> Any:
            outer = stack[-1]
            outer.seconds += perf_counter() - self._since
            outer.inner_calls += 1
            stack.append(account)
            self._since = perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                account.seconds += perf_counter() - self._since
                stack.pop()
                self._since = perf_counter()

        return call

    def _calibrated(self, calls: int = 10_000) -> float:
        """Seconds that a wrapped call costs the part that makes it, beside the call itself."""
        inner = self._counted(int, None)

        def measure(function: Callable[[], Any]) -> float:
            def repeat() -> None:
                for _ in range(calls):
                    function()

            self._counted(repeat, "calibration")()
            return self.take()["calibration"] / calls

        return max(0.0, min(measure(inner) for _ in range(5)) - min(measure(int) for _ in range(5)))


class Metta(Subject):
    note = (
        "a double of Metta's loop; advantages by hotloop's op on both sides; observations uint8 [200, 3], "
        f"rows of {HORIZON} steps, 4 minibatches, one pass"
    )

    def __init__(self, job: str, hotloop: bool, quick: bool, seed: int) -> None:
        layout, agents, *rest = job.split(", ")
        count = 8 if quick else int(agents.split()[0])
        horizon = 8 if quick else HORIZON
        sys.path.insert(0, str(ROOT / "tests"))
        double = importlib.import_module("metta_double")
        self._loaded = ExitStack()
        host = self._loaded.enter_context(double.loaded(layout))
        _install(host, layout, hotloop)
        host = double.modules()
        random = torch.Generator().manual_seed(seed)
        torch.manual_seed(int(torch.randint(1 << 30, (), generator=random)))
        config = double.config(count, rows=1, horizon=horizon, minibatches=4)
        if layout == "head":
            config.critic_update = "gtd_lambda"
        if "prioritised" in rest:
            config.sampling.method, config.sampling.prio_alpha = "prioritized", 0.6
        env = double.Env(layout, count, obs_shape=OBS_SHAPE, seed=seed)
        env.sent = None
        policy = double.Policy(layout, obs_shape=OBS_SHAPE, width=128, recurrent="LSTM" in rest)
        self.trainer = host.trainer.Trainer(config, env=env, policy=policy, learning_rate=1e-3)
        self.trainer.context.stopwatch = Stopwatch()
        self.steps = count * horizon
        self.clock = self._clock(layout)

    def _clock(self, layout: str) -> StackClock:
        clock, trainer = StackClock(), self.trainer
        core, experience = trainer.core_loop, trainer.experience
        clock.wrap(core, "rollout_phase", "rollout: step, last actions")
        clock.wrap(experience, "store", "rollout: store")
        clock.wrap(core, "training_phase", "training: around the losses")
        clock.wrap(experience, "update", "training: update")
        if layout == "head":
            clock.wrap(experience, "sample", "training: minibatch")
        else:
            clock.wrap(core.losses["ppo"], "_take", "training: minibatch")
        for owner, name in (
            (trainer.env, "get_observations"), (trainer.env, "send_actions"), (trainer.policy, "forward"),
            (torch.Tensor, "backward"), (torch.nn.utils, "clip_grad_norm_"), (trainer.optimizer, "step"),
            (trainer.optimizer, "zero_grad"),
        ):  # fmt: skip
            clock.outside(owner, name)
        for loss in core.losses.values():
            for hook in LOSS_HOOKS:
                if hasattr(loss, hook):
                    clock.outside(loss, hook)
        return clock

    def iteration(self) -> None:
        self.trainer.run_epoch()

    def close(self) -> None:
        self._loaded.close()


def _install(host: Any, layout: str, hotloop: bool) -> None:
    metta = importlib.import_module("hotloop.integrations.metta")
    if hotloop:
        metta.install()
        return
    patches = importlib.import_module("hotloop.integrations.patches").Patches("metta")
    patches.replace_everywhere(host.advantage, "compute_advantage", getattr(metta, layout).compute_advantage)


def make(job: str, *, hotloop: bool, quick: bool, seed: int) -> Subject:
    return Metta(job, hotloop, quick, seed)
