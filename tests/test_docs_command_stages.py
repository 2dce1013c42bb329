"""Commands that another command of the pages runs, and calls that go on where an earlier one was stopped."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import docs_command_record as records  # noqa: E402
import run_docs_commands  # noqa: E402
from docs_command_plan import beside_of, plan  # noqa: E402
from docs_command_runner import SET_UP, Workplace  # noqa: E402
from docs_command_stages import CI, RECIPES, Part, parts_of, share_of  # noqa: E402
from docs_commands import Statement, documented  # noqa: E402
from test_docs_commands import a_checkout, run  # noqa: E402

SCRIPT = """#!/bin/sh
full_tests() { make ok | tee log; }
stage() { label=$1; shift; "$@" || { echo "FAILED in stage: $label"; exit 1; }; echo "    7 s  $label"; }
stage "set-up" true
stage "make ok (with set-up)" full_tests
stage "make bad" make bad
stage "make write" make write
"""


def a_checkout_with_stages(tmp_path: Path, *, broken: bool) -> str:
    """A checkout whose .ci/run has three stages, of which the second may fail; its page."""
    (tmp_path / "checkout/.ci").mkdir(parents=True)
    script = tmp_path / "checkout" / CI
    script.write_text(SCRIPT if broken else re.sub(".*make bad.*\n", "", SCRIPT))
    script.chmod(0o755)
    page = "`make ok` and `make bad` and `make write` and `.ci/run`\n"
    a_checkout(tmp_path / "checkout", page)
    return page


def test_the_parts_are_those_of_the_script() -> None:
    parts = parts_of(ROOT)
    assert parts["make test"] == Part(CI, "make test (set-up included)")
    assert parts["make fuzz FUZZ_RUNS=5000"] == Part(CI, "make fuzz")
    stages = re.findall(r'^stage "', (ROOT / CI).read_text(), re.MULTILINE)
    assert len(parts) == len(RECIPES) + len(stages) - 1  # but the tools of the system
    # what is said to be shown, is: a stage that no page names would spare nothing
    shown = {statement.text for statement in documented(ROOT)}
    assert parts.keys() <= shown
    assert {part.whole for part in parts.values()} <= shown


@pytest.mark.parametrize(("text", "whole"), RECIPES.items())
def test_a_recipe_is_the_command_with_files_for_figures(text: str, whole: str) -> None:
    target = whole.removeprefix("make ")
    (recipe,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    last = recipe.splitlines()[-1].strip().removeprefix("$(BIN)/")
    options = last.removeprefix(text).split()
    assert last.startswith(text), last
    assert options[-1] == "$(BENCH_ARGS)"
    assert set(options[:-1:2]) <= {"--json", "--html"}


def test_what_a_stage_came_to() -> None:
    part = Part(CI, "make lint")
    printed = "== make lint\nnoise\n   12 s  make test\n   30 s  make lint\nFAILED in stage: make tidy\n"
    assert share_of(part, "failed", 99.0, printed).outcome == "passed"
    assert share_of(part, "failed", 99.0, printed).seconds == 30.0
    assert share_of(Part(CI, "make tidy"), "failed", 99.0, printed).outcome == "failed"
    assert share_of(Part(CI, "make docs"), "failed", 99.0, printed).outcome == "not run"
    assert share_of(Part("make bench"), "failed", 99.0, "").outcome == "failed"


def test_a_stage_is_not_run_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = a_checkout_with_stages(tmp_path, broken=False)
    code, entries = run(tmp_path, monkeypatch, page, "--skip", "bad")
    assert code == 0
    within = entries["make ok"]
    assert (within["outcome"], within["seconds"], within["within"]) == ("passed", 7.0, CI)
    assert within["note"] == f"ran as a stage of {CI}"
    assert entries["make bad"]["reason"] == "left out by --skip"
    told = capsys.readouterr().out
    assert "[1/1, 0:00:00] README.md:1: .ci/run" in told
    whole = entries[CI]["seconds"]
    assert f"0 stale; {whole:.0f} s" in told  # whose time is counted once
    # without the whole each is run by itself
    code, entries = run(tmp_path, monkeypatch, page, "--skip", "bad|ci")
    assert "within" not in entries["make ok"]
    assert entries["make ok"]["outcome"] == "passed"


def test_a_stage_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, entries = run(tmp_path, monkeypatch, a_checkout_with_stages(tmp_path, broken=True))
    assert code == 1
    assert {text: entry["outcome"] for text, entry in entries.items()} == {
        "make ok": "passed", "make bad": "failed", "make write": "not run", CI: "failed",
    }  # fmt: skip
    assert entries["make write"]["reason"] == f"{CI} ended before it"


COUNTING = "```\npython3 -c \"open('n','a').write('x')\"\nmake ok\nmake bad\n```\n"


def test_what_passed_at_this_commit_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, monkeypatch, COUNTING)[0] == 1
    capsys.readouterr()
    code, entries = run(tmp_path, monkeypatch, COUNTING, "--resume")
    assert code == 1
    told = capsys.readouterr().out
    assert "2 commands passed at " in told
    assert re.findall(r"^\[.*\] (.*)$", told, re.MULTILINE) == ["README.md:4: make bad"]
    assert [entry["outcome"] for entry in entries.values()] == ["passed", "passed", "failed"]
    # in a checkout with changes nothing is known to be the same
    (tmp_path / "checkout/Makefile").write_text("ok:\n\t@true\nbad:\n\t@true\n")
    for _ in range(2):
        assert run(tmp_path, monkeypatch, COUNTING, "--resume")[0] == 0
        assert "[3/3, " in capsys.readouterr().out
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qam", "y"]
    subprocess.run(git, cwd=tmp_path / "checkout", check=True)
    assert run(tmp_path, monkeypatch, COUNTING, "--resume")[0] == 0
    assert "[3/3, " in capsys.readouterr().out


def test_lines_in_a_scratch_folder_go_on_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder of the earlier call is gone, and with it what its lines had left there."""
    page = "```\npython3 -c \"open('a', 'w')\"\nmake ok\npython3 -c \"open('a')\"\n```\n"
    assert run(tmp_path, monkeypatch, page, "--skip", r"'a'\)")[0] == 0
    capsys.readouterr()
    assert run(tmp_path, monkeypatch, page, "--resume")[0] == 0
    assert "[2/2, " in capsys.readouterr().out


