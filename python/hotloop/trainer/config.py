"""Every setting of `hotloop train`, with the defaults that solve CartPole-v1 fastest."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from hotloop.context import AdvantageConfig, LoopConfig, SamplingConfig
from hotloop.nonfinite import OnNan
from hotloop.trainer.config_sections import (
    ActorConfig,
    CriticConfig,
    EnvBackend,
    EnvironmentConfig,
    EvaluationConfig,
    NormalizeConfig,
    OptimizerConfig,
    OutputConfig,
    PolicyConfig,
    RolloutConfig,
    SchedulesConfig,
    Section,
    TrainAdvantageConfig,
    TrainSamplingConfig,
)
from hotloop.trainer.run_dir import read_yaml_mapping
from hotloop.trainer.sizes import fitting_sizes


class TrainConfig(Section):
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
    deterministic: bool = False
    """The same bits whatever `threads` says: torch takes one thread and deterministic algorithms."""
    amp: Literal["bf16"] | None = None
    """Run the policy's matrix products in bfloat16 (autocast); losses, optimizer and weights stay float32."""
    compile: bool = False
    """torch.compile the policy's network. It takes tens of seconds once, and pays for large networks only."""
    fused_loss: bool = True
    """PPO's losses as one native op; otherwise policy and value loss by themselves, in torch."""
    keep_freed_memory: bool = True
    """Keep freed memory for the next allocation instead of giving it back: see hotloop.keep_freed_memory."""
    on_nan: OnNan = "raise"
    """A NaN or an infinity in training: stop and say where it came from, skip the minibatch, or ignore it."""
    sync_audit: bool = False
    """On CUDA: stop where anything in a training phase waits for the device, and say where."""
    capture_optimizer_step: bool = False
    """On CUDA: clip gradients and step the optimizer by a CUDA graph, with fewer launches."""
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
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    normalize: NormalizeConfig = Field(default_factory=NormalizeConfig)
    schedules: SchedulesConfig = Field(default_factory=SchedulesConfig)
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
            ValueError: sizes that do not divide, or settings that would do nothing; the message names the
                fields and says what would work.
        """
        if self.evaluation.video and self.evaluation.every is None:
            raise ValueError(
                "evaluation.video films evaluations, but evaluation.every is None, so there are none: "
                f"evaluation.every={max(1, self.total_timesteps // 10)}, say, would work"
            )
        sizes = fitting_sizes(
            num_envs=self.num_envs,
            horizon=self.rollout.horizon,
            batch_size=self.rollout.batch_size,
            minibatch_size=self.rollout.minibatch_size,
            accumulate=self.rollout.accumulate,
        )
        resolved = self.model_copy(deep=True)
        resolved.rollout.batch_size, resolved.rollout.minibatch_size = sizes
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
            on_nan=self.on_nan,
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
    "normalize.observations",
    "normalize.rewards",
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


def setting_names(model: type[BaseModel] = TrainConfig, prefix: str = "") -> list[str]:
    """The dotted name of every setting and section, `optimizer.learning_rate` for one."""
    names = []
    for field, info in model.model_fields.items():
        names.append(f"{prefix}{field}")
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += setting_names(kind, f"{prefix}{field}.")
    return names


def nearest_setting(name: str) -> str | None:
    """The setting that somebody who wrote `name` may have meant: one spelt alike, in whatever section."""
    known = setting_names()
    alike = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    if alike:
        return alike[0]
    # The right word in the wrong section.
    leaves = {known_name.rpartition(".")[2]: known_name for known_name in reversed(known)}
    alike = difflib.get_close_matches(name.rpartition(".")[2], leaves, n=1, cutoff=0.75)
    return leaves[alike[0]] if alike else None


def describe(error: ValidationError) -> str:
    """A validation error in one line: each field with what is wrong with it, without pydantic's links."""
    problems = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"]) or "settings"
        if item["type"] == "extra_forbidden":
            meant = nearest_setting(name)
            problems.append(f"unknown setting {name!r}" + (f", did you mean {meant!r}?" if meant else ""))
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
