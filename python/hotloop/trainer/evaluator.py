"""The evaluations of a run: by its settings, with its policy, in environments of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hotloop.normalize import NormalizedEnvironment
from hotloop.trainer.build import usable_device
from hotloop.trainer.checkpoint import load_checkpoint
from hotloop.trainer.config import TrainConfig
from hotloop.trainer.environments import make_environment, make_policy
from hotloop.trainer.evaluation import EvaluationResult, check_episodes, evaluate
from hotloop.trainer.normalization import observation_normalizer
from hotloop.trainer.random_state import separate_draws
from hotloop.trainer.run_dir import RunDirectory
from hotloop.trainer.video import Frame, check_video_path, frames_per_second, render, write_video

# Far from the seeds of the training environments, which are seed, seed + 1 and so on.
_SEED_OFFSET = 1_000_003


def evaluation_seed(config: TrainConfig) -> int:
    """The seed of evaluation environments and draws: the same starts at every evaluation of a run."""
    return (config.seed + _SEED_OFFSET) % 2**31


def evaluation_environment(config: TrainConfig, episodes: int, seed: int, *, video: bool) -> Any:
    """Environments like those of training, as many as the episodes keep busy; rendering ones for a video."""
    own = config.model_copy(deep=True)
    own.num_envs = min(episodes, config.num_envs)
    if video:
        own.environment.vectorization = "sync"
        own.environment.kwargs = {**(own.environment.kwargs or {}), "render_mode": "rgb_array"}
    return make_environment(own, seed=seed)


def check_rendering(config: TrainConfig) -> None:
    """Raises ValueError where the environment cannot be filmed, ImportError where a GIF cannot be written."""
    check_video_path(Path("video.gif"))
    environment = evaluation_environment(config, 1, evaluation_seed(config), video=True)
    try:
        render(environment)
    finally:
        environment.close()


def play(
    config: TrainConfig,
    policy: Any,
    normalizers: Mapping[str, Any] | None,
    *,
    episodes: int,
    greedy: bool,
    seed: int,
    video: Path | None = None,
) -> EvaluationResult:
    """Plays episodes in fresh environments and leaves no trace in the run: its random numbers go on as if
    nothing had been drawn.

    Args:
        normalizers: `NormalizedEnvironment.normalizer_state` of the run, None when nothing is normalised.
        video: file for the first environment's first episode.
    """
    frames: list[Frame] = []
    with separate_draws(seed):
        environment = evaluation_environment(config, episodes, seed, video=video is not None)
        try:
            served = environment
            if normalizers is not None and config.normalize.observations:
                served = NormalizedEnvironment(
                    environment, observations=observation_normalizer(config, environment), update=False
                )
                served.load_normalizer_state({**normalizers, "rewards": None})

            def film(result: EvaluationResult) -> None:
                if not result.ended_first:
                    frames.append(render(environment))

            result = evaluate(
                policy,
                served,
                episodes,
                greedy=greedy,
                device=config.device,
                on_step=None if video is None else film,
            )
            if video is not None:
                write_video(video, frames, frames_per_second(environment))
        finally:
            environment.close()
    return result


def evaluate_run(
    path: Path,
    *,
    episodes: int,
    greedy: bool = True,
    checkpoint: str = "checkpoint.pt",
    seed: int | None = None,
    device: str | None = None,
    video: Path | None = None,
) -> EvaluationResult:
    """Evaluates the policy that a run has saved.

    Args:
        path: the run directory.
        checkpoint: a file in it: checkpoint.pt, best.pt, checkpoints/epoch-00000012.pt.
        seed: of environments and draws; that of the run's own evaluations when None.
        device: where to run it; the run's device when None.
        video: file for the first episode, .gif or .mp4.

    Raises:
        FileNotFoundError: there is no such run, or no such checkpoint.
        ValueError: the environment or the video cannot be made, or no episode is asked for.
    """
    check_episodes(episodes)
    directory = RunDirectory(path)
    config = TrainConfig.from_file(directory.config).resolved()
    state = load_checkpoint(path / checkpoint)
    if device is not None:
        config.device = device
    if video is not None:
        check_video_path(video)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    seed = evaluation_seed(config) if seed is None else seed
    environment = evaluation_environment(config, 1, seed, video=False)
    try:
        if config.normalize.observations:
            environment = NormalizedEnvironment(
                environment, observations=observation_normalizer(config, environment), update=False
            )
        policy = make_policy(config, environment).to(usable_device(config.device))
    finally:
        environment.close()
    policy.load_state_dict(state["policy"])
    return play(
        config, policy, state["normalizers"], episodes=episodes, greedy=greedy, seed=seed, video=video
    )
