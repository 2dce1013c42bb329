"""tools/run_docs_commands.py: which commands pages have, how they are run, and what the record says."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import docs_command_record as records  # noqa: E402
import docs_command_runner as running  # noqa: E402
import run_docs_commands  # noqa: E402
from docs_commands import Statement, block_statements, documented, reason_not_to_run  # noqa: E402

MAKEFILE = (
    "SECONDS_ ?= 600\n\nok:\n\t@true\n\nbad:\n\t@echo it broke; exit 3\n\nwrite:\n\t@echo x > new.txt\n"
)


def texts(statements: list[Statement]) -> list[str]:
    return [statement.text for statement in statements]


def in_blocks(text: str) -> list[tuple[int, str]]:
    return [(statement.line, statement.text) for statement in block_statements("README.md", text)]


def a_checkout(root: Path, readme: str) -> Path:
    """A repository whose one page is `readme`, and whose environment counts as made."""
    (root / "README.md").write_text(readme)
    (root / "Makefile").write_text(MAKEFILE)
    (root / ".gitignore").write_text(".venv\n")
    (root / ".venv/bin").mkdir(parents=True)
    for word in running.SET_UP.split()[1:]:
        (root / word).touch()
    for command in (
        ["init", "-q"], ["add", "."],
        ["-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-q", "-m", "x"],
    ):  # fmt: skip
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readme: str, *options: str
) -> tuple[int, dict[str, records.Entry]]:
    """Exit code and the entries by command, for a page in a checkout of its own."""
    root = tmp_path / "checkout"
    if root.exists():
        (root / "README.md").write_text(readme)
    else:
        root.mkdir()
        a_checkout(root, readme)
    monkeypatch.setattr(run_docs_commands, "ROOT", root)
    before = signal.getsignal(signal.SIGTERM)
    code = run_docs_commands.main(options)
    assert signal.getsignal(signal.SIGTERM) is before, "processes forked later inherit it"
    record = json.loads((root / run_docs_commands.RECORD).read_text())
    return code, {entry["command"]: entry for entry in record["commands"]}


def test_lines_of_blocks() -> None:
    assert in_blocks("```\nmake a   # why\n\n# alone\nhotloop x \\\n   --y 1\n```\n") == [
        (2, "make a"), (5, "hotloop x --y 1"),
    ]  # fmt: skip
    # what comes before a command is needed; a # inside of quotes is none
    assert in_blocks('```bash\nS="a \\\n  b"\nhotloop "$S #1" # c\n```\n') == [
        (2, 'S="a b"'), (4, 'hotloop "$S #1"'),
    ]  # fmt: skip
    assert in_blocks("```console\n$ make a\nmade\n$ make b\n```\n") == [(2, "make a"), (4, "make b")]


@pytest.mark.parametrize(
    "text",
    [
        "```\nhotloop train: error: num_envs must be\n```\n", "```python\nmake = 1\n```\n",
        "```\ngae 4096x128\n```\n", "```yaml\nmake a\n```\n",
    ],
)  # fmt: skip
def test_what_is_no_command(text: str) -> None:
    assert in_blocks(text) == []


def test_inline_commands_stand_once(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "Run `make bench`, `hotloop.ops.gae`\nand `hotloop train\n--seed 1`.\n\n```\nmake a\n```\n"
        "| command | |\n| --- | --- |\n| `make soak` | `SOAK=1`, `SECONDS_=600` |\n"
    )
    (tmp_path / "Makefile").write_text(MAKEFILE)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/x.md").write_text(
        "`make a` and `make bench`, and `make soak`\n\n```\nmake x\nmake x\n```\n"
    )
    found = documented(tmp_path)
    assert [(s.where, s.text, s.inline, s.also) for s in found] == [
        ("README.md:1", "make bench", True, ("docs/x.md:1",)),
        ("README.md:2", "hotloop train --seed 1", True, ()),
        ("README.md:6", "make a", False, ("docs/x.md:1",)),
        # with what the Makefile takes by itself it is the same command
        ("README.md:10", "make soak", True, ("docs/x.md:1",)),
        ("README.md:10", "make soak SOAK=1", True, ()),
        ("docs/x.md:4", "make x", False, ()),
        ("docs/x.md:5", "make x", False, ()),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("make docs-serve", "serves until it is stopped"), ("make test-gpu", "needs an NVIDIA GPU"),
        ("hotloop train --sync-audit", "needs an NVIDIA GPU"), ("hotloop envs --backend NAME", "a pattern"),
        ('make test PIP_ARGS="--index ..."', "a pattern"), ("hotloop", "names a program"),
        ("tools/faults.py", "names a program"), ("pip install", "names a command"),
        ("make format", "rewrites committed files"), ("make docs-commands", "is this run"),
        ("make test", None), (".ci/run", None), ("hotloop train --jobs E1,E3", None),
        ("hotloop train --env ALE/Breakout-v5", None), ("make bench", None),
    ],
)  # fmt: skip
def test_reasons_not_to_run(text: str, reason: str | None) -> None:
    told = reason_not_to_run(Statement("p.md", 1, text, 1, inline=True), gpu=False, in_place=True)
    assert (told or "run").startswith(reason or "run")


def test_what_a_gpu_and_a_clone_make_possible() -> None:
    for text in ("make test-gpu", "make format"):
        assert reason_not_to_run(Statement("p.md", 1, text, 1), gpu=True, in_place=False) is None
    # in a block a program alone is a command
    assert reason_not_to_run(Statement("p.md", 1, "hotloop", 1), gpu=False, in_place=True) is None


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("make test", True), ("A=1 .venv/bin/python setup.py", True), ("python tools/x.py", True),
        ("python -m benchmarks.gpu", True), ("pip install .", True),
        ("pip install -r requirements/a.txt", True), ("pip install --no-deps -r requirements/a.txt", True),
        ("pytest benchmarks/x.py -s", True),
        ("hotloop train", False), ("pip install 'hotloop[train]'", False), ("python ppo.py", False),
        ("python examples/recall.py", False), ("python -m torch.distributed.run", False),
    ],
)  # fmt: skip
def test_what_runs_in_the_checkout(text: str, there: bool) -> None:
    assert Statement("p.md", 1, text, 1).in_checkout is there


def test_a_page_is_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and variables of a line are there for the next, also in the next block; `make` runs elsewhere."""
    page = """```
S="a b"
python3 -c "open('$S', 'w')"
make ok
```

```
python3 -c "open('$S')"
```
"""
    code, entries = run(tmp_path, monkeypatch, page)
    assert {name: entry["outcome"] for name, entry in entries.items()} == dict.fromkeys(entries, "passed")
    assert (code, len(entries)) == (0, 4)
    assert entries["make ok"]["where"] == "the checkout"
    assert not (tmp_path / "checkout/a b").exists()


