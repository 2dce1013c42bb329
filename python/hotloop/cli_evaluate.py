"""The command line: `hotloop evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from hotloop.trainer.evaluator import evaluate_run


def evaluate(argv: Sequence[str] | None = None) -> int:
    """Runs `hotloop evaluate`.

    Args:
        argv: arguments behind `evaluate`; those of the process when None.

    Returns:
        The exit code: 0, or 2 for a mistake in the arguments, a run that is not there, or one that cannot be
        evaluated as asked.
    """

    def command(
        run_dir: Annotated[Path, tyro.conf.Positional],
        episodes: int = 20,
        sample: bool = False,
        checkpoint: str = "checkpoint.pt",
        seed: int | None = None,
        device: str | None = None,
        video: Path | None = None,
    ) -> int:
        """Play episodes with the policy of a run, without training.

        Args:
            run_dir: The run directory.
            episodes: Episodes to play.
            sample: Draw actions as in training, instead of taking the most likely ones.
            checkpoint: File in the run directory: checkpoint.pt, best.pt, or one of checkpoints/.
            seed: Decides starts and draws; by default the one of the run's own evaluations.
            device: Where to run the policy; by default where the run did.
            video: File for a film of the first episode, .gif or .mp4.
        """
        result = evaluate_run(
            run_dir,
            episodes=episodes,
            greedy=not sample,
            checkpoint=checkpoint,
            seed=seed,
            device=device,
            video=video,
        )
        print(result.summary() + (f", film in {video}" if video is not None else ""), flush=True)
        return 0

    arguments = list(sys.argv[2:] if argv is None else argv)
    try:
        return tyro.cli(command, prog="hotloop evaluate", args=arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"hotloop evaluate: error: {error}", file=sys.stderr, flush=True)
        return 2