def test_the_check_lists_what_has_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, monkeypatch, "```\nmake ok\nmake docs-serve\nmake bad\n```\n")
    root = tmp_path / "checkout"
    (root / "README.md").write_text(
        "```\nmake docs-serve\n```\n\n`make ok` and `make write` and `make bad`\n"
    )
    capsys.readouterr()
    assert run_docs_commands.main(["--check"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == ["README.md:5: make write: no record", "README.md:5: make bad: failed"]
    assert told[2].startswith("4 commands, 2 without a run that passed; the record is of ")
    (root / "README.md").write_text("`make ok`\n")
    assert run_docs_commands.main(["--check"]) == 0
    (root / run_docs_commands.RECORD).unlink()
    assert run_docs_commands.main(["--check"]) == 1
    assert "the record is empty" in capsys.readouterr().out


def test_a_clone_is_put_back_after_a_command_that_changes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "`python3 tools/change.py` and `python3 tools/look.py`\n"
    (tmp_path / "checkout/tools").mkdir(parents=True)
    (tmp_path / "checkout/tools/change.py").write_text("open('README.md', 'w').write('x')\n")
    (tmp_path / "checkout/tools/look.py").write_text("assert 'change' in open('README.md').read()\n")
    a_checkout(tmp_path / "checkout", page)
    there = tmp_path / "there"
    monkeypatch.setattr(Workplace, "ready", lambda self: None)
    code, entries = run(tmp_path, monkeypatch, page, "--clone", str(there))
    assert code == 0, json.dumps(entries, indent=1)
    assert entries["python3 tools/change.py"]["changed"] == ["README.md"]
    assert (
        records.commit_of(there, apart_from=tmp_path)
        == records.read(tmp_path / "checkout" / run_docs_commands.RECORD)["commit"]
    )


def test_what_runs_beside_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are under way at once: each waits for a file of the other."""
    wait = "import pathlib, time; [time.sleep(0.02) for _ in range(2000) if not pathlib.Path({!r}).exists()]"
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    (tmp_path / "checkout/.ci").mkdir(parents=True)
    script = tmp_path / "checkout" / CI
    script.write_text(f"#!/bin/sh\ntouch {a}\nwhile ! test -e {b}; do sleep 0.02; done\n")
    script.chmod(0o755)
    (tmp_path / "checkout/wait.py").write_text(wait.format(a))
    page = f"`make ok` and `.ci/run`\n\n```\nX={a}\npython3 -c \"open('$X')\"\ntouch {b}\n```\n"
    page = page.replace("python3 -c", f"python3 {tmp_path}/checkout/wait.py && python3 -c")
    a_checkout(tmp_path / "checkout", page)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    code, entries = run(tmp_path, monkeypatch, page, "--limit", "60")
    assert code == 0, json.dumps(entries, indent=1)
    told = [entry.get("beside") for entry in entries.values()]
    assert told == [None, None, CI, CI, CI]  # make ok, .ci/run, and the lines of the block


def test_two_at_a_time_have_a_core_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    (tmp_path / "checkout/.ci").mkdir(parents=True)
    script = tmp_path / "checkout" / CI
    script.write_text('#!/bin/sh\ntest "$OMP_NUM_THREADS" = 2\n')
    script.chmod(0o755)
    page = "`.ci/run`\n\n```\npython3 -c 1\ntest $OMP_NUM_THREADS = 1\nfalse\n```\n"
    a_checkout(tmp_path / "checkout", page)
    code, entries = run(tmp_path, monkeypatch, page)
    assert code == 1
    assert [entry["outcome"] for entry in entries.values()] == ["passed", "passed", "passed", "failed"]


def test_which_pages_are_run_beside_it() -> None:
    texts = {
        "a.md": ["hotloop train", "make ok"], "b.md": ["hotloop train", "hotloop bench --x"],
        "c.md": ["hotloop train --env-backend atari", "hotloop train"], "d.md": [CI],
    }  # fmt: skip
    statements = [Statement(page, n, text, 1) for page, of in texts.items() for n, text in enumerate(of)]
    every = list(range(len(statements)))
    assert beside_of(statements, every) == [0]
    made = plan(statements, lambda statement: False, {"make ok": Part(CI, "x")}, [], "abc")
    assert (made.alone, made.beside, made.parts) == ([2, 3, 4, 5, 6], [0], {1: (6, Part(CI, "x"))})
    # without the whole nothing is
    made = plan(statements, lambda statement: statement.text == CI, {"make ok": Part(CI, "x")}, [], "abc")
    assert (made.alone, made.beside, made.parts) == (every[:-1], [], {})
    # nothing that `.ci/run` installs is missing when it begins
    script = (ROOT / CI).read_text() + (ROOT / "Makefile").read_text()
    for target in re.findall(r"^stage .*make ([a-z-]+)", script, re.MULTILINE):
        (needs,) = re.findall(rf"^{target}:(.*)$", script, re.MULTILINE)
        for stamp in re.findall(r"\$\(VENV\)/(\.extra\S+)", needs):
            assert f".venv/{stamp}" in SET_UP, target


def test_a_call_that_is_stopped_ends_both(tmp_path: Path) -> None:
    place = Workplace(a_checkout(tmp_path, ""), tmp_path / "scratch", 60)
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    place.running.add(process)
    place.end()
    assert place.ended
    assert process.wait(10) != 0
