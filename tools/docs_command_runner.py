"""Runs what a page shows the way its reader would: in order, in a folder of its own, in one environment.

Lines for a shell go to bash, each in a process of its own behind the assignments that the page made before.
What a page presumes (a script of the reader's, an optional package) comes from two tables here, and is
recorded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from docs_commands import PIP, Statement

LINES_KEPT = 20  # of what a failed command printed
GRACE_SECONDS = 10.0
# `.extra-dev` too, or `make lint` would install hotloop anew under what runs beside `.ci/run`.
SET_UP = "make .venv/.extra-test .venv/.extra-bench .venv/.extra-dev .venv/.native"
# What this run itself was started with means nothing to a command that a reader types.
OWN = re.compile(r"MAKE|MFLAGS|PYTHONPATH$|PYTHONHOME$|VIRTUAL_ENV|DOCS_ARGS$|HOTLOOP_ISA$|COLUMNS$|LINES$")
MY_TRAINER = 'import sys\nfrom hotloop.__main__ import main\nmain(["train", *sys.argv[1:]])\n'
HOTLOOP_SCRIPT = "#!{python}\nimport sys\nfrom hotloop.__main__ import main\nsys.exit(main())\n"
FRESH = re.compile(r"pip install (?:.* )?(?:'?hotloop\b|\.(?: |$))")


@dataclasses.dataclass(frozen=True)
class StandIn:
    """A file that a page takes for granted."""

    name: str
    source: str = ""  # linked from the checkout
    text: str = ""  # or written

    def supply(self, root: Path, folder: Path) -> str:
        """Puts it there; what to say of it in the record."""
        if self.source:
            (folder / self.name).symlink_to(root / self.source)
            return f"{self.name}: {self.source}"
        (folder / self.name).write_text(self.text)
        return f"{self.name}: {self.text.strip().splitlines()[-1]}"


STAND_INS = (
    StandIn("ppo.py", source="examples/cleanrl_ppo.py"),
    StandIn("examples", source="examples"),
    StandIn("my_trainer.py", text=MY_TRAINER),
    StandIn("fast.yaml", text="total_timesteps: 8192\n"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Presumed:
    """What must have been installed before a command can work, as its page says."""

    pattern: str
    module: str  # where it can be imported already, nothing is done
    command: str


PRESUMED = (
    Presumed(r"--video \S", "pygame", "pip install 'gymnasium[classic-control]'"),
    Presumed(r"--env-backend envpool\b", "envpool", "make environments"),
    Presumed(r"--env-backend pufferlib\b", "pufferlib", "make environments"),
    Presumed(r"--env-backend mettagrid\b", "mettagrid", "make environments"),
    Presumed(r"--env-backend atari\b", "ale_py", "make environments"),
)


@dataclasses.dataclass
class Outcome:
    outcome: str  # passed, failed, timed out
    exit_code: int | None  # None where it ran out of time
    seconds: float
    where: str = ""
    ran: str = ""  # where it is not what is written
    stand_ins: tuple[str, ...] = ()
    after: tuple[str, ...] = ()  # what was installed for it
    changed: tuple[str, ...] = ()  # committed or new files of the checkout
    output: tuple[str, ...] = ()  # its last lines, if it failed
    beside: str = ""  # what ran at the same time


def installs_in_checkout(text: str) -> bool:
    """Whether a command presumes something that is installed into the checkout's own environment."""
    return any(re.search(p.pattern, text) and not PIP.match(p.command) for p in PRESUMED)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it started."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)


def run_shell(
    script: str,
    folder: Path,
    environment: Mapping[str, str],
    limit: float,
    log: Path,
    running: set[subprocess.Popen[bytes]] | None = None,
) -> tuple[int | None, float]:
    """Exit code, None when the time is up, and seconds. A variable that nobody has set is an error. While the
    process runs it is in `running`."""
    running = set() if running is None else running
    start = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            ["bash", "-u", "-o", "pipefail", "-c", script],
            cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            start_new_session=True,
        )  # fmt: skip
        running.add(process)
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
            end_group(process)
        except BaseException:
            end_group(process)
            raise
        finally:
            running.discard(process)
    return code, time.monotonic() - start


