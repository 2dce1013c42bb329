"""Experience: the rollout buffer, `[segments, horizon]` of every stored key, its cursors and its minibatches.

The layout and the names are those of Metta's `Experience`: S rows (segments) of T = `bptt_horizon` steps.
Agent i starts in row i and writes one column a step; at the end of a row it goes on in the next free one. A
rollout is over once S rows are full. Time is arrival-indexed: column t holds observation t, the action
chosen on it, and the reward and the flags that arrived together with the observation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from hotloop import ops
from hotloop.context import SamplingConfig
from hotloop.devices import exact_device, runs_ops
from hotloop.experience_epoch import EpochRows
from hotloop.experience_rows import RowBook, check_sizes
from hotloop.experience_sampling import MinibatchSampler
from hotloop.experience_stats import buffer_stats
from hotloop.experience_store import Remembered, StepStore
from hotloop.ops._memory import zeros_buffer
from hotloop.spec import Key, key_name, merge_specs, normalize_spec, spec_leaves, zeros_from_spec

# Metta's PPO hands importance ratios to `update` although no buffer has a place for them by default.
_OPTIONAL_UPDATE_KEYS = frozenset({"ratio"})


class Experience:
    """Rollout storage with row cursors and minibatch sampling.

    Parameters
    ----------
    total_agents
        A, agents over all slices of the environment; at most S.
    batch_size, bptt_horizon
        Agent steps of a rollout and T; S = `batch_size // bptt_horizon`.
    minibatch_size
        Agent steps that one optimizer step is made of; a multiple of T.
    max_minibatch_size
        Agent steps that go through the policy at once (default: all of `minibatch_size`). Where it is
        smaller, the loop accumulates the gradients of `accumulate_minibatches = minibatch_size //
        max_minibatch_size` minibatches.
    experience_spec
        What a step holds: see `hotloop.spec`. Leaves become `[S, T, *shape]` zeros on `device`.
    sampling_config
        How `sample` draws, read at every call; None: as the call says, else sequentially.
    seed
        Key of the counter-based random numbers of the random laws.
    write_back
        What `update` does where a call does not say: True writes; False does nothing, as in Metta, whose
        `update` writes into a copy.

    Attributes: `buffer` (TensorDict `[S, T]`), `segments`, `minibatch_segments` (B), `num_minibatches`,
    `accumulate_minibatches`, `row_slot_ids` and `t_in_row` (int64 `[A]` on `device`, live: the row and the
    column that each agent writes next), `t_in_row_cpu`, `free_idx`, `full_rows`, the constructor's sizes,
    `last_actions` (None, or where `store` also remembers a step's `actions`: a loop sets it), and `rank` and
    `world_size` (0 and 1, or which of how many equal experiences of one run this is: a loop sets them).

    Raises ValueError when the sizes do not fit each other.
    """

    def __init__(
        self,
        *,
        total_agents: int,
        batch_size: int,
        bptt_horizon: int,
        minibatch_size: int,
        experience_spec: Any,
        max_minibatch_size: int | None = None,
        device: torch.device | str = "cpu",
        sampling_config: Any = None,
        seed: int = 0,
        write_back: bool = True,
    ) -> None:
        max_minibatch_size = minibatch_size if max_minibatch_size is None else max_minibatch_size
        check_sizes(
            total_agents=total_agents,
            batch_size=batch_size,
            bptt_horizon=bptt_horizon,
            minibatch_size=minibatch_size,
            max_minibatch_size=max_minibatch_size,
        )
        self.total_agents = total_agents
        self.batch_size = batch_size
        self.bptt_horizon = bptt_horizon
        self.segments = batch_size // bptt_horizon
        self.minibatch_size = min(minibatch_size, max_minibatch_size)
        self.accumulate_minibatches = max(1, minibatch_size // max_minibatch_size)
        self.minibatch_segments = self.minibatch_size // bptt_horizon
        self.num_minibatches = self.segments // self.minibatch_segments
        self.device = exact_device(device)
        self.sampling_config: Any = sampling_config
        self.seed = seed
        self.write_back = write_back
        self.rank, self.world_size = 0, 1

        self.spec = normalize_spec(experience_spec)
        self.buffer = zeros_from_spec(
            self.spec, (self.segments, self.bptt_horizon), self.device, zeros_buffer
        )
        self._book = RowBook(total_agents, self.segments, bptt_horizon, self.device)
        self._sampler = MinibatchSampler(self)
        self._range_tensor = torch.arange(total_agents, device=self.device)
        self._spec_keys: list[Key] = [key for key, _ in spec_leaves(self.spec)]
        self.last_actions: ops.LastActions | None = None
        self._remembered: Remembered | None = None
        self.reset_store_keys()

    @classmethod
    def from_losses(
        cls,
        total_agents: int,
        batch_size: int,
        bptt_horizon: int,
        minibatch_size: int,
        max_minibatch_size: int | None,
        policy_experience_spec: Any,
        losses: Mapping[str, Any],
        device: torch.device | str,
        sampling_config: Any = None,
        *,
        seed: int = 0,
        write_back: bool = True,
    ) -> Experience:
        """An experience for what the policy and the losses want stored, attached to every loss.

        The specs are merged in order (policy first, then the losses in theirs; where several describe a
        key, the last wins), with a float32 `reward_baseline` added. Then each loss gets
        `attach_replay_buffer(experience)`.
        """
        specs = [loss.get_experience_spec() for loss in losses.values()]
        spec = merge_specs(policy_experience_spec, *specs)
        spec.setdefault("reward_baseline", (torch.Size(()), torch.float32))
        experience = cls(
            total_agents=total_agents,
            batch_size=batch_size,
            bptt_horizon=bptt_horizon,
            minibatch_size=minibatch_size,
            max_minibatch_size=max_minibatch_size,
            experience_spec=spec,
            device=device,
            sampling_config=sampling_config,
            seed=seed,
            write_back=write_back,
        )
        for loss in losses.values():
            loss.attach_replay_buffer(experience)
        return experience

    # Cursors

    @property
    def ready_for_training(self) -> bool:
        """Whether a whole rollout is stored."""
        return self._book.complete

    @property
    def full_rows(self) -> int:
        """Rows finished in this rollout."""
        return self._book.cursors.full_rows

    @property
    def free_idx(self) -> int:
        """The row that the next agent to finish one goes on in."""
        return self._book.cursors.free_idx

    @property
    def row_slot_ids(self) -> Tensor:
        """int64 [A], live: the row that each agent writes."""
        return self._book.rows

    @property
    def t_in_row(self) -> Tensor:
        """int64 [A], live: the column that each agent writes next."""
        return self._book.positions

    @property
    def t_in_row_cpu(self) -> Tensor:
        """`t_in_row` in host memory."""
        return self._book.cursors.positions

    def column_of(self, agent: int) -> int:
        """The column that one agent writes next, without reading a tensor."""
        return self._book.cursors.position(agent)

    def agent_of(self, row: int) -> int | None:
        """The agent whose steps a row of the buffer holds; None for a row that this rollout has not given
        out."""
        return self._book.agent_of(row)

    @property
    def ep_indices(self) -> Tensor:
        """int32 [A], a copy: `row_slot_ids` as older code knows it."""
        return self.row_slot_ids.to(torch.int32)

    @property
    def ep_lengths(self) -> Tensor:
        """int32 [A], a copy: `t_in_row` as older code knows it."""
        return self.t_in_row.to(torch.int32)

    @property
    def stored_steps(self) -> int:
        """Calls of `store` in this rollout that wrote something."""
        return self._book.stored_steps

    @property
    def skipped_steps(self) -> int:
        """Calls of `store` in this rollout that had no row left to write."""
        return self._book.skipped_steps

    @property
    def cursors(self) -> ops.RowCursors:
        """The native cursors, for plans that move them; see `count_inner_steps`."""
        return self._book.cursors

    def count_inner_steps(self, steps: int) -> None:
        """So many steps were written past `store`, the cursors moved on, none in a row's first or last
        column."""
        self._book.count_inner_steps(steps)

    def begin_edge_step(self, start: int, stop: int) -> int | None:
        """The column, a row's first or last, that is about to be written past `store` for the agents
        `[start, stop)`; None where their step would be skipped. Raises as `store` does."""
        return self._book.begin_store(start, stop) if self._book.takes_next_step(start) else None

    def end_edge_step(self, start: int, stop: int, column: int) -> None:
        """It was written, the cursors moved on."""
        self._book.end_store(start, stop, column)

    def takes_next_step(self, agent: int) -> bool:
        """Whether the next step of the slice that `agent` belongs to will be stored, or skipped because that
        slice has used up its rows."""
        return self._book.takes_next_step(agent)

    def reset_for_rollout(self) -> None:
        """Agent i back to row i, column 0. The buffer keeps its contents."""
        self._book.reset()
        self._remembered = None

    # Storing

    def store(self, data_td: TensorDictBase | Mapping[Any, Tensor], env_id: slice) -> None:
        """Write one step of the agents `env_id` (a contiguous slice) and move their cursors on.

        `data_td` must hold every key of `store_keys`, each `[n, *shape]`; values are cast to the buffer's
        dtypes.

        In an environment whose slices run at different speeds a slice can be done before the rollout is:
        once every row is taken, its further steps are not stored (`skipped_steps` counts them), so that no
        finished row is overwritten.

        Raises, before anything is written: TypeError when `env_id` is no slice, ValueError when it is not
        contiguous or when its agents stand at different columns, IndexError when it exceeds the agents,
        KeyError for a missing key, ValueError for a wrong shape, RuntimeError when the rollout is complete
        already.
        """
        start, stop = self._book.bounds(env_id, "Experience.store")
        column = self._book.begin_store(start, stop)
        if column is None:
            return
        self._remembered = self._steps.write(data_td, start, stop, column, self.last_actions)
        self._book.end_store(start, stop, column)

    def has_remembered(self, actions: Tensor, start: int, stop: int) -> bool:
        """Whether the last `store` put these very actions of the agents `[start, stop)`, unchanged since,
        into `last_actions`."""
        known = self._remembered
        return (
            known is not None
            and known.actions is actions
            and known.version == actions._version
            and (known.start, known.stop) == (start, stop)
        )

    @property
    def store_keys(self) -> list[Key]:
        """The keys that `store` writes."""
        return list(self._steps.keys)

    def set_store_keys(self, keys: Iterable[Key]) -> None:
        """Restrict what `store` writes. KeyError for a key that the buffer lacks, ValueError for no key."""
        chosen = list(dict.fromkeys(keys))
        known = set(self.buffer.keys(include_nested=True, leaves_only=True))
        unknown = [key for key in chosen if key not in known]
        if unknown:
            raise KeyError(
                f"Experience.set_store_keys: the buffer has no {unknown}; it has {sorted(map(str, known))}"
            )
        if not chosen:
            raise ValueError("Experience.set_store_keys: keys must name at least one entry, got none")
        self._bind_store_keys(chosen)

    def reset_store_keys(self) -> None:
        """`store` writes every key of the spec again."""
        self._bind_store_keys(self._spec_keys)

    def _bind_store_keys(self, keys: list[Key]) -> None:
        self._steps = StepStore(self.buffer, keys, self._book, self.device)

    # Training

    def sample(
        self,
        mb_idx: int,
        epoch: int,
        total_timesteps: int,
        batch_size: int,
        advantages: Tensor,
        *,
        sampling_config: Any = None,
        seed: int | None = None,
        draw: int | None = None,
        reuse: bool = False,
    ) -> TensorDict:
        """One minibatch, drawn as the sampling configuration says: a TensorDict `[B, T]` with

        - `sampled_mb`: the rows. New keys may be added, the buffer does not get them. Entries of one number
          per step are copies; wider ones may be views of the buffer, so do not write into them.
        - `indices`: int64 `[B, T]`, the row number of every entry.
        - `prio_weights`: float32 `[B, T]`, importance weights (ones unless prioritized).
        - `advantages`: the rows of `advantages`, `[S, T]`.

        `epoch`, `total_timesteps` and `batch_size` place the call in the schedule of the importance
        exponent (`SamplingConfig.beta_schedule`). Random laws are keyed by (`seed`, `draw`, `mb_idx`), by
        default the experience's own seed and `epoch`. With `reuse=True` drawn rows, those of `advantages`
        too, are gathered into memory that the next such call overwrites.
        """
        shared, _ = self.sample_columns(
            (),
            mb_idx,
            epoch,
            total_timesteps,
            batch_size,
            advantages,
            sampling_config=sampling_config,
            seed=seed,
            draw=draw,
            reuse=reuse,
        )
        return shared

    def sample_columns(
        self,
        columns: Sequence[Tensor],
        mb_idx: int,
        epoch: int,
        total_timesteps: int,
        batch_size: int,
        advantages: Tensor,
        *,
        sampling_config: Any = None,
        seed: int | None = None,
        draw: int | None = None,
        reuse: bool = False,
    ) -> tuple[TensorDict, list[Tensor]]:
        """`sample`, and the same rows of further `columns`, `[S, T]` each."""
        rows = self._sampler.sample(
            mb_idx,
            advantages,
            config=sampling_config or self.sampling_config or SamplingConfig(),
            epoch=epoch,
            total_epochs=max(1, total_timesteps // batch_size),
            seed=self.seed if seed is None else seed,
            draw=epoch if draw is None else draw,
            reuse=reuse,
            columns=columns,
        )
        return self._sampler.assemble(rows)

    def epoch_rows(
        self,
        leaves: Mapping[Key, Tensor],
        early: Key,
        epoch: int,
        total_timesteps: int,
        batch_size: int,
        advantages: Tensor,
        *,
        sampling_config: Any = None,
        seed: int | None = None,
        draw: int | None = None,
    ) -> EpochRows:
        """What `sample` with `reuse` draws, for all minibatches of an update epoch and of a few `leaves`
        alone, `[S, ...]` each and in host memory; of these only `early` is copied by `EpochRows.take`."""
        return self._sampler.epoch_rows(
            leaves,
            early,
            advantages,
            config=sampling_config or self.sampling_config or SamplingConfig(),
            epoch=epoch,
            total_epochs=max(1, total_timesteps // batch_size),
            seed=self.seed if seed is None else seed,
            draw=epoch if draw is None else draw,
        )

    def sample_sequential(self, mb_idx: int) -> tuple[TensorDict, Tensor]:
        """Rows `mb_idx * B` to `mb_idx * B + B` (modulo `num_minibatches`) and their indices, int64 `[B]`."""
        return self._sampler.sequential(mb_idx)

    def sample_prioritized(
        self,
        mb_idx: int,
        epoch: int,
        total_timesteps: int,
        batch_size: int,
        prio_alpha: float,
        prio_beta0: float,
        advantages: Tensor,
    ) -> tuple[TensorDict, Tensor, Tensor]:
        """Rows drawn without replacement with probability ~ (sum_t |advantages|) ** prio_alpha.

        Returns the minibatch `[B, T]`, its indices (int64 `[B]`) and weights (float32 `[B, T]`), freshly
        allocated; sequential rows and ones when `prio_alpha <= 0`. Keyed by (`seed`, `epoch`, `mb_idx`):
        several losses that sample the same minibatch get the same rows.
        """
        beta = self._sampler.beta(prio_alpha, prio_beta0, epoch, max(1, total_timesteps // batch_size))
        return self._sampler.prioritized(
            mb_idx, advantages, alpha=prio_alpha, beta=beta, seed=self.seed, draw=epoch
        )

    def update(self, indices: Tensor, data_td: TensorDictBase, write_back: bool | None = None) -> None:
        """Write entries of `data_td`, each `[k, T, *shape]`, over the rows `indices` (int64 `[k]`) of the
        buffer.

        `write_back=False` does nothing, `None` follows the experience's own setting. Values are detached
        and cast. A `ratio` is skipped where the buffer has none.

        Raises, before anything is written: ValueError for a wrong shape, IndexError for a row that does not
        exist, KeyError for a key that the buffer does not have.
        """
        if not (self.write_back if write_back is None else write_back):
            return
        if indices.dim() != 1:
            raise ValueError(
                "Experience.update: indices must be [k] (of a [B, T] tensor take [:, 0]), got "
                f"{list(indices.shape)}"
            )
        targets: list[Tensor] = []
        sources: list[Tensor] = []
        leaves: Iterable[tuple[Key, Any]] = data_td.items(include_nested=True, leaves_only=True)
        for key, source in leaves:
            target = self.buffer.get(key, None)
            if target is None:
                if key in _OPTIONAL_UPDATE_KEYS:
                    continue
                raise KeyError(f"Experience.update: the buffer has no {key_name(key)!r}")
            expected = (len(indices), *target.shape[1:])
            if source.shape != expected:
                raise ValueError(
                    f"Experience.update: {key_name(key)!r} must be {list(expected)}, got {list(source.shape)}"
                )
            targets.append(target)
            sources.append(source.detach())
        if not targets:
            return
        if runs_ops(self.device):
            ops.scatter_(targets, indices, sources)
        else:
            for target, source in zip(targets, sources, strict=True):
                target.index_copy_(0, indices, source.to(target.dtype))

    def reset_importance_sampling_ratios(self) -> None:
        """Set the buffer's `ratio` to 1, where it has one."""
        ratio = self.buffer.get("ratio", None)
        if ratio is not None:
            ratio.fill_(1.0)

    def give_me_empty_md_td(self) -> TensorDict:
        """An empty TensorDict `[B, T]` on the buffer's device."""
        return TensorDict({}, batch_size=(self.minibatch_segments, self.bptt_horizon), device=self.device)

    def stats(self) -> dict[str, float]:
        """Means over the buffer, read with one transfer: `rewards`, `values`, `act_log_prob`, `dones`,
        `truncateds`, `ratio`, `actions_mean` and `actions_std` (of all numbers together), as far as stored,
        and `t_in_row`, the mean column of the agents that are inside a row.

        Where the buffer has `valid`, what belongs to an action is averaged over its valid steps; what
        arrives from the environment (`rewards`, `dones`, `truncateds`) is averaged over all.
        """
        return buffer_stats(self.buffer, self.t_in_row)
