"""Two processes train as one: against one process with all environments, and against themselves resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distributed_support import rows, run_groups

pytestmark = pytest.mark.slow  # on a busy machine: they start processes

COMMON = [
    "--num-envs", "8", "--rollout.horizon", "16", "--rollout.update-epochs", "2", "--policy.hidden", "16",
    "--environment.vectorization", "sync", "--output.no-tensorboard", "--output.no-plot", "--quiet",
]  # fmt: skip
CASES = {
    # Filler rows: the ranks' minibatches have different numbers of valid entries.
    "stratified, next step": [
        "--environment.autoreset", "next_step", "--sampling.method", "stratified",
        "--total-timesteps", "1000",
    ],
    # Minibatches of whole slabs: the blocks of `sequential` are the same for any number of processes. A
    # target that is passed in some phases: both must stop at the same minibatch. Episodes that are truncated
    # on one rank only make it run the policy once more.
    "sequential slabs, KL": [
        "--environment.kwargs", "max_episode_steps", "15",
        "--sampling.method", "sequential", "--rollout.batch-size", "512", "--rollout.minibatch-size", "128",
        "--actor.target-kl", "0.00005", "--total-timesteps", "3000",
    ],
    # Statistics, moments and weights are those of both ranks' environments; only the first evaluates.
    "normalised, accumulated": [
        "--environment.autoreset", "next_step", "--sampling.method", "stratified",
        "--normalize.observations", "--normalize.rewards", "--rollout.accumulate", "2",
        "--rollout.minibatch-size", "64",
        "--evaluation.every", "200", "--evaluation.episodes", "2", "--total-timesteps", "1000",
    ],
    # Gaussian draws, and episodes that are truncated all at once.
    "continuous, truncated": [
        "--env", "Pendulum-v1", "--environment.kwargs", "max_episode_steps", "13",
        "--sampling.method", "stratified", "--total-timesteps", "1000",
    ],
    "recurrent": [
        "--policy.kind", "lstm", "--policy.core-size", "8", "--policy.burn-in", "2",
        "--environment.autoreset", "next_step", "--sampling.method", "stratified",
        "--total-timesteps", "1000",
    ],
}  # fmt: skip


def check_equal(one: Path, two: Path) -> float:
    """The same numbers in metrics.csv and the same network, to float32 rounding; passes over the batch an
    epoch."""
    expected, found = rows(one / "metrics.csv"), rows(two / "metrics.csv")
    assert len(found) == len(expected) > 4
    for a, b in zip(expected, found, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if name in ("epoch", "agent_steps", "episode_length_mean"):
                assert b[name] == a[name], (name, a, b)
            elif a[name] or b[name]:
                assert float(b[name]) == pytest.approx(float(a[name]), rel=2e-3, abs=2e-5), (name, a, b)
    ours, theirs = (torch.load(path / "checkpoint.pt", weights_only=True) for path in (one, two))
    for key in ours["policy"]:
        torch.testing.assert_close(theirs["policy"][key], ours["policy"][key], rtol=1e-3, atol=2e-5)
    passes: int = ours["context"]["epoch"]
    assert theirs["context"]["epoch"] == passes
    return passes / len(expected)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_follow_the_trajectory_of_one(tmp_path: Path, case: str) -> None:
    argv = [*COMMON, *CASES[case], "--run-dir", "run"]
    (alone,), ranks = run_groups(tmp_path, (1, argv), (2, argv))
    assert alone[0] == 0, alone
    assert [code for code, _, _ in ranks] == [0, 0], ranks
    passes = check_equal(tmp_path / "group0-rank0" / "run", tmp_path / "group1-rank0" / "run")
    assert passes < 2 if "KL" in case else passes == 2, "or no target was passed"
    # Rank 1 has a directory of its own here, in which it must have left and said nothing.
    assert sorted(path.name for path in (tmp_path / "group1-rank1").iterdir()) == ["code", "stderr", "stdout"]
    assert ranks[0][1].startswith("finished: ")
    assert ranks[1][1:] == ("", "")


def test_a_resumed_run_goes_on_exactly_and_with_as_many_processes_only(tmp_path: Path) -> None:
    # The default law, and per-rank state of everything: environments, last actions, generators.
    argv = [*COMMON, "--environment.autoreset", "next_step"]
    first = run_groups(
        tmp_path,
        (2, [*argv, "--total-timesteps", "900", "--run-dir", "../whole"]),
        (2, [*argv, "--total-timesteps", "500", "--run-dir", "../part"]),
    )
    assert [code for group in first for code, _, _ in group] == [0] * 4, first
    stopped = len(rows(tmp_path / "part" / "metrics.csv"))
    resume = ["--resume", "../part", "--total-timesteps", "900"]
    ranks, alone = run_groups(tmp_path, (2, resume), (1, ["--resume", "../part"]))
    assert alone[0][0] == 2
    assert alone[0][2] == (
        "hotloop train: error: ../part is of a run of 2 processes, whose environments cannot be dealt out to "
        "1: continue it with torchrun --nproc-per-node 2 -m hotloop train --resume\n"
    )
    assert [code for code, _, _ in ranks] == [0, 0], ranks
    expected = rows(tmp_path / "whole" / "metrics.csv")
    assert 0 < stopped < len(expected)
    assert rows(tmp_path / "part" / "metrics.csv") == expected


def test_mistakes_end_every_rank_and_are_told_once(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "checkpoint.pt").touch()
    sizes, taken = run_groups(
        tmp_path,
        (3, [*COMMON, "--run-dir", "../run"]),
        # What only rank 0 looks at.
        (2, [*COMMON, "--run-dir", "../taken"]),
    )
    for group, message in (
        (sizes, "error: num_envs must be a multiple of the 3 processes, got 8: 6 or 9 would work\n"),
        (taken, "error: ../taken already holds a run (checkpoint.pt)"),
    ):
        assert [code for code, _, _ in group] == [2] * len(group), group
        assert message in group[0][2]
        assert all((out, err) == ("", "") for _, out, err in group[1:])
    assert not (tmp_path / "run").exists()
