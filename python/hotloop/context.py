"""What a training loop, its losses and its trainer share: configuration, counters, timers.

The member names are those that Metta's training components read, so that losses written for either system
run in both. Configuration objects are mutable on purpose: schedules change them between phases, and the
loop reads every value where it uses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hotloop.stopwatch import Stopwatch

__all__ = [
    "AdvantageConfig",
    "ComponentContext",
    "LoopConfig",
    "RewardCenteringConfig",
    "SamplingConfig",
    "Stopwatch",
    "TrainerState",
    "TrainingEnvWindow",
]


class _Config(BaseModel):
    """Mutable; unknown fields and wrong values are refused, on assignment too."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class SamplingConfig(_Config):
    """How a minibatch's segments are drawn.

    ``method``: ``"sequential"`` takes blocks of rows in order, ``"permutation"`` every row once an update
    epoch in a fresh random order, ``"stratified"`` likewise, one row of each block of S / B (see
    `hotloop.experience_strata`: the one random law whose minibatches are the same for any number of
    processes), ``"prioritized"`` rows without replacement with probability ~ (sum of
    |advantage|) ** ``prio_alpha`` (``prio_alpha = 0``: sequential). ``prio_beta0`` is the exponent of the
    importance weights at the start; it grows to 1 while training proceeds (Schaul et al. 2016, "Prioritized
    Experience Replay"): with ``beta_schedule`` ``"linear"`` until the end of training, with ``"reference"``
    ``prio_alpha`` times as fast, as in PufferLib and Metta; ``"constant"`` keeps it.

    ``law``: how ``"prioritized"`` draws, see `hotloop.ops.sample_segments`. ``"successive"``: without
    replacement, as PufferLib and Metta do, with weights that are approximate. ``"with_replacement"`` and
    ``"systematic"`` (without replacement): weights that are exact.
    """

    method: Literal["sequential", "permutation", "stratified", "prioritized"] = "sequential"
    prio_alpha: float = Field(default=0.0, ge=0.0)
    prio_beta0: float = Field(default=0.6, ge=0.0, le=1.0)
    law: Literal["successive", "with_replacement", "systematic"] = "successive"
    beta_schedule: Literal["linear", "reference", "constant"] = "reference"


class RewardCenteringConfig(_Config):
    """Average-reward baseline: rewards are taken relative to a running mean per agent, with step size
    ``beta`` (Naik et al. 2024, "Reward Centering"). The mean starts at ``initial_reward_mean``, in units of
    reward."""

    enabled: bool = False
    beta: float = Field(default=1e-3, ge=0.0, le=1.0)
    initial_reward_mean: float = 0.0


class AdvantageConfig(_Config):
    """Parameters of the advantage estimate; see ``hotloop.ops.puff_advantage``."""

    gamma: float = Field(default=0.99, ge=0.0, le=1.0)
    gae_lambda: float = Field(default=0.95, ge=0.0, le=1.0)
    vtrace_rho_clip: float = Field(default=1.0, gt=0.0)
    vtrace_c_clip: float = Field(default=1.0, gt=0.0)
    reward_centering: RewardCenteringConfig = Field(default_factory=RewardCenteringConfig)


class LoopConfig(_Config):
    """Sizes and methods of a run.

    ``total_timesteps``, ``batch_size`` and ``minibatch_size`` count agent steps: a rollout fills
    ``batch_size`` of them, as ``batch_size // bptt_horizon`` segments of ``bptt_horizon`` steps.
    ``update_epochs`` passes are made over each rollout. ``on_nan``: what a NaN or an infinity in
    observations, rewards, values or gradients leads to, see `hotloop.CoreTrainingLoop`.
    """

    total_timesteps: int = Field(default=500_000, gt=0)
    batch_size: int = Field(default=8192, gt=0)
    minibatch_size: int = Field(default=2048, gt=0)
    bptt_horizon: int = Field(default=64, gt=0)
    update_epochs: int = Field(default=1, ge=1)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    advantage: AdvantageConfig = Field(default_factory=AdvantageConfig)
    seed: int = Field(default=0, ge=0)
    on_nan: Literal["raise", "skip", "ignore"] = "raise"


@dataclass(slots=True)
class TrainingEnvWindow:
    """The agents ``[start, stop)`` that the environment served last, in a form that can be saved."""

    start: int
    stop: int
    step: int = 1

    def to_slice(self) -> slice:
        return slice(self.start, self.stop, self.step)

    @classmethod
    def from_slice(cls, window: slice) -> TrainingEnvWindow:
        return cls(window.start or 0, window.stop or 0, 1 if window.step is None else window.step)


