"""Atomic writing, run directories and metrics.csv."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from hotloop.trainer.files import write_atomically
from hotloop.trainer.metrics import LEADING_COLUMNS, EpisodeWindow, MetricsFile, read_metrics
from hotloop.trainer.run_dir import RunDirectory, read_yaml_mapping


def row(epoch: int, **more: float) -> dict[str, float]:
    return {**{name: float(i) / 3 for i, name in enumerate(LEADING_COLUMNS)}, "epoch": epoch, **more}


def test_atomic_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with write_atomically(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_write_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def fail_half_way() -> None:
        with write_atomically(target) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail_half_way()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_metrics_read_back_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    value = 0.1 + 0.2
    metrics = MetricsFile(path)
    metrics.append(row(1, policy_loss=value))
    metrics.append(row(2, policy_loss=math.pi))
    metrics.close()
    columns = read_metrics(path)
    assert columns["policy_loss"] == [value, math.pi]
    assert columns["epoch"] == [1, 2]
    assert path.read_text().splitlines()[0] == ",".join([*LEADING_COLUMNS, "policy_loss"])


def test_metrics_leading_columns_come_first_and_are_demanded(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.csv")
    with pytest.raises(ValueError, match="agent_steps"):
        metrics.append({"epoch": 1})
    shuffled = dict(reversed(row(1, entropy=1.0).items()))
    metrics.append(shuffled)
    metrics.close()
    header = metrics.path.read_text().splitlines()[0].split(",")
    assert tuple(header[: len(LEADING_COLUMNS)]) == LEADING_COLUMNS


def test_metrics_widen_for_a_late_statistic(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    metrics = MetricsFile(path)
    metrics.append(row(1, a=1.0))
    metrics.append(row(2, a=2.0, b=5.0))
    metrics.append(row(3, b=6.0))
    metrics.close()
    columns = read_metrics(path)
    assert columns["b"][1:] == [5.0, 6.0]
    assert math.isnan(columns["b"][0])
    assert columns["a"][:2] == [1.0, 2.0]
    assert math.isnan(columns["a"][2])


def test_metrics_row_is_on_disk_before_the_file_is_closed(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.csv")
    metrics.append(row(1))
    assert read_metrics(metrics.path)["epoch"] == [1]
    metrics.close()


def test_metrics_resume_cuts_later_and_broken_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    metrics = MetricsFile(path)
    for epoch in range(1, 6):
        metrics.append(row(epoch, a=epoch / 7))
    metrics.close()
    with path.open("a") as stream:
        stream.write("6,1")  # cut short by a kill
    whole = path.read_text().splitlines()
    resumed = MetricsFile(path, keep_epochs=3)
    assert path.read_text().splitlines() == whole[:4]
    resumed.append(row(4, a=4 / 7))
    resumed.close()
    assert path.read_text().splitlines() == whole[:5]


def test_metrics_without_keep_epochs_start_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch\n9\n")
    metrics = MetricsFile(path)
    metrics.append(row(1))
    metrics.close()
    assert read_metrics(path)["epoch"] == [1]


def test_episode_window_means_and_state() -> None:
    window = EpisodeWindow(3)
    assert math.isnan(window.return_mean)
    assert math.isnan(window.length_mean)
    window.extend([{"episode_return": r, "episode_length": 10 * r, "agent_id": 0} for r in (1, 2)])
    window.extend([{"other": 1}])
    assert (window.full, window.return_mean, window.length_mean) == (False, 1.5, 15.0)
    window.extend([{"episode_return": r, "episode_length": 10 * r} for r in (6, 7)])
    assert (window.full, window.return_mean, window.finished) == (True, 5.0, 4)
    copy = EpisodeWindow(3)
    copy.load_state_dict(window.state_dict())
    assert copy.state_dict() == window.state_dict()
    copy.extend([{"episode_return": 11, "episode_length": 1}])
    assert copy.return_mean == 8.0


def test_episode_window_refuses_size_zero() -> None:
    with pytest.raises(ValueError, match="size"):
        EpisodeWindow(0)


def test_run_directory_is_not_written_over(tmp_path: Path) -> None:
    directory = RunDirectory.free(tmp_path / "a" / "run")
    assert not directory.path.exists()
    directory.make()
    directory.config.write_text("env: x\n")
    with pytest.raises(FileExistsError, match="--resume"):
        RunDirectory.free(directory.path)


def test_resuming_needs_a_checkpoint_and_clears_leftovers(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"checkpoint\.pt"):
        RunDirectory.existing(tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    leftover = tmp_path / ".checkpoint.pt.123.tmp"
    leftover.write_bytes(b"half")
    RunDirectory.existing(tmp_path)
    assert not leftover.exists()


def test_default_path_is_free_and_a_plain_name(tmp_path: Path) -> None:
    first = RunDirectory.default_path("ALE/Pong-v5", 3, tmp_path)
    assert first.parent == tmp_path
    assert first.name.startswith("ALE-Pong-v5-seed3-")
    # Every name of the next seconds is taken, so the clock does not decide.
    taken = {first}
    first.mkdir()
    for _ in range(5):
        path = RunDirectory.default_path("ALE/Pong-v5", 3, tmp_path)
        assert path not in taken
        path.mkdir()
        taken.add(path)


@pytest.mark.parametrize(("text", "match"), [("[1, 2]", "mapping"), ("a: [", "not valid YAML")])
def test_yaml_that_is_no_mapping_is_refused(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        read_yaml_mapping(path)


def test_empty_yaml_is_an_empty_mapping(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("# nothing\n")
    assert read_yaml_mapping(path) == {}
