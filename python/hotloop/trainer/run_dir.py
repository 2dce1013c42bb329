"""The directory of one run and the names of the files in it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class RunDirectory:
    """Paths inside a run directory: config.yaml, metrics.csv, checkpoint.pt, curve.png and tensorboard/, and
    as far as they are made evaluations.csv, best.pt, checkpoints/ and videos/."""

    path: Path

    @classmethod
    def free(cls, path: Path) -> RunDirectory:
        """A directory for a new run; nothing is written until `make`.

        Raises:
            FileExistsError: it holds a run already; going on is what resuming is for, and a new run elsewhere
                loses nothing.
        """
        directory = cls(path)
        for made in (directory.checkpoint, directory.metrics, directory.config):
            if made.exists():
                raise FileExistsError(
                    f"{path} already holds a run ({made.name}): continue it with --resume, or choose another "
                    "--run-dir"
                )
        return directory

    def make(self) -> None:
        """Makes the directory where there is none."""
        self.path.mkdir(parents=True, exist_ok=True)

    @classmethod
    def existing(cls, path: Path) -> RunDirectory:
        """Opens a run that stopped, and clears half-written files that a killed process left.

        Raises:
            FileNotFoundError: there is no checkpoint to resume from.
        """
        directory = cls(path)
        if not directory.checkpoint.is_file():
            raise FileNotFoundError(f"{path} cannot be resumed: {directory.checkpoint} does not exist")
        for leftover in (*path.glob(".*.tmp"), *path.glob("checkpoints/.*.tmp")):
            leftover.unlink(missing_ok=True)
        return directory

    @staticmethod
    def default_path(env: str, seed: int, root: Path = Path("runs")) -> Path:
        """`runs/<env>-seed<seed>-<local time>`, with a number behind it when that one is taken."""
        # Environment ids may hold a namespace and a module: "ALE/Pong-v5", "package.module:Env-v0".
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", env)
        stem = f"{name}-seed{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
        path, attempt = root / stem, 1
        while path.exists():
            attempt += 1
            path = root / f"{stem}-{attempt}"
        return path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def best(self) -> Path:
        return self.path / "best.pt"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations.csv"

    @property
    def videos(self) -> Path:
        return self.path / "videos"

    @property
    def curve(self) -> Path:
        return self.path / "curve.png"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"


def read_yaml_mapping(path: Path) -> dict[str, object]:
    """Reads a YAML file whose top level is a mapping; an empty file is an empty mapping.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, or its top level is something else.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: the top level must be a mapping of settings, got {type(content).__name__}")
    return content