class Workplace:
    """The checkout that commands are run from, a folder for everything else, and what is shared by pages."""

    def __init__(self, root: Path, scratch: Path, limit: float, commit: str = "") -> None:
        self.root, self.scratch, self.limit = root.resolve(), scratch.resolve(), limit
        self.commit = commit  # for the record of what is set up
        self.venv = self.root / ".venv"
        self.set_up: list[dict[str, object]] = []
        self.running: set[subprocess.Popen[bytes]] = set()
        self.ended = False
        self._wheels: Path | None = None

    def environment(self, *venvs: Path) -> dict[str, str]:
        """That of commands, the environments' programs in front; the checkout's own where none is given."""
        venvs = venvs or (self.venv,)
        kept = {name: value for name, value in os.environ.items() if not OWN.match(name)}
        # of this run's own environment nothing must be found, unless it is the checkout's
        old = [
            part
            for part in kept.get("PATH", "").split(os.pathsep)
            if part != str(Path(sys.executable).parent)
        ]
        path = [str(folder / "bin") for folder in venvs]
        return {**kept, "PATH": os.pathsep.join([*path, *old]), "VIRTUAL_ENV": str(venvs[0])}

    def end(self) -> None:
        """Ends what other threads have started here."""
        self.ended = True
        for process in tuple(self.running):
            end_group(process)

    def ready(self) -> None:
        """Commands other than make's take an environment for granted: it is made when one is there first."""
        stamps = [self.root / word for word in SET_UP.split()[1:]]
        if not all(stamp.exists() for stamp in stamps):
            self.prepare(SET_UP, "the environment that commands presume")

    def prepare(self, command: str, reason: str) -> None:
        print(f"  set-up ({reason}): {command}", flush=True)
        log = self.scratch / "set-up.log"
        code, seconds = run_shell(command, self.root, self.environment(), self.limit, log)
        done: dict[str, object] = {
            "command": command.replace(str(self.scratch), "<scratch>"),
            "reason": reason,
            "exit_code": code,
            "seconds": round(seconds, 1),
            "commit": self.commit,
        }
        print(f"  set-up ended with {code} after {seconds:.1f} s", flush=True)
        self.set_up.append(done if code == 0 else {**done, "output": self.tail(log)})

    def has(self, module: str) -> bool:
        probe = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
        return subprocess.run([self.venv / "bin/python", "-c", probe], check=False).returncode == 0

    def wheels(self) -> Path:
        """A folder with a wheel of the checkout, since pip is to find no other."""
        if self._wheels is None:
            self.ready()
            self._wheels = self.scratch / "wheels"
            build = f"pip wheel -q --no-deps --no-build-isolation -w '{self._wheels}' ."
            build = f"HOTLOOP_CUDA=0 HOTLOOP_BUILD_DIR=build/ninja .venv/bin/python -m {build}"
            self.prepare(build, "the wheel that pip installs")
        return self._wheels

    def tail(self, log: Path) -> tuple[str, ...]:
        """The last lines, without the folders of this machine."""
        text = log.read_text(errors="replace")
        for folder, name in ((self.scratch, "<scratch>"), (self.root, "<checkout>"), (Path.home(), "~")):
            text = text.replace(str(folder), name)
        return tuple(line.rstrip() for line in text.splitlines()[-LINES_KEPT:])

    def git_status(self) -> set[str]:
        done = subprocess.run(
            ["git", "status", "--porcelain"], cwd=self.root, capture_output=True, text=True, check=False
        )
        return set(done.stdout.splitlines())


