"""Environments whose processes die: an error that says which and how, soon, and a run that can go on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hotloop.envs import EnvironmentLostError, GymnasiumEnvironment, PufferEnvironment
from hotloop.envs.processes import ProcessWatch, dead_process
from hotloop.trainer import Trainer
from hotloop.trainer.checkpoint import load_checkpoint
from trainer_support import Recorder, lasting, resumed, settings


def kill(process: Any, signum: int = signal.SIGKILL) -> None:
    os.kill(process.pid, signum)
    process.join(10)


def cartpoles() -> GymnasiumEnvironment:
    return GymnasiumEnvironment("CartPole-v1", 3, seed=0, vectorization="async")


@pytest.mark.parametrize("during", ["between steps", "a step"])
def test_a_gymnasium_worker_that_dies_is_named(during: str) -> None:
    env = cartpoles()
    processes = env.vector_env.processes  # type: ignore[attr-defined]
    env.get_observations()
    if during == "a step":
        env.send_actions(np.zeros(3, dtype=np.int64))
    kill(processes[1])

    def go_on() -> None:
        if during != "a step":
            env.send_actions(np.zeros(3, dtype=np.int64))
        for _ in range(3):
            env.get_observations()
            env.send_actions(np.zeros(3, dtype=np.int64))

    told = r"worker process 1 of 3 \(pid \d+\) was ended by SIGKILL.*memory"
    with pytest.raises(EnvironmentLostError, match=told):
        go_on()
    env.close()
    assert not any(process.is_alive() for process in processes)


def test_how_a_process_ended_in_words() -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=time.sleep, args=(60,)) for _ in range(2)]
    processes.append(context.Process(target=os._exit, args=(3,)))
    for process in processes:
        process.start()
    number, how = dead_process(processes) or (None, "")
    assert (number, how.partition(") ")[2]) == (2, "ended with exit code 3")
    kill(processes[0], signal.SIGTERM)
    number, how = dead_process(processes) or (None, "")
    assert (number, how.partition(") ")[2]) == (0, "was ended by SIGTERM")
    kill(processes[1])
    assert dead_process(processes[1:2]) is not None


class Spinning:
    """Waits for its processes as PufferLib does: it looks at memory that nobody will write to any more."""

    num_agents = 2
    driver_env = None

    def __init__(self) -> None:
        from gymnasium.spaces import Box, Discrete

        self.single_observation_space = Box(-1.0, 1.0, (3,))
        self.single_action_space = Discrete(2)
        context = multiprocessing.get_context("fork")
        self.processes = [context.Process(target=time.sleep, args=(100,)) for _ in range(2)]
        for process in self.processes:
            process.start()
        self.ready = True

    def async_reset(self, seed: int) -> None:
        pass

    def send(self, actions: Any) -> None:
        self.ready = False

    def recv(self) -> Any:
        end = time.monotonic() + 60.0
        while not self.ready and time.monotonic() < end:
            pass
        numbers = np.zeros(2, dtype=np.float32)
        return np.zeros((2, 3), dtype=np.float32), numbers, numbers, numbers, [], np.arange(2), numbers == 0

    def close(self) -> None:
        for process in self.processes:
            process.terminate()


@pytest.mark.parametrize("before", [True, False])
def test_a_wait_that_would_last_for_ever_is_ended(before: bool) -> None:
    vecenv = Spinning()
    env = PufferEnvironment(vecenv, seed=0)
    env.get_observations()
    env.send_actions(np.zeros(2, dtype=np.int64))
    if before:
        kill(vecenv.processes[1])
    else:
        import threading

        threading.Timer(0.3, kill, (vecenv.processes[1],)).start()
    with pytest.raises(EnvironmentLostError, match=r"worker process 1 of 2 .* was ended by SIGKILL"):
        env.get_observations()
    env.close()


def test_a_watch_that_was_closed_raises_nothing() -> None:
    vecenv = Spinning()
    watch = ProcessWatch(vecenv.processes)
    watch.close()
    vecenv.close()
    for process in vecenv.processes:
        process.join(10)
    with watch.waiting("test"):
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            pass


def test_a_run_whose_environment_died_says_so_and_goes_on_when_resumed(tmp_path: Path) -> None:
    class Killer(Recorder):
        def update(self, report: Any) -> None:
            super().update(report)
            if report.epoch == 3:
                kill(trainer.environment.vector_env.processes[5])

    changes: dict[str, Any] = {"environment": {"vectorization": "async"}}
    trainer = Trainer(settings(tmp_path / "r", **changes), progress=Killer())
    with pytest.raises(EnvironmentLostError, match=r"process 5 of 8.*checkpoint\.pt holds epoch 3.*--resume"):
        trainer.train()
    state = load_checkpoint(tmp_path / "r" / "checkpoint.pt")
    assert (state["epoch"], state["environment"]) == (3, None)
    assert len(lasting(tmp_path / "r")) == 3
    result = Trainer(resumed(tmp_path / "r", **changes), progress=Recorder()).train()
    assert (result.epoch, result.reason) == (6, "total_timesteps")
    assert [row["epoch"] for row in lasting(tmp_path / "r")] == list("123456")