@dataclass(slots=True)
class TrainerState:
    """What must be saved to go on later: plain numbers, dicts and one tensor.

    ``epoch`` counts update epochs (a training phase of k passes advances it by k), ``agent_step``
    environment steps of all agents; ``update_epoch`` is the pass under way inside a training phase, from 0.
    ``avg_reward``: float32 ``[A]`` on the loop's device, created by the loop. ``loss_run_gates``: ``{loss
    name: {"rollout" | "train": bool}}``, missing means open.
    """

    epoch: int = 0
    agent_step: int = 0
    update_epoch: int = 0
    training_env_window: TrainingEnvWindow | None = None
    avg_reward: Tensor | None = None
    latest_losses_stats: dict[str, float] = field(default_factory=dict)
    gradient_stats: dict[str, float] = field(default_factory=dict)
    loss_run_gates: dict[str, dict[str, bool]] = field(default_factory=dict)
    loss_states: dict[str, Any] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """A copy of every field, for ``torch.save``."""
        state = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        window, average = self.training_env_window, self.avg_reward
        state["training_env_window"] = None if window is None else [window.start, window.stop, window.step]
        state["avg_reward"] = None if average is None else average.detach().clone()
        for name in ("latest_losses_stats", "gradient_stats", "loss_states"):
            state[name] = dict(state[name])
        state["loss_run_gates"] = {name: dict(gates) for name, gates in self.loss_run_gates.items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned. Raises KeyError for a missing or an unknown field."""
        names = {entry.name for entry in fields(self)}
        if names != set(state):
            raise KeyError(
                f"TrainerState.load_state_dict: expected the fields {sorted(names)}, got {sorted(state)}"
            )
        for name, value in state.items():
            setattr(self, name, value)
        window = state["training_env_window"]
        self.training_env_window = None if window is None else TrainingEnvWindow(*window)


class ComponentContext:
    """The object that every hook gets. Every argument has a default: a script says only what it cares about.

    ``losses`` is usually empty at first and filled once the losses exist. ``state`` holds everything that a
    checkpoint needs; the properties below are views of it.
    """

    def __init__(
        self,
        *,
        config: Any = None,
        state: TrainerState | None = None,
        policy: Any = None,
        env: Any = None,
        experience: Any = None,
        optimizer: Any = None,
        losses: dict[str, Any] | None = None,
        stopwatch: Any = None,
        distributed: Any = None,
        run_name: str | None = None,
    ) -> None:
        self.config = LoopConfig() if config is None else config
        self.state = TrainerState() if state is None else state
        self.policy = policy
        self.env = env
        self.experience = experience
        self.optimizer = optimizer
        self.losses: dict[str, Any] = {} if losses is None else losses
        self.stopwatch = Stopwatch() if stopwatch is None else stopwatch
        self.distributed = distributed
        self.run_name = run_name

    @property
    def epoch(self) -> int:
        """Update epochs made so far."""
        return self.state.epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        self.state.epoch = value

    @property
    def agent_step(self) -> int:
        """Environment steps made so far, over all agents and processes."""
        return self.state.agent_step

    @agent_step.setter
    def agent_step(self, value: int) -> None:
        self.state.agent_step = value

    @property
    def training_env_id(self) -> slice | None:
        """The slice of agents served last; None before the first rollout of an epoch."""
        window = self.state.training_env_window
        return None if window is None else window.to_slice()

    @training_env_id.setter
    def training_env_id(self, value: slice | None) -> None:
        self.state.training_env_window = None if value is None else TrainingEnvWindow.from_slice(value)

    @property
    def latest_losses_stats(self) -> dict[str, float]:
        """Statistics of the last training phase."""
        return self.state.latest_losses_stats

    @latest_losses_stats.setter
    def latest_losses_stats(self, value: dict[str, float]) -> None:
        self.state.latest_losses_stats = dict(value)

    @property
    def gradient_stats(self) -> dict[str, float]:
        """Statistics of the gradients, where a component gathers them."""
        return self.state.gradient_stats

    @gradient_stats.setter
    def gradient_stats(self, value: dict[str, float]) -> None:
        self.state.gradient_stats = dict(value)

    @property
    def loss_run_gates(self) -> dict[str, dict[str, bool]]:
        """``{loss name: {"rollout" | "train": bool}}``: whether a loss takes part; missing means yes."""
        return self.state.loss_run_gates

    @loss_run_gates.setter
    def loss_run_gates(self, value: dict[str, dict[str, bool]]) -> None:
        self.state.loss_run_gates = value

    def reset_for_epoch(self) -> None:
        """Forget the slice of the last epoch."""
        self.training_env_id = None

    def record_rollout(self, agent_steps: int, world_size: int = 1) -> None:
        """Count a rollout of ``agent_steps`` steps in each of ``world_size`` processes."""
        self.state.agent_step += agent_steps * world_size

    def advance_epoch(self, epochs: int) -> None:
        """Count ``epochs`` update epochs."""
        self.state.epoch += epochs
