"""Arguments of `hotloop train`."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotloop.cli import parse_train, train
from hotloop.trainer.config import TrainConfig


def test_defaults_are_those_of_the_configuration() -> None:
    assert parse_train([]) == TrainConfig().resolved()


def test_every_kind_of_setting_from_the_command_line() -> None:
    config = parse_train(
        [
            "--env", "Acrobot-v1", "--total-timesteps", "1000", "--seed", "3", "--num-envs", "6",
            "--device", "cpu", "--run-dir", "somewhere", "--stop-at-return", "-90.5", "--quiet",
            "--policy.hidden", "8", "4", "--advantage.gamma", "0.5",
            "--schedules.learning-rate.kind", "linear",
            "--actor.target-kl", "0.1", "--critic.clip-vloss",
            "--rollout.horizon=7", "--sampling.method", "sequential", "--threads", "None",
            "--environment.kwargs", "gravity", "9.5", "render", "False",
        ]
    )  # fmt: skip
    assert (config.env, config.total_timesteps, config.seed, config.num_envs) == ("Acrobot-v1", 1000, 3, 6)
    assert (config.run_dir, config.stop_at_return, config.quiet) == (Path("somewhere"), -90.5, True)
    assert (config.policy.hidden, config.advantage.gamma, config.schedules.learning_rate.kind) == (
        (8, 4),
        0.5,
        "linear",
    )
    assert (config.actor.target_kl, config.critic.clip_vloss, config.threads) == (0.1, True, None)
    assert (config.rollout.horizon, config.sampling.method) == (7, "sequential")
    assert config.environment.kwargs == {"gravity": 9.5, "render": False}


def test_command_line_wins_over_file_wins_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("seed: 5\nnum_envs: 8\noptimizer: {learning_rate: 0.25}\n")
    for option in (["--config", str(path)], [f"--config={path}"]):
        config = parse_train([*option, "--seed", "6"])
        assert (config.seed, config.num_envs, config.optimizer.learning_rate) == (6, 8, 0.25)
        assert config.optimizer.eps == TrainConfig().optimizer.eps


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer: {rate: 1}", "unknown setting 'optimizer.rate'"),
        ("advantage: {gamma: 2}", "advantage.gamma"),
        ("- 1", "mapping"),
    ],
)
def test_a_wrong_file_ends_with_2_and_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, expected: str
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    assert train(["--config", str(path)]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert str(path) in message


def test_a_missing_file_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["--config", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [["--gama", "1"], ["--seed", "x"], ["--advantage.gamma", "2"], ["--num-envs", "0"]]
)
def test_arguments_that_do_not_parse_exit_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train(argv)
    assert caught.value.code == 2
    assert argv[0].removeprefix("--").split(".")[-1].replace("-", "_") in capsys.readouterr().err.replace(
        "-", "_"
    )


def test_sizes_that_do_not_divide_end_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["--rollout.minibatch-size", "33"]) == 2
    assert "rollout.minibatch_size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--env", "NoSuchEnvironment-v0"], "NoSuchEnvironment"),
        (["--environment.kwargs", "colour", "3"], "colour"),
        (["--device", "toaster"], "toaster"),
        (["--device", "cuda:99"], "cuda:99"),
    ],
)
def test_what_cannot_be_built_ends_with_2_and_makes_no_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], expected: str
) -> None:
    assert train([*argv, "--run-dir", str(tmp_path / "r")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("hotloop train: error: ")
    assert expected in message
    assert not (tmp_path / "r").exists()


def test_bare_resume_takes_the_run_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    (tmp_path / "config.yaml").write_text("seed: 7\n")
    for argv in (
        ["--run-dir", str(tmp_path), "--resume"],
        ["--resume", "--run-dir", str(tmp_path)],
        ["--resume", str(tmp_path)],
        [f"--resume={tmp_path}"],
    ):
        config = parse_train([*argv, "--quiet"])
        assert (config.resume, config.seed, config.quiet) == (tmp_path, 7, True)
    assert train(["--resume"]) == 2
    assert "--run-dir" in capsys.readouterr().err
    assert train(["--resume", str(tmp_path), "--run-dir", "elsewhere"]) == 2
    assert "elsewhere" in capsys.readouterr().err


def test_resume_without_a_checkpoint_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["--resume", str(tmp_path)]) == 2
    assert "checkpoint.pt" in capsys.readouterr().err


def test_help_lists_settings_and_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for option in ("--env", "--config", "--resume", "--stop-at-return", "--optimizer.learning-rate"):
        assert option in text
