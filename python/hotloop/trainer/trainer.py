"""A training run from start, or from a checkpoint, to its end."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from hotloop.distributed import on_first
from hotloop.freed_memory import keep_freed_memory
from hotloop.losses import ranks
from hotloop.trainer.build import build_components, learning_rate, optimizer_settings
from hotloop.trainer.checkpoint import load_checkpoint, rng_state, save_checkpoint, set_rng_state
from hotloop.trainer.config import TrainConfig, changed_on_resume
from hotloop.trainer.environments import make_environment
from hotloop.trainer.events import EventWriter
from hotloop.trainer.metrics import EpisodeWindow, MetricsFile
from hotloop.trainer.plots import plot_learning_curve
from hotloop.trainer.progress import EpochReport, Progress, SilentProgress, make_progress
from hotloop.trainer.ranks import (
    adopt_ranks,
    first_environment,
    join_rollouts,
    part_of_rank,
    share_of_rank,
)
from hotloop.trainer.run_dir import RunDirectory
from hotloop.trainer.signals import StopSignals

Reason = Literal["total_timesteps", "stop_at_return", "signal"]


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        reason: what ended it.
        return_mean: mean return of the last `episodes` episodes (at most 100), NaN when none has ended.
        agent_steps: environment steps of all agents, those before a resumption included.
        seconds: seconds of training, likewise.
        exit_code: 0, or 130 (SIGINT) and 143 (SIGTERM).
        run_dir: where everything was written.
    """

    reason: Reason
    return_mean: float
    episodes: int
    epoch: int
    agent_steps: int
    seconds: float
    exit_code: int
    run_dir: Path
    goal: float | None = None

    def summary(self) -> str:
        """One line: what was reached, after how many steps and seconds."""
        spent = f"{self.agent_steps:,} agent steps and {self.seconds:.1f} s"
        reached = "no episode ended"
        if self.episodes:
            reached = f"mean return of the last {self.episodes} episodes {self.return_mean:.1f}"
        if self.reason == "signal":
            name = signal.Signals(self.exit_code - 128).name
            resume = f"hotloop train --resume {self.run_dir}"
            return f"stopped by {name}: {reached}, after {spent}; continue with: {resume}"
        start = f"reached {self.goal:g}" if self.reason == "stop_at_return" else "finished"
        return f"{start}: {reached}, after {spent} ({self.run_dir})"


