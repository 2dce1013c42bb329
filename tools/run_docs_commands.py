"""Runs every command that README, CONTRIBUTING, SECURITY and docs show, and records what each came to.

Page by page, in order, each page in a scratch folder of its own, with the programs of the checkout's .venv in
front: what one line leaves (`runs/mine`, a variable) the next one finds. Commands of the checkout (`make`,
tools) run in it. `pip install hotloop` runs in an environment that is thrown away, with a wheel built here.
What is not run is listed with the reason; commands that rewrite committed files are run in a clone alone. A
command that another one runs, such as `make lint`, a stage of `.ci/run`, is not run twice, and the record
says so.

The record is benchmarks/results/docs_commands.json, written after every command: `--resume` goes on where a
call was stopped. The exit code is 1 where a command failed, and of `--check` where one has no record.

usage: python tools/run_docs_commands.py [--clone DIR] [--pages README.md ...] [--only REGEX] [--skip REGEX]
                                         [--merge] [--resume] [--list] [--check]
"""

from __future__ import annotations

import argparse
import datetime
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

import docs_command_record as records
from docs_command_plan import needs_wheels, plan
from docs_command_runner import Outcome, Reader, Workplace
from docs_command_stages import CI, parts_of, share_of
from docs_commands import Statement, documented, pages_of, reason_not_to_run
from hotloop.bench.machine import describe

ROOT = Path(__file__).resolve().parents[1]
RECORD = Path("benchmarks/results/docs_commands.json")
LIMIT_SECONDS = 3600.0


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def clone(folder: Path, source: Path) -> Path:
    """A clone of the checkout at its commit; one that is there is brought up to it, its .venv kept."""

    def git(*arguments: str, where: Path = folder) -> str:
        command = ["git", "-C", str(where), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    if folder.exists() and any(folder.iterdir()):
        origin = git("remote", "get-url", "origin") if (folder / ".git").exists() else "no repository"
        if origin != str(source):
            raise SystemExit(f"--clone {folder}: expected a clone of {source}, got {origin}")
        git("fetch", "-q", "origin", "HEAD")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        git("clone", "-q", "--no-checkout", str(source), str(folder), where=source)
    git("checkout", "-q", "--force", "--detach", git("rev-parse", "HEAD", where=source))
    return folder.resolve()


def left_out(statement: Statement, options: argparse.Namespace) -> str | None:
    """Which option leaves a statement out; never an assignment, which later lines need."""
    if options.pages and statement.page not in options.pages:
        return records.BY_PAGES
    if statement.assignment:
        return None
    if options.only and not re.search(options.only, statement.text):
        return "left out by --only"
    if options.skip and re.search(options.skip, statement.text):
        return "left out by --skip"
    return None


def reason_of(statement: Statement, options: argparse.Namespace) -> str | None:
    gpu = shutil.which("nvidia-smi") is not None
    return reason_not_to_run(statement, gpu=gpu, in_place=options.clone is None) or left_out(
        statement, options
    )


class Session:
    """One call: runs commands and writes the record after each, of two threads where two run at a time."""

    def __init__(
        self, root: Path, scratch: Path, statements: Sequence[Statement], options: argparse.Namespace
    ) -> None:
        self.root, self.statements, self.options = root, statements, options
        self.path: Path = options.json or ROOT / RECORD
        self.commit = records.commit_of(root, apart_from=self.path)
        self.place = Workplace(root, scratch, options.limit, self.commit)
        self.earlier = records.read(self.path) if options.merge or options.resume else {"commands": []}
        machine = {name: value for name, value in describe().items() if name not in ("commit", "date")}
        self.head: dict[str, Any] = {
            "commit": self.commit,
            "date": now(),
            "machine": machine,
            "in": "the checkout" if options.clone is None else "a clone",
            "limit_seconds": options.limit,
        }
        reasons = [reason_of(statement, options) for statement in statements]
        self.entries = [
            records.entry_not_run(statement, reason or "not reached")
            for statement, reason in zip(statements, reasons, strict=True)
        ]
        self.plan = plan(
            statements,
            lambda statement: reason_of(statement, options) is not None,
            parts_of(root),
            self.earlier["commands"] if options.resume else [],
            self.commit,
        )
        self._begun = time.monotonic()
        self._number = 0
        self._others: threading.Thread | None = None
        self._lock = threading.Lock()

    def merged(self) -> list[records.Entry]:
        return records.merge(self.entries, self.earlier["commands"], self.commit)

    def run(self) -> list[records.Entry]:
        if self.plan.passed:
            told = f"{len(self.plan.passed)} commands passed at {self.commit} before and are not run again"
            print(told, flush=True)
        try:
            self._lane(self.plan.alone, "")
        finally:
            self.place.end()
            if self._others is not None:
                self._others.join()
            self._write()
        return self.merged()

    def _lane(self, indices: Sequence[int], beside: str) -> None:
        """One after the other, each page's in a folder of its own; `beside`: what runs at the same time."""
        reader: Reader | None = None
        try:
            for index in indices:
                statement = self.statements[index]
                if reader is None or statement.page != reader.page:
                    if reader is not None:
                        reader.leave()
                    page = [other for other in self.statements if other.page == statement.page]
                    reader = Reader(self.place, statement.page, page, beside=beside)
                with self._lock:
                    self._number += 1
                    passed_by = datetime.timedelta(seconds=round(time.monotonic() - self._begun))
                    at = f"[{self._number}/{self.plan.number}, {passed_by}]"
                    print(f"{at} {statement.where}: {statement.text}", flush=True)
                if statement.text == CI and self.plan.beside:
                    self._start_others()
                outcome = reader.run(statement)
                if self.place.ended:
                    return
                self._record(index, outcome, reader.printed())
                if statement.text == CI and self._others is not None:
                    self._others.join()
        finally:
            if reader is not None:
                reader.leave()

    def _start_others(self) -> None:
        self.place.ready()
        if needs_wheels(self.statements, self.plan.beside):
            self.place.wheels()
        self._others = threading.Thread(target=self._lane, args=(self.plan.beside, CI))
        self._others.start()

    def _record(self, index: int, outcome: Outcome, printed: str) -> None:
        statement = self.statements[index]
        with self._lock:
            where = f": {statement.where}" if self.plan.beside else ""  # two are under way
            print(f"  {outcome.outcome} in {outcome.seconds:.1f} s{where}", flush=True)
            print("".join(f"  | {line}\n" for line in outcome.output), end="", flush=True)
            if outcome.changed and self.options.clone is not None:
                restore(self.root)
            date = now()
            self.entries[index] = records.entry_run(statement, outcome, self.commit, date)
            for other, (whole, part) in self.plan.parts.items():
                if whole == index:
                    share = share_of(part, outcome.outcome, outcome.seconds, printed)
                    of = self.statements[other]
                    self.entries[other] = records.entry_part(of, part, share, self.commit, date)
                    print(f"  {share.outcome} in it: {of.where}: {of.text}", flush=True)
            self._write()

    def _write(self) -> None:
        set_up = [*self.earlier.get("set_up", []), *self.place.set_up]
        seconds = round(time.monotonic() - self._begun + self.earlier.get("seconds", 0.0), 1)
        records.write(self.path, {**self.head, "seconds": seconds, "set_up": set_up}, self.merged())


def restore(root: Path) -> None:
    """Puts the committed files of a clone back: the next command is to find the commit as it is."""
    subprocess.run(["git", "-C", str(root), "checkout", "-q", "--force", "--", "."], check=True)


def check(statements: Sequence[Statement], options: argparse.Namespace) -> int:
    """Lists the commands that the record does not have as passed, and does not excuse either."""
    record = records.read(options.json or ROOT / RECORD)
    known: dict[str, str] = {}
    for entry in record["commands"]:
        if known.get(entry["command"]) != "passed":
            known[entry["command"]] = entry["outcome"]
    missing = 0
    for statement in statements:
        outcome = known.get(statement.text, "no record")
        if outcome == "passed" or (outcome == "not run" and reason_of(statement, options) is not None):
            continue
        missing += 1
        print(f"{statement.where}: {statement.text}: {outcome}")
    of = f"of {record['commit']}, {record['date']}" if "commit" in record else "empty"
    print(f"{len(statements)} commands, {missing} without a run that passed; the record is {of}")
    return int(missing > 0)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="run_docs_commands.py", description=(__doc__ or "").partition("\n")[0]
    )
    made.add_argument("--pages", nargs="+", metavar="PAGE", help="such as README.md docs/trainer.md")
    made.add_argument("--only", metavar="REGEX", help="commands in which this is found")
    made.add_argument("--skip", metavar="REGEX", help="not those in which this is found")
    made.add_argument(
        "--merge", action="store_true", help="keep what an earlier call ran and this one does not"
    )
    made.add_argument(
        "--resume", action="store_true", help="the same, and do not run again what passed at this commit"
    )
    made.add_argument("--list", action="store_true", help="list the commands, run nothing")
    made.add_argument("--check", action="store_true", help="list those that no record has; run nothing")
    made.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds a command may take")
    made.add_argument("--clone", type=Path, metavar="DIR", help="run in a clone of HEAD there, not in place")
    made.add_argument("--json", type=Path, help=f"the record (default: {RECORD})")
    return made


