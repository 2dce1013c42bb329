"""Episodes that train nothing: `Trainer.evaluate`, `evaluation.every` and `hotloop evaluate`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from hotloop.__main__ import main
from hotloop.policies import ActionSpec, MLPPolicy
from hotloop.trainer import Trainer
from hotloop.trainer.checkpoint import load_checkpoint
from hotloop.trainer.evaluation import evaluate, greedy_actions
from hotloop.trainer.evaluator import evaluate_run
from hotloop.trainer.metrics import read_metrics
from hotloop.trainer.video import write_video
from trainer_support import Recorder, lasting, run, settings


class Corridor(gymnasium.Env[Any, Any]):
    """Episode number i of an instance lasts 2 + i steps; the reward is the action. Renders 8x8 pixels."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.episode = -1
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode += 1
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        done = self.steps == 2 + self.episode
        return np.full(2, self.steps / 100, np.float32), float(action), done, False, {}

    def render(self) -> Any:
        return None if self.render_mode is None else np.full((8, 8, 3), 20 * self.steps, np.uint8)


@pytest.fixture
def corridor() -> Iterator[str]:
    gymnasium.register("Corridor-v0", Corridor)
    yield "Corridor-v0"
    del gymnasium.registry["Corridor-v0"]


class Constant(torch.nn.Module):
    """Draws action 1 and finds action 2 the most likely."""

    def forward(self, td: TensorDict, action: Any = None) -> TensorDict:
        count = len(td["env_obs"])
        td["actions"] = torch.ones(count, dtype=torch.int32)
        td["full_log_probs"] = torch.tensor([0.1, 0.2, 0.7]).log().expand(count, 3)
        return td

    def reset_memory(self) -> None:
        pass


@pytest.mark.parametrize(("greedy", "each"), [(True, 2.0), (False, 1.0)])
def test_every_agent_plays_its_share(corridor: str, greedy: bool, each: float) -> None:
    from hotloop.envs import GymnasiumEnvironment

    with GymnasiumEnvironment(corridor, 3, seed=0) as environment:
        result = evaluate(Constant(), environment, 5, greedy=greedy)
    # The first two agents play two episodes, of 2 and 3 steps, the third one: short ones are not favoured.
    assert sorted(result.lengths) == [2, 2, 2, 3, 3]
    assert sorted(result.returns) == [each * length for length in sorted(result.lengths)]
    row = result.row(7, 1000)
    assert (row["epoch"], row["agent_steps"], row["episodes"]) == (7, 1000, 5)
    assert row["return_mean"] == pytest.approx(each * 12 / 5)
    assert row["return_std"] == pytest.approx(each * np.std([2, 2, 2, 3, 3]))
    assert (row["return_min"], row["return_max"], row["length_mean"]) == (each * 2, each * 3, 12 / 5)


class Counting(Constant):
    """Acts by its state: 0 in the first step of an episode, 1 in the second, and 2 from then on."""

    def get_state_spec(self) -> dict[str, Any]:
        return {"steps": ((), torch.int64)}

    def forward(self, td: TensorDict, action: Any = None) -> TensorDict:
        td["actions"] = td["state"]["steps"].clamp(max=2).to(torch.int32)
        td["state"] = TensorDict({"steps": td["state"]["steps"] + 1}, td.batch_size)
        return td


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_a_memory_lasts_as_long_as_its_episode(corridor: str, autoreset: Any) -> None:
    from hotloop.envs import GymnasiumEnvironment

    with GymnasiumEnvironment(corridor, 2, seed=0, autoreset=autoreset) as environment:
        result = evaluate(Counting(), environment, 6, greedy=False)
    # Episodes of 2, 3 and 4 steps of each of the two agents.
    assert sorted(result.returns) == [0 + 1, 0 + 1, 0 + 1 + 2, 0 + 1 + 2, 0 + 1 + 2 + 2, 0 + 1 + 2 + 2]


@pytest.mark.parametrize(
    "space", [ActionSpec.discrete(3), ActionSpec.multidiscrete([2, 5, 3]), ActionSpec.continuous(2)]
)
def test_greedy_actions_are_the_most_likely(space: ActionSpec) -> None:
    policy = MLPPolicy((4,), space, hidden=(8,))
    td = policy(TensorDict({"env_obs": torch.randn(50, 4)}, [50]))
    best = greedy_actions(policy, td)
    drawn = td["actions"]
    assert (best.shape, best.dtype) == (drawn.shape, drawn.dtype)
    td = TensorDict({"env_obs": td["env_obs"]}, [50])
    likely = policy(td.clone(), action=best.reshape(50, -1))["act_log_prob"]
    for _ in range(20):
        other = policy(td.clone())["actions"]
        assert (policy(td.clone(), action=other.reshape(50, -1))["act_log_prob"] <= likely + 1e-6).all()


def test_a_policy_without_a_most_likely_action_is_told_what_works() -> None:
    td = TensorDict({"env_obs": torch.zeros(2, 4), "actions": torch.zeros(2)}, [2])
    with pytest.raises(ValueError, match=r"Linear.*greedy=False"):
        greedy_actions(torch.nn.Linear(1, 1), td)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        evaluate(Constant(), None, 0, greedy=True)


