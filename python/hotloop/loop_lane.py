"""The fast lane of a rollout: steps for which nobody asks more than the buffer holds.

Where rewards are not centred, no episode was truncated and no row that ended waits for what arrived after it,
nothing remains than to run the network, draw, store and send; in a row's first and last column the books of
rows are kept besides. After a network's pass all other code has left the processor's caches, so what counts
is how many things are called. Here it is two native calls around the network (`hotloop.ops.ActPlan`), and
what the loop asks once a rollout it does not ask at every step. Buffers, last actions, cursors and draws are
to the last bit those of `DirectActing`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hotloop import ops
from hotloop.loop_direct import DirectActing
from hotloop.loop_rollout import RolloutTally, StepBuilder, Window, reward_centering
from hotloop.policies.actor_critic import ActorCriticBase, ActorCriticPolicy
from hotloop.policies.draws import AgentDraws
from hotloop.policies.heads import CategoricalHead

if TYPE_CHECKING:
    from hotloop.context import ComponentContext
    from hotloop.experience import Experience
    from hotloop.loop_boundary import RowBoundary
    from hotloop.loop_truncation import TruncationValues

# What each entry of the buffer is filled with; `valid` is decided by the loop.
_SOURCES = {
    "env_obs": "observations",
    "rewards": "rewards",
    "dones": "terminals",
    "truncateds": "truncations",
    "reward_baseline": "baseline",
    "truncation_values": "zero",
    "values": "value",
    "actions": "actions",
    "act_log_prob": "log_prob",
}


def _acting_mode(inference: bool) -> Callable[[], Any]:
    """What makes the context that a policy acts in."""
    if not inference:
        return torch.no_grad
    # What torch.inference_mode wraps, in several calls a step.
    bare = getattr(torch._C, "_InferenceMode", None)
    return torch.inference_mode if bare is None else partial(bare, True)


class RolloutLane:
    """Steps of one rollout. `of` makes it."""

    def __init__(
        self,
        direct: DirectActing,
        policy: ActorCriticPolicy,
        experience: Experience,
        steps: StepBuilder,
        truncation: TruncationValues,
        boundary: RowBoundary,
        context: ComponentContext,
        draws: AgentDraws,
    ) -> None:
        head = policy.head
        assert isinstance(head, CategoricalHead)
        self._direct, self._policy, self._experience, self._steps = direct, policy, experience, steps
        self._truncation, self._boundary, self._context, self._draws = truncation, boundary, context, draws
        self._network = policy._acting_network()
        self._single = head.spec.kind == "discrete"
        self._choices = len(head.spec.nvec)
        sources = {key: _SOURCES.get(str(key), "mask") for key in experience.store_keys}
        if "valid" in sources and steps.all_valid:
            sources["valid"] = "one"
        self._plan = ops.ActPlan(
            experience.buffer,
            sources,
            experience.cursors,
            choices=head.spec.nvec[0] if self._single else None,
            nvec=None if self._single else head.spec.nvec,
        )
        self._mode = _acting_mode(policy.acts_in_inference_mode)
        self._known: torch.Tensor | None = None  # observations that the policy takes as they are
        self._open = True
        self._edges = 0  # steps of this run in a row's first or last column
        self.window = slice(0, 0)  # the slice whose row began or ended last

    @classmethod
    def of(
        cls,
        direct: DirectActing | None,
        policy: Any,
        experience: Experience,
        steps: StepBuilder,
        truncation: TruncationValues,
        boundary: RowBoundary,
        context: ComponentContext,
        draws: AgentDraws,
    ) -> RolloutLane | None:
        """None where a step may need more than a network, a categorical draw and the buffer."""
        if direct is None or not callable(getattr(context.stopwatch, "add", None)):
            return None
        kind, centering = type(policy), reward_centering(context)
        fits = (
            kind.act is ActorCriticPolicy.act
            and kind._drawn is ActorCriticBase._drawn
            and kind._checked is ActorCriticBase._checked
            and not vars(policy).keys() & {"act", "_drawn", "_checked"}
            and type(policy.head) is CategoricalHead
            and not vars(policy.head).keys() & {"sample", "_sample_natively"}
            and "store" not in vars(experience)
            and (centering is None or not getattr(centering, "enabled", True))
            and set(_SOURCES) - {"reward_baseline", "truncation_values"} <= set(experience.store_keys)
            and not torch.compiler.is_compiling()
            and not torch._C._are_functorch_transforms_active()
        )
        if not fits:
            return None
        return cls(direct, policy, experience, steps, truncation, boundary, context, draws)

    def run(self, env: Any, tally: RolloutTally) -> Any:
        """Act for as long as steps are of the plain kind.

        Returns what `env.get_observations` gave last, for which nothing was done; None where it was not
        called, or where the rollout is complete: the last step was that of `window`.
        """
        plan, draws = self._plan, self._draws
        bound = self._open and plan.bind(
            self._steps.last_actions.buffer,
            self._steps.averages(self._context),
            seed=draws.seed,
            first_agent=draws.first_agent,
            refuse_truncated=self._truncation.looks_at_flags,
            acted=draws.acted,
            edges=True,
        )
        if not bound:
            return None
        fetch, send, network, new_mode = env.get_observations, env.send_actions, self._network, self._mode
        begin, finish, empty, int32, clock = plan.begin, plan.finish, np.empty, np.int32, perf_counter
        waited = acted = sent = 0.0
        now = clock()
        try:
            while True:
                step = fetch()
                fetched = clock()
                waited += fetched - now
                agents, edge = begin(step), None
                if agents <= 0:
                    edge = self._at_edge(step[5]) if agents else None
                    if edge is None:
                        return step
                    agents = -agents
                observations = step[0]
                if observations is not self._known:
                    observations = self._checked(observations)
                actions: Any = empty(agents if self._single else (agents, self._choices), int32)
                with new_mode():
                    output = network(observations)
                    stored = finish(output, actions)
                if not stored:
                    actions = self._act_otherwise(step, output)
                if edge is not None:
                    self._end_edge(*edge, stored)
                tally.count(step[4], step[7])
                done = clock()
                acted += done - fetched
                send(actions)
                now = clock()
                sent += now - done
                if edge is not None and self._experience.ready_for_training:
                    return None
                if not stored:
                    return fetch()
        finally:
            self._end_run()
            add = self._context.stopwatch.add
            add("_rollout.env_wait", waited)
            add("_rollout.inference", acted)
            add("_rollout.send", sent)

    def _at_edge(self, env_slice: slice) -> tuple[Window, int] | None:
        """Before a step in a row's first or last column: its agents and the column. None where more is asked
        of it than the lane does."""
        window = self._steps.window(env_slice)
        if self._boundary.before_step(window):
            return None
        column = self._experience.begin_edge_step(window.start, window.stop)
        return None if column is None else (window, column)

    def _end_edge(self, window: Window, column: int, stored: bool) -> None:
        """After it was stored, by the plan or by ordinary means, which keep the experience's books."""
        if stored:
            self._edges += 1
            self._experience.end_edge_step(window.start, window.stop, column)
        self._boundary.after_step(None, window, True)
        self.window = window.window

    def _checked(self, observations: torch.Tensor) -> torch.Tensor:
        checked = self._policy._checked(observations)
        self._known = observations if checked is observations else None
        return checked

    def _end_run(self) -> None:
        stored, acted = self._plan.release()
        self._draws.acted.update(acted)
        self._experience.count_inner_steps(stored - self._edges)
        self._edges = 0

    def _act_otherwise(self, step: Any, output: Any) -> Any:
        """Draw and store by ordinary means what the plan does not take, and leave the lane for good."""
        self._open = False
        self._end_run()
        unpacked, draws, policy = self._steps.unpack(step), self._draws, self._policy
        window = unpacked.window
        draws.act(window.start, window.stop)
        with self._mode():
            logits, value = policy._accepted(output, window.agents)
            value, actions, log_prob, _ = policy._drawn(logits, value, all_choices=False)
        draws.set_aside()
        return self._direct.store(unpacked, self._context, value, actions, log_prob).numpy()