def test_failures_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the end of what was printed; what comes after is run all the same. So are what make wrote and a
    variable that nobody set."""
    page = """```
make bad
make write
python3 -c "$UNSET"
python3 -c 'import os; print(os.getcwd()); 1/0'
```
"""
    code, entries = run(tmp_path, monkeypatch, page)
    assert code == 1
    bad, write, unset, error = entries.values()
    assert (bad["outcome"], bad["exit_code"]) == ("failed", 2)
    assert "it broke" in bad["output"]
    assert (write["outcome"], write["changed"]) == ("passed", ["new.txt"])
    assert "output" not in write
    assert unset["outcome"] == "failed"
    assert "UNSET" in unset["output"][0]
    assert error["output"][0] == "<scratch>/README"  # no folder of this machine
    assert error["output"][-1].startswith("ZeroDivisionError")


def test_a_command_may_not_take_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "```\npython3 -c 'import time; time.sleep(600)' && make ok\n```\n"
    code, entries = run(tmp_path, monkeypatch, page, "--limit", "0.5")
    (entry,) = entries.values()
    assert (code, entry["outcome"], entry["exit_code"]) == (1, "timed out", None)


def test_stand_ins(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/cleanrl_ppo.py").write_text("print('trained')\n")
    place = running.Workplace(a_checkout(tmp_path, ""), tmp_path / "scratch", 60)
    statement = Statement(
        "docs/p.md", 1, "python3 ppo.py && python3 -c \"print(open('fast.yaml').read())\"", 1
    )
    reader = running.Reader(place, "docs/p.md", [statement])
    done = reader.run(statement)
    assert done.outcome == "passed", done.output
    assert done.stand_ins == ("ppo.py: examples/cleanrl_ppo.py", "fast.yaml: total_timesteps: 8192")
    assert not (reader.folder / "my_trainer.py").exists()
    named = Statement("docs/p.md", 2, "python3 -c 'import my_trainer' || python3 -c 1", 2)
    assert reader.run(named).stand_ins[0].startswith("my_trainer.py: ")
    assert reader.run(Statement("docs/p.md", 3, "python3 -c 'myppo = \"x/ppo.py\"'", 3)).stand_ins == ()


def test_every_stand_in_is_there() -> None:
    for made in running.STAND_INS:
        assert (made.source == "") != (made.text == "")
        assert not made.source or (ROOT / made.source).exists()


def test_pip_gets_a_wheel_and_an_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a block: fresh where hotloop itself is installed, on top of the checkout's where something beside it
    is; what comes after it in the block runs there."""
    place = running.Workplace(a_checkout(tmp_path, ""), tmp_path / "scratch", 60)
    monkeypatch.setattr(running.Workplace, "wheels", lambda self: self.scratch / "wheels")
    made, ran = [], []

    def make_venv(self: running.Reader, *, fresh: bool) -> None:
        self.venv = self.folder / ("fresh" if fresh else "layered")
        self.venv.mkdir()
        made.append(fresh)

    def shell(self: running.Reader, script: str, folder: Path) -> tuple[int, float]:
        ran.append((script, self.venv and self.venv.name))
        return 0, 0.0

    monkeypatch.setattr(running.Reader, "_make_venv", make_venv)
    monkeypatch.setattr(running.Reader, "_shell", shell)
    block = [
        Statement("p.md", 1, "pip install 'hotloop[train]'", 1),
        Statement("p.md", 2, "hotloop doctor", 1),
    ]
    alone = Statement("p.md", 9, "pip install 'hotloop[wandb]'", 9, inline=True)
    reader = running.Reader(place, "p.md", [*block, alone])
    outcomes = [reader.run(statement) for statement in (*block, alone)]
    constraints = f"-q -c '{tmp_path}/requirements/constraints.txt'"
    wheels = f"--find-links '{tmp_path}/scratch/wheels'"
    assert made == [True, False]
    assert ran == [
        (f"pip install {constraints} {wheels} 'hotloop[train]'", "fresh"), ("hotloop doctor", "fresh"),
        (f"pip install {constraints} 'hotloop[wandb]'", "layered"),
    ]  # fmt: skip
    assert outcomes[0].ran.startswith(
        "pip install -q -c '<checkout>/requirements/constraints.txt' --find-links"
    )
    assert outcomes[1].ran == ""
    assert outcomes[1].where.endswith("an environment of its own")


