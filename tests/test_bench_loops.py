"""The suite `loops`: it is found, it runs, and its figures mean what they say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hotloop.bench import loops, turns
from hotloop.bench.command import bench
from hotloop.bench.runner import WorkerError

if not loops.folder().is_dir():
    pytest.skip("benchmarks/loops is part of the checkout only", allow_module_level=True)

command, figures, jobs, learning, phases, process, race, report = map(
    loops.load, ("command", "figures", "jobs", "learning", "phases", "process", "race", "report")
)

OWN = ("hotloop", "cleanrl", "bare")


# Finding it


@pytest.mark.parametrize(
    "arguments", [["--suite", "loops"], ["--quick", "--suite=loops"], ["--suite", "call, loops"]]
)
def test_a_command_line_that_asks_for_it(arguments: list[str]) -> None:
    assert loops.asked(arguments)


@pytest.mark.parametrize("arguments", [[], ["--suite", "call"], ["--ops", "loops"], ["loops"]])
def test_a_command_line_that_does_not(arguments: list[str]) -> None:
    assert not loops.asked(arguments)


def test_outside_a_checkout_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loops, "folder", lambda: tmp_path)
    assert bench(["--suite", "loops", "--quick"]) == 2
    said = capsys.readouterr().err
    assert "part of hotloop's checkout" in said
    assert str(tmp_path / "loops") in said


def test_beside_another_suite_it_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(["--suite", "loops,call"]) == 2
    assert "runs by itself, got call beside it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jobs", "E4"], "must be of E1, E2, E3, got 'E4'"),
        (["--contestants", "hotlop"], "got 'hotlop'"),
        (["--memory", "keep"], "must be of default, kept, got 'keep'"),
        (["--threads", "9999"], "must be at most"),
        (["--rounds", "0"], "must be a positive number, got '0'"),
        (["--json", "/nowhere/at/all.json"], "there is no folder /nowhere/at"),
        (["--peers"], "unrecognized arguments: --peers"),
    ],
)
def test_a_mistake_in_its_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        bench(["--suite", "loops", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


# Where the time goes


class Clock:
    """A clock that stands still until somebody spends time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(phases, "perf_counter", made)
    return made


