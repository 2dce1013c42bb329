"""`hotloop.profile()`: every moment belongs to one phase, and everything is as it was afterwards."""

from __future__ import annotations

import importlib
import json
import linecache
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

import hotloop
from hotloop import ops
from hotloop.profiling import clock, hooks, profile
from hotloop.profiling.clock import GLUE, LOSS, START, PhaseClock
from hotloop.profiling.report import text

PAUSE = 0.05  # seconds: what a phase is made to last at least


class SleepingEnv(gymnasium.Env[Any, Any]):
    """Sleeps in every step."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, **_: Any) -> Any:
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> Any:
        time.sleep(PAUSE)
        return np.zeros(3, np.float32), 0.0, False, False, {}


class Wrapper(gymnasium.Wrapper[Any, Any, Any, Any]):
    def step(self, action: Any) -> Any:
        return self.env.step(action)


class SleepingNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(PAUSE)
        out: torch.Tensor = self.inner(x)
        return out


def seconds(taken: hotloop.Profile) -> dict[str, float]:
    return {phase["name"]: phase["seconds"] for phase in taken.report()["phases"]}


def calls(taken: hotloop.Profile) -> dict[str, int]:
    return {phase["name"]: phase["calls"] for phase in taken.report()["phases"]}


def small_training() -> None:
    """A step, a forward pass in no_grad, an update."""
    env, net = Wrapper(SleepingEnv()), SleepingNet()
    optimizer = torch.optim.Adam(net.parameters())
    obs, _ = env.reset()
    with torch.no_grad():
        logits = net(torch.as_tensor(obs)[None])
    action = torch.distributions.Categorical(logits=logits).sample()
    obs = env.step(action.item())[0]
    batch = torch.zeros(8, 3)[torch.tensor([0, 3, 5])]
    loss = net(batch).square().mean()
    time.sleep(PAUSE)  # what a loss costs in Python
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 0.5)
    optimizer.step()
    time.sleep(PAUSE)


def test_every_part_is_told_from_the_others() -> None:
    with hotloop.profile() as taken:
        small_training()
    spent, called = seconds(taken), calls(taken)
    for phase in (hooks.ENVIRONMENT, hooks.ACTING, hooks.TRAINING, LOSS, GLUE):
        assert spent[phase] >= PAUSE, phase
        assert spent[phase] < sum(spent.values()) - 3 * PAUSE, phase
    assert called[hooks.ENVIRONMENT] == 2  # reset and step, each once for wrapper and environment
    assert called[hooks.ACTING] == called[hooks.TRAINING] == 1
    assert called[hooks.BACKWARD] == called[hooks.OPTIMIZER] == called[hooks.ZEROING] == 1
    assert called[hooks.CLIPPING] == called[hooks.GATHER] == 1
    assert called[hooks.DISTRIBUTION] == 2  # construction and draw
    assert taken.report()["updates"] == 1


def test_reads_by_the_host_are_counted() -> None:
    x = torch.ones(3)
    with hotloop.profile() as taken:
        assert x[0].item() == float(x[1]) == 1.0
        assert x.tolist() == x.numpy().tolist()
        assert x[0] > 0
    assert taken.report()["host_reads"] == {"item": 1, "__float__": 1, "tolist": 1, "numpy": 1, "__bool__": 1}


def test_the_phases_add_up_to_the_wall_time() -> None:
    before = time.perf_counter()
    with hotloop.profile() as taken:
        small_training()
    outside = time.perf_counter() - before
    report = taken.report()
    assert sum(phase["seconds"] for phase in report["phases"]) == pytest.approx(report["wall"], rel=1e-9)
    assert sum(phase["share"] for phase in report["phases"]) == pytest.approx(1.0)
    assert 5 * PAUSE <= report["wall"] <= outside


def touched() -> dict[str, Any]:
    """What a profile exchanges, or some of it."""
    kinds = (
        nn.Module,
        torch.Tensor,
        torch.optim.Optimizer,
        torch.distributions.Categorical,
        SleepingEnv,
        Wrapper,
    )
    kinds += (hotloop.CoreTrainingLoop, hotloop.Experience)
    found = {f"{kind.__name__}.{name}": value for kind in kinds for name, value in vars(kind).items()}
    found |= {f"ops.{name}": value for name, value in vars(ops).items()}
    found |= {f"{m.__name__}.{n}": v for m in (torch.autograd, nn.utils) for n, v in vars(m).items()}
    return found


def test_everything_is_put_back_also_after_an_error() -> None:
    before = touched()
    taken = hotloop.profile()

    def fail() -> None:
        with taken, taken.phase("mine"):
            assert touched() != before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    after = touched()
    assert after.keys() == before.keys()
    assert [name for name, value in after.items() if value is not before[name]] == []
    assert calls(taken)["mine"] == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "hotloop-profile"]
    optimizer = importlib.import_module("torch.optim.optimizer")
    assert not optimizer._global_optimizer_pre_hooks
    assert not optimizer._global_optimizer_post_hooks


def test_two_profiles_at_once_are_refused() -> None:
    with hotloop.profile() as taken:
        with pytest.raises(RuntimeError, match="another profile is being taken"), hotloop.profile():
            pass
        with pytest.raises(RuntimeError, match="must be over"):
            taken.report()
    assert taken.report()["wall"] > 0


def test_other_threads_do_not_count() -> None:
    with hotloop.profile() as taken:
        other = threading.Thread(target=small_training)
        other.start()
        other.join()
    assert calls(taken).keys() <= {START, GLUE}


def test_an_environment_that_is_not_known_can_be_named() -> None:
    class Own:
        def advance(self) -> None:
            time.sleep(PAUSE)

    with hotloop.profile(environments=[(Own, "advance")]) as taken:
        Own().advance()
    assert seconds(taken)[hooks.ENVIRONMENT] >= PAUSE


def test_hotloop_is_told_by_its_parts() -> None:
    rewards, values = torch.rand(8, 128), torch.rand(8, 128)
    with hotloop.profile() as taken:
        ops.gae(
            rewards, values, torch.zeros(8, 128), last_values=torch.zeros(8), gamma=0.99, gae_lambda=0.95
        )  # fmt: skip
        ops.gather([rewards], torch.tensor([1, 2]))
    assert calls(taken)[hooks.HOTLOOP + "advantages"] == 1
    rows = {row["name"]: row for row in taken.report()["traffic"]}
    assert rows["gae"]["bytes"] == 4 * (
        5 * 8 * 128 + 8
    )  # rewards, values, flags, advantages, returns; last_values
    assert rows["gather"]["bytes"] == 2 * 4 * 2 * 128
    assert rows["gae"]["floor"] > 0


def test_lines_and_savings_of_a_loop_over_time() -> None:
    code = (
        "def advantages(steps):\n"
        "    lastgaelam = 0.0\n"
        "    for t in range(steps):\n"
        "        lastgaelam = sum(range(200)) + 0.5 * lastgaelam\n"
    )
    names: dict[str, Any] = {}
    exec(compile(code, "script_of_mine.py", "exec"), names)
    linecache.cache["script_of_mine.py"] = (len(code), None, code.splitlines(True), "script_of_mine.py")
    net = nn.Linear(3, 1)
    with hotloop.profile() as taken:
        with torch.no_grad():
            net(torch.zeros(1, 3))
        end = time.perf_counter() + 10 * PAUSE
        while time.perf_counter() < end:
            names["advantages"](500)
    report = taken.report()
    assert any(line["function"] == "advantages" for line in report["lines"])
    (saving,) = [s for s in report["savings"] if s["part"].startswith("advantages")]
    assert saving["share"] > 0.2
    assert "hotloop.ops.gae" in taken.text()
    assert "Together" in taken.text()


def test_the_report_is_written_as_json_and_html(tmp_path: Path) -> None:
    with hotloop.profile() as taken:
        small_training()
    taken.save(tmp_path / "p.json")
    taken.save(tmp_path / "p.html")
    assert json.loads((tmp_path / "p.json").read_text()) == json.loads(json.dumps(taken.report()))
    page = (tmp_path / "p.html").read_text()
    for phase in taken.report()["phases"]:
        assert phase["name"] in page
    assert page.count("<rect") >= len(taken.report()["phases"])
    with pytest.raises(ValueError, match=r"must end in \.json or \.html, got p\.txt"):
        taken.save(tmp_path / "p.txt")


def test_a_trace_holds_the_phases(tmp_path: Path) -> None:
    with hotloop.profile(trace=tmp_path / "trace.json"):
        small_training()
    names = {event.get("name") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert {"hotloop.profile: environment", "hotloop.profile: backward", "aten::linear"} <= names


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_nvtx_without_cuda_is_refused() -> None:
    with pytest.raises(ValueError, match="nvtx must be False without CUDA, got True"):
        hotloop.profile(nvtx=True)


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by one at each look."""
    now = iter(range(10_000))
    monkeypatch.setattr(clock, "perf_counter", lambda: float(next(now)))


