"""The examples run as they are, and do what they say."""

from __future__ import annotations

import runpy
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_gae_in_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    names = example("gae_in_a_script")
    rewards, values, terminated = names["rewards"], names["values"], names["terminated"]
    expected, following, next_values = torch.zeros(8, 128), torch.zeros(8), names["last_values"]
    for t in reversed(range(128)):
        alive = 1.0 - terminated[:, t].float()
        following = rewards[:, t] + alive * (0.99 * next_values + 0.99 * 0.95 * following) - values[:, t]
        expected[:, t], next_values = following, values[:, t]
    torch.testing.assert_close(names["advantages"], expected)
    torch.testing.assert_close(names["returns"], expected + values)
    assert capsys.readouterr().out.startswith("advantages [8, 128], mean return ")


def test_own_module_learns(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gymnasium")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        history = example("own_module")["main"](total_timesteps=8_000)
    finally:
        torch.set_num_threads(threads)
    # A random policy lasts about 22 steps.
    assert statistics.fmean(history[:2]) < 30
    assert statistics.fmean(history[-2:]) > 40
    assert capsys.readouterr().out.count(" steps   length ") == len(history)


def test_own_module_repeats_itself(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gymnasium")
    main = example("own_module")["main"]
    first, again, other = (main(total_timesteps=2_500, seed=seed) for seed in (3, 3, 4))
    assert len(first) == 3
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("policy", "autoreset"),
    [("lstm", "same_step"), pytest.param("gru", "next_step", marks=pytest.mark.slow)],
)
def test_recall_needs_memory(policy: str, autoreset: str, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        main = example("recall")["main"]
        remembers = main(policy, total_timesteps=40_000, autoreset=autoreset)
        forgets = main("mlp", total_timesteps=20_000, autoreset=autoreset)
    finally:
        torch.set_num_threads(threads)
    assert statistics.fmean(remembers[-3:]) > 0.9
    # Four cues: guessing is right once in four, and 0.45 is 10 standard errors from it.
    assert statistics.fmean(forgets[-3:]) < 0.45
    assert capsys.readouterr().out.count(" steps   return ") == len(remembers) + len(forgets)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_cleanrl_script_trains_the_same_before_and_after(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gymnasium")
    main = example("cleanrl_ppo")["main"]
    (before, _, agent), (after, _, other) = (main(3_072, 1, plain) for plain in (True, False))
    assert len(before) == 3
    assert before == after
    for a, b in zip(agent.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == lines[3:]


@pytest.mark.usefixtures("one_thread")
def test_a_cleanrl_script_learns() -> None:
    pytest.importorskip("gymnasium")
    lengths, _, _ = example("cleanrl_ppo")["main"](16_384)
    # A random policy lasts about 22 steps.
    assert statistics.fmean(lengths[:2]) < 30
    assert statistics.fmean(lengths[-3:]) > 40
