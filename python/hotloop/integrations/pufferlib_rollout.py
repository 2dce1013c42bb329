"""`PuffeRL.evaluate`: a rollout whose steps are stored by one native call each."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hotloop.ops import RowCursors, StorePlan
from hotloop.ops._memory import empty_buffer, move_to_huge_pages

# attributes of PuffeRL, in the order in which a step is handed over
STORED = ("observations", "actions", "logprobs", "rewards", "terminals", "values")
_VALUES = STORED.index("values")
TRUNCATIONS = ("ignore", "terminal", "final", "previous")
LOSSES = ("exact", "fused")


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
        valid: `[segments, horizon]` uint8: 0 for a step that counts for nothing; None where all count.
        full_rows: finished in this rollout.

    Observations go where they belong. One number an agent would touch as many lines of memory as an
    observation does: these lie beside each other, time by time, until the rollout is over.
    """

    def __init__(self, trainer: Any, options: Options) -> None:
        self.options = options
        self._plain = not options.masks and options.truncations == "ignore"
        self.segments, self.horizon = trainer.values.shape
        self.valid: Tensor | None = None
        if options.fillers:
            self.valid = torch.ones(self.segments, self.horizon, dtype=torch.uint8)
        self._cursors = RowCursors(trainer.total_agents, self.segments, self.horizon)
        self._native = self._cursors.native
        self._belong: dict[str, Tensor] = {}  # the trainer's buffers
        self._buffers: dict[str, Tensor] = {}  # what is written step by step
        self.begin(trainer)
        # PuffeRL has filled them with zeros, on small pages. Of a minibatch's rows each lies on others.
        move_to_huge_pages(self._belong.values())
        self._plan = StorePlan(self._buffers, tuple(self._buffers), self._cursors)

    def begin(self, trainer: Any) -> None:
        """Every agent back to the start of its row; looks the trainer's buffers up anew."""
        self._cursors.reset()
        self.full_rows = 0
        self._free = trainer.total_agents
        self._row: dict[int, int] = {}  # of the first agent of a slice, from its second row on
        self._belong.update({name: getattr(trainer, name) for name in STORED})
        if self.options.truncations != "ignore":
            self._belong["truncations"] = trainer.truncations
        if self.valid is not None:
            self._belong["valid"] = self.valid
        for name, buffer in self._belong.items():
            beside = self._buffers.get(name)
            if name == "observations":
                self._buffers[name] = buffer
            elif beside is None or beside.numel() != buffer.numel() or beside.dtype != buffer.dtype:
                rows, times, *rest = buffer.shape
                self._buffers[name] = empty_buffer((times, rows, *rest), buffer.dtype).transpose(0, 1)

    def store(
        self,
        agents: slice,
        step: list[Tensor],
        truncations: Any,
        mask: Any,
        gamma: float,
    ) -> None:
        """One step of a slice of agents.

        Args:
            agents: they must be in one position of their rows.
            step: tensors `[n, ...]` in the order of `STORED`; what the options ask for changes the list.
            truncations, mask: `[n]` bool, of which no more is read than the options ask for.
            gamma: discount.

        Raises:
            RuntimeError: they have filled their rows and no row is free.
        """
        start, stop = int(agents.start), int(agents.stop)
        row = self._row.get(start, start)
        if row + stop - start > self.segments:
            raise RuntimeError(
                f"hotloop.integrations.pufferlib: agents {start} to {stop - 1} have filled their rows before "
                f"the others: no row is free of {self.segments} segments"
            )
        if not self._plain:
            position = self._cursors.position(start)
            self._apply_options(
                step, torch.as_tensor(truncations), torch.as_tensor(mask), row, position, gamma
            )
        values, beside = step[_VALUES], self._buffers["values"]
        if values.dim() != beside.dim() - 1:  # networks tell them as [n, 1] or as [n]: taken as they come
            if values.shape == (stop - start, 1):
                self._buffers["values"] = beside.unsqueeze(2)
            else:
                self._buffers["values"] = beside.view(self.segments, self.horizon)
                step[_VALUES] = values.flatten()
        self._plan.store(step, start, stop)
        full_rows = self._native.full_rows
        if full_rows != self.full_rows:
            self.full_rows = full_rows
            self._row[start] = self._free
            self._free += stop - start
            if full_rows >= self.segments:
                self._finish()

    def _finish(self) -> None:
        """What lies time by time into the rows of the trainer's buffers."""
        with torch.no_grad():
            for name, buffer in self._belong.items():
                if self._buffers[name] is not buffer:
                    buffer.copy_(self._buffers[name].view_as(buffer))

    def _apply_options(
        self, step: list[Tensor], truncations: Tensor, mask: Tensor, row: int, position: int, gamma: float
    ) -> None:
        kind, masks = self.options.truncations, self.options.masks
        rewards, terminals = step[STORED.index("rewards")], step[STORED.index("terminals")] != 0
        truncations, mask = truncations != 0, mask != 0
        if masks:
            terminals = terminals | ~mask  # what is masked out comes after an episode's end
        over = terminals | truncations
        if kind == "previous" and position > 0:
            # r + gamma * V(before) takes the place of r + gamma * V(final observation)
            before = self._buffers["values"][row : row + len(rewards), position - 1].flatten()
            rewards = rewards + gamma * before * (truncations & ~terminals)
        step[STORED.index("rewards")] = rewards
        step[STORED.index("terminals")] = over if kind in ("terminal", "previous") else terminals
        if kind != "ignore":
            step.append(truncations)
        if self.valid is not None:
            counts = ~over if kind == "final" else torch.ones_like(over)
            step.append(counts & mask if masks else counts)


