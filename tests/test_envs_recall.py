"""The memory task: what it shows, what it pays, how it goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hotloop.envs import ReportsAutoreset, SavesState, TrainingEnvironment
from hotloop.envs.recall import RecallEnvironment
from hotloop.trainer.checkpoint import load_checkpoint, save_checkpoint


def test_it_is_an_environment() -> None:
    env = RecallEnvironment(2)
    assert isinstance(env, TrainingEnvironment)
    assert isinstance(env, ReportsAutoreset)
    assert isinstance(env, SavesState)


def play(env: RecallEnvironment, steps: int, right: Any) -> list[tuple[torch.Tensor, ...]]:
    """`right`: whether each agent names its cue at the question; it names the next one otherwise."""
    history = []
    memory = torch.zeros(env.total_parallel_agents, dtype=torch.int64)
    for _ in range(steps):
        (peeked,) = env.peek_observations()
        assert peeked[4] == next(env.peek_observations())[4]
        obs, rewards, dones, truncations, infos, window, mask, count = env.get_observations()
        assert peeked[0] is obs
        assert peeked[4] == infos
        assert window == slice(0, env.total_parallel_agents)
        assert count == int(mask.sum())
        assert not truncations.any()
        assert env.final_observations() is None
        history.append((obs.clone(), rewards.clone(), dones.clone(), mask.clone(), infos))
        shows = obs[:, : env.cues].any(1)
        memory[shows] = obs[shows, : env.cues].argmax(1)
        answers = torch.where(torch.as_tensor(right), memory, (memory + 1) % env.cues)
        env.send_actions(answers.numpy())
    return history


def test_an_episode() -> None:
    env = RecallEnvironment(2, cues=3, delay=2)
    history = play(env, 7, [True, False])
    obs = torch.stack([step[0] for step in history])
    assert obs[0, :, :3].sum(1).tolist() == [1, 1]  # the cue
    assert obs[1].sum() == 0
    assert obs[2].tolist() == [[0, 0, 0, 1]] * 2  # the question
    assert obs[3, :, :3].sum(1).tolist() == [1, 1]  # the next episode's cue
    assert [step[2].tolist() for step in history] == [[t in (3, 6)] * 2 for t in range(7)]
    assert [step[1].tolist() for step in history] == [[float(t in (3, 6)), 0.0] for t in range(7)]
    assert all(step[3].all() for step in history)
    expected = [
        {"episode_return": 1.0, "episode_length": 3, "agent_id": 0},
        {"episode_return": 0.0, "episode_length": 3, "agent_id": 1},
    ]
    assert [step[4] for step in history] == [expected if t in (3, 6) else [] for t in range(7)]


def test_next_step_shows_the_end_and_ignores_an_action() -> None:
    env = RecallEnvironment(1, cues=3, delay=1, autoreset="next_step")
    history = play(env, 7, [True])
    assert [bool(step[2]) for step in history] == [False, False, True, False, False, True, False]
    assert [bool(step[3]) for step in history] == [True, True, False, True, True, False, True]
    assert [float(step[1]) for step in history] == [0, 0, 1, 0, 0, 1, 0]
    assert [step[0][0, :3].sum() for step in history] == [1, 0, 0, 1, 0, 0, 1]
    assert history[2][4] == [{"episode_return": 1.0, "episode_length": 2, "agent_id": 0}]


def test_delays_and_cues_are_drawn_uniformly() -> None:
    env = RecallEnvironment(256, cues=4, delay=(1, 3), seed=1)
    history = play(env, 40, [True] * 256)
    lengths = [info["episode_length"] for step in history for info in step[4]]
    counts = np.bincount(lengths, minlength=5)
    assert counts[:2].sum() == 0
    assert len(counts) == 5
    cues = torch.cat([step[0][step[0][:, :4].any(1), :4] for step in history]).mean(0)
    assert ((cues - 0.25).abs() < 0.03).all()
    dones = torch.stack([step[2] for step in history])
    assert (dones.any(1) & ~dones.all(1)).sum() > 30  # agents are out of step


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_saved_in_the_middle_it_goes_on_identically(autoreset: Any, tmp_path: Any) -> None:
    def start() -> RecallEnvironment:
        return RecallEnvironment(5, delay=(1, 4), autoreset=autoreset)

    env = start()
    play(env, 6, [True] * 5)
    save_checkpoint(tmp_path / "state.pt", {"environment": env.state_dict()})
    expected = play(env, 12, [True] * 5)
    other = start()
    play(other, 3, [False] * 5)
    other.load_state_dict(load_checkpoint(tmp_path / "state.pt")["environment"])
    for ours, theirs in zip(play(other, 12, [True] * 5), expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours[:4], theirs[:4], strict=True))
        assert ours[4] == theirs[4]
    with pytest.raises(ValueError, match=r"observations must be \[4, 5\], got \[5, 5\]"):
        RecallEnvironment(4).load_state_dict(env.state_dict())


def test_what_is_refused() -> None:
    for sizes in ({"num_agents": 0}, {"cues": 1}, {"delay": 0}, {"delay": (3, 2)}):
        with pytest.raises(ValueError, match="RecallEnvironment: expected num_agents >= 1, cues >= 2"):
            RecallEnvironment(**{"num_agents": 2, **sizes})
    with pytest.raises(ValueError, match="autoreset must be 'same_step' or 'next_step', got 'none'"):
        RecallEnvironment(2, autoreset="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"actions must be \[2\], got \[3\]"):
        RecallEnvironment(2).send_actions(np.zeros(3))