class Trainer:
    """Wires a run from its configuration and carries it out.

    The parts are attributes (`environment`, `policy`, `losses`, `experience`, `optimizer`, `context`,
    `loop`), so a script may look at them or change them before `train`.

    Args:
        config: settings; `config.resume` continues the run in that directory.
        environment, policy: used instead of those that the configuration describes; see `build_components`. A
            resumed run needs the same ones.
        progress: where to report; chosen from `config.quiet` and the kind of stdout when None.

    Raises:
        ValueError: sizes that do not fit, or a setting that a resumed run cannot change.
        FileExistsError, FileNotFoundError: the run directory is taken, or has nothing to resume.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        environment: Any = None,
        policy: Any = None,
        progress: Progress | None = None,
    ) -> None:
        self.config = config = config.resolved()
        share = share_of_rank(config)
        self._first = ranks.rank_and_size()[0] == 0
        self._rank_states: list[dict[str, Any]] = []
        self.directory, state = on_first(lambda: _open_directory(config))
        state = part_of_rank(state, self.directory.path)
        if config.keep_freed_memory:
            keep_freed_memory()  # where that cannot be, `hotloop doctor` says why
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self._owns_environment = environment is None
        if environment is None:
            seed = _environment_seed(config, state) + first_environment(share)
            environment = make_environment(share, seed=seed)
        try:
            parts = build_components(share, environment=environment, policy=policy)
            adopt_ranks(parts, config)
            self.environment, self.policy, self.losses = parts.environment, parts.policy, parts.losses
            self.experience, self.optimizer = parts.experience, parts.optimizer
            self.context, self.loop = parts.context, parts.loop
            self.episodes = EpisodeWindow()
            self.epoch = 0
            self._seconds_before = 0.0
            self._notes: list[str] = []
            if state is not None:
                self._restore(state)
            # Only now, so that a mistake in the settings leaves no half-made run behind.
            on_first(lambda: self._make_directory())
        except BaseException:
            if self._owns_environment:
                environment.close()
            raise
        self._progress = progress
        self._started: float | None = None

    def _make_directory(self) -> None:
        self.directory.make()
        self.directory.config.write_text(self.config.to_yaml())

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a resumption included."""
        return self._seconds_before + (0.0 if self._started is None else time.perf_counter() - self._started)

    def train(self) -> TrainResult:
        """Runs epochs until the steps are used up, the goal is reached or a signal asks to stop; then saves.

        Raises:
            FloatingPointError: a loss is no longer finite. The last checkpoint, from before, is kept.
            RankLostError: another process of the run has died; rank 0 has saved.
            RuntimeError: called a second time.
        """
        if self._started is not None:
            raise RuntimeError("Trainer.train: a trainer carries out one run; build another")
        config = self.config
        events = None
        if config.output.tensorboard and self._first:
            events = EventWriter(self.directory.tensorboard, self.context.agent_step)
        metrics = MetricsFile(self.directory.metrics, keep_epochs=self.epoch or None) if self._first else None
        silent = None if self._first else SilentProgress()
        progress = (
            silent
            or self._progress
            or make_progress(
                config.total_timesteps,
                title=f"{config.env}  seed {config.seed}  {self.directory.path}",
                goal=config.stop_at_return,
                quiet=config.quiet,
                line_seconds=config.output.line_seconds,
            )
        )
        try:
            for note in self._notes:
                progress.message(note)
            announce = _announce if self._first else None
            with StopSignals(announce, insist=not ranks.several_ranks()) as stop:
                self._started = time.perf_counter()
                try:
                    if ranks.several_ranks():
                        self._rank_states = ranks.gathered_by_first(self._rank_state())
                    reason = self._run(progress, metrics, events, stop)
                    seconds = self.seconds
                    self.save()
                except ranks.RankLostError as error:
                    stop.ignore_from_now_on()
                    raise self._save_alone(error) from error
                if metrics is not None:
                    metrics.close()
                if config.output.plot and self._first:
                    self._plot(progress)
                if ranks.several_ranks():
                    # torchrun ends the others when a rank exits with another code than 0, as after a
                    # signal: none may exit before rank 0 has written, or be ended with something to say.
                    ranks.any_rank(False)
                    stop.ignore_from_now_on()
        finally:
            if metrics is not None:
                metrics.close()
            if events is not None:
                events.close()
            progress.close()
            if self._owns_environment:
                self.environment.close()
        return TrainResult(
            reason=reason,
            return_mean=self.episodes.return_mean,
            episodes=min(self.episodes.finished, self.episodes.size),
            epoch=self.epoch,
            agent_steps=self.context.agent_step,
            seconds=seconds,
            exit_code=stop.exit_code if reason == "signal" else 0,
            run_dir=self.directory.path,
            goal=config.stop_at_return,
        )

    def save(self) -> None:
        """Writes checkpoint.pt. With several ranks all must call it; rank 0 writes."""
        self._rank_states = ranks.gathered_by_first(self._rank_state())
        if self._first:
            self._write_checkpoint()

    def _rank_state(self) -> dict[str, Any]:
        """What each rank has for itself."""
        environment = self.environment
        savable = bool(getattr(environment, "can_save_state", False))
        own: dict[str, Any] = {
            "loop": self.loop.state_dict(),
            "environment": environment.state_dict() if savable else None,
            "rng": rng_state(),
        }
        if ranks.several_ranks():
            own["avg_reward"] = self.context.state.state_dict()["avg_reward"]
        return own

    def _write_checkpoint(self) -> None:
        parts = self._rank_states
        save_checkpoint(
            self.directory.checkpoint,
            {
                "epoch": self.epoch,
                "seconds": self.seconds,
                "policy": self.policy.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "context": self.context.state.state_dict(),
                "episodes": self.episodes.state_dict(),
                **(parts[0] if len(parts) == 1 else {"ranks": parts}),
            },
        )

    def _save_alone(self, error: ranks.RankLostError) -> ranks.RankLostError:
        """Saves on rank 0 what it has, with the states that all ranks had when they last saved; what to
        say."""
        if not self._first:
            return error
        self._write_checkpoint()
        return ranks.RankLostError(
            f"{error}. Saved {self.directory.checkpoint} at epoch {self.epoch}; continue with --resume "
            f"{self.directory.path} and as many processes"
        )

    def _run(
        self, progress: Progress, metrics: MetricsFile | None, events: EventWriter | None, stop: StopSignals
    ) -> Reason:
        config = self.config
        saved_at = time.perf_counter()
        while True:
            # Before anything else, so that a finished run that is resumed makes no further epoch.
            if config.stop_at_return is not None and self._reached(config.stop_at_return):
                return "stop_at_return"
            if self.context.agent_step >= config.total_timesteps:
                return "total_timesteps"
            # A signal to one rank stops all of them, after the same epoch.
            stop.received = ranks.greatest(stop.received or 0) or None
            if stop.received is not None:
                return "signal"
            report = self._run_epoch()
            if metrics is not None:
                metrics.append(_csv_row(report))
            if events is not None:
                events.write(report)
            progress.update(report)
            due = time.perf_counter() - saved_at >= config.output.checkpoint_seconds
            if ranks.any_rank(due and self._first):
                self.save()
                saved_at = time.perf_counter()

    def _run_epoch(self) -> EpochReport:
        context, loop, config = self.context, self.loop, self.config
        stopwatch = context.stopwatch
        stopwatch.reset()
        began = time.perf_counter()
        steps_before = context.agent_step
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, steps_before)

        context.reset_for_epoch()
        loop.on_epoch_start(context)
        with stopwatch("_rollout"):
            rollout = loop.rollout_phase(self.environment, context)
            rollout = join_rollouts(rollout, self.experience.total_agents)
        context.training_env_id = rollout.training_env_id
        context.record_rollout(rollout.agent_steps)
        self.episodes.extend(rollout.raw_infos)
        with stopwatch("_train"):
            losses, update_epochs = loop.training_phase(
                context=context,
                update_epochs=config.rollout.update_epochs,
                max_grad_norm=config.optimizer.max_grad_norm,
            )
        context.advance_epoch(update_epochs)
        context.latest_losses_stats = losses
        self.epoch += 1
        seconds = time.perf_counter() - began
        self._check_finite(losses)
        return EpochReport(
            epoch=self.epoch,
            agent_steps=context.agent_step,
            wall_time=self.seconds,
            steps_per_second=(context.agent_step - steps_before) / seconds,
            episode_return_mean=self.episodes.return_mean,
            episode_length_mean=self.episodes.length_mean,
            losses=losses,
            shares=_shares(stopwatch, seconds),
        )

    def _reached(self, goal: float) -> bool:
        return self.episodes.full and self.episodes.return_mean >= goal

    def _check_finite(self, losses: Mapping[str, float]) -> None:
        broken = [
            f"{name} = {value}"
            for name, value in losses.items()
            if "loss" in name and not math.isfinite(value)
        ]
        if broken:
            path = self.directory.checkpoint
            kept = f"The last checkpoint, {path}, is from before" if path.exists() else "No checkpoint yet"
            raise FloatingPointError(
                f"epoch {self.epoch}, {self.context.agent_step:,} agent steps: {', '.join(broken)}. {kept}; "
                "a lower --optimizer.learning-rate is the usual cure"
            )

    def _plot(self, progress: Progress) -> None:
        title = f"{self.config.env}, seed {self.config.seed}"
        try:
            plot_learning_curve(
                self.directory.metrics, self.directory.curve, title=title, goal=self.config.stop_at_return
            )
        except ImportError as error:
            progress.message(f"no {self.directory.curve.name}: it needs matplotlib ({error})")

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.epoch = int(state["epoch"])
        self._seconds_before = float(state["seconds"])
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        # The saved groups hold the settings of then, which may have been changed for this part of the run.
        for group in self.optimizer.param_groups:
            group.update(optimizer_settings(self.config))
        self.loop.load_state_dict(state["loop"])
        self.context.state.load_state_dict(state["context"])
        self.episodes.load_state_dict(state["episodes"])
        if state["environment"] is None:
            self.loop.begin_episodes()
            why = getattr(self.environment, "why_unsavable", None)
            self._notes.append(
                "the environment's state could not be saved"
                + (f" ({why})" if why else "")
                + ": this run goes on with fresh episodes, so it will differ from one that was never stopped"
            )
        else:
            self.environment.load_state_dict(state["environment"])
        self._notes.append(
            f"resumed {self.directory.path} at epoch {self.epoch}, {self.context.agent_step:,} agent steps"
        )
        # Last: whatever was built above may have drawn from the generators.
        set_rng_state(state["rng"])


