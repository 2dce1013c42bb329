"""The base of all losses: the hooks that the loop calls, run gates and statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from tensordict import TensorDictBase
from torch import Tensor

from hotloop.losses import ranks
from hotloop.losses.statistics import StatisticTracker, joint_means

if TYPE_CHECKING:
    from hotloop.context import ComponentContext

ExperienceSpec = dict[str, Any]


class LossConfig(BaseModel):
    """Settings of a loss. Mutable and checked on assignment: schedules change them between phases, and the
    losses read them at every use."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class Loss:
    """One term of the training objective, with a say in the rollout. The hooks are those of Metta's losses.

    Order per epoch: `on_epoch_start`; `on_rollout_start`; `rollout` for every step; `zero_loss_tracker`; for
    every minibatch `policy_output_keys`, `train`, `on_mb_end`; `on_train_phase_end`; `stats`. Subclasses
    override `run_rollout` and `run_train`, which are called when the run gates of the context allow it.

    Parameters
    ----------
    policy
        See `hotloop.policies.Policy`.
    cfg
        An instance of the class's `config_type`; its defaults when None. Also readable as `loss_cfg`.
    trainer_cfg, env
        Kept as attributes for subclasses that want them.
    device
        Where statistics accumulate: the device of the training batch.
    instance_name
        Key of this loss in the loop's dict; run gates are looked up under it.
    """

    config_type: ClassVar[type[LossConfig]] = LossConfig
    #: whether `train` reads ``shared["importance_sampling_ratio"]``; where no loss does the loop makes none
    reads_ratio: ClassVar[bool] = True

    def __init__(
        self,
        policy: Any,
        cfg: LossConfig | None = None,
        *,
        trainer_cfg: Any = None,
        env: Any = None,
        device: torch.device | str = "cpu",
        instance_name: str = "",
    ) -> None:
        name = type(self).__name__
        for member in ("forward", "get_agent_experience_spec", "reset_memory"):
            if not callable(getattr(policy, member, None)):
                raise TypeError(f"{name}: policy must have a method {member}(), got {type(policy).__name__}")
        if cfg is None:
            cfg = self.config_type()
        elif not isinstance(cfg, self.config_type):
            raise TypeError(f"{name}: cfg must be a {self.config_type.__name__}, got {type(cfg).__name__}")
        self.policy = policy
        self.cfg: Any = cfg
        self.trainer_cfg = trainer_cfg
        self.env = env
        self.device = torch.device(device)
        self.instance_name = instance_name
        self.policy_experience_spec = policy.get_agent_experience_spec()
        self.replay: Any = None
        self.loss_tracker = StatisticTracker(self.device)
        self._zero_tensor = torch.zeros((), dtype=torch.float32, device=self.device)
        self._context: ComponentContext | None = None

    @property
    def loss_cfg(self) -> Any:
        """The same object as `cfg`."""
        return self.cfg

    @loss_cfg.setter
    def loss_cfg(self, cfg: Any) -> None:
        self.cfg = cfg

    # Attachment

    def attach_context(self, context: ComponentContext) -> None:
        """Remember the context for hooks that are called without one."""
        self._context = context

    def attach_replay_buffer(self, experience: Any) -> None:
        """Remember the experience (`replay`) that rollouts are stored in."""
        self.replay = experience

    def get_experience_spec(self) -> ExperienceSpec:
        """Buffer entries that this loss needs, ``{key: (shape, dtype)}`` per agent and step."""
        return {}

    # Hooks

    def on_epoch_start(self, context: ComponentContext | None = None) -> None:
        """Called before a rollout and the training on it."""
        self._require_context(context)

    def on_new_training_run(self, context: ComponentContext | None = None) -> None:
        """Older name of `on_epoch_start`."""
        self.on_epoch_start(context)

    def on_rollout_start(self, context: ComponentContext | None = None) -> None:
        """Called before the first step of a rollout: the policy forgets its recurrent state."""
        self._require_context(context)
        self.policy.reset_memory()

    def rollout(self, td: TensorDictBase, context: ComponentContext | None = None) -> None:
        """Called for every rollout step with the flat td ``[n]`` of the slice being served."""
        ctx = self._require_context(context)
        if not self._loss_gate_allows("rollout", ctx):
            return
        if ctx.training_env_id is None:
            raise RuntimeError(f"{type(self).__name__}.rollout: context.training_env_id must be set before")
        self.run_rollout(td, ctx)

    def run_rollout(self, td: TensorDictBase, context: ComponentContext) -> None:
        """Override: what this loss does in a rollout step."""

    def zero_loss_tracker(self) -> None:
        """Forget the statistics of the last training phase."""
        self.loss_tracker.clear()

    def policy_output_keys(self, policy_td: TensorDictBase | None = None) -> set[str]:
        """Keys of the policy's output that this loss differentiates; others get a zero gradient from the
        loop."""
        return set()

    def train(
        self, shared_loss_data: TensorDictBase, context: ComponentContext | None, mb_idx: int
    ) -> tuple[Tensor, TensorDictBase, bool]:
        """Called for every minibatch.

        Returns the loss (a scalar with a graph, or a plain 0), the shared TensorDict that later losses get,
        and whether training should stop before this minibatch is applied.
        """
        ctx = self._require_context(context)
        if not self._loss_gate_allows("train", ctx):
            return self._zero(), shared_loss_data, False
        return self.run_train(shared_loss_data, ctx, mb_idx)

    def run_train(
        self, shared_loss_data: TensorDictBase, context: ComponentContext, mb_idx: int
    ) -> tuple[Tensor, TensorDictBase, bool]:
        """Override: the loss of one minibatch."""
        return self._zero(), shared_loss_data, False

    def on_mb_end(self, context: ComponentContext | None, mb_idx: int) -> None:
        """Called after the backward pass (and optimizer step) of a minibatch."""
        self._require_context(context)

    def on_train_phase_end(self, context: ComponentContext | None = None) -> None:
        """Called after the last minibatch, before `stats`."""
        self._require_context(context)

    # Statistics

    def track(self, name: str, value: Tensor | float, weight: Tensor | float = 1.0) -> None:
        """Add a scalar to the statistic `name`, on the device: no host read. See `StatisticTracker.add`."""
        self.loss_tracker.add({name: value}, weight)

    def stats(self) -> dict[str, float]:
        """Means of everything tracked since `zero_loss_tracker`, on all ranks together, read with one
        transfer. Called by all ranks, or by none."""
        return joint_means(ranks.gathered(self.loss_tracker.totals()))

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """What this loss remembers from one epoch to the next: plain values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`; what is missing stays as it is."""

    # For subclasses

    def _loss_gate_allows(self, phase: str, context: ComponentContext) -> bool:
        """Whether ``context.loss_run_gates`` lets this loss take part in ``"rollout"`` or ``"train"``; no
        entry: yes."""
        gates = getattr(context, "loss_run_gates", None)
        if not gates:
            return True
        entry = gates.get(self.instance_name) or gates.get(type(self).__name__.lower())
        return True if not entry else bool(entry.get(phase, True))

    def _require_context(self, context: ComponentContext | None = None) -> ComponentContext:
        if context is not None:
            self._context = context
            return context
        if self._context is None:
            raise RuntimeError(f"{type(self).__name__}: no context given and none attached (attach_context)")
        return self._context

    def _require_replay(self) -> Any:
        if self.replay is None:
            raise RuntimeError(f"{type(self).__name__}: no experience attached (attach_replay_buffer)")
        return self.replay

    def _require(self, td: TensorDictBase, key: str, where: str) -> Any:
        """Entry `key` (a tensor or TensorDict), or a ValueError that says what is missing from what."""
        value = td.get(key, None)
        if value is None:
            present = sorted(map(str, td.keys()))
            raise ValueError(f"{type(self).__name__}.train: {where} must hold {key!r}, got only {present}")
        return value

    def _zero(self) -> Tensor:
        return self._zero_tensor


def valid_mask(minibatch: TensorDictBase | Mapping[Any, Tensor]) -> Tensor | None:
    """The minibatch's ``valid`` entry as bool, None when it has none (everything counts)."""
    valid: Tensor | None = minibatch.get("valid", None)
    return valid if valid is None or valid.dtype == torch.bool else valid != 0