@pytest.mark.parametrize(
    ("name", "found"), [(None, "checkout"), ("layered", "checkout"), ("fresh", "nowhere")]
)
def test_which_programs_are_found(tmp_path: Path, name: str | None, found: str) -> None:
    """In a fresh environment a program of the checkout's would hide that pip installed none."""
    root = a_checkout(tmp_path, "")
    program = root / ".venv/bin/hotloop-program"
    program.write_text("#!/bin/sh\necho checkout\n")
    program.chmod(0o755)
    reader = running.Reader(running.Workplace(root, tmp_path / "scratch", 60), "p.md", [])
    reader.venv = None if name is None else reader.folder / name
    code, _ = reader._shell("hotloop-program 2>/dev/null || echo nowhere", tmp_path)
    assert code == 0
    assert reader.printed() == f"{found}\n"


def test_a_command_does_not_see_what_this_run_was_started_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MAKEFLAGS", "MAKELEVEL", "PYTHONPATH", "DOCS_ARGS", "PIP_ARGS"):
        monkeypatch.setenv(name, "x")
    told = running.Workplace(tmp_path, tmp_path, 60).environment()
    assert not {"MAKEFLAGS", "MAKELEVEL", "PYTHONPATH", "DOCS_ARGS"} & set(told)
    assert told["PIP_ARGS"] == "x"  # which is where torch comes from
    assert told["PATH"].startswith(f"{tmp_path}/.venv/bin:")


def test_what_is_presumed_is_installed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = running.Workplace(a_checkout(tmp_path, ""), tmp_path / "scratch", 60)
    place.commit = "abc"
    monkeypatch.setattr(running.Workplace, "has", lambda self, module: module == "mettagrid")
    monkeypatch.setattr(running.Reader, "_make_venv", lambda self, fresh: None)
    ran: list[str] = []
    monkeypatch.setattr(
        running.Reader, "_shell", lambda self, script, folder: (ran.append(script), (0, 0.0))[1]
    )
    reader = running.Reader(place, "p.md", [])
    done = reader.run(Statement("p.md", 1, "hotloop evaluate x --video film.gif", 1))
    assert done.after == ("pip install 'gymnasium[classic-control]'",)
    assert ran[0].endswith("requirements/constraints.txt' 'gymnasium[classic-control]'")
    assert reader.run(Statement("p.md", 2, "hotloop train --env-backend mettagrid", 2)).after == ()
    reader.run(Statement("p.md", 3, "hotloop train --env-backend atari", 3))
    assert [entry["command"] for entry in place.set_up] == [
        "make environments"
    ]  # fails: this Makefile has none
    place.prepare(f"ls {place.scratch}", "a test")
    assert place.set_up[1]["command"] == "ls <scratch>"
    assert (place.set_up[0]["exit_code"], place.set_up[0]["commit"]) == (2, "abc")