def test_a_phase_inside_another_takes_its_time_away(ticking: None) -> None:
    timed = PhaseClock()  # 0
    timed.enter("outer")  # 1
    timed.enter("inner")  # 2
    timed.enter("left open")  # 3
    timed.unwind(1)  # 4, 5
    timed.unwind(0)  # 6
    timed.rest(GLUE)  # 7
    timed.stop()  # 8
    timed.stop()
    timed.unwind(0)
    assert timed.seconds == {START: 2.0, "outer": 2.0, "inner": 2.0, "left open": 1.0, GLUE: 1.0}
    assert timed.wall == sum(timed.seconds.values()) == 8.0
    assert timed.calls == {"outer": 1, "inner": 1, "left open": 1}
    assert not timed.here()


def test_an_optimizer_that_fails_leaves_no_phase_open() -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def closure() -> float:
        raise ZeroDivisionError

    with profile() as taken:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                optimizer.step(closure)
        with taken.phase("later"):
            optimizer.step()
    assert calls(taken)["later"] == 1
    assert "optimizer" in text(taken.report())


class Sub(SleepingEnv):
    """Adds to what the base does."""

    steps = 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        return super().step(action)


def test_environments_inside_of_others_are_left_alone_and_put_back() -> None:
    """A vector of environments calls those of all of its parts: a wrapper around each would cost too much."""
    inner = Sub()
    outer = Wrapper(inner)
    with hotloop.profile() as p:
        for number in range(3):
            outer.step(0)
            # the innermost method, and not the base's, which has been called through super()
            assert vars(inner)["step"].__func__ is Sub.step.__wrapped__  # type: ignore[attr-defined]
            assert inner.steps == number + 1
        assert "step" not in vars(outer)
    assert "step" not in vars(inner)
    (environment,) = (phase for phase in p.report()["phases"] if phase["name"] == "environment")
    assert environment["calls"] == 3
    assert environment["seconds"] >= 3 * PAUSE
