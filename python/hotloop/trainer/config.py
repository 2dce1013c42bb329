"""Every setting of `hotloop train`, with the defaults that solve CartPole-v1 fastest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hotloop.context import AdvantageConfig, LoopConfig, SamplingConfig
from hotloop.losses import PPOActorConfig, PPOCriticConfig
from hotloop.trainer.run_dir import read_yaml_mapping

EnvBackend: TypeAlias = Literal["gymnasium", "envpool", "pufferlib", "mettagrid", "atari"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True, use_attribute_docstrings=True)


class EnvironmentConfig(_Section):
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


class RolloutConfig(_Section):
    """Sizes of an epoch, in agent steps, and how often each is trained on."""

    horizon: int = Field(default=32, ge=2)
    """Steps in a segment."""
    batch_size: int | None = Field(default=None, ge=1)
    """Agent steps in an epoch: a multiple of num_envs * horizon, which it is when None."""
    minibatch_size: int | None = Field(default=None, ge=1)
    """Agent steps in a minibatch: whole segments, a divisor of batch_size. None: a quarter of it."""
    update_epochs: int = Field(default=4, ge=1)
    """Passes over the batch in an epoch."""
    boundary: Literal["auto", "exact", "legacy"] = "auto"
    """Last column of a segment: see hotloop.CoreTrainingLoop. auto is exact with hotloop's environments."""


class PolicyConfig(_Section):
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


class OptimizerConfig(_Section):
    """Adam, and the limit on the gradient."""

    learning_rate: float = Field(default=2.5e-3, gt=0)
    """Step size."""
    anneal: bool = False
    """Lower the learning rate linearly to 0 over total_timesteps, whenever the run is stopped."""
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


class OutputConfig(_Section):
    """What a run writes besides metrics.csv."""

    tensorboard: bool = True
    """Write TensorBoard events."""
    plot: bool = True
    """Draw curve.png when the run ends or stops."""
    checkpoint_seconds: float = Field(default=30.0, ge=0)
    """Least seconds between checkpoints; one is always written at the end."""
    line_seconds: float = Field(default=5.0, ge=0)
    """Least seconds between lines of progress where stdout is not a terminal."""


