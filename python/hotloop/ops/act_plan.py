"""`ActPlan`: the end of a rollout step in one native call: draw from a network's logits, store, remember."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hotloop import _core
from hotloop.ops._leaves import LeafKey, leaf_path
from hotloop.ops.row_cursors import RowCursors

#: what a leaf may be filled with, in the order of the native numbers
ACT_SOURCES = (
    "observations",
    "rewards",
    "terminals",
    "truncations",
    "mask",
    "baseline",
    "zero",
    "one",
    "value",
    "actions",
    "log_prob",
)


class ActPlan:
    """Acts for slices of agents and writes their steps into a buffer `[S, T]`, where nothing else is to do.

    It stores what `categorical_sample`, `StorePlan.store` and `LastActions.write_` together store, to the
    last bit, for steps that lie between the first and the last column of their rows, or in any. It is used in
    runs: `bind`, then `begin` and `finish` for each step, then `release`. Within a run the buffer, the last
    actions and the baseline must stay where they are: unlike `StorePlan` it looks for them once a run.

    Args:
        buffer: a TensorDict, or a (nested) dict, whose leaves are CPU tensors `[S, T, ...]`.
        sources: for each leaf one of `ACT_SOURCES`. The first five are entries of the environment's step
            (``mask``: true everywhere where that is None), ``baseline`` is an argument of `bind`, the last
            three are the network's value and what is drawn.
        cursors: where each agent writes. S and T are theirs.
        nvec: the number of choices of each head; None for a single one of `choices` choices, whose actions
            are `[n]`.

    Raises:
        KeyError, ValueError: a source that does not exist; no choices.
    """

    def __init__(
        self,
        buffer: Any,
        sources: Mapping[LeafKey, str],
        cursors: RowCursors,
        *,
        choices: int | None = None,
        nvec: Sequence[int] | None = None,
    ) -> None:
        unknown = [source for source in sources.values() if source not in ACT_SOURCES]
        if unknown:
            raise ValueError(f"ActPlan: sources must be among {ACT_SOURCES}, got {unknown}")
        if (choices is None) == (nvec is None):
            raise ValueError(f"ActPlan: one of choices and nvec must be given, got {choices} and {nvec}")
        heads = [choices] if choices is not None else list(nvec or ())
        self._native = _core.ActPlan(
            buffer,
            tuple(map(leaf_path, sources)),
            [ACT_SOURCES.index(source) for source in sources.values()],
            heads,
            nvec is None,
            cursors.native,
        )
        self.begin = self._native.begin
        self.finish = self._native.finish

    def bind(
        self,
        last_actions: Tensor,
        baseline: Tensor | None,
        *,
        seed: int,
        first_agent: int,
        refuse_truncated: bool,
        acted: Mapping[int, int],
        edges: bool = False,
    ) -> bool:
        """Begin a run of steps.

        Args:
            last_actions: `[A, k]`, where actions are remembered.
            baseline: `[A]`, what the leaves of that source get.
            seed, first_agent: key of the draws, and the number of agent 0 in it.
            refuse_truncated: whether `begin` refuses a step that truncated an episode.
            acted: by first agent how often a slice has acted in this rollout; 0 where it is not named. Draws
                are keyed by (seed, 256 * that number, number of the agent).
            edges: whether `begin` takes steps in the first and the last column of a row, too. It then returns
                their number of agents negative, for whoever keeps books of rows.

        Returns:
            False where these tensors are none that the plan can write.
        """
        return self._native.bind(
            last_actions, baseline, seed, first_agent, refuse_truncated, dict(acted), edges
        )

    def release(self) -> tuple[int, dict[int, int]]:
        """End a run: how many steps it stored, and `acted` as it is now."""
        return self._native.release()