def stop(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    root = ROOT if options.clone is None or options.list or options.check else clone(options.clone, ROOT)
    known = [str(path.relative_to(root)) for path in pages_of(root)]
    if unknown := [page for page in options.pages or () if page not in known]:
        raise SystemExit(f"--pages: no page {', '.join(unknown)}; there are {', '.join(known)}")
    statements = documented(root)
    console = Console(width=None if sys.stdout.isatty() else 200)
    if options.list:
        for statement in statements:
            reason = reason_of(statement, options)
            print(f"{statement.where}: {statement.text}" + (f"   (not run: {reason})" if reason else ""))
        return 0
    if options.check:
        return check(statements, options)
    if options.clone is not None and records.commit_of(ROOT, apart_from=ROOT / RECORD).endswith("+"):
        print("the clone has the last commit, without the changes that are not committed")
    usual = signal.signal(signal.SIGTERM, stop)
    scratch = Path(tempfile.mkdtemp(prefix="docs-commands-"))
    try:
        entries = Session(root, scratch, statements, options).run()
    except KeyboardInterrupt:
        print("stopped; the record has what was run: go on with --resume")
        return 130
    finally:
        signal.signal(signal.SIGTERM, usual)  # whoever called this may go on
        shutil.rmtree(scratch, ignore_errors=True)
    records.show(entries, console)
    return int(bool(records.failures(entries)))


if __name__ == "__main__":
    sys.exit(main())