def evaluate(trainer: Any, rollout: Rollout) -> Any:
    """One rollout of `trainer.segments` rows; returns the environments' statistics."""
    profile, epoch, config = trainer.profile, trainer.epoch, trainer.config
    sample_logits = importlib.import_module("pufferlib.pytorch").sample_logits
    profile("eval", epoch)
    profile("eval_misc", epoch, nest=True)
    recurrent = config["use_rnn"]
    if recurrent:
        for state in (*trainer.lstm_h.values(), *trainer.lstm_c.values()):
            state.zero_()
    rollout.begin(trainer)
    trainer.full_rows = 0
    while trainer.full_rows < trainer.segments:
        profile("env", epoch)
        observations, rewards, terminals, truncations, _, infos, ids, mask = trainer.vecenv.recv()
        profile("eval_misc", epoch)
        agents = slice(ids[0], ids[-1] + 1)
        trainer.global_step += _count(mask)
        profile("eval_copy", epoch)
        observations, rewards, terminals = _tensor(observations), _tensor(rewards), _tensor(terminals)
        profile("eval_forward", epoch)
        context = {"reward": rewards, "done": terminals, "env_id": agents, "mask": mask}
        with torch.no_grad(), trainer.amp_context:
            if recurrent:
                context["lstm_h"] = trainer.lstm_h[agents.start]
                context["lstm_c"] = trainer.lstm_c[agents.start]
            logits, values = trainer.policy.forward_eval(observations, context)
            actions, logprobs, _ = sample_logits(logits)
            rewards = rewards.clamp(-1, 1)
        # Made without gradients, so what is done with it records none.
        profile("eval_copy", epoch)
        if recurrent:
            trainer.lstm_h[agents.start] = context["lstm_h"]
            trainer.lstm_c[agents.start] = context["lstm_c"]
        step = [observations, actions, logprobs, rewards, terminals, values]
        rollout.store(agents, step, truncations, mask, config["gamma"])
        trainer.full_rows = rollout.full_rows
        sent = actions.numpy()
        if isinstance(logits, torch.distributions.Normal):
            space = trainer.vecenv.action_space
            sent = np.clip(sent, space.low, space.high)
        profile("eval_misc", epoch)
        _collect(trainer.stats, infos)
        profile("env", epoch)
        trainer.vecenv.send(sent)
    profile("eval_misc", epoch)
    trainer.free_idx = trainer.total_agents
    profile.end()
    return trainer.stats


def _tensor(x: Any) -> Tensor:
    # from_numpy is a third of as_tensor, which looks for what kind of thing it was given.
    return torch.from_numpy(x) if type(x) is np.ndarray else torch.as_tensor(x)


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
