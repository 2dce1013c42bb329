"""The command line: `hotloop train`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from hotloop.distributed import process_group, speaks
from hotloop.envs import EnvironmentLostError
from hotloop.losses.ranks import RankLostError
from hotloop.trainer.config import TrainConfig
from hotloop.trainer.progress import discard
from hotloop.trainer.run_dir import RunDirectory
from hotloop.trainer.trainer import Trainer

_DESCRIPTION = """Train a policy with PPO on an environment (hotloop envs lists them).

Settings come, each over the one before, from the defaults, from the run that --resume names, from the file of
--config, and from the command line. Ctrl-C and SIGTERM finish the epoch, save, and exit with 130 and 143."""


_MISTAKES = (ValueError, OSError, ImportError)


class TrainCommand(TrainConfig):
    """What `hotloop train` takes: the settings, and a file of settings."""

    config: Path | None = Field(None, description="YAML file of settings, laid out like a run's config.yaml.")


def train(argv: Sequence[str] | None = None) -> int:
    """Runs `hotloop train`.

    Args:
        argv: arguments behind `train`; those of the process when None.

    Returns:
        The exit code: 0, 1 when training failed, 2 for a mistake in the arguments, 130 or 143 after a signal.
    """
    try:
        return _train(list(sys.argv[2:] if argv is None else argv))
    except KeyboardInterrupt:
        # Only before the first epoch; from then on the trainer handles signals.
        return 130


def _train(argv: list[str]) -> int:
    try:
        config = parse_train(argv)
        group = process_group(config.device, timeout_seconds=config.rank_timeout_seconds)
    except _MISTAKES as error:
        return _fail(error, 2)
    try:
        with group:
            return _carry_out(config)
    except RankLostError as error:
        return _fail(error, 1, everyone=True)


def _carry_out(config: TrainConfig) -> int:
    try:
        trainer = Trainer(config)
    except _MISTAKES as error:
        return _fail(error, 2)
    try:
        result = trainer.train()
    except (FloatingPointError, EnvironmentLostError, OSError) as error:
        return _fail(error, 1)
    try:
        if speaks():
            print(result.summary(), flush=True)
    except BrokenPipeError:
        discard(sys.stdout)
    return result.exit_code


def parse_train(argv: list[str]) -> TrainConfig:
    """The configuration that a command line describes.

    Raises:
        SystemExit: `--help` (code 0), or an argument that does not parse (code 2, after saying so).
        ValueError, FileNotFoundError: a settings file is missing or wrong; the message names field and file.
    """
    import tyro

    argv = _complete_resume(argv)
    base = TrainConfig()
    resume, file = _value_of("resume", argv), _value_of("config", argv)
    if resume is not None:
        base = TrainConfig.from_file(RunDirectory.existing(Path(resume)).config, base=base)
    if file is not None:
        base = TrainConfig.from_file(Path(file), base=base)
    command = tyro.cli(
        TrainCommand,
        prog="hotloop train",
        description=_DESCRIPTION,
        default=TrainCommand(**base.model_dump()),
        args=argv,
    )
    config = TrainConfig(**command.model_dump(exclude={"config"})).resolved()
    if config.resume is not None and config.run_dir not in (None, config.resume):
        raise ValueError(
            f"--run-dir {config.run_dir} and --resume {config.resume} are different runs: give one"
        )
    return config


def _complete_resume(argv: list[str]) -> list[str]:
    """`--run-dir DIR --resume` written out as `--run-dir DIR --resume DIR`."""
    completed: list[str] = []
    for i, argument in enumerate(argv):
        completed.append(argument)
        following = argv[i + 1] if i + 1 < len(argv) else "--"
        if argument == "--resume" and following.startswith("-"):
            directory = _value_of("run-dir", argv)
            if directory is None:
                raise ValueError("--resume needs a run directory: --resume DIR, or --run-dir DIR --resume")
            completed.append(directory)
    return completed


def _value_of(option: str, argv: Sequence[str]) -> str | None:
    """The value behind `--option`, the last one when it is given more than once."""
    found = None
    for i, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == f"--{option}":
            if equals:
                found = value
            elif i + 1 < len(argv):
                found = argv[i + 1]
    return found


def _fail(error: BaseException, code: int, *, everyone: bool = False) -> int:
    if speaks() or everyone:
        print(f"hotloop train: error: {error}", file=sys.stderr, flush=True)
    return code
