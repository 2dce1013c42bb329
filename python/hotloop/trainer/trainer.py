"""A training run from start, or from a checkpoint, to its end."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from typing import Any

import torch

from hotloop.distributed import on_first
from hotloop.envs import EnvironmentLostError
from hotloop.freed_memory import keep_freed_memory
from hotloop.losses import ranks
from hotloop.nonfinite import NonFiniteError, non_finite_parameter
from hotloop.trainer.build import build_components, optimizer_settings, usable_device
from hotloop.trainer.checkpoint_files import CheckpointFiles
from hotloop.trainer.checks import check_outputs
from hotloop.trainer.config import TrainConfig
from hotloop.trainer.environments import make_environment
from hotloop.trainer.evaluation import EvaluationResult
from hotloop.trainer.evaluator import check_rendering, evaluation_seed, play
from hotloop.trainer.metrics import EpisodeWindow
from hotloop.trainer.precision import use_autocast, use_compile, use_threads
from hotloop.trainer.progress import EpochReport, Progress
from hotloop.trainer.random_state import rng_state, seed_everything, set_rng_state
from hotloop.trainer.ranks import (
    adopt_ranks,
    first_environment,
    join_rollouts,
    part_of_rank,
    share_of_rank,
)
from hotloop.trainer.result import Reason, TrainResult
from hotloop.trainer.resume import environment_seed, open_directory
from hotloop.trainer.run_outputs import NoOutputs, Outputs, RunOutputs
from hotloop.trainer.schedules import apply_schedules
from hotloop.trainer.signals import StopSignals, announce
from hotloop.trainer.timing import PhaseClock, shares


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
        ValueError: sizes, an environment or a policy that do not fit, or a setting that a resumed run cannot
            change.
        FileExistsError, FileNotFoundError: the run directory is taken, or has nothing to resume.
        ImportError: a package that the settings ask for is not installed.
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
        check_outputs(config)
        share = share_of_rank(config)
        self._first = ranks.rank_and_size()[0] == 0
        self._rank_states: list[dict[str, Any]] = []
        self.directory, state = on_first(lambda: open_directory(config))
        state = part_of_rank(state, self.directory.path)
        if config.keep_freed_memory:
            keep_freed_memory()  # where that cannot be, `hotloop doctor` says why
        use_threads(config.threads, config.deterministic)
        if config.evaluation.every is not None and config.evaluation.video:
            check_rendering(config)
        seed_everything(config.seed)
        self._owns_environment = environment is None
        if environment is None:
            seed = environment_seed(config, state) + first_environment(share)
            environment = make_environment(share, seed=seed)
        try:
            parts = build_components(share, environment=environment, policy=policy)
            adopt_ranks(parts, config)
            self.environment, self.policy, self.losses = parts.environment, parts.policy, parts.losses
            self.experience, self.optimizer = parts.experience, parts.optimizer
            self.context, self.loop = parts.context, parts.loop
            # A policy of its own: evaluating must not touch what the training one remembers of its episodes.
            self._evaluated = None if config.evaluation.every is None else copy.deepcopy(self.policy)
            if config.compile:
                use_compile(self.policy)
            if config.amp is not None:
                use_autocast(self.policy, torch.bfloat16, usable_device(share.device))
            self.episodes = EpisodeWindow()
            self.epoch = 0
            self.best_return = -math.inf
            self._seconds_before = 0.0
            self._notes: list[str] = []
            if state is not None:
                self._resume(state)
            # Only now, so that a mistake in the settings leaves no half-made run behind.
            on_first(lambda: self._make_directory())
        except BaseException:
            if self._owns_environment:
                environment.close()
            raise
        self._device = share.device
        self._files = CheckpointFiles(self.directory, config.output.keep_checkpoints)
        self._clock = PhaseClock(self.context.stopwatch)
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
            NonFiniteError: a NaN or an infinity reached training and `config.on_nan` is ``"raise"``. The last
                checkpoint, from before, is kept.
            EnvironmentLostError: an environment's process has died; what was learnt is saved.
            RankLostError: another process of the run has died; rank 0 has saved.
            RuntimeError: called a second time.
        """
        if self._started is not None:
            raise RuntimeError("Trainer.train: a trainer carries out one run; build another")
        outputs = self._outputs()
        try:
            for note in self._notes:
                outputs.message(note)
            several = ranks.several_ranks()
            with StopSignals(announce if self._first else None, insist=not several) as stop:
                try:
                    if several:
                        self._rank_states = ranks.gathered_by_first(self._rank_state())
                    if not ranks.from_first(self.directory.checkpoint.exists()):
                        self.save()  # whatever ends the run from here on, there is something to go on from
                    self._started = time.perf_counter()
                    reason = self._run(outputs, stop)
                    seconds = self.seconds
                    self.save()
                except ranks.RankLostError as error:
                    stop.ignore_from_now_on()
                    raise self._save_alone(error) from error
                except EnvironmentLostError as error:
                    raise self._after_loss(error, several) from error
                outputs.plot()
                if several:
                    # torchrun ends the others when a rank exits with another code than 0, as after a
                    # signal: none may exit before rank 0 has written, or be ended with something to say.
                    ranks.any_rank(False)
                    stop.ignore_from_now_on()
        finally:
            outputs.close()
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
            goal=self.config.stop_at_return,
        )

    def _outputs(self) -> Outputs:
        if not self._first:
            return NoOutputs()
        return RunOutputs(
            self.config,
            self.directory,
            epoch=self.epoch,
            agent_steps=self.context.agent_step,
            progress=self._progress,
        )

    def evaluate(self) -> EvaluationResult:
        """Plays the episodes that `config.evaluation` asks for with a copy of the policy as it is now.

        Training goes on afterwards as if this had not happened.
        """
        settings = self.config.evaluation
        if self._evaluated is None:
            raise RuntimeError("Trainer.evaluate: config.evaluation.every must be set when the run is wired")
        self._evaluated.load_state_dict(self.policy.state_dict())
        return play(
            self.config.model_copy(update={"device": self._device}),
            self._evaluated,
            self._normalizer_state(),
            episodes=settings.episodes,
            greedy=settings.greedy,
            seed=evaluation_seed(self.config),
            video=self._video_path() if settings.video else None,
        )

    def save(self, *, best: bool = False) -> None:
        """Writes checkpoint.pt (see `CheckpointFiles`), with `best` as best.pt too.

        Without evaluations the best is the state with the highest mean return of a full window of episodes,
        among those that are saved. With several ranks all must call it; rank 0 writes.
        """
        if self.config.on_nan == "raise" and (broken := non_finite_parameter(self.policy)) is not None:
            raise NonFiniteError(broken, f". {self._kept()}")
        if self.config.evaluation.every is None and self._full_return() > self.best_return:
            self.best_return, best = self._full_return(), True
        self._rank_states = ranks.gathered_by_first(self._rank_state())
        if self._first:
            self._write_checkpoint(best=best)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the run goes on, between two epochs; with several ranks, on this one.

        The experience is filled anew by every rollout, and schedules follow from the agent steps, so neither
        has a state. ``environment`` is None where the environment cannot be saved.
        """
        return {**self._joint_state(), **self._rank_state()}

    def _joint_state(self) -> dict[str, Any]:
        """What all ranks have alike."""
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "best_return": self.best_return,
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": {name: loss.state_dict() for name, loss in self.losses.items()},
            "context": self.context.state.state_dict(),
            "episodes": self.episodes.state_dict(),
            "normalizers": self._normalizer_state(),
        }

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

    def _write_checkpoint(self, *, best: bool) -> None:
        parts = self._rank_states
        own = parts[0] if len(parts) == 1 else {"ranks": parts}
        self._files.save({**self._joint_state(), **own}, best=best)

    def _save_alone(self, error: ranks.RankLostError) -> ranks.RankLostError:
        """Saves on rank 0 what it has, with the states that all ranks had when they last saved; what to
        say."""
        if not self._first:
            return error
        self._write_checkpoint(best=False)
        return ranks.RankLostError(
            f"{error}. Saved {self.directory.checkpoint} at epoch {self.epoch}; continue with --resume "
            f"{self.directory.path} and as many processes"
        )

    def _after_loss(self, error: EnvironmentLostError, several: bool) -> EnvironmentLostError:
        """What to say when an environment's process has died; what was learnt up to the rollout is saved."""
        if not several:
            self._rank_states = [{**self._rank_state(), "environment": None}]
            self._write_checkpoint(best=False)
        holds = "is from before" if several else f"holds epoch {self.epoch}, the last whole one"
        return EnvironmentLostError(
            f"{error}. {self.directory.checkpoint} {holds}; continue with --resume {self.directory.path}"
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict` of a trainer with the same configuration, its environment included unless the
        state has none. The optimizer's hyperparameters stay those of this configuration."""
        self.epoch = int(state["epoch"])
        self._seconds_before = float(state["seconds"])
        self.best_return = float(state["best_return"])
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group.update(optimizer_settings(self.config))
        self.loop.load_state_dict(state["loop"])
        for name, loss in self.losses.items():
            # The kind of loss may have been changed for this part of the run.
            loss.load_state_dict(state["losses"].get(name, {}))
        self.context.state.load_state_dict(state["context"])
        self.episodes.load_state_dict(state["episodes"])
        if state["normalizers"] is not None:
            self.environment.load_normalizer_state(state["normalizers"])
        if state["environment"] is not None:
            self.environment.load_state_dict(state["environment"])
        # Last: whatever was built above may have drawn from the generators.
        set_rng_state(state["rng"])

    def _normalizer_state(self) -> dict[str, Any] | None:
        settings = self.config.normalize
        if not (settings.observations or settings.rewards):
            return None
        state: dict[str, Any] = self.environment.normalizer_state()
        return state

    def _resume(self, state: Mapping[str, Any]) -> None:
        self.load_state_dict(state)
        if state["environment"] is None:
            self.loop.begin_episodes()
            why = getattr(self.environment, "why_unsavable", None)
            self._notes.append(
                "the environment's state could not be saved"
                + (f" ({why})" if why else "")
                + ": this run goes on with fresh episodes, so it will differ from one that was never stopped"
            )
        self._notes.append(
            f"resumed {self.directory.path} at epoch {self.epoch}, {self.context.agent_step:,} agent steps"
        )

    def _run(self, outputs: Outputs, stop: StopSignals) -> Reason:
        config, stopwatch = self.config, self.context.stopwatch
        saved_at = time.perf_counter()
        self._clock.restart()
        while True:
            # Before anything else, so that a finished run that is resumed makes no further epoch.
            if config.stop_at_return is not None and self._full_return() >= config.stop_at_return:
                return "stop_at_return"
            if self.context.agent_step >= config.total_timesteps:
                return "total_timesteps"
            # A signal to one rank stops all of them, after the same epoch.
            received = ranks.greatest(stop.received or 0)
            if received:  # one that arrived while the ranks agreed on none counts at the next look
                stop.received = received
                return "signal"
            steps_before = self.context.agent_step
            try:
                report = self._run_epoch()
            except NonFiniteError as error:
                place = f"epoch {self.epoch + 1}, after {self.context.agent_step:,} agent steps: "
                raise NonFiniteError(error.report, f"{error.more}. {self._kept()}", place) from error
            with stopwatch("logging"):
                outputs.epoch(report)
            if _crosses(config.evaluation.every, steps_before, self.context.agent_step):
                self._evaluate_and_keep(outputs)
            due = time.perf_counter() - saved_at >= config.output.checkpoint_seconds
            if ranks.any_rank(due and self._first):
                with stopwatch("checkpoint"):
                    self.save()
                saved_at = time.perf_counter()

    def _run_epoch(self) -> EpochReport:
        context, loop, config = self.context, self.loop, self.config
        stopwatch = context.stopwatch
        steps_before = context.agent_step
        apply_schedules(config, steps_before, self.optimizer, self.losses)

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
        phases = self._clock.lap()
        return EpochReport(
            epoch=self.epoch,
            agent_steps=context.agent_step,
            wall_time=self.seconds,
            steps_per_second=(context.agent_step - steps_before) / sum(phases.values()),
            episode_return_mean=self.episodes.return_mean,
            episode_length_mean=self.episodes.length_mean,
            losses=losses,
            shares=shares(phases),
            phases=phases,
        )

    def _evaluate_and_keep(self, outputs: Outputs) -> None:
        stopwatch = self.context.stopwatch
        better = False
        if self._first:
            with stopwatch("evaluation"):
                result = self.evaluate()
            with stopwatch("logging"):
                video = self._video_path() if self.config.evaluation.video else None
                outputs.evaluation(result, self.epoch, self.context.agent_step, video)
            better = result.return_mean > self.best_return
            self.best_return = max(self.best_return, result.return_mean)
        if ranks.any_rank(better):
            with stopwatch("checkpoint"):
                self.save(best=True)

    def _video_path(self) -> Any:
        return self.directory.videos / f"step-{self.context.agent_step:010d}.gif"

    def _full_return(self) -> float:
        """Mean return over a full window of episodes; minus infinity before it is full."""
        return self.episodes.return_mean if self.episodes.full else -math.inf

    def _kept(self) -> str:
        """What to do about a NaN."""
        path = self.directory.checkpoint
        return (
            f"{path} is from before; where the environment is not to blame a lower --optimizer.learning-rate "
            "is the usual cure, and --on-nan skip goes on without such minibatches"
        )


def _crosses(every: int | None, before: int, after: int) -> bool:
    """Whether a multiple of `every` lies in ``(before, after]``: a function of the steps alone."""
    return every is not None and before // every < after // every
