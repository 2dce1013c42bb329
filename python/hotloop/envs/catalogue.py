"""``hotloop envs``: which libraries of environments are installed, and what each of them offers."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Backend:
    """A library of environments, as ``hotloop train --env-backend`` names it.

    Attributes:
        name: of the backend.
        modules: what must be there to import.
        distribution: the package whose version is shown.
        extra: what ``pip install`` takes to install it.
        examples: a few ids for ``--env``.
        ids: lists all that the installed version knows.
        note: what else may stand behind ``--env``.
    """

    name: str
    modules: tuple[str, ...]
    distribution: str
    extra: str
    examples: tuple[str, ...]
    ids: Callable[[], list[str]]
    note: str

    @property
    def missing(self) -> list[str]:
        """Modules that are not installed."""
        return [module for module in self.modules if importlib.util.find_spec(module) is None]

    @property
    def version(self) -> str | None:
        """Of the installed package; None where it is not installed."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None


def _module(name: str) -> Any:
    # By name: listing must work where most of these are missing.
    return importlib.import_module(name)


def _gymnasium_ids() -> list[str]:
    return sorted(_module("hotloop.envs.gymnasium_make").gymnasium.registry)


def _envpool_ids() -> list[str]:
    return sorted(_module("envpool").list_all_envs())


def _mettagrid_ids() -> list[str]:
    return sorted(_module("hotloop.envs.mettagrid_arenas").ARENAS)


def _atari_ids() -> list[str]:
    ids: list[str] = _module("hotloop.envs.atari").atari_ids()
    return ids


BACKENDS: tuple[Backend, ...] = (
    Backend(
        "gymnasium",
        ("gymnasium",),
        "gymnasium",
        "hotloop[train]",
        ("CartPole-v1", "Acrobot-v1", "Pendulum-v1"),
        _gymnasium_ids,
        "'module:Name-v0' imports the module that registers the environment",
    ),
    Backend(
        "envpool",
        ("envpool", "gymnasium"),
        "envpool",
        "hotloop[envpool]",
        ("CartPole-v1", "Pong-v5", "Ant-v4"),
        _envpool_ids,
        "Atari ROMs come with the package",
    ),
    Backend(
        "pufferlib",
        ("pufferlib", "psutil", "gymnasium"),
        "pufferlib-core",
        "hotloop[pufferlib]",
        ("CartPole-v1",),
        _gymnasium_ids,
        "ids of Gymnasium, under emulation, or 'module:function', a creator of PufferLib environments;\n"
        "  pufferlib-core itself pins another torch: docs/environments.md says how to install it",
    ),
    Backend(
        "mettagrid",
        ("mettagrid",),
        "mettagrid",
        "hotloop[mettagrid]",
        ("hearts", "arena", "navigation"),
        _mettagrid_ids,
        "also 'module:function', which returns a MettaGridConfig, or a YAML or JSON file of one;\n"
        "  wheels for Python 3.11 and 3.12",
    ),
    Backend(
        "atari",
        ("ale_py", "cv2", "gymnasium"),
        "ale-py",
        "hotloop[atari]",
        ("ALE/Pong-v5", "ALE/Breakout-v5"),
        _atari_ids,
        "ROMs come with the package",
    ),
)


def command(argv: Sequence[str]) -> int:
    """Runs ``hotloop envs``.

    Args:
        argv: the arguments behind ``envs``.

    Returns:
        The exit code; 1 where the backend that was asked for is not installed.
    """
    parser = argparse.ArgumentParser(
        prog="hotloop envs",
        description="List the libraries of environments that training can use, or the ids of one of them.",
    )
    names = [backend.name for backend in BACKENDS]
    parser.add_argument("--backend", choices=names, help="list every id that this one knows")
    asked = parser.parse_args(argv).backend
    if asked is None:
        _print_backends()
        return 0
    backend = BACKENDS[names.index(asked)]
    if backend.missing:
        missing = ", ".join(backend.missing)
        print(
            f"hotloop envs: {asked}: not installed: {missing}\nInstall it with: pip install '{backend.extra}'"
            f"\n{backend.note}",
            file=sys.stderr,
        )
        return 1
    print("\n".join(backend.ids()))
    return 0


def rows() -> list[tuple[str, str, str, str]]:
    """A line per backend: its name, the installed version or what is missing, the extra, examples."""
    found = []
    for backend in BACKENDS:
        missing = backend.missing
        state = f"missing: {', '.join(missing)}" if missing else backend.version or "installed"
        found.append((backend.name, state, backend.extra, ", ".join(backend.examples)))
    return found


_HEADINGS = ("backend", "version", "pip install", "for example")


def _print_backends() -> None:
    lines = rows()
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(map(len, column)) for column in zip(_HEADINGS, *lines, strict=True)]
        for line in (_HEADINGS, *lines):
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    else:
        table = Table(*_HEADINGS, box=None, pad_edge=False)
        for line in lines:
            # Not as markup: [extras] would be taken for a style.
            table.add_row(*(cell.replace("[", "\\[") for cell in line))
        Console().print(table)
    print()
    for backend in BACKENDS:
        print(f"{backend.name}: {backend.note}")
    print("\nhotloop train --env-backend NAME --env ID trains; hotloop envs --backend NAME lists every id")