class Reader:
    """Runs one page, statement by statement."""

    def __init__(
        self, place: Workplace, page: str, statements: Sequence[Statement], *, beside: str = ""
    ) -> None:
        self.place, self.page, self.statements = place, page, statements
        self.beside = beside  # the command that runs at the same time, with one core for each
        name = page.replace("/", "-").removesuffix(".md") + "-beside" * bool(beside)
        self.folder = place.scratch / name
        self.log = place.scratch / f"{name}.log"
        self.folder.mkdir(parents=True)
        self.assignments: list[str] = []
        self.stand_ins: dict[str, str] = {}
        self.block = -1
        self.venv: Path | None = None  # of the block, where it installs something

    def run(self, statement: Statement) -> Outcome:
        place = self.place
        if statement.block != self.block:
            self.leave()
            self.block = statement.block
        if not re.match(r"make |\.ci/", statement.text) and not statement.assignment:
            place.ready()
        after = () if statement.assignment else self._presume(statement)
        if PIP.match(statement.text) and self.venv is None:
            block = [other.text for other in self.statements if other.block == statement.block]
            fresh = any(FRESH.search(text) for text in block) and not (
                statement.inline and "hotloop" in statement.text
            )
            self._make_venv(fresh=fresh)
        line = self._really(statement.text)
        folder = place.root if statement.in_checkout else self.folder
        used = self._stand_ins(statement.text)
        before = place.git_status() if statement.in_checkout else set()
        code, seconds = self._shell("\n".join([*self.assignments, line]), folder)
        if statement.assignment and code == 0:
            self.assignments.append(statement.text)
        changed = place.git_status() - before if statement.in_checkout else set()
        told = {0: "passed", None: "timed out"}.get(code, "failed")
        return Outcome(
            told, code, round(seconds, 1), self._where(statement),
            ran=self._portable(line) if line != statement.text else "",
            stand_ins=used, after=after, changed=tuple(sorted(entry[3:] for entry in changed)),
            output=() if code == 0 else place.tail(self.log), beside=self.beside,
        )  # fmt: skip

    def printed(self) -> str:
        """All that the last command printed."""
        return self.log.read_text(errors="replace")

    def leave(self) -> None:
        """Drops the environment of a block: each is as large as torch."""
        if self.venv is not None:
            shutil.rmtree(self.venv)
            self.venv = None

    def _where(self, statement: Statement) -> str:
        place = "the checkout" if statement.in_checkout else "a scratch folder"
        return place if self.venv is None else f"{place}, an environment of its own"

    def _shell(self, script: str, folder: Path) -> tuple[int | None, float]:
        place = self.place
        above = [] if self.venv is None else [self.venv]
        below = [] if self.venv is not None and self.venv.name == "fresh" else [place.venv]
        environment = place.environment(*above, *below)
        if self.beside:
            environment["OMP_NUM_THREADS"] = "1"
        return run_shell(script, folder, environment, place.limit, self.log, place.running)

    def _stand_ins(self, text: str) -> tuple[str, ...]:
        """Supplies what the line names, once a page."""
        used = []
        for made in STAND_INS:
            if re.search(rf"(?<![\w/.-]){re.escape(made.name.removesuffix('.py'))}(?![\w-])", text):
                if made.name not in self.stand_ins:
                    self.stand_ins[made.name] = made.supply(self.place.root, self.folder)
                used.append(self.stand_ins[made.name])
        return tuple(used)

    def _presume(self, statement: Statement) -> tuple[str, ...]:
        done = []
        for presumed in PRESUMED:
            if re.search(presumed.pattern, statement.text) and not self.place.has(presumed.module):
                if not PIP.match(presumed.command):
                    self.place.prepare(presumed.command, f"presumed by {statement.where}")
                    done.append(presumed.command)
                    continue
                if self.venv is None:
                    self._make_venv(fresh=False)
                code, _ = self._shell(self._really(presumed.command), self.folder)
                done.append(presumed.command if code == 0 else f"{presumed.command} (exit code {code})")
        return tuple(done)

    def _really(self, line: str) -> str:
        """What pip is to be given so that it finds the wheel of this checkout, and no other torch."""
        if not PIP.match(line):
            return line
        options = f"-q -c '{self.place.root}/requirements/constraints.txt'"
        if "hotloop" in line and self.venv is not None and self.venv.name == "fresh":
            options += f" --find-links '{self.place.wheels()}'"
        return re.sub(r"\bpip install\b", f"pip install {options}", line, count=1)

    def _portable(self, line: str) -> str:
        return line.replace(f"'{self.place.root}/", "'<checkout>/").replace(
            f"'{self.place.scratch}/", "'<scratch>/"
        )

    def _make_venv(self, *, fresh: bool) -> None:
        """An empty environment, or one on top of the checkout's own, where hotloop is installed already."""
        self.place.ready()
        self.venv = self.folder / ("fresh" if fresh else "layered")
        shutil.rmtree(self.venv, ignore_errors=True)
        python = self.place.venv / "bin/python"
        subprocess.run([python, "-m", "venv", self.venv], check=True)
        if fresh:
            return
        print_site = "import sysconfig; print(sysconfig.get_path('purelib'))"
        below, here = (
            subprocess.run(
                [path, "-c", print_site], capture_output=True, text=True, check=True
            ).stdout.strip()
            for path in (python, self.venv / "bin/python")
        )
        # `site.addsitedir` also reads the .pth files there: the editable install of hotloop is one of them
        Path(here, "below.pth").write_text(f"import site; site.addsitedir({below!r})\n")
        script = self.venv / "bin/hotloop"
        script.write_text(HOTLOOP_SCRIPT.format(python=self.venv / "bin/python"))
        script.chmod(0o755)
