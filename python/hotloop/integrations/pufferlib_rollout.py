"""`PuffeRL.evaluate`: a rollout whose steps are stored by one native call each."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hotloop.ops import ColumnStore, RowCursors
from hotloop.ops._memory import move_to_huge_pages
from hotloop.ops.column_store import LentTensors

# attributes of PuffeRL, in the order in which a step is handed over
STORED = ("observations", "actions", "logprobs", "rewards", "terminals", "values")
TRUNCATIONS = ("ignore", "terminal", "final", "previous")
LOSSES = ("exact", "fused")
_ACTIONS = STORED.index("actions")
_MOST_LENT = 16  # sets of arrays that are told apart: they are compared one by one


@dataclass(frozen=True)
class Options:
    """What `install` may be asked for beyond what PuffeRL does.

    Raises:
        ValueError: `truncations` or `losses` that there are not. TypeError: `masks` is no bool.
    """

    truncations: str = "ignore"
    masks: bool = False
    losses: str = "exact"

    def __post_init__(self) -> None:
        if self.truncations not in TRUNCATIONS:
            raise ValueError(
                "hotloop.integrations.pufferlib: truncations must be one of "
                f"{', '.join(TRUNCATIONS)}, got {self.truncations!r}"
            )
        if self.losses not in LOSSES:
            raise ValueError(
                "hotloop.integrations.pufferlib: losses must be one of "
                f"{', '.join(LOSSES)}, got {self.losses!r}"
            )
        if not isinstance(self.masks, bool):
            raise TypeError(f"hotloop.integrations.pufferlib: masks must be a bool, got {self.masks!r}")

    @property
    def fillers(self) -> bool:
        """Whether there are steps that count for nothing."""
        return self.masks or self.truncations == "final"


class Rollout:
    """Where the steps of one trainer go.

    Args:
        trainer: a `PuffeRL`.
        options: what becomes of truncations and masks.

    Attributes:
        plain: whether a step is stored as it is, by `try_step` alone.
        valid: `[segments, horizon]` uint8: 0 for a step that counts for nothing; None where all count.
        lent: tensors over the environments' arrays, within a rollout.
        full_rows: finished in this rollout.
        beyond: slices, by their first agent, whose next row is none.

    Observations go where they belong. One number an agent would touch as many lines of memory as an
    observation does: these lie beside each other, time by time, until the rollout is over.
    """

    def __init__(self, trainer: Any, options: Options) -> None:
        self.options = options
        self.plain = not options.masks and options.truncations == "ignore"
        self.segments, self.horizon = trainer.values.shape
        self.valid: Tensor | None = None
        if options.fillers:
            self.valid = torch.ones(self.segments, self.horizon, dtype=torch.uint8)
        self._cursors = RowCursors(trainer.total_agents, self.segments, self.horizon)
        self._buffers: dict[str, Tensor] = {}  # the trainer's
        self._look_up(trainer)
        # PuffeRL has filled them with zeros, on small pages. Of a minibatch's rows each lies on others.
        move_to_huge_pages(self._buffers.values())
        self._plan = ColumnStore(self._buffers, self._cursors)
        # Environments that work ahead may have two sets of memory for a slice of agents.
        batch = getattr(trainer.vecenv, "agents_per_batch", trainer.total_agents)
        slices = -(-trainer.total_agents // batch)
        self.lent = LentTensors(min(2 * slices, _MOST_LENT))
        self.begin(trainer)

    def _look_up(self, trainer: Any) -> None:
        self._buffers.update({name: getattr(trainer, name) for name in STORED})
        if self.options.truncations != "ignore":
            self._buffers["truncations"] = trainer.truncations
        if self.valid is not None:
            self._buffers["valid"] = self.valid

    def begin(self, trainer: Any) -> None:
        """Every agent back to the start of its row; looks the trainer's buffers up anew."""
        self._cursors.reset()
        self.full_rows = 0
        self._free = trainer.total_agents
        self.beyond: set[int] = set()
        self._look_up(trainer)
        for name, column in self._plan.columns.items():
            buffer = self._buffers[name]
            if buffer.dtype != column.dtype or buffer.shape[2:] != column.shape[2:]:
                self._plan = ColumnStore(self._buffers, self._cursors)  # somebody has put another one there
                break
        self._plan.bind(self._buffers)
        self.try_step = self._plan.try_step

    def store(
        self,
        start: int,
        stop: int,
        step: tuple[Tensor, ...],
        truncations: Any,
        mask: Any,
        gamma: float,
    ) -> int:
        """One step of a slice of agents.

        Args:
            start, stop: the agents; they must be in one position of their rows.
            step: tensors `[n, ...]` in the order of `STORED`.
            truncations, mask: `[n]` bool, of which no more is read than the options ask for.
            gamma: discount.

        Returns:
            Rows that are finished.

        Raises:
            RuntimeError: they have filled their rows and no row is free.
        """
        if start in self.beyond:
            raise RuntimeError(
                f"hotloop.integrations.pufferlib: agents {start} to {stop - 1} have filled their rows before "
                f"the others: no row is free of {self.segments} segments"
            )
        if not self.plain:
            row, position = int(self._cursors.rows[start]), self._cursors.position(start)
            step = self._with_options(
                step, torch.as_tensor(truncations), torch.as_tensor(mask), row, position, gamma
            )
        return self.stored(self._plan.store(step, start, stop), start, stop)

    def stored(self, full_rows: int, start: int, stop: int) -> int:
        """After a step of agents has been stored, `full_rows` being full then; returns these."""
        if full_rows != self.full_rows:
            self.full_rows = full_rows
            self._free += stop - start
            if self._free > self.segments:
                self.beyond.add(start)
            if full_rows >= self.segments:
                self._plan.spread()
        return full_rows

    def _with_options(
        self,
        step: tuple[Tensor, ...],
        truncations: Tensor,
        mask: Tensor,
        row: int,
        position: int,
        gamma: float,
    ) -> tuple[Tensor, ...]:
        """The step as the options want it, with what they store beyond `STORED`."""
        kind, masks = self.options.truncations, self.options.masks
        observations, actions, logprobs, rewards, terminals, values = step
        terminals, truncations, mask = terminals != 0, truncations != 0, mask != 0
        if masks:
            terminals = terminals | ~mask  # what is masked out comes after an episode's end
        over = terminals | truncations
        if kind == "previous" and position > 0:
            # r + gamma * V(before) takes the place of r + gamma * V(final observation)
            before = self._plan.columns["values"][position - 1, row : row + len(rewards)].flatten()
            rewards = rewards + gamma * before * (truncations & ~terminals)
        ends = over if kind in ("terminal", "previous") else terminals
        more: tuple[Tensor, ...] = () if kind == "ignore" else (truncations,)
        if self.valid is not None:
            counts = ~over if kind == "final" else torch.ones_like(over)
            more = (*more, counts & mask if masks else counts)
        return observations, actions, logprobs, rewards, ends, values, *more