def _open_directory(config: TrainConfig) -> tuple[RunDirectory, dict[str, Any] | None]:
    """The run's directory and, when resuming, the content of its checkpoint."""
    if config.resume is None:
        return RunDirectory.free(config.run_dir or RunDirectory.default_path(config.env, config.seed)), None
    directory = RunDirectory.existing(config.resume)
    changed = changed_on_resume(TrainConfig.from_file(directory.config).resolved(), config)
    if changed:
        raise ValueError(
            f"{', '.join(changed)} cannot change when a run is resumed: keep the values of {directory.config}"
        )
    return directory, load_checkpoint(directory.checkpoint)


def _environment_seed(config: TrainConfig, state: Mapping[str, Any] | None) -> int:
    """The configured seed; another one where fresh episodes replace lost ones, lest they repeat the first."""
    if state is None or state["environment"] is not None:
        return config.seed
    # Environment i of a vector is seeded with seed + i.
    return int(config.seed + config.num_envs * state["epoch"]) % 2**31


def _csv_row(report: EpochReport) -> dict[str, int | float]:
    return {
        "epoch": report.epoch,
        "agent_steps": report.agent_steps,
        "wall_time": round(report.wall_time, 4),
        "steps_per_second": round(report.steps_per_second, 1),
        "episode_return_mean": report.episode_return_mean,
        "episode_length_mean": report.episode_length_mean,
        **report.losses,
    }


def _announce(signum: int) -> None:
    # os.write: a signal may arrive in the middle of a print, which cannot be entered twice.
    # The escape sequence shows the cursor, which a live display hides and a second signal would leave hidden.
    cursor = "\x1b[?25h" if os.isatty(2) else ""
    name = signal.Signals(signum).name
    os.write(2, f"{cursor}\n{name}: finishing this epoch, then saving; once more to stop at once\n".encode())


def _shares(stopwatch: Any, seconds: float) -> dict[str, float]:
    """Fractions of an epoch by part, from the names that the loop times."""
    environment = stopwatch.elapsed("_rollout.env_wait") + stopwatch.elapsed("_rollout.send")
    policy = sum(map(stopwatch.elapsed, ("_rollout.inference", "_train.forward", "_train.backward")))
    optimizer = stopwatch.elapsed("_train.optimizer")
    return {
        "environment": environment / seconds,
        "policy": policy / seconds,
        "hotloop": max(0.0, seconds - environment - policy - optimizer) / seconds,
        "optimizer": optimizer / seconds,
    }
