"""The sections of the settings of `hotloop train`."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from hotloop.context import AdvantageConfig, SamplingConfig
from hotloop.losses import PPOActorConfig, PPOCriticConfig

EnvBackend: TypeAlias = Literal["gymnasium", "envpool", "pufferlib", "mettagrid", "atari"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True, use_attribute_docstrings=True)


class EnvironmentConfig(Section):
    """How the environments are made."""

    vectorization: Literal["auto", "vector_entry_point", "sync", "async"] = "auto"
    """auto takes the environment's own vectorised implementation where there is one, else sync. gymnasium and
    atari only."""
    autoreset: Literal["same_step", "next_step"] | None = None
    """How episodes restart; None leaves it to the vectorisation. gymnasium only."""
    action_bounds: Literal["clip", "scale", "none"] = "clip"
    """What happens to continuous actions outside the space's bounds."""
    slices: int = Field(default=1, ge=1)
    """Groups that take turns, so that one steps while the policy acts on another. envpool and
    pufferlib only."""
    workers: int = Field(default=0, ge=0)
    """Processes of PufferLib; 0 steps in this one. pufferlib only."""
    kwargs: dict[str, bool | int | float | str] | None = None
    """Arguments of the environment, as name value pairs."""


class RolloutConfig(Section):
    """Sizes of an epoch, in agent steps, and how often each is trained on."""

    horizon: int = Field(default=32, ge=2)
    """Steps in a segment."""
    batch_size: int | None = Field(default=None, ge=1)
    """Agent steps in an epoch: a multiple of num_envs * horizon, which it is when None."""
    minibatch_size: int | None = Field(default=None, ge=1)
    """Agent steps in a minibatch: whole segments, a divisor of batch_size. None: a quarter of it."""
    accumulate: int = Field(default=1, ge=1)
    """Parts that a minibatch goes through the network in, to save memory: the learning stays the same, but
    for prioritized sampling, which draws each part by itself."""
    update_epochs: int = Field(default=4, ge=1)
    """Passes over the batch in an epoch."""
    boundary: Literal["auto", "exact", "legacy"] = "auto"
    """Last column of a segment: see hotloop.CoreTrainingLoop. auto is exact with hotloop's environments."""


class PolicyConfig(Section):
    """The policy network."""

    kind: Literal["auto", "mlp", "token", "nature_cnn", "lstm", "gru"] = "auto"
    """auto: nature_cnn for stacked images, token for uint8 [n, 3], else mlp. lstm and gru put a recurrent
    core behind their hidden layers."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of actor and critic each; of the layers before a recurrent core.
    nature_cnn has one of its own."""
    core_size: int = Field(default=64, ge=1)
    """Hidden units of a recurrent core."""
    burn_in: int = Field(default=0, ge=0)
    """Leading steps of each segment that only bring a recurrent state up to date in training."""
    recurrent_check: Literal["first", "always", "off"] = "first"
    """When to prove that training repeats the rollout's log probabilities, with a recurrent policy."""
    log_std_init: float = 0.0
    """Start of the log standard deviation of continuous actions."""


class OptimizerConfig(Section):
    """Adam, and the limit on the gradient."""

    learning_rate: float = Field(default=2.5e-3, gt=0)
    """Step size."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the mean of gradients."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the mean of squared gradients."""
    eps: float = Field(default=1e-5, gt=0)
    """Added to the denominator."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2 penalty."""
    max_grad_norm: float = Field(default=0.5, gt=0)
    """Gradients are scaled down to this norm."""


class ScheduleConfig(Section):
    """How a setting changes with the agent steps made; see `hotloop.trainer.schedules.scheduled`."""

    kind: Literal["constant", "linear", "cosine"] = "constant"
    """How it goes from its value to final_fraction of it, over total_timesteps."""
    final_fraction: float = Field(default=0.0, ge=0)
    """What is left of the value at the end, unless the kind is constant."""
    warmup_steps: int = Field(default=0, ge=0)
    """Agent steps over which it rises linearly from 0 before."""


class SchedulesConfig(Section):
    """Settings that change during a run."""

    learning_rate: ScheduleConfig = Field(default_factory=ScheduleConfig)
    """Schedule of optimizer.learning_rate."""
    ent_coef: ScheduleConfig = Field(default_factory=ScheduleConfig)
    """Schedule of actor.ent_coef."""


class NormalizeConfig(Section):
    """Running normalisation; see `hotloop.normalize`."""

    observations: bool = False
    """Shift and scale observations to mean 0 and variance 1, each component by itself."""
    rewards: bool = False
    """Divide rewards by the standard deviation of the discounted return."""
    clip_observations: float = Field(default=10.0, gt=0)
    """Normalised observations are clipped to plus and minus this."""
    clip_rewards: float = Field(default=10.0, gt=0)
    """Normalised rewards are clipped to plus and minus this."""


class EvaluationConfig(Section):
    """Episodes played between the epochs, which train nothing."""

    every: int | None = Field(default=None, ge=1)
    """Agent steps between evaluations; None makes none."""
    episodes: int = Field(default=20, ge=1)
    """Episodes of one evaluation."""
    greedy: bool = True
    """Take the most likely action, instead of drawing one as in training."""
    video: bool = False
    """Keep the first episode of every evaluation as a GIF, where the environment renders rgb_array."""


class ActorConfig(PPOActorConfig):
    """PPO's policy loss; see `hotloop.losses.PPOActorConfig`."""

    ent_coef: float = Field(default=0.0, ge=0)


class CriticConfig(PPOCriticConfig):
    """PPO's value loss; see `hotloop.losses.PPOCriticConfig`."""

    # The clip is in units of return, which differ from task to task.
    clip_vloss: bool = False


class TrainAdvantageConfig(AdvantageConfig):
    """The advantage estimate; see `hotloop.AdvantageConfig`."""

    gamma: float = Field(default=0.98, ge=0.0, le=1.0)


class TrainSamplingConfig(SamplingConfig):
    """How minibatches are drawn; see `hotloop.SamplingConfig`."""

    method: Literal["sequential", "permutation", "stratified", "prioritized"] = "permutation"


class OutputConfig(Section):
    """What a run writes besides metrics.csv."""

    tensorboard: bool = True
    """Write TensorBoard events."""
    plot: bool = True
    """Draw curve.png when the run ends or stops."""
    wandb: str | None = None
    """Weights & Biases project to log to as well."""
    checkpoint_seconds: float = Field(default=30.0, ge=0)
    """Least seconds between checkpoints; one is always written at the end."""
    keep_checkpoints: int = Field(default=2, ge=0)
    """Past checkpoints that are kept in checkpoints/ beside checkpoint.pt and best.pt."""
    line_seconds: float = Field(default=5.0, ge=0)
    """Least seconds between lines of progress where stdout is not a terminal."""
