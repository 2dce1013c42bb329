"""Runs of `hotloop train` as one process and as several ranks, from one import of everything they need.

As a program it takes a JSON list of groups: each a list of the processes that make up one run, each of them
``{"cwd": ..., "argv": [...]}``. The processes are forked before any thread exists, all groups at once.
"""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

TIMING = ("wall_time", "steps_per_second", "seconds_")  # beginnings of columns


def run_groups(folder: Path, *groups: tuple[int, list[str]]) -> list[list[tuple[int, str, str]]]:
    """Runs `hotloop train` with the arguments of each group in that many processes, each in a directory of
    its own, ``folder / f"group{g}-rank{r}"``. Exit code, stdout and stderr of each process."""
    plan = [
        [{"cwd": str(folder / f"group{g}-rank{rank}"), "argv": argv} for rank in range(count)]
        for g, (count, argv) in enumerate(groups)
    ]
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(plan)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [
        [
            (
                int(Path(process["cwd"], "code").read_text()),
                Path(process["cwd"], "stdout").read_text(),
                Path(process["cwd"], "stderr").read_text(),
            )
            for process in group
        ]
        for group in plan
    ]


def rows(path: Path) -> list[dict[str, str]]:
    """metrics.csv without what depends on the speed of the machine."""
    with path.open(newline="") as stream:
        return [{k: v for k, v in row.items() if not k.startswith(TIMING)} for row in csv.DictReader(stream)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _child(process: dict[str, Any], rank: int, size: int, port: int) -> None:
    from hotloop import cli

    os.makedirs(process["cwd"], exist_ok=True)
    os.chdir(process["cwd"])
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    if size > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
    code = 70
    try:
        code = cli.train(process["argv"])
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        sys.stdout.flush()
        Path("code").write_text(str(code))


def _main(plan: list[list[dict[str, Any]]]) -> int:
    import gymnasium  # noqa: F401  (what every child would import)

    from hotloop import cli  # noqa: F401

    children = []
    for group in plan:
        port = free_port()
        for rank, process in enumerate(group):
            child = os.fork()
            if not child:
                try:
                    _child(process, rank, len(group), port)
                finally:
                    os._exit(0)
            children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))