EVERY: dict[str, Any] = {"every": 256, "episodes": 3}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"normalize": {"observations": True}},
        {"policy": {"kind": "gru", "hidden": [8], "core_size": 4}},
    ],
)
def test_a_run_is_the_same_with_evaluations_and_without(tmp_path: Path, changes: dict[str, Any]) -> None:
    run(settings(tmp_path / "without", **changes))
    run(settings(tmp_path / "with", evaluation={**EVERY, "greedy": False}, **changes))
    assert lasting(tmp_path / "with") == lasting(tmp_path / "without")
    rows = read_metrics(tmp_path / "with" / "evaluations.csv")
    steps = read_metrics(tmp_path / "with" / "metrics.csv")["agent_steps"]
    crossed = [b for a, b in zip([0, *steps], steps, strict=False) if a // 256 < b // 256]
    assert rows["agent_steps"] == crossed
    assert rows["episodes"] == [3] * len(crossed)
    assert not (tmp_path / "without" / "evaluations.csv").exists()
    best = load_checkpoint(tmp_path / "with" / "best.pt")
    assert best["best_return"] == max(rows["return_mean"])
    assert best["epoch"] == rows["epoch"][rows["return_mean"].index(max(rows["return_mean"]))]


def test_evaluations_reach_tensorboard_and_progress(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    progress = Recorder()
    output = {"tensorboard": True, "plot": False}
    run(settings(tmp_path / "r", evaluation=EVERY, output=output), progress=progress)
    events = EventAccumulator(str(tmp_path / "r" / "tensorboard"))
    events.Reload()
    shown = {event.step: event.value for event in events.Scalars("evaluation/return_mean")}
    rows = read_metrics(tmp_path / "r" / "evaluations.csv")
    assert shown == pytest.approx(dict(zip(rows["agent_steps"], rows["return_mean"], strict=True)))
    assert sum("evaluation at" in message for message in progress.messages) == len(shown) > 1


def test_the_command_gives_what_the_run_gave(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes: dict[str, Any] = {"normalize": {"observations": True}, "total_timesteps": 256}
    run(settings(tmp_path / "r", evaluation=EVERY, **changes))
    last = {name: values[-1] for name, values in read_metrics(tmp_path / "r" / "evaluations.csv").items()}
    assert last["epoch"] == load_checkpoint(tmp_path / "r" / "checkpoint.pt")["epoch"]
    result = evaluate_run(tmp_path / "r", episodes=3)
    assert result.row(int(last["epoch"]), int(last["agent_steps"])) == last
    # An untrained network among normalised observations acts otherwise than among raw ones.
    assert main(["evaluate", str(tmp_path / "r"), "--episodes", "3"]) == 0
    assert capsys.readouterr().out.strip() == result.summary()
    assert main(["evaluate", str(tmp_path / "r"), "--episodes", "2", "--sample", "--seed", "5"]) == 0
    assert capsys.readouterr().out.startswith("2 episodes: return ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "config.yaml"),
        (["r", "--checkpoint", "best.pt"], "best.pt"),
        (["r", "--episodes", "0"], "episodes must be at least 1"),
        (["r", "--video", "film.avi"], ".gif or .mp4"),
        (["r", "--device", "toaster"], "toaster"),
    ],
)
def test_mistakes_end_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    run(settings(tmp_path / "r", total_timesteps=128))
    assert main(["evaluate", str(tmp_path / arguments[0]), *arguments[1:]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hotloop evaluate: error: ")
    assert message in error


def frames_of(path: Path) -> list[int]:
    from PIL import Image

    with Image.open(path) as film:
        return [
            int(np.asarray((film.seek(i), film.convert("RGB"))[1])[0, 0, 0]) for i in range(film.n_frames)
        ]


def test_the_first_episode_is_filmed(tmp_path: Path, corridor: str) -> None:
    changes: dict[str, Any] = {"env": corridor, "total_timesteps": 256}
    run(settings(tmp_path / "r", evaluation={**EVERY, "every": 128, "video": True}, **changes))
    rows = read_metrics(tmp_path / "r" / "evaluations.csv")
    films = sorted((tmp_path / "r" / "videos").iterdir())
    assert [film.name for film in films] == [f"step-{int(steps):010d}.gif" for steps in rows["agent_steps"]]
    # The start and one step; the second ended the episode.
    assert frames_of(films[0]) == [0, 20]
    assert main(["evaluate", str(tmp_path / "r"), "--video", str(tmp_path / "film.gif")]) == 0
    assert frames_of(tmp_path / "film.gif") == [0, 20]


@pytest.mark.parametrize("env", ["Corridor-v0", "hotloop-blind-v0"])
def test_what_cannot_be_filmed_is_refused_before_training(tmp_path: Path, corridor: str, env: str) -> None:
    class Blind(Corridor):
        def render(self) -> Any:
            return None

    gymnasium.register("hotloop-blind-v0", Blind)
    try:
        config = settings(tmp_path / "r", env=env, evaluation={**EVERY, "video": True})
        if env == corridor:
            Trainer(config, progress=Recorder()).environment.close()
            return
        with pytest.raises(ValueError, match=r"rgb_array.*NoneType"):
            Trainer(config, progress=Recorder())
        assert not (tmp_path / "r").exists()
    finally:
        del gymnasium.registry["hotloop-blind-v0"]


def test_films_in_mp4(tmp_path: Path) -> None:
    imageio = pytest.importorskip("imageio.v2", reason="needs imageio: pip install 'hotloop[video]'")
    pytest.importorskip("imageio_ffmpeg", reason="needs imageio-ffmpeg: pip install 'hotloop[video]'")
    frames = [np.full((32, 48, 3), 50 * i, np.uint8) for i in range(4)]
    write_video(tmp_path / "film.mp4", frames, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]
    with imageio.get_reader(tmp_path / "film.mp4") as film:
        read = [frame[0, 0, 0] for frame in film]
        assert film.get_meta_data()["fps"] == 10
    np.testing.assert_allclose(read, [0, 50, 100, 150], atol=8)


def test_films_need_frames(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        write_video(tmp_path / "film.gif", [], 10)
    assert list(tmp_path.iterdir()) == []
