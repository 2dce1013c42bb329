"""The states of a recurrent policy: one per agent while it acts, one per segment for training.

Time is arrival-indexed: the flags of a step are the outcome of the action before it. Where they end an
episode, depends on how the environment goes on (`hotloop.envs.ReportsAutoreset`):

``same_step``
    The flagged observation is the first of the next episode: the state begins anew before it. An environment
    that does not say how it goes on is taken for one of this kind.
``next_step``
    The flagged observation is the last of its episode, and belongs to it; the state begins anew before the
    observation after it.

Either way the value of a final observation is computed from the state of the episode that it ends. See
`hotloop.policies.RecurrentPolicy` for what the policy sees.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from hotloop import ops
from hotloop.devices import in_host_memory, runs_ops
from hotloop.entries import flat_tensordict, set_entries
from hotloop.experience import Experience
from hotloop.loop_rollout import EnvStep, Window
from hotloop.ops._memory import empty_buffer, zeros_buffer
from hotloop.policies import has_state, initial_states, state_spec
from hotloop.spec import Key, key_name, spec_leaves

if TYPE_CHECKING:
    from hotloop.policies import Policy

_WHERE = "CoreTrainingLoop"


class _Views(NamedTuple):
    """The memory of one slice of agents."""

    states: dict[Key, Tensor]  # [n, *shape] each
    ended: Tensor  # bool [n]
    resets: Tensor  # bool [n]


class PolicyStates:
    """Every agent's state, `[A]`, and the state at the start of every segment, `[S]`, in memory that stays.

    Parameters
    ----------
    policy
        A `hotloop.policies.RecurrentPolicy`.
    burn_in
        Leading columns of each segment that bring the state up to date in training and enter no loss.

    Raises ValueError where the experience has no entry `resets`, `burn_in` does not fit the horizon or the
    policy does not know it, or `initial_state()` does not fit the spec.
    """

    def __init__(self, policy: Policy, experience: Experience, burn_in: int) -> None:
        if "resets" not in experience.buffer:
            raise ValueError(
                f"{_WHERE}: a policy with get_state_spec() must ask for 'resets': ((), torch.bool) in "
                "get_agent_experience_spec(), got an experience without it"
            )
        _check_burn_in(policy, burn_in, experience.bptt_horizon)
        self._policy = policy
        self._experience = experience
        self._device = experience.device
        self.burn_in = burn_in
        self._leaves = list(spec_leaves(state_spec(policy)))
        initial = initial_states(policy, 1, self._device)
        self._initial: dict[Key, Tensor] = {key: initial[key] for key, _ in self._leaves}  # [1, *shape]
        self._states = self._allocate(experience.total_agents)
        self._segments = self._allocate(experience.segments)
        self._ended = torch.zeros(experience.total_agents, dtype=torch.bool, device=self._device)
        self._resets = torch.zeros_like(self._ended)
        self._next_step = False
        self._views: dict[tuple[int, int], _Views] = {}
        self._minibatch: dict[Key, Tensor] = {}
        self._gather: ops.GatherPlan | None = None
        self.begin_anew()

    def _allocate(self, count: int) -> dict[Key, Tensor]:
        spec = dict(self._leaves)
        return {
            key: zeros_buffer((count, *shape), dtype, self._device) for key, (shape, dtype) in spec.items()
        }

    def begin_anew(self) -> None:
        """Every agent is at the beginning of an episode."""
        for key, leaf in self._states.items():
            leaf.copy_(self._initial[key].expand_as(leaf))
        self._ended.zero_()

    # Rollout

    def begin_rollout(self, env: Any) -> None:
        """See how this environment restarts episodes."""
        self._next_step = getattr(env, "autoreset", None) == "next_step"

    def hand_out(self, td: TensorDictBase, window: Window) -> None:
        """Before anything looks at the step: put the states into ``td["state"]``, not reset yet."""
        views = self._views_of(window)
        views.resets.zero_()
        state = flat_tensordict(views.states, (window.agents,), self._device)
        set_entries(td, {"state": state, "resets": views.resets})

    def reset_where_ended(self, step: EnvStep, *, begins_segments: bool) -> None:
        """Before the policy acts: new states for the agents whose episode begins with this observation, noted
        in ``td["resets"]``; and the states with which a segment starts, where it does.

        May be called again for the same step.
        """
        window, experience = step.window, self._experience
        views = self._views_of(window)
        if self._next_step:
            views.resets.copy_(views.ended)
        else:
            self._note_ends(views.resets, step)
        self._reset(views)
        first = begins_segments and experience.t_in_row_cpu[window.start] == 0
        if first and experience.takes_next_step(window.start):
            self._start_segments(views, window)

    def _note_ends(self, target: Tensor, step: EnvStep) -> None:
        terminals = step.terminals.to(self._device, non_blocking=True)
        torch.ne(terminals, 0, out=target)
        target |= step.truncations.to(self._device, non_blocking=True) != 0

    def _reset(self, views: _Views) -> None:
        if not in_host_memory(self._device):  # looking for them would wait for the device
            for key, leaf in views.states.items():
                mask = views.resets.reshape(-1, *[1] * (leaf.dim() - 1))
                torch.where(mask, self._initial[key], leaf, out=leaf)
            return
        if not views.resets.any():
            return
        agents = views.resets.nonzero().squeeze(1)
        for key, leaf in views.states.items():
            leaf.index_copy_(0, agents, self._initial[key].expand(len(agents), *leaf.shape[1:]))

    def _start_segments(self, views: _Views, window: Window) -> None:
        if runs_ops(self._device):
            ops.scatter_(list(self._segments.values()), window.row_id, list(views.states.values()))
            return
        for key, leaf in self._segments.items():
            leaf.index_copy_(0, window.row_id, views.states[key])

    def take_back(self, td: TensorDictBase, step: EnvStep) -> None:
        """After the policy acted: keep what it left in ``td["state"]``.

        KeyError for an entry that is missing, ValueError for one of another shape or dtype.
        """
        views = self._views_of(step.window)
        given = td.get("state", None)
        for key, leaf in views.states.items():
            after = None if given is None else given.get(key, None)
            if after is None:
                raise KeyError(f"{_WHERE}.rollout_phase: the policy must leave td['state'] with {key!r}")
            if after.shape != leaf.shape or after.dtype != leaf.dtype:
                raise ValueError(
                    f"{_WHERE}.rollout_phase: the policy's state {key_name(key)!r} must be {leaf.dtype} "
                    f"{list(leaf.shape)}, got {after.dtype} {list(after.shape)}"
                )
            if after is not leaf:
                leaf.copy_(after.detach())
        if self._next_step:
            self._note_ends(views.ended, step)

    def _views_of(self, window: Window) -> _Views:
        known = self._views.get((window.start, window.stop))
        if known is None:
            agents = slice(window.start, window.stop)
            states = {key: leaf[agents] for key, leaf in self._states.items()}
            known = _Views(states, self._ended[agents], self._resets[agents])
            self._views[window.start, window.stop] = known
        return known

    # Training

    def training_inputs(self, minibatch: TensorDictBase, rows: Tensor) -> dict[str, Any]:
        """The keywords of the training forward for the segments `rows`, int64 ``[B]``; columns of burn-in
        become invalid in `minibatch`."""
        inputs: dict[str, Any] = {"state": self.of_segments(rows)}
        if self.burn_in:
            inputs["burn_in"] = self.burn_in
            valid = minibatch.get("valid", None)
            if valid is None:
                valid = torch.ones(minibatch.batch_size, dtype=torch.bool, device=minibatch.device)
                minibatch["valid"] = valid
            valid[:, : self.burn_in] = False
        return inputs

    def of_segments(self, rows: Tensor) -> TensorDict:
        """The states `[B]` at the start of the segments `rows`, in memory that the next call overwrites."""
        count = len(rows)
        out = self._minibatch
        if not out or len(next(iter(out.values()))) != count:
            spec = dict(self._leaves)
            self._minibatch = out = {
                key: empty_buffer((count, *shape), dtype, self._device)
                for key, (shape, dtype) in spec.items()
            }
            self._gather = ops.GatherPlan(out) if in_host_memory(self._device) else None
        if self._gather is not None:
            self._gather.gather(list(self._segments.values()), rows)
        elif runs_ops(self._device):
            ops.gather(list(self._segments.values()), rows, out=list(out.values()))
        else:
            for key, leaf in self._segments.items():
                torch.index_select(leaf, 0, rows, out=out[key])
        return flat_tensordict(out, (count,), self._device)

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """Copies of all agents' states, and whose episode has ended."""
        return {
            "states": {key_name(key): leaf.detach().clone() for key, leaf in self._states.items()},
            "ended": self._ended.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Restore what `state_dict` returned. ValueError where it is of another policy or other agents."""
        given = {} if state is None else state["states"]
        expected = {key_name(key): (tuple(leaf.shape), leaf.dtype) for key, leaf in self._states.items()}
        found = {name: (tuple(leaf.shape), leaf.dtype) for name, leaf in given.items()}
        if state is None or found != expected:
            raise ValueError(
                f"{_WHERE}.load_state_dict: the policy's states must be {expected}, got {found or None}"
            )
        for key, leaf in self._states.items():
            leaf.copy_(given[key_name(key)])
        self._ended.copy_(state["ended"])


def policy_states(
    policy: Policy, experience: Experience, *, burn_in: int, sampling: str
) -> PolicyStates | None:
    """The states of a recurrent policy, None for one that has none.

    ValueError for burn-in without a state, and where losses sample for themselves: they know no states.
    """
    if not has_state(policy):
        if burn_in:
            raise ValueError(
                f"{_WHERE}: burn_in needs a policy with get_state_spec(), got {type(policy).__name__}"
            )
        return None
    if sampling != "loop":
        raise ValueError(f"{_WHERE}: a policy with get_state_spec() needs sampling='loop', got {sampling!r}")
    return PolicyStates(policy, experience, burn_in)


def _check_burn_in(policy: Policy, burn_in: int, horizon: int) -> None:
    if not isinstance(burn_in, int) or isinstance(burn_in, bool):
        raise TypeError(f"{_WHERE}: burn_in must be an int, got {burn_in!r}")
    if not 0 <= burn_in < horizon:
        raise ValueError(f"{_WHERE}: burn_in must lie in [0, {horizon}), the horizon, got {burn_in}")
    if burn_in:
        parameters = inspect.signature(policy.forward).parameters.values()
        if not any(each.name == "burn_in" or each.kind is each.VAR_KEYWORD for each in parameters):
            raise ValueError(
                f"{_WHERE}: burn_in = {burn_in} needs a policy whose forward() takes the keyword burn_in, "
                f"got {type(policy).__name__}"
            )