class TrainConfig(_Section):
    """Train a policy with PPO."""

    env: str = "CartPole-v1"
    """Id of an environment, as the backend names them; `hotloop envs` lists them."""
    env_backend: EnvBackend = "gymnasium"
    """Library that makes and steps the environments; `hotloop envs` says which are installed."""
    total_timesteps: int = Field(default=500_000, ge=1)
    """Agent steps after which the run ends."""
    seed: int = Field(default=0, ge=0)
    """Decides environments, network and sampling: the same seed gives the same curve."""
    num_envs: int = Field(default=64, ge=1)
    """Agents that run side by side: one an environment, 24 an arena of MettaGrid."""
    device: str = "cpu"
    """Where the policy lives: cpu, cuda or cuda:1, say."""
    threads: int | None = Field(default=1, ge=1)
    """CPU threads of torch and of the kernels; None leaves torch's choice. 1 is best for small networks."""
    keep_freed_memory: bool = True
    """Keep freed memory for the next allocation instead of giving it back: see hotloop.keep_freed_memory."""
    rank_timeout_seconds: float = Field(default=300.0, gt=0)
    """Under torchrun: how long a process waits for the others before it takes them for lost."""
    run_dir: Path | None = None
    """Where the run is written; runs/<env>-seed<seed>-<time> when None."""
    resume: Path | None = None
    """Run directory to continue. `--resume` alone continues --run-dir."""
    stop_at_return: float | None = None
    """End the run early when the mean return of the last 100 episodes reaches this."""
    quiet: bool = False
    """Print nothing but the last line."""
    environment: EnvironmentConfig = Field(default_factory=EnvironmentConfig)
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    policy: PolicyConfig = Field(default_factory=PolicyConfig)
    actor: ActorConfig = Field(default_factory=ActorConfig)
    critic: CriticConfig = Field(default_factory=CriticConfig)
    advantage: TrainAdvantageConfig = Field(default_factory=TrainAdvantageConfig)
    sampling: TrainSamplingConfig = Field(default_factory=TrainSamplingConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    output: OutputConfig = Field(default_factory=OutputConfig)

    def resolved(self) -> TrainConfig:
        """A copy with every size filled in and checked against the others.

        Raises:
            ValueError: sizes that do not divide; the message names the fields and says what would work.
        """
        horizon = self.rollout.horizon
        slab = self.num_envs * horizon
        batch = self.rollout.batch_size if self.rollout.batch_size is not None else slab
        if batch % slab:
            raise ValueError(
                f"rollout.batch_size must be a multiple of num_envs * rollout.horizon = {self.num_envs} * "
                f"{horizon} = {slab}, got {batch}: {_either(_around(batch, slab))} would work"
            )
        segments = batch // horizon
        minibatch = self.rollout.minibatch_size
        if minibatch is None:
            minibatch = horizon * max(n for n in _divisors(segments) if n <= max(1, segments // 4))
        if minibatch % horizon or segments % (minibatch // horizon):
            fitting = [horizon * n for n in _divisors(segments)]
            raise ValueError(
                f"rollout.minibatch_size must be whole segments of {horizon} steps and divide "
                f"rollout.batch_size = {batch}, got {minibatch}: "
                f"{_either(_nearest(fitting, minibatch))} would work"
            )
        resolved = self.model_copy(deep=True)
        resolved.rollout.batch_size = batch
        resolved.rollout.minibatch_size = minibatch
        return resolved

    def loop_config(self) -> LoopConfig:
        """The part that the loop and the losses read, of a resolved configuration."""
        if self.rollout.batch_size is None or self.rollout.minibatch_size is None:
            return self.resolved().loop_config()
        return LoopConfig(
            total_timesteps=self.total_timesteps,
            batch_size=self.rollout.batch_size,
            minibatch_size=self.rollout.minibatch_size,
            bptt_horizon=self.rollout.horizon,
            update_epochs=self.rollout.update_epochs,
            sampling=SamplingConfig(**self.sampling.model_dump()),
            advantage=AdvantageConfig(**self.advantage.model_dump()),
            seed=self.seed,
        )

    def to_yaml(self) -> str:
        """The text of config.yaml: every setting, so that later versions' defaults do not change the run."""
        # Where a run lives is not part of what it is: the directory may be moved.
        settings = self.model_dump(mode="json", exclude={"run_dir", "resume", "quiet"})
        text: str = yaml.safe_dump(settings, sort_keys=False)
        return text

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], *, source: str, base: TrainConfig | None = None
    ) -> TrainConfig:
        """Settings of a YAML file laid over `base` (the defaults when None).

        Args:
            settings: nested mapping; sections may hold some of their fields only.
            source: name of the file, for messages.

        Raises:
            ValueError: an unknown key or a value out of range; the message names the field.
        """
        under = (base if base is not None else cls()).model_dump()
        try:
            return cls.model_validate(_overlay(under, settings))
        except ValidationError as error:
            raise ValueError(f"{source}: {describe(error)}") from error

    @classmethod
    def from_file(cls, path: Path, *, base: TrainConfig | None = None) -> TrainConfig:
        """Settings of a YAML file laid over `base`; errors as in `from_settings` and `read_yaml_mapping`."""
        return cls.from_settings(read_yaml_mapping(path), source=str(path), base=base)


#: Settings that a checkpoint's tensors, or the promise of an exact continuation, depend on.
FIXED_ON_RESUME = (
    "env",
    "env_backend",
    "seed",
    "num_envs",
    "environment",
    "rollout.horizon",
    "rollout.batch_size",
    "policy",
)


def changed_on_resume(saved: TrainConfig, asked: TrainConfig) -> list[str]:
    """Names of the settings in `FIXED_ON_RESUME` that differ between two resolved configurations."""

    def value(config: TrainConfig, name: str) -> Any:
        found: Any = config
        for part in name.split("."):
            found = getattr(found, part)
        return found

    return [name for name in FIXED_ON_RESUME if value(saved, name) != value(asked, name)]


def describe(error: ValidationError) -> str:
    """A validation error in one line: each field with what is wrong with it, without pydantic's links."""
    problems = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"]) or "settings"
        if item["type"] == "extra_forbidden":
            problems.append(f"unknown setting {name!r}")
        else:
            problems.append(f"{name}: {item['msg']}, got {item['input']!r}")
    return "; ".join(problems)


def _overlay(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        # kwargs is a value, not a section: naming it replaces all of it.
        section = key != "kwargs" and isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = _overlay(below, value) if section else value  # type: ignore[arg-type]
    return merged


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _around(value: int, unit: int) -> list[int]:
    return sorted({max(unit, value // unit * unit), (value // unit + 1) * unit})


def _nearest(candidates: list[int], value: int) -> list[int]:
    below = [c for c in candidates if c <= value][-1:]
    above = [c for c in candidates if c > value][:1]
    return below + above


def _either(values: list[int]) -> str:
    return " or ".join(map(str, values))
