"""What the loop does about a NaN or an infinity: raise, skip the minibatch, or ignore it.

Nothing is looked at until one occurs. What tells is computed anyway: the norm of the gradients, which is the
sum over everything that a minibatch touched and is on the host where the parameters are, and the losses'
statistics, which are read once a phase. Only then is the entry searched for that it came from.

In host memory the check comes before the step: with ``"raise"`` the parameters are still those of the last
finite one. On other devices ``"raise"`` adds the norms up there and reads them once at the end of the phase,
after the bad step; ``"skip"`` must read one at each step.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from hotloop import ops
from hotloop.devices import device_calls, in_host_memory
from hotloop.entries import flat_tensordict
from hotloop.experience import Experience
from hotloop.loop_captured_step import clear_in_place
from hotloop.loop_training import AfterRows, check_choice, clear_gradients
from hotloop.loop_transfer import ActionDownload
from hotloop.losses.statistics import StatisticTracker
from hotloop.nonfinite import (
    NonFinite,
    NonFiniteError,
    OnNan,
    Phase,
    first_non_finite,
    non_finite_gradient,
    non_finite_parameter,
)
from hotloop.spec import Key, key_name

if TYPE_CHECKING:
    from hotloop.context import ComponentContext

_logger = logging.getLogger(__name__)

CHOICES = ("raise", "skip", "ignore")
# The order in which keys are searched: causes before what is computed from them. What is not named is an
# input of the policy and stands between 0 and 2.
_ORDER: dict[Key, int] = {"env_obs": 0, "rewards": 2, "dones": 2, "truncateds": 2, "reward_baseline": 2}
_ORDER |= {"actions": 3, "act_log_prob": 3, "values": 4, "truncation_values": 4, "ratio": 5}
# What losses write back into the buffer during training.
_WRITTEN_BACK = ("values", "ratio")


class _Seen(NamedTuple):
    """A minibatch that has been trained on, and what stood in the buffer before the losses wrote there."""

    number: int
    shared: TensorDictBase
    rows: Tensor
    before: dict[Key, Tensor]


class NonFiniteGuard:
    """Stands between gradients and optimizer. `mode` is None where the context's configuration says it, as
    ``on_nan`` (``"raise"`` where that says nothing)."""

    def __init__(
        self, policy: Any, experience: Experience, losses: Mapping[str, Any], mode: OnNan | None
    ) -> None:
        if mode is not None:
            check_choice("on_nan", mode, CHOICES)
        self._policy, self._experience, self._losses = policy, experience, losses
        self._given = mode
        self._mode: str = mode or "raise"
        self._context: ComponentContext | None = None
        self._norm = torch.zeros((), device=experience.device)
        self._norms = torch.zeros((), device=experience.device)  # their sum, where they are not on the host
        self._on_host = in_host_memory(experience.device)
        calls = device_calls(experience.device)
        self._download = None if calls is None else ActionDownload(experience.device, calls)
        self.keeps_gradients = False  # a recorded step reads them where they are
        self._seen: list[_Seen] = []
        self._after: AfterRows | None = None
        self._marks: list[tuple[StatisticTracker, Any]] = []
        self._environments: int | None = None  # in a slice
        self.skipped = 0

    # The rollout

    def begin_rollout(self, env: Any, context: ComponentContext) -> None:
        """Look up what to do, and how many environments there are in a slice."""
        self._look_up(context)
        self._environments = getattr(getattr(env, "batch_info", None), "num_envs", None)

    def send(self, env: Any, actions: Tensor, window: slice) -> None:
        """Hand the actions of a step to the environment, which may refuse those that are not finite.

        ``"raise"``: NonFiniteError with the entry that they came from. ``"skip"``: zeros in their place, once
        it has refused them.
        """
        if self._download is not None:
            numbers = self._download(actions)
        else:
            numbers = (actions if actions.is_cpu else actions.cpu()).numpy()
        try:
            env.send_actions(numbers)
        except ValueError as error:
            if self._mode == "ignore" or numbers.dtype.kind != "f" or np.isfinite(numbers).all():
                raise
            if self._mode == "skip":
                env.send_actions(np.nan_to_num(numbers, nan=0.0, posinf=0.0, neginf=0.0))
                return
            report = self._in_buffer(None) or non_finite_parameter(self._policy)
            if report is None:
                bad = np.argwhere(~np.isfinite(numbers))[0]
                agent, value = window.start + int(bad[0]), float(numbers[tuple(bad)])
                environment = self._environment(agent)
                report = NonFinite("rollout", "actions", value, 1, agent=agent, environment=environment)
            raise NonFiniteError(report, f" ({error})") from error

    # The training phase

    @property
    def may_undo(self) -> bool:
        """Whether a minibatch may have to be undone, so that the guard must see it before the losses do."""
        return self._mode == "skip"

    def begin_phase(self, context: ComponentContext) -> None:
        self._look_up(context)
        self.skipped = 0
        if not self._on_host:
            self._norms.zero_()

    def begin_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Before the minibatches of one optimizer step: clear the gradients."""
        (clear_in_place if self.keeps_gradients else clear_gradients)(optimizer)
        self.end_step()
        if self._mode == "skip":
            trackers = (getattr(loss, "loss_tracker", None) for loss in self._losses.values())
            self._marks = [(each, each.mark()) for each in trackers if isinstance(each, StatisticTracker)]

    def watch(self, number: int, shared: TensorDictBase, after: AfterRows | None) -> None:
        """A minibatch, before the losses see it."""
        if self._mode == "ignore":
            return
        minibatch, rows = shared["sampled_mb"], shared["indices"][:, 0]
        before: dict[Key, Tensor] = {}
        if self._mode == "skip":
            before = {key: minibatch[key] for key in _WRITTEN_BACK if key in minibatch}
            if self._experience.accumulate_minibatches > 1:  # the next part overwrites this one's memory
                before, rows = {key: entry.clone() for key, entry in before.items()}, rows.clone()
        self._seen.append(_Seen(number, shared, rows, before))
        self._after = after

    def clip(self, parameters: Sequence[Tensor], limit: float) -> bool:
        """Clip the gradients; whether the optimizer is to step with them.

        NonFiniteError where they are not finite and the mode is ``"raise"``, before anything is written.
        """
        if self._mode == "ignore" or not self._on_host:
            ops.clip_grad_norm_(parameters, limit, out=self._norm)
            finite = self._mode == "ignore" or self._finite_on_device()
        else:
            try:
                ops.clip_grad_norm_(parameters, limit, error_if_nonfinite=True, out=self._norm)
                finite = True
            except RuntimeError:
                if all(parameter.grad is None or _finite(parameter.grad) for parameter in parameters):
                    raise  # it was not that
                finite = False
        if not finite:
            self._found()
        self.end_step()
        return finite

    def checked(self, stats: dict[str, float]) -> dict[str, float]:
        """The statistics of a whole phase, with ``skipped_minibatches`` under ``"skip"``.

        Statistics that are not finite tell of what no gradient has: rows that no law of sampling draws, for
        their priority is not finite, or losses without one.
        """
        self.end_step()
        if self._mode == "skip":
            stats["skipped_minibatches"] = float(self.skipped)
        if self._mode != "raise":
            return stats
        broken = {name: value for name, value in stats.items() if not math.isfinite(value)}
        on_device = not self._on_host and not math.isfinite(float(self._norms))
        if not broken and not on_device:
            return stats
        report = non_finite_parameter(self._policy) or self._in_buffer(self._update_epoch())
        if report is None:
            name = next((name for name in broken if "loss" in name), None)
            if name is None and not on_device:
                return stats
            key, value = ("gradients", float(self._norms)) if name is None else (name, broken[name])
            phase: Phase = "backward" if name is None else "losses"
            report = NonFinite(phase, key, value, 1, update_epoch=self._update_epoch())
        told = "; ".join(f"{name} = {value}" for name, value in broken.items())
        raise NonFiniteError(report, f" ({told})" if told else "")

    # When it has happened

    def _found(self) -> None:
        """The gradients of a step are not finite."""
        report = self._search()
        if self._mode == "raise":
            raise NonFiniteError(report)
        if not self.skipped:
            _logger.warning("skipped a minibatch: %s", report)
        self.skipped += max(1, len(self._seen))
        for tracker, mark in self._marks:
            tracker.rewind(mark)
        for seen in self._seen:
            if seen.before:
                shape = (len(seen.rows), self._experience.bptt_horizon)
                self._experience.update(seen.rows, flat_tensordict(seen.before, shape, self._norm.device))
        for parameter in self._policy.parameters():
            parameter.grad = None
        average = getattr(getattr(self._context, "state", None), "avg_reward", None)
        if average is not None:  # of the agents whose reward was not finite
            torch.nan_to_num_(average, nan=0.0, posinf=0.0, neginf=0.0)

    def _search(self) -> NonFinite:
        broken = non_finite_parameter(self._policy)
        if broken is not None:
            return broken
        for seen in self._seen[-1:]:
            for phase, key, tensor in self._candidates(seen):
                found = first_non_finite(tensor)
                if found is not None:
                    index, value, count = found
                    step = index[1] if len(index) > 1 else self._experience.bptt_horizon
                    row = int(seen.rows[index[0]])
                    return self._report(phase, key, value, count, row, step, seen.number)
        in_buffer = self._in_buffer(self._update_epoch())
        if in_buffer is not None:
            return in_buffer
        number = self._seen[-1].number if self._seen else None
        gradient = non_finite_gradient(self._policy)
        where = {"update_epoch": self._update_epoch(), "minibatch": number}
        if gradient is None:
            return NonFinite("backward", "gradients", float(self._norm), 1, **where)
        return NonFinite("backward", gradient.key, gradient.value, gradient.count, **where)

    def _candidates(self, seen: _Seen) -> Iterator[tuple[Phase, str, Tensor]]:
        """What a minibatch was made of, `[B, T, ...]` or `[B]`, in the order of causes."""
        shared = seen.shared
        for key, tensor in self._stored(shared["sampled_mb"]):
            yield "rollout", key, tensor
        if self._after is not None:
            after = self._after.rows(seen.rows)
            yield "rollout", "rewards", after.rewards
            yield "rollout", "values", after.values
        if "advantages" in shared:
            yield "advantage", "advantages", shared["advantages"]
        policy_td = shared.get("policy_td", None)
        if policy_td is not None:
            for key, tensor in policy_td.items(include_nested=True, leaves_only=True):
                if isinstance(tensor, Tensor) and tensor.dim() >= 2:
                    yield "forward", key_name(key), tensor
        for key in ("importance_sampling_ratio", "advantages_pg"):
            if key in shared:
                yield "advantage", key, shared[key]
        if "returns" in shared["sampled_mb"]:
            yield "losses", "returns", shared["sampled_mb"]["returns"]

    def _in_buffer(self, update_epoch: int | None) -> NonFinite | None:
        """The first of the whole buffer. Values may be those that training wrote back by now."""
        for key, tensor in self._stored(self._experience.buffer):
            found = first_non_finite(tensor)
            if found is not None:
                (row, step, *_), value, count = found
                phase: Phase = "forward" if key in _WRITTEN_BACK and update_epoch is not None else "rollout"
                return self._report(phase, key, value, count, row, step, None, update_epoch)
        return None

    def _stored(self, data: TensorDictBase) -> Iterator[tuple[str, Tensor]]:
        """The entries of the experience's own keys, causes first."""
        keys = sorted(self._experience.store_keys, key=lambda key: _ORDER.get(key, 1))
        for key in [*keys, *(key for key in _WRITTEN_BACK if key not in keys)]:
            tensor = data.get(key, None)
            if tensor is not None:
                yield key_name(key), tensor

    def _report(
        self,
        phase: Phase,
        key: str,
        value: float,
        count: int,
        row: int,
        step: int,
        minibatch: int | None,
        update_epoch: int | None = None,
    ) -> NonFinite:
        agent = self._experience.agent_of(row)
        epoch = self._update_epoch() if minibatch is not None else update_epoch
        environment = None if agent is None else self._environment(agent)
        return NonFinite(phase, key, value, count, row, step, agent, environment, epoch, minibatch)

    def _environment(self, agent: int) -> int:
        window = getattr(self._context, "training_env_id", None)
        if not self._environments or window is None:
            return agent  # one each
        each: int = max(1, (window.stop - window.start) // self._environments)
        return agent // each

    def _update_epoch(self) -> int:
        state = getattr(self._context, "state", None)
        return int(getattr(state, "update_epoch", 0))

    def _finite_on_device(self) -> bool:
        if self._mode == "skip":
            return math.isfinite(float(self._norm))
        self._norms += self._norm
        return True

    def _look_up(self, context: ComponentContext) -> None:
        self._context = context
        configured: str = getattr(context.config, "on_nan", "raise")
        self._mode = self._given or configured

    def end_step(self) -> None:
        """The minibatches of a step are done with."""
        self._seen.clear()  # a graph hangs on them
        self._after = None


def _finite(tensor: Tensor) -> bool:
    return first_non_finite(tensor) is None