def evaluate(trainer: Any, rollout: Rollout) -> Any:
    """One rollout of `trainer.segments` rows; returns the environments' statistics."""
    profile, epoch = trainer.profile, trainer.epoch
    profile("eval", epoch)
    profile("eval_misc", epoch, nest=True)
    if trainer.config["use_rnn"]:
        for state in (*trainer.lstm_h.values(), *trainer.lstm_c.values()):
            state.zero_()
    rollout.begin(trainer)
    trainer.full_rows = 0
    try:
        _fill(trainer, rollout)
    finally:
        rollout.lent.forget()
    profile("eval_misc", epoch)
    trainer.free_idx = trainer.total_agents
    profile.end()
    return trainer.stats


def _fill(trainer: Any, rollout: Rollout) -> None:
    """Steps until all rows are full."""
    profile, epoch, config = trainer.profile, trainer.epoch, trainer.config
    recurrent, gamma = config["use_rnn"], config["gamma"]
    sample_logits = importlib.import_module("pufferlib.pytorch").sample_logits
    # What a step looks up is at hand: after the policy's pass nothing is in the processor's caches.
    tensors, normal, plain = rollout.lent.tensors, torch.distributions.Normal, rollout.plain
    try_step, beyond = rollout.try_step, rollout.beyond
    segments, full_rows, sent = trainer.segments, 0, None
    while full_rows < segments:
        profile("env", epoch)
        observations, rewards, terminals, truncations, _, infos, ids, mask = trainer.vecenv.recv()
        profile("eval_misc", epoch)
        start, stop = int(ids[0]), int(ids[-1]) + 1
        trainer.global_step += _count(mask)
        profile("eval_copy", epoch)
        observations, rewards, terminals = tensors((observations, rewards, terminals))
        profile("eval_forward", epoch)
        context = {"reward": rewards, "done": terminals, "env_id": slice(ids[0], ids[-1] + 1), "mask": mask}
        with torch.no_grad(), trainer.amp_context:
            if recurrent:
                context["lstm_h"] = trainer.lstm_h[start]
                context["lstm_c"] = trainer.lstm_c[start]
            logits, values = trainer.policy.forward_eval(observations, context)
            actions, logprobs, _ = sample_logits(logits)
            rewards = rewards.clamp(-1, 1)
        # Made without gradients, so what is done with it records none.
        profile("eval_copy", epoch)
        if recurrent:
            trainer.lstm_h[start] = context["lstm_h"]
            trainer.lstm_c[start] = context["lstm_c"]
        now = -1
        if plain and not beyond:
            now, sent = try_step(
                (observations, actions, logprobs, rewards, terminals, values), start, stop, _ACTIONS
            )
        if now != full_rows:  # seldom: rows are full, or it needs more than the call does
            if now < 0:
                step = observations, actions, logprobs, rewards, terminals, values
                now, sent = rollout.store(start, stop, step, truncations, mask, gamma), None
            else:
                rollout.stored(now, start, stop)
            trainer.full_rows = full_rows = now
        if sent is None:
            sent = actions.numpy()
        if isinstance(logits, normal):
            space = trainer.vecenv.action_space
            sent = np.clip(sent, space.low, space.high)
        profile("eval_misc", epoch)
        _collect(trainer.stats, infos)
        profile("env", epoch)
        trainer.vecenv.send(sent)
        sent = None  # goes with the actions, as in PuffeRL, and not when the next are there


def _count(mask: Any) -> int:
    counted = type(mask) is np.ndarray and mask.dtype == np.bool_
    return int(np.count_nonzero(mask) if counted else mask.sum())


def _collect(stats: Any, infos: Any) -> None:
    """What the environments tell, by name. Arrays are passed over, as PuffeRL does."""
    if not infos:
        return
    unroll = importlib.import_module("pufferlib").unroll_nested_dict
    for info in infos:
        for name, value in unroll(info):
            if isinstance(value, (list, tuple)):
                stats[name].extend(value)
            elif not isinstance(value, np.ndarray):
                stats[name].append(value)
