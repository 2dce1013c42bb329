"""CoreTrainingLoop: the rollout and the training phase around any policy, losses, optimizer and environment.

Interface and order of calls are those of Metta's `CoreTrainingLoop`; where the two differ on purpose, the
docstrings say so. Time is arrival-indexed (see `hotloop.experience`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from tensordict import NonTensorData, TensorDictBase
from torch import Tensor

from hotloop.context import ComponentContext
from hotloop.devices import exact_device, in_host_memory
from hotloop.entries import set_entries
from hotloop.experience import Experience
from hotloop.gradients import GradientAverage
from hotloop.loop_accumulation import Drawn, Group, normalizes_advantages, survey
from hotloop.loop_boundary import BoundaryMode, RowBoundary
from hotloop.loop_device import TrainingOnDevice
from hotloop.loop_direct import DirectActing
from hotloop.loop_lane import RolloutLane
from hotloop.loop_nonfinite import NonFiniteGuard
from hotloop.loop_policy_state import policy_states
from hotloop.loop_recurrent_check import RecurrentCheck, RecurrentSelfCheck
from hotloop.loop_rollout import (
    EnvStep,
    RolloutResult,
    RolloutTally,
    StepBuilder,
    checked_actions,
    checked_progress,
)
from hotloop.loop_training import (
    AfterRows,
    Arrivals,
    add_unused_outputs,
    check_choice,
    check_entries,
    check_graph,
    forward_policy_for_training,
    importance_ratio,
    max_grad_norm_of,
    policy_gradient_advantages,
    rank_weight,
    sampling_arguments,
    shared_of_phase,
    sum_losses,
    uses_delta_lambda,
    wants_ratio,
)
from hotloop.loop_training_lane import TrainingLane
from hotloop.loop_truncation import TruncationMode, TruncationValues
from hotloop.losses import ranks
from hotloop.nonfinite import OnNan
from hotloop.policies.draws import AgentDraws, DrawMemory
from hotloop.policies.heads import draw_key
from hotloop.spec import normalize_spec, spec_leaves

if TYPE_CHECKING:
    from hotloop.envs import TrainingEnvironment
    from hotloop.policies import Policy

__all__ = ["CoreTrainingLoop", "RolloutResult"]

SamplingSide = Literal["loop", "losses"]
Accumulation = Literal["mean", "sum"]


class CoreTrainingLoop:
    """Collects rollouts into an `Experience` and trains the policy on them.

    Parameters
    ----------
    policy
        See `hotloop.policies.Policy`.
    experience, losses, optimizer, device
        Losses are called in the order of the dict; see `hotloop.losses.Loss` for their hooks.
    context
        Handed to every hook. Its `config` is read at every use, never remembered.
    sampling
        ``"loop"``: the loop computes advantages, draws each minibatch, runs the policy on it and hands the
        results to the losses in a fresh `shared` TensorDict (needs ``context.config.advantage``).
        ``"losses"``: each loss samples and runs the policy for itself; `shared` lives through the whole
        training phase.
    accumulation
        With ``experience.accumulate_minibatches = k > 1`` an optimizer step is made of k minibatches:
        ``"mean"`` weights each by its share of the valid entries and normalises advantages over all of them,
        so that they equal one large minibatch (`hotloop.loop_accumulation`); ``"sum"`` adds them up, as Metta
        does. A last group that is smaller than k makes a step of its own.
    seed
        Key of the random laws of sampling; default: ``context.config.seed``, else the experience's.
    truncation
        ``"bootstrap"``: the value of an episode's final observation stands for what a time limit cut off.
        ``"legacy"``: truncation flags are ignored, as in Metta. ``"auto"``: bootstrap where the buffer holds
        ``truncation_values`` and the environment says how it resets. See `hotloop.loop_truncation`.
    boundary
        ``"exact"``: the last column of a row is computed like every other, with what arrived after it.
        ``"legacy"``: it has advantage 0, as in PufferLib and Metta. ``"auto"``: exact where the environment
        has `peek_observations` and ``sampling="loop"``. See `hotloop.loop_boundary`.
    reset_last_actions
        Show zeros as the last action after an episode's end.
    burn_in
        For a recurrent policy: leading columns of each segment that only bring its state up to date in
        training. They enter no loss.
    recurrent_check
        For a recurrent policy: when to make sure that the training forward repeats the rollout. ``"first"``:
        before the first update; ``"always"``: before that of every training phase. See
        `hotloop.loop_recurrent_check`.
    on_nan
        A NaN or an infinity: ``"raise"`` a `hotloop.NonFiniteError` that says where it came from, ``"skip"``
        the minibatch, ``"ignore"``. None: ``context.config.on_nan``, or raise. See `hotloop.loop_nonfinite`.
    sync_audit
        On CUDA: raise `hotloop.loop_audit.HostSyncError` where anything in a training phase waits for the
        device.
    capture_optimizer_step
        On CUDA: clip and step by a CUDA graph. For optimizers made with ``capturable=True``; see
        `hotloop.loop_captured_step`.

    Attributes: the constructor's, `accumulate_minibatches`, `policy_spec`, `last_action` (``[A, k]``, live).
    """

    def __init__(
        self,
        policy: Policy,
        experience: Experience,
        losses: dict[str, Any],
        optimizer: torch.optim.Optimizer,
        device: torch.device | str,
        context: ComponentContext,
        *,
        sampling: SamplingSide = "loop",
        accumulation: Accumulation = "mean",
        seed: int | None = None,
        truncation: TruncationMode = "auto",
        boundary: BoundaryMode = "auto",
        reset_last_actions: bool = False,
        burn_in: int = 0,
        recurrent_check: RecurrentCheck = "first",
        on_nan: OnNan | None = None,
        sync_audit: bool = False,
        capture_optimizer_step: bool = False,
    ) -> None:
        check_choice("sampling", sampling, ("loop", "losses"))
        check_choice("accumulation", accumulation, ("mean", "sum"))
        check_choice("recurrent_check", recurrent_check, ("first", "always", "off"))
        self.policy = policy
        self.experience = experience
        self.losses = losses
        self.optimizer = optimizer
        self.device = exact_device(device)
        self.context = context
        self.sampling = sampling
        self.accumulation = accumulation
        self.seed = seed
        self.accumulate_minibatches = experience.accumulate_minibatches
        self.policy_spec = policy.get_agent_experience_spec()
        self._policy_keys = [key for key, _ in spec_leaves(normalize_spec(self.policy_spec))]
        legacy = truncation == "legacy"  # the reference knows no invalid steps either
        self._steps = StepBuilder(
            experience, self.policy_spec, reset_last_actions=reset_last_actions, all_valid=legacy
        )
        self._truncation = TruncationValues(experience, policy, self._steps, truncation)
        self._boundary = RowBoundary(
            experience, policy, self._steps, self._truncation, boundary, loop_samples=sampling == "loop"
        )
        self._states = policy_states(policy, experience, burn_in=burn_in, sampling=sampling)
        self._recurrent_check = RecurrentSelfCheck(recurrent_check, self._states)
        if sampling == "loop":
            check_entries(experience.buffer)
        self._env_index_cache = experience._range_tensor.to(device=self.device, dtype=torch.int64)
        self._update_epochs = 0
        self._group: Group | None = None
        self._zero = torch.zeros((), dtype=torch.float32, device=self.device)
        self._guard = NonFiniteGuard(policy, experience, losses, on_nan)
        self._arrivals = Arrivals()
        self._memory: dict[str, Tensor] = {}  # of a minibatch, overwritten by the next one
        self._gradients = GradientAverage(policy)
        self._draw_memory: dict[tuple[int, int], DrawMemory] = {}
        self._lane = TrainingLane(experience, self._arrivals, self._guard)
        parts = (optimizer, losses, self._guard, self._recurrent_check)
        self._on_device = TrainingOnDevice(self.device, *parts, sync_audit, capture_optimizer_step)

    @property
    def last_action(self) -> Tensor:
        """``[A, k]``, live: each agent's last action (int32 or int64 for discrete spaces, else floating)."""
        return self._steps.last_actions.buffer

    def on_epoch_start(self, context: ComponentContext) -> None:
        """Pass on the hook: `on_epoch_start` of each loss, or its older name `on_new_training_run`."""
        for loss in self.losses.values():
            hook = getattr(loss, "on_epoch_start", None) or loss.on_new_training_run
            hook(context)

    def add_last_action_to_td(self, td: TensorDictBase, env: Any = None) -> None:
        """Set ``td["last_actions"]`` ``[n, k]`` to the last actions of the agents ``td["training_env_ids"]``.

        `env` is accepted for compatibility; the layout of actions is known from the buffer, or from the first
        environment that was stepped.
        """
        if env is not None:
            self._steps.adopt_action_space(env)
        ids = td["training_env_ids"].reshape(-1)
        td["last_actions"] = self.last_action.index_select(0, ids.to(self.last_action.device))

    def begin_episodes(self) -> None:
        """All agents are at the beginning of an episode: call it when the environment was replaced or reset
        from outside. A recurrent policy's states begin anew."""
        if self._states is not None:
            self._states.begin_anew()

    # Rollout

    def rollout_phase(self, env: TrainingEnvironment, context: ComponentContext) -> RolloutResult:
        """Step the environment until the experience holds a whole rollout.

        Per step: observations are fetched and put into a flat TensorDict ``[n]``, every loss's `rollout`
        sees it (one of them runs the policy and stores the step), the actions go to the environment. The
        first of its keys are Metta's; ``valid`` and ``truncation_values`` are there when the buffer holds
        them.

        Raises ValueError when the environment does not have the agents that the experience was built for,
        serves a slice that is not contiguous, or when no loss wrote ``actions`` (or in the wrong shape);
        IndexError when the slice exceeds the agents; RuntimeError when two losses store the same step or
        none ever does.
        """
        first_agent = ranks.rank_and_size()[0] * self.experience.total_agents
        with AgentDraws(ranks.from_first(draw_key()), first_agent, self._draw_memory) as draws:
            return self._collect(env, context, draws)

    def _collect(
        self, env: TrainingEnvironment, context: ComponentContext, draws: AgentDraws
    ) -> RolloutResult:
        experience, steps, losses = self.experience, self._steps, list(self.losses.values())
        states = self._states
        steps.begin_rollout(env, context)
        self._guard.begin_rollout(env, context)
        self._truncation.begin_rollout(env)
        self._boundary.begin_rollout(env)
        if states is not None:
            states.begin_rollout(env)
        experience.reset_for_rollout()
        for loss in losses:
            loss.on_rollout_start(context)

        stopwatch = context.stopwatch
        direct = DirectActing.of(self.policy, experience, self.losses, steps, context)
        plain = direct if in_host_memory(experience.device) else None
        lane = RolloutLane.of(
            plain, self.policy, experience, steps, self._truncation, self._boundary, context, draws
        )
        tally, idle_steps = RolloutTally(), 0
        window: slice | None = None
        while not experience.ready_for_training:
            fetched = None if lane is None else lane.run(env, tally)
            if lane is not None and experience.ready_for_training:
                window = lane.window
                break
            with stopwatch("_rollout.env_wait"):
                step = steps.unpack(env.get_observations() if fetched is None else fetched)
            window = step.window.window
            stored = experience.stored_steps
            context.training_env_id = window
            td: TensorDictBase | None = None
            asked = self._boundary.before_step(step.window) or self._truncation.asks_for_values(step)
            if direct is not None and not asked and direct.accepts(step):
                with stopwatch("_rollout.inference"):
                    draws.act(window.start, window.stop)
                    actions, rewards = direct.act(step, context), step.rewards
                    draws.set_aside()
            else:
                with stopwatch("_rollout.td_prep"):
                    td = steps.build(step, context)
                with stopwatch("_rollout.inference"):
                    self._prepare(td, step, env, begins_segments=True)
                    draws.act(window.start, window.stop)
                    for loss in losses:
                        loss.rollout(td, context)
                    draws.set_aside()
                    if states is not None:
                        states.take_back(td, step)
                actions, rewards = checked_actions(td, step.window.agents, steps.action_width), td["rewards"]
                steps.remember(td, actions, step.window)
            self._boundary.after_step(td, step.window, experience.stored_steps > stored)
            steps.track_rewards(rewards, step.window, context)
            with stopwatch("_rollout.send"):
                self._guard.send(env, actions, window)
            tally.count(step.infos, step.num_steps)
            idle_steps = checked_progress(experience, stored, idle_steps)
        self._truncation.end_rollout()
        kept = states.state_dict() if states is not None and self._boundary.active else None
        self._boundary.end_rollout(env, context, self._prepare, plain=lane is not None)
        if states is not None and kept is not None:  # looking at the newest step must not move them
            states.load_state_dict(kept)
        context.training_env_id = window
        return tally.result(window)

    def _prepare(self, td: TensorDictBase, step: EnvStep, env: Any, *, begins_segments: bool = False) -> None:
        """Before the policy sees a step: the states of recurrent policies, and V of final observations, for
        which the state is that of the episode which ends. A step that is only looked at begins no segment."""
        if self._states is not None:
            self._states.hand_out(td, step.window)
        self._truncation.add_to(td, step, env)
        if self._states is not None:
            self._states.reset_where_ended(step, begins_segments=begins_segments)

    # Training

    def training_phase(
        self, context: ComponentContext, update_epochs: int, max_grad_norm: float = 0.5
    ) -> tuple[dict[str, float], int]:
        """Pass over the experience `update_epochs` times; the losses' statistics and the number of passes
        made.

        Gradients are clipped to the `max_grad_norm` of the first loss whose configuration has one, else to
        the argument. When a loss asks to stop, its minibatch is dropped, along with gradients accumulated
        for an unfinished step, and the pass under way is the last (and counts). Raises NonFiniteError.
        """
        losses = list(self.losses.values())
        shared = shared_of_phase(self.experience, self.losses, context) if self.sampling == "losses" else None
        self.experience.rank, self.experience.world_size = ranks.rank_and_size()
        self.experience.reset_importance_sampling_ratios()
        self._guard.begin_phase(context)
        self._on_device.begin_phase()
        for loss in losses:
            loss.zero_loss_tracker()
        with context.stopwatch("_train.forward"):
            self._recurrent_check(self.policy, self.experience, self._policy_keys)

        epochs_trained = 0
        stop = False
        parameters = list(self.policy.parameters())  # the walk through the modules takes as long as clipping
        with self._on_device.audited(context):
            while epochs_trained < update_epochs and not stop:
                if hasattr(context.state, "update_epoch"):
                    context.state.update_epoch = epochs_trained
                stop = self._update_epoch(context, shared, parameters, max_grad_norm)
                epochs_trained += 1
                self._update_epochs += 1
            for loss in losses:
                loss.on_train_phase_end(context)
        stats = {name: value for loss in losses for name, value in loss.stats().items()}
        return self._guard.checked(stats), epochs_trained

    def _update_epoch(
        self,
        context: ComponentContext,
        phase_shared: TensorDictBase | None,
        parameters: Sequence[Tensor],
        max_grad_norm: float,
    ) -> bool:
        """One pass over the minibatches; whether a loss asked to stop."""
        stopwatch, optimizer = context.stopwatch, self.optimizer
        count, group = self.experience.num_minibatches, max(1, self.accumulate_minibatches)
        advantages = after = None
        if phase_shared is None:
            config, bootstraps = context.config.advantage, self._truncation.bootstraps
            with stopwatch("_train.advantage"):
                after = self._boundary.after(config, bootstraps)
                advantages = self._arrivals.compute(self.experience.buffer, config, bootstraps, after)
            set_entries(self.experience.buffer, {"advantages_full": advantages})
        lane = group == 1 and self._states is None and not self._guard.may_undo
        lane = lane and in_host_memory(self.experience.device)
        trained = 0
        if advantages is not None and lane and self._lane.opens(self.policy, self.losses, context):
            trained, stop = self._lane.run(
                self.policy, self.losses, optimizer, advantages, context, after,
                self.seed, self._update_epochs, parameters, max_grad_norm,
            )  # fmt: skip
            if stop:
                return True
        for mb_idx in range(trained, count):
            members = range(mb_idx // group * group, min(count, (mb_idx // group + 1) * group))
            if mb_idx % group == 0:
                self._guard.begin_step(optimizer)
                self._group = self._survey(advantages, context, members, after)
            if advantages is None:
                assert phase_shared is not None
                with stopwatch("_train.losses"):  # losses that sample for themselves
                    total, phase_shared, stop = sum_losses(
                        self.losses, phase_shared, context, mb_idx, None, self._zero
                    )
            else:
                total, stop = self._loop_minibatch(advantages, context, mb_idx, after)
            if ranks.any_rank(stop):
                if mb_idx % group:
                    self._guard.begin_step(optimizer)
                return True
            check_graph(total, self.losses)
            with stopwatch("_train.backward"):
                if self._group is not None:
                    total = total * self._group.weights[mb_idx - members.start].to(total)
                elif self.accumulation == "mean" and len(members) > 1:
                    total = total / len(members)
                total.backward()
            if (mb_idx + 1) % group == 0 or mb_idx + 1 == count:
                with stopwatch("_train.optimizer"):
                    self._gradients()
                    limit = max_grad_norm_of(self.losses, max_grad_norm)
                    self._on_device.step(optimizer, parameters, limit)
            for loss in self.losses.values():
                loss.on_mb_end(context, mb_idx)
        return False

    def _loop_minibatch(
        self,
        advantages: Tensor,
        context: ComponentContext,
        mb_idx: int,
        after: AfterRows | None = None,
    ) -> tuple[Any, bool]:
        """Draw a minibatch, run the policy on it, and sum up the losses."""
        stopwatch = context.stopwatch
        with stopwatch("_train.sample"):
            shared, columns, recurrent = self._draw(advantages, context, mb_idx)
        if mb_idx == 0:
            full = NonTensorData(advantages, batch_size=shared.batch_size, device=shared.device)
            set_entries(shared, {"advantages_full": full})
        self._guard.watch(mb_idx, shared, after)
        sampled_mb = shared["sampled_mb"]
        weight = rank_weight(sampled_mb) if self._group is None else None
        if self._group is not None:
            self._group.share_moments(shared)  # its weights count the ranks already
        with stopwatch("_train.forward"):
            policy_td = forward_policy_for_training(self.policy, sampled_mb, self._policy_keys, recurrent)
        set_entries(shared, {"policy_td": policy_td})
        self._lane.see(policy_td)
        with stopwatch("_train.advantage"):
            if wants_ratio(self.losses, self.experience.buffer):
                ratio = importance_ratio(sampled_mb, policy_td)
                if ratio is not None:
                    set_entries(shared, {"importance_sampling_ratio": ratio})
            advantages_pg = self._pg_advantages(shared, columns, context, after)
            set_entries(shared, {"advantages_pg": advantages_pg})
        with stopwatch("_train.losses"):
            used: set[str] = set()
            total, _, stop = sum_losses(self.losses, shared, context, mb_idx, used, self._zero)
            if not stop:
                total = add_unused_outputs(total, policy_td, used)
        if weight is not None:
            total = total * weight.to(total.dtype)
        return total, stop

    def _draw(self, advantages: Tensor, context: ComponentContext, mb_idx: int) -> Drawn:
        """A minibatch, in memory that the next one overwrites."""
        shared, columns = self.experience.sample_columns(**self._sampling(advantages, context, mb_idx))
        recurrent = None
        if self._states is not None:
            recurrent = self._states.training_inputs(shared["sampled_mb"], shared["indices"][:, 0])
        return Drawn(shared, columns, recurrent)

    def _sampling(self, advantages: Tensor, context: ComponentContext, mb_idx: int) -> dict[str, Any]:
        key = (self._arrivals.columns, advantages, mb_idx, self.seed, self._update_epochs)
        return sampling_arguments(self.experience, context, *key)

    def _pg_advantages(
        self, shared: TensorDictBase, columns: Any, context: ComponentContext, after: AfterRows | None
    ) -> Tensor:
        critic, memory = uses_delta_lambda(self.losses, context), self._memory
        return policy_gradient_advantages(
            shared, columns, context.config.advantage, memory, delta_lambda=critic, after=after
        )

    def _survey(
        self, advantages: Tensor | None, context: ComponentContext, members: range, after: AfterRows | None
    ) -> Group | None:
        """What the minibatches of an optimizer step share; None for a single one, and where losses sample."""
        if len(members) == 1 or advantages is None or self.accumulation == "sum":
            return None

        def advantages_of(drawn: Drawn) -> Tensor:
            inputs = (drawn.shared["sampled_mb"], self._policy_keys, drawn.recurrent)
            drawn.shared["policy_td"] = forward_policy_for_training(self.policy, *inputs)
            return self._pg_advantages(drawn.shared, drawn.columns, context, after)

        with context.stopwatch("_train.survey"):
            drawn = (self._draw(advantages, context, mb_idx) for mb_idx in members)
            return survey(drawn, advantages_of if normalizes_advantages(self.losses) else None)

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """What the loop remembers between epochs: the agents' last actions and recurrent states, and the
        count of update epochs that keys its random draws. The policy, the optimizer and `context.state` save
        themselves; the experience is filled anew by each rollout."""
        return {
            "last_actions": self._steps.state_dict(),
            "update_epochs": self._update_epochs,
            "policy_states": None if self._states is None else self._states.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned. ValueError where actions or states have another layout."""
        if self._states is not None:
            self._states.load_state_dict(state.get("policy_states"))
        self._steps.load_state_dict(state["last_actions"])
        self._update_epochs = int(state["update_epochs"])
