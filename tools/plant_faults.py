"""Plants faults in a copy of the sources and runs what must notice them: a test that was never seen to fail
proves nothing.

The copy lies in build/faults/tree and has its own build of the native module; the checkout is left alone.
Every command is run without a fault first and must pass. tools/faults.py is the list.

usage: python tools/plant_faults.py [--list] [NAME ...]
NAME is the beginning of a fault's name; all when none is given, which takes an hour on two cores
(AddressSanitizer, ThreadSanitizer and soaks; --quick leaves those out).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from faults import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[1]
TREE = ROOT / "build/faults/tree"
LIMIT = 3600  # seconds a command


def copy_sources() -> None:
    """Brings the copy up to date. What is the same keeps its time: ninja compiles only what changed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout.decode()  # fmt: skip
    names = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    for name in names:
        source, target = ROOT / name, TREE / name
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    for folder in ("csrc", "python", "tests", "tools"):
        for path in [path for path in (TREE / folder).rglob("*") if path.is_file()]:
            name = str(path.relative_to(TREE))
            if name not in names and path.suffix in (".py", ".cpp", ".h"):
                path.unlink()


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HOTLOOP", "PYTEST"))}
    return {**kept, "PYTHONPATH": f"{TREE}/python{os.pathsep}{TREE}", "PYTHONDONTWRITEBYTECODE": "1"}


def run(command: Sequence[str]) -> tuple[int, str]:
    """Exit code and output of a command in the copy."""
    words = [sys.executable if word == "PYTHON" else word for word in command]
    done = subprocess.run(
        words, cwd=TREE, env=environment(), text=True, check=False, timeout=LIMIT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.returncode, f"{done.stdout}\nexit code {done.returncode}\n"


def build() -> None:
    settings = ["HOTLOOP_CUDA=0", "HOTLOOP_BUILD_DIR=build/ninja"]
    code, output = run(["env", *settings, "PYTHON", "setup.py", "-q", "build_ext", "--inplace"])
    if code:
        raise SystemExit(f"plant_faults: the copy does not build:\n{output}")


def plant(fault: Fault) -> str:
    """Changes the copy; what stood there before."""
    path = TREE / fault.edit.path
    before = path.read_text()
    if before.count(fault.edit.old) != 1:
        raise SystemExit(f"plant_faults: {fault.name}: the piece to change is not once in {fault.edit.path}")
    path.write_text(before.replace(fault.edit.old, fault.edit.new))
    return before


def built_by_itself(fault: Fault) -> bool:
    """Whether the command compiles an instrumented build of its own."""
    return fault.command[0].endswith(".sh") or "sanitized.sh" in " ".join(fault.command)


def try_one(fault: Fault) -> str:
    """What came of a fault, in words; they begin with `noticed` where all is well."""
    before = plant(fault)
    native = fault.edit.path.startswith("csrc")
    begun = time.monotonic()
    try:
        if native and not built_by_itself(fault):
            build()
        code, output = run(fault.command)
    finally:
        (TREE / fault.edit.path).write_text(before)
    if native and not built_by_itself(fault):
        build()
    log = TREE.parent / f"{re.sub('[^a-z]+', '-', fault.name.lower())}.log"
    log.write_text(output)
    seconds = time.monotonic() - begun
    if not code:
        return f"NOT NOTICED: the command passed ({log})"
    if not re.search(fault.told, output):
        return f"FAILED OTHERWISE: nothing like {fault.told!r} in {log}"
    return f"noticed in {seconds:.0f} s: {re.search(fault.told, output)[0]}"  # type: ignore[index]


def main() -> int:
    parser = argparse.ArgumentParser(description="Plant faults in a copy of the sources; see them noticed.")
    parser.add_argument("--list", action="store_true", help="the faults, without planting them")
    parser.add_argument("--quick", action="store_true", help="without sanitizers, fuzzer and soak")
    parser.add_argument("names", nargs="*", metavar="NAME", help="beginnings of names")
    options = parser.parse_args()
    chosen = [
        fault for fault in FAULTS
        if (not options.names or any(fault.name.startswith(name) for name in options.names))
        and not (options.quick and (built_by_itself(fault) or "tools/soak.py" in fault.command))
    ]  # fmt: skip
    if options.list or not chosen:
        for fault in FAULTS:
            print(f"{fault.name}: {fault.broken} ({fault.edit.path})")
        return 0 if options.list else 2
    TREE.mkdir(parents=True, exist_ok=True)
    copy_sources()
    build()
    left_out = [fault for fault in chosen if fault.needs and importlib.util.find_spec(fault.needs) is None]
    chosen = [fault for fault in chosen if fault not in left_out]
    for command in dict.fromkeys(fault.command for fault in chosen):
        code, output = run(command)
        if code:
            print(f"{' '.join(command)} fails without any fault:\n{output[-3000:]}")
            return 1
        print(f"passes: {' '.join(command)}", flush=True)
    unnoticed = 0
    for fault in chosen:
        outcome = try_one(fault)
        unnoticed += not outcome.startswith("noticed")
        print(f"{fault.name}: {outcome}", flush=True)
    for fault in left_out:
        print(f"{fault.name}: left out, {fault.needs} is not installed")
    print(f"{len(chosen) - unnoticed} of {len(chosen)} faults were noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