def spending(clock: Clock, forward: float, backward: float) -> nn.Module:
    class Spend(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            clock.now += forward
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            clock.now += backward
            return gradient

    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = Spend.apply(x)
            return result

    return Layer()


def test_the_network_and_the_loss_are_told_apart(clock: Clock) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.actor = nn.Sequential(nn.Linear(2, 2), spending(clock, 1.0, 10.0))
            self.critic = nn.Sequential(nn.Linear(2, 1), spending(clock, 2.0, 20.0))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.actor(x), self.critic(x)

    net, loss = Net(), spending(clock, 100.0, 1000.0)
    stopwatch = phases.Phases()
    with phases.TimedNetwork(net, stopwatch, "backward"):
        with torch.no_grad():
            net(torch.ones(3, 2))
        logits, value = net(torch.ones(3, 2))
        total = loss(logits.sum() + value.sum())
        with stopwatch("backward"):
            total.backward()
    assert stopwatch.take() == {
        "network.rollout": 3.0, "network.train": 3.0, "loss.backward": 1000.0, "backward": 1030.0,
    }  # fmt: skip
    net(torch.ones(3, 2))
    assert stopwatch.take() == {}


def test_shares_add_up() -> None:
    epoch = {
        "epoch": 100.0, "environment": 20.0, "network.rollout": 10.0, "network.train": 15.0,
        "loss.backward": 2.0, "_train.backward": 22.0, "_train.optimizer": 5.0, "_rollout.env_wait": 21.0,
        "_rollout.send": 1.0, "_rollout.td_prep": 1.0, "_rollout.inference": 14.0, "_train.forward": 18.0,
        "_train.losses": 4.0, "_train.sample": 3.0, "_train.advantage": 1.0,
    }  # fmt: skip
    found = figures.profile_shares([epoch, epoch])
    shares = found["shares"]
    assert found["own_share"] == pytest.approx(0.30)
    assert shares["network backward"] == pytest.approx(0.20)
    assert shares["own: environment adapter"] == pytest.approx(0.02)
    assert shares["own: losses"] == pytest.approx(0.06)
    assert sum(v for name, v in shares.items() if not name.startswith("own:")) == pytest.approx(1.0)
    assert sum(v for name, v in shares.items() if name.startswith("own:")) == pytest.approx(0.30)
    assert figures.profile_shares([]) == {"own_share": None, "shares": None}


# Figures


def entrant(name: str, samples: list[float], loads: list[float | None], memory: str = "default") -> Any:
    return figures.Entrant(name, memory, "", 1.0, [2.0, 3.0], samples, loads)


def test_ratios_are_within_rounds_and_loud_rounds_do_not_count() -> None:
    job = jobs.JOBS["E1"]
    loads = [0.0, 0.0, 0.9, 0.1]
    race_of = [
        entrant("hotloop", [1.0, 2.0, 9.0, 4.0], loads),
        entrant("cleanrl", [2.0, 4.0, 9.0, 8.0], loads),
        entrant("bare", [0.5, 1.0, 9.0, 2.0], loads),
        entrant("hotloop", [1.0, 1.0, 1.0, 1.0], loads, "kept"),
    ]
    found = figures.summary(job, 1, race_of, {}, None)
    ours, _, _, kept = found["contestants"]
    assert (found["rounds"], found["quiet"]) == (3, True)
    assert (ours["to_cleanrl"], ours["to_bare"]) == (2.0, 0.5)
    assert ours["steps_per_second"] == {"median": 4096.0, "minimum": 2048.0, "maximum": 8192.0}
    assert (kept["to_cleanrl"], kept["to_bare"]) == (None, None)  # nobody else kept memory
    assert ours["warm_up_seconds"] == 6.0


def test_a_race_that_was_never_quiet_says_so() -> None:
    loads: list[float | None] = [0.5, 0.5, 0.0]
    found = figures.summary(
        jobs.JOBS["E1"], 2, [entrant("bare", [1.0, 1.0, 1.0], loads)], {"sb3": "why"}, None
    )
    assert (found["rounds"], found["quiet"]) == (3, False)
    text = "\n".join(report.race_lines(found))
    assert "2 threads, 3 rounds" in text
    assert "NOT QUIET" in text
    assert "not run: sb3: why" in text


def test_verdicts() -> None:
    others = {"cleanrl": [100.0, 200.0], "sb3": [150.0]}
    assert learning.verdict({"hotloop": [120.0, 140.0], **others})["place"] == "within"
    assert learning.verdict({"hotloop": [90.0, 80.0], **others})["place"] == "below"
    assert learning.verdict({"hotloop": [190.0, 290.0], **others}) == {
        "place": "above", "lowest": 100.0, "highest": 200.0,
    }  # fmt: skip
    assert learning.verdict({"hotloop": [1.0]})["place"] is None
    assert learning.verdict(others)["place"] is None


def test_the_final_return_is_that_of_the_last_tenth() -> None:
    epochs = [[0.0]] * 18 + [[10.0, 20.0], [30.0]]
    assert learning.final_return(epochs) == 20.0
    assert learning.final_return([[5.0, 7.0], []]) == 7.0
    assert math.isnan(learning.final_return([[], []]))


# Everything together


def test_a_race_in_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "loops.json"
    arguments = ["--quick", "--jobs", "E1", "--contestants", "hotloop,cleanrl,bare,reference"]
    assert bench(["--suite", "loops", *arguments, "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["settings"]["learning_rate"] == 2.5e-4
    assert found["versions"]["gymnasium"]
    (only,) = found["races"]
    entered = [(c["name"], c["memory"]) for c in only["contestants"]]
    assert entered == [(name, memory) for name in OWN for memory in ("default", "kept")]
    assert all(len(c["samples"]) >= 1 and c["to_bare"] and c["to_cleanrl"] for c in only["contestants"])
    assert [c["own_share"] is not None for c in only["contestants"]] == [True, True, *[False] * 4]
    assert set(only["absent"]) == {"reference, memory default", "reference, memory kept"}
    assert "plays E3 only" in capsys.readouterr().out


def test_learning_in_processes(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--learning",
        "--quick",
        "--seeds",
        "1",
        "--jobs",
        "E1,E3",
        "--contestants",
        "hotloop,cleanrl,bare",
    ]
    assert command.main(arguments) == 0
    said = capsys.readouterr().out
    assert "E1: 64 Gymnasium CartPoles, 2x64 tanh: returns after 512 steps" in said
    assert "bare" not in said
    assert "E3" not in said


def test_memory_is_kept_as_a_user_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """hotloop by its own call, the others by glibc's tunables; nobody by default."""
    seen: list[tuple[str | None, bool]] = []

    class StoppedError(Exception):
        pass

    def start(command: Any, *, env: dict[str, str], **_: Any) -> Any:
        seen.append((env.get("GLIBC_TUNABLES"), False))
        raise StoppedError

    monkeypatch.setattr(turns.subprocess, "Popen", start)
    for name, memory in (("hotloop", "kept"), ("cleanrl", "kept"), ("cleanrl", "default")):
        entry = process.Entry(name, "E1", 1, memory)
        with pytest.raises(StoppedError):
            process.Worker(entry)
        seen[-1] = (seen[-1][0], entry.keeps_by_call)
    (ours, by_call), (theirs, not_by_call), plain = seen
    assert (ours, by_call) == (None, True)
    assert theirs is not None
    assert "mmap_threshold=1073741824" in theirs
    assert not not_by_call
    assert plain == (None, False)


def test_a_process_that_fails_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(entry: Any) -> Any:
        raise WorkerError("sb3 at E1: its process ended with code 1")

    monkeypatch.setattr(race, "_start", broken)
    assert command.main(["--quick", "--jobs", "E1", "--contestants", "cleanrl"]) == 1
    assert "its process ended with code 1" in capsys.readouterr().err
