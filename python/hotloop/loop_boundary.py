"""What arrived after the last step of every row, so that no column of a rollout is dead.

Time is arrival-indexed: what the last action of a row led to (reward, flags, the next observation) comes with
the step after it, which lies in no column of that row. PufferLib's and Metta's buffers lose it and give the
last column advantage 0. `RowBoundary` keeps it, one entry a row:

- For a row that was finished in the middle of a rollout that step is the next one of the same agents: the
  first column of the rows that they go on in, or, where the rollout needs no more of them, one that is not
  stored at all.
- After the last step of a rollout it is the environment's newest step. It is looked at without acting, and
  the next rollout starts with the very same step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from hotloop import ops
from hotloop.devices import in_host_memory
from hotloop.entries import plain_entries, set_entries
from hotloop.experience import Experience
from hotloop.loop_rollout import EnvStep, StepBuilder, Window
from hotloop.loop_training import AfterRows, ArrivedColumns, kept
from hotloop.loop_truncation import TruncationValues
from hotloop.policies.actor_critic import ActorCriticPolicy

if TYPE_CHECKING:
    from hotloop.context import ComponentContext
    from hotloop.policies import Policy

BoundaryMode = Literal["auto", "exact", "legacy"]

_KEYS = ("values", "rewards", "dones", "reward_baseline", "truncateds", "truncation_values")
_WHERE = "CoreTrainingLoop.rollout_phase"
_logger = logging.getLogger(__name__)


class RowBoundary:
    """Keeps what arrived at step T of every row `[S]`, of one rollout.

    ``"exact"`` asks for it, ``"legacy"`` keeps nothing, ``"auto"`` is exact where it can be: the loop
    computes advantages, and the environment has `peek_observations`. Without that method ``"exact"`` takes
    an environment of a single slice at its word that `get_observations` may be called twice.
    """

    def __init__(
        self,
        experience: Experience,
        policy: Policy,
        steps: StepBuilder,
        truncation: TruncationValues,
        mode: BoundaryMode,
        *,
        loop_samples: bool,
    ) -> None:
        if mode not in ("auto", "exact", "legacy"):
            raise ValueError(f"CoreTrainingLoop: boundary must be 'auto', 'exact' or 'legacy', got {mode!r}")
        missing = [key for key in ("values", "rewards", "dones") if key not in experience.buffer]
        if mode == "exact" and not loop_samples:
            raise ValueError(
                "CoreTrainingLoop: boundary='exact' needs sampling='loop': with 'losses' each loss computes "
                "advantages for itself"
            )
        if mode == "exact" and missing:
            raise ValueError(f"CoreTrainingLoop: for boundary='exact' the experience must hold {missing}")
        self._experience = experience
        self._policy = policy
        self._steps = steps
        self._truncation = truncation
        self._mode: BoundaryMode = "legacy" if missing or not loop_samples else mode
        self._warned = False
        self.active = False  # whether the rollout under way is to end exactly
        self._complete = False
        self._peeks = False
        if self._mode == "legacy":
            return
        # One row more than there are: what belongs to none is written there.
        segments, device = experience.segments, experience.device
        self._entries = {
            key: torch.zeros((segments + 1, *leaf.shape[2:]), dtype=leaf.dtype, device=device)
            for key, leaf in ((key, experience.buffer.get(key, None)) for key in _KEYS)
            if leaf is not None
        }
        self._kept = self._view_entries()
        self._arrived = ArrivedColumns()
        self._links: tuple[int, Tensor, Tensor | None] | None = None
        self._owner = torch.full((segments + 1,), -1, device=device)  # the agent that writes a row
        self._next_row = torch.full((segments + 1,), -1, device=device)  # where its agent went on, or -1
        self._nowhere = torch.full((), -1, device=device)
        agents = experience.total_agents
        self._writing = torch.full((agents,), segments, device=device)  # the row of each agent
        self._finished = torch.full(
            (agents,), segments, device=device
        )  # the row whose end waits for its step
        self._waiting = bytearray(agents)  # agents with such a row
        self._column = 0
        self._before: Tensor | None = None  # rows of agents that stand at column 0

    def _view_entries(self) -> TensorDict:
        """The entries of the rows, `[S]`."""
        segments = self._experience.segments
        return TensorDict(
            {key: entry[:segments] for key, entry in self._entries.items()},
            batch_size=[segments],
            device=self._experience.device,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._mode != "legacy":  # in a copy a view would have memory of its own
            self._kept = self._view_entries()
            self._links = None  # a copy counts its changes anew

    def begin_rollout(self, env: Any) -> None:
        """Forget the last rollout and see whether this environment can be looked at without acting."""
        self.active = self._complete = False
        if self._mode == "legacy":
            return
        self._peeks = callable(getattr(env, "peek_observations", None))
        if not self._peeks and self._mode == "auto":
            if not self._warned:
                _logger.warning(
                    "the environment has no peek_observations(), so what the last actions of a rollout led "
                    "to is not known: the last column of each row has advantage 0 (boundary='legacy' says "
                    "that this is meant)"
                )
            self._warned = True
            return
        self.active = True
        self._owner.fill_(-1)
        self._next_row.fill_(-1)
        self._finished.fill_(self._experience.segments)
        self._waiting = bytearray(self._experience.total_agents)

    def before_step(self, window: Window) -> bool:
        """Before the losses see a step; whether `after_step` needs its TensorDict.

        ValueError where the end of the rollout could not be looked at.
        """
        if not self.active:
            return False
        if not self._peeks and window.agents != self._experience.total_agents:
            raise ValueError(
                f"{_WHERE}: for boundary='exact' an environment that serves several slices must have "
                f"peek_observations(), got agents {window.window} of {self._experience.total_agents} from "
                "one without: pass boundary='auto' or 'legacy'"
            )
        # `row_id` is live: a row of one step is left as soon as that is stored.
        self._column = self._experience.column_of(window.start)
        self._before = window.row_id.clone() if self._column == 0 else None
        return self._column == 0 and any(self._waiting[window.window])

    def after_step(self, td: TensorDictBase | None, window: Window, stored: bool) -> None:
        """After the losses saw a step, with the policy's values in `td`; whether one of them stored it."""
        if not self.active:
            return
        agents = window.window
        if self._before is not None:
            if td is not None and any(self._waiting[agents]):
                rows = self._keep(td, window)
                if stored:
                    self._next_row.index_copy_(0, rows, self._before)
            if stored:
                ids = window.env_ids.squeeze(1)
                nowhere = self._nowhere.expand(window.agents)
                self._write([self._owner, self._next_row], self._before, [ids, nowhere])
                self._writing[agents] = self._before
        if stored and self._column + 1 == self._experience.bptt_horizon:
            self._finished[agents] = self._writing[agents]
            self._waiting[agents] = b"\1" * window.agents

    def end_rollout(
        self,
        env: Any,
        context: ComponentContext,
        prepare: Callable[[TensorDictBase, EnvStep, Any], None],
        *,
        plain: bool = False,
    ) -> None:
        """After the last step: look at the newest step of every slice with rows that still wait.

        `prepare(td, step, env)` does to a step what the loop does before the policy acts on it. `plain` says
        that there is nothing but values of final observations, so that a step without them needs no
        TensorDict. Nothing that a rollout without this would do is changed: infos and rewards are left to the
        step that acts, last actions stay, and so does the state of torch's generators.

        RuntimeError where the environment does not hand out the newest step of a slice.
        """
        if not self.active:
            return
        stopwatch, policy = context.stopwatch, self._policy
        plain = plain and isinstance(policy, ActorCriticPolicy) and policy._draws_beside_values()
        newest: Iterable[Any] = env.peek_observations() if self._peeks else _fetched_again(env)
        newest = iter(newest)
        while any(self._waiting):
            with stopwatch("_rollout.env_wait"):
                fetched = next(newest, None)
            if fetched is None:
                method = "peek_observations" if self._peeks else "get_observations"
                agents = [agent for agent, waits in enumerate(self._waiting) if waits]
                raise RuntimeError(
                    f"{_WHERE}: {method}() must return the newest step of each slice, got none of the agents "
                    f"{agents}"
                )
            step = self._steps.unpack(fetched)
            if not any(self._waiting[step.window.window]):
                continue
            if plain and step.observations.is_cpu and not self._truncation.asks_for_values(step):
                with stopwatch("_rollout.inference"):
                    self._keep(self._entries_of(step, context), step.window)
                continue
            with stopwatch("_rollout.td_prep"):
                td = self._steps.build(step, context)
            with stopwatch("_rollout.inference"):
                prepare(td, step, env)
                self._keep(self._valued(td), step.window)
        self._complete = True

    def _entries_of(self, step: EnvStep, context: ComponentContext) -> dict[str, Tensor]:
        """What is kept of a step that nothing needs to be done to before the policy sees it."""
        window, policy = step.window, self._policy
        assert isinstance(policy, ActorCriticPolicy)
        with torch.no_grad():
            value = policy.logits_and_value(policy._checked(step.observations))[1]
        found = {
            "values": value,
            "rewards": step.rewards,
            "dones": step.terminals,
            "reward_baseline": self._steps.averages(context)[window.start : window.stop],
            "truncateds": step.truncations,
            "truncation_values": window.zero,
        }
        return {key: found[key].to(entry.dtype) for key, entry in self._entries.items()}

    def _valued(self, td: TensorDictBase) -> TensorDictBase:
        """A step with the policy's values."""
        policy = self._policy
        with torch.no_grad():
            if isinstance(policy, ActorCriticPolicy) and policy._draws_beside_values():
                value = policy.logits_and_value(policy._checked(td["env_obs"]))[1]
                set_entries(td, {"values": value})
                return td
            with _untouched_generators(self._experience.device):
                result: TensorDictBase | None = policy.forward(td)
        return td if result is None else result

    def _keep(self, td: TensorDictBase | dict[str, Tensor], window: Window) -> Tensor:
        """Write what arrived for the agents of a slice to the rows that they finished; the rows written.

        For an agent that finished none, or whose row has been given to another since, it is the entry behind
        the last.
        """
        if "values" not in td:
            raise ValueError(
                f"{_WHERE}: for boundary='exact' the policy must write 'values' at every step, got only "
                f"{sorted(map(str, td.keys()))}"
            )
        rows = self._finished[window.window]
        mine = self._owner.index_select(0, rows) == window.env_ids.squeeze(1)
        rows = torch.where(mine, rows, self._experience.segments)
        # Under next_step the flag comes with the final observation itself.
        own = self._truncation.final_value_is_own
        sources = []
        for key, entry in self._entries.items():
            source = td[key]
            if own and key == "truncation_values":
                source = td["values"]
                source = source if source.dim() == 1 else source.mean(dim=-1)
            sources.append(source.detach().reshape(window.agents, *entry.shape[1:]))
        self._write(list(self._entries.values()), rows, sources)
        self._finished[window.window] = self._experience.segments
        self._waiting[window.window] = bytes(window.agents)
        return rows

    @staticmethod
    def _write(entries: list[Tensor], rows: Tensor, sources: list[Tensor]) -> None:
        """Put `sources` `[n, ...]` into these rows of the entries."""
        if in_host_memory(rows.device) and all(source.is_cpu for source in sources):
            ops.scatter_(entries, rows, sources)
            return
        for entry, source in zip(entries, sources, strict=True):
            entry.index_copy_(0, rows, source.to(device=entry.device, dtype=entry.dtype))

    def after(self, config: Any, bootstrap: bool) -> AfterRows | None:
        """What arrived after every row `[S]`; None where the last column is to have advantage 0.

        The value of an observation that another row starts with is that row's, as it stands in the buffer
        now: losses write new values back. Those of the rollout's end remain as they were. The arguments are
        those of `ArrivedColumns.compute`; the next call overwrites what this one returns.
        """
        if not self._complete:
            return None
        values = self._kept["values"]
        rows, linked = self._linked(values.dim())
        if linked is not None:
            memory = self._arrived.memory
            taken = [
                kept(memory, name, values.shape, values.dtype, values.device) for name in ("firsts", "values")
            ]
            buffer: Any = plain_entries(self._experience.buffer) or self._experience.buffer
            firsts = torch.index_select(buffer["values"][:, 0], 0, rows, out=taken[0])
            values = torch.where(linked, firsts, values, out=taken[1])
        rewards, cuts = self._arrived.compute(self._kept, config, bootstrap)
        return AfterRows(values if values.dim() == 1 else values.mean(dim=-1), rewards, cuts)

    def _linked(self, dims: int) -> tuple[Tensor, Tensor | None]:
        """The row that each row goes on in, 0 where there is none, and whether there is one; None where it is
        known that none does."""
        version = self._next_row._version
        if self._links is None or self._links[0] != version:
            next_row = self._next_row[:-1]
            linked = next_row >= 0
            none = in_host_memory(linked.device) and not linked.any()
            given = None if none else linked.reshape(-1, *[1] * (dims - 1))
            self._links = version, next_row.clamp(min=0), given
        return self._links[1:]


def _fetched_again(env: Any) -> Iterable[Any]:
    """The newest step of an environment that returns the same one until actions are sent."""
    yield env.get_observations()


def _untouched_generators(device: torch.device) -> Any:
    """Within this context torch's generators are drawn from at will; after it they stand where they stood."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
