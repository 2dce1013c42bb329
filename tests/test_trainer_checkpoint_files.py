"""Which checkpoints stay on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hotloop.trainer.checkpoint import load_checkpoint
from hotloop.trainer.checkpoint_files import CheckpointFiles, past_checkpoints
from hotloop.trainer.run_dir import RunDirectory
from trainer_support import run, settings


def files(tmp_path: Path, keep: int) -> CheckpointFiles:
    return CheckpointFiles(RunDirectory(tmp_path), keep)


def test_the_last_few_stay_and_the_newest_is_checkpoint_pt(tmp_path: Path) -> None:
    kept = files(tmp_path, 2)
    for epoch in (3, 9, 100, 101):
        kept.save({"epoch": epoch}, best=False)
    past = past_checkpoints(RunDirectory(tmp_path))
    assert [path.name for path in past] == ["epoch-00000100.pt", "epoch-00000101.pt"]
    assert [load_checkpoint(path)["epoch"] for path in past] == [100, 101]
    assert load_checkpoint(tmp_path / "checkpoint.pt")["epoch"] == 101
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "checkpoints"]


def test_none_are_kept_when_none_are_asked_for(tmp_path: Path) -> None:
    files(tmp_path, 0).save({"epoch": 1}, best=False)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("links", [True, False])
def test_the_best_outlives_later_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:

        def refuse(*_: Any) -> None:
            raise OSError("this filesystem has no links")

        monkeypatch.setattr(os, "link", refuse)
    kept = files(tmp_path, 1)
    for epoch, best in ((1, True), (2, True), (3, False)):
        kept.save({"epoch": epoch}, best=best)
    assert load_checkpoint(tmp_path / "best.pt")["epoch"] == 2
    assert load_checkpoint(tmp_path / "checkpoint.pt")["epoch"] == 3


def test_a_foreign_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("epoch-mine.pt", "notes.txt"):
        (tmp_path / "checkpoints" / name).write_text("")
    files(tmp_path, 1).save({"epoch": 7}, best=False)
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["epoch-00000007.pt", "epoch-mine.pt", "notes.txt"]


def test_a_run_keeps_its_last_and_its_best(tmp_path: Path) -> None:
    output: dict[str, Any] = {
        "tensorboard": False,
        "plot": False,
        "checkpoint_seconds": 0,
        "keep_checkpoints": 3,
    }
    result = run(settings(tmp_path / "r", total_timesteps=40 * 128, output=output))
    past = past_checkpoints(RunDirectory(tmp_path / "r"))
    epochs = [load_checkpoint(path)["epoch"] for path in past]
    assert epochs == [result.epoch - 2, result.epoch - 1, result.epoch]
    best = load_checkpoint(tmp_path / "r" / "best.pt")
    last = load_checkpoint(tmp_path / "r" / "checkpoint.pt")
    window = best["episodes"]["returns"]
    assert len(window) == 100
    assert best["best_return"] == pytest.approx(sum(window) / 100) == last["best_return"]