def test_nothing_is_left_out_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = "```\nA=1\nmake ok\nmake bad\nmake docs-serve\n```\n"
    code, entries = run(tmp_path, monkeypatch, page, "--skip", "bad")
    assert code == 0
    assert [(entry["outcome"], entry.get("reason")) for entry in entries.values()] == [
        ("passed", None), ("passed", None), ("not run", "left out by --skip"),
        ("not run", "serves until it is stopped"),
    ]  # fmt: skip
    _, entries = run(tmp_path, monkeypatch, page, "--only", "nothing")
    assert entries["A=1"]["outcome"] == "passed"  # later lines may need it
    assert entries["make ok"]["reason"] == "left out by --only"
    (tmp_path / "checkout/docs").mkdir()
    (tmp_path / "checkout/docs/a.md").write_text("```\nmake ok\n```\n")
    capsys.readouterr()
    run(tmp_path, monkeypatch, page, "--pages", "docs/a.md")
    record = json.loads((tmp_path / "checkout" / run_docs_commands.RECORD).read_text())
    assert [entry["outcome"] for entry in record["commands"]] == [*["not run"] * 4, "passed"]
    told = capsys.readouterr().out
    assert told.count("docs/a.md") == 2  # while it runs, and in the table
    assert "make bad" not in told
    assert "5 commands: 1 passed, 4 not run; 0 stale; " in told
    assert "not shown: 3 left out by --pages" in told
    with pytest.raises(SystemExit, match=r"no page docs/none\.md; there are README\.md"):
        run(tmp_path, monkeypatch, page, "--pages", "docs/none.md")


def test_a_record_of_several_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "```\nmake ok\nmake bad\n```\n"
    assert run(tmp_path, monkeypatch, page, "--skip", "bad")[0] == 0
    code, entries = run(tmp_path, monkeypatch, page, "--only", "bad", "--merge")
    assert code == 1
    assert [entry["outcome"] for entry in entries.values()] == ["passed", "failed"]
    # a failure of an earlier call counts until the command has been run again
    assert run(tmp_path, monkeypatch, page, "--only", "nothing", "--merge")[0] == 1
    assert not any("stale" in entry for entry in entries.values())
    # another commit, another line; what the page no longer has is dropped
    page = "A line.\n\n```\nmake ok\n```\n"
    code, entries = run(tmp_path, monkeypatch, page, "--only", "nothing", "--merge")
    assert code == 0
    (entry,) = entries.values()
    assert (entry["outcome"], entry["line"], entry["stale"]) == ("passed", 4, True)
    assert run(tmp_path, monkeypatch, page, "--merge")[1]["make ok"].get("stale") is None
    # without --merge nothing is kept
    assert run(tmp_path, monkeypatch, page, "--only", "nothing")[1]["make ok"]["outcome"] == "not run"


def test_the_table_and_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, monkeypatch, "```\nmake bad\nmake docs-serve\nmake write\n```\n")
    told = capsys.readouterr().out
    assert "README.md:2: make bad\n  failed in " in told
    assert "3 commands: 1 passed, 1 failed, 1 not run; 0 stale" in told
    assert "exit code 2" in told
    assert "serves until it is stopped" in told
    assert "changed new.txt" in told
    assert "not shown" not in told
    assert run_docs_commands.main(["--list"]) == 0
    assert capsys.readouterr().out == (
        "README.md:2: make bad\nREADME.md:3: make docs-serve   (not run: serves until it is stopped)\n"
        "README.md:4: make write\n"
    )


def test_a_clone_is_of_the_commit(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    a_checkout(source, "old\n")
    there = run_docs_commands.clone(tmp_path / "there", source)
    (there / "README.md").write_text("dirt\n")
    (source / "README.md").write_text("new\n")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qam", "y"]
    subprocess.run(git, cwd=source, check=True)
    assert (run_docs_commands.clone(there, source) / "README.md").read_text() == "new\n"
    assert records.commit_of(there, apart_from=source / "x.json") == records.commit_of(
        source, apart_from=source / "x.json"
    )
    (source / "README.md").write_text("dirt\n")
    assert records.commit_of(source, apart_from=source / "x.json").endswith("+")
    assert not records.commit_of(source, apart_from=source / "README.md").endswith("+")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with pytest.raises(SystemExit, match="expected a clone of"):
        run_docs_commands.clone(tmp_path / "other", source)
