"""The runner that executes CUDA kernels on the CPU: each fault that it is there for is planted and seen."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from cuda_host_support import CUDA_SOURCES

pytestmark = pytest.mark.skipif(
    not CUDA_SOURCES.is_dir(), reason="an installed package carries no C++ sources"
)

# What the runner must say.
FAULTS = {
    "barrier_missing": r"shared memory tile\[\d+\] is read (without a barrier|before it was written)",
    "barrier_missing_at_reuse": r"shared memory tile\[\d+\] is (written|read) without a barrier",
    "warp_barrier_missing": r"shared memory tile\[\d+\] is read (without a barrier|before it was written)",
    "two_writers": r"shared memory tile\[\d+\] is written without a barrier after thread \d+ wrote it",
    "shared_off_by_one": r"shared memory tile\[64\] lies outside of its 64 elements",
    "shuffle_divergent": r"divergence: .*(__shfl_down_sync in .* lane \d+, which has left|warp operation)",
    "shuffle_masks_differ": r"divergence: __shfl_sync .*(while other lanes wait at|not in its mask)",
    "shuffle_outside_mask": "reads lane 3, which is not in the mask",
    "vote_divergent": "divergence: .*(a vote|warp operation)",
    "barrier_divergent": "divergence: .*(__syncthreads in .* after other threads have left|at __syncthreads)",
    "barriers_differ": r"divergence: __syncthreads in .* waits at that in ",
    "shared_uninitialised": r"shared memory tile\[5\] is read before it was written",
    "shared_left_over": r"block \(1, 0, 0\).*shared memory tile\[\d+\] is read before it was written",
    "threads_too_many": r"a block has at most 1024 threads, 64 of them along z, got \(1025, 1, 1\)",
    "block_too_deep": r"64 of them along z, got \(1, 1, 65\)",
    "grid_empty": r"a grid without blocks \(0, 1, 1\)",
    "grid_too_high": r"2147483647 by 65535 by 65535 blocks, got \(1, 65536, 1\)",
    "shared_too_large": "at most 49152 bytes of shared memory, got 49153",
    "dynamic": r"shared memory tile\[63\] lies outside of its 63 elements",
}
SEEDS = range(4)


class Runner:
    """Runs one case of faults.cpp in a process of its own."""

    def __init__(self, executable: Path) -> None:
        self.executable = executable

    def run(self, case: str, which: str, seed: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        command = [self.executable, case, which, str(seed)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    def result(self, case: str, which: str = "right", seed: int = 0) -> list[int]:
        done = self.run(case, which, seed)
        said, numbers = done.stdout.splitlines()
        assert (done.returncode, said) == (0, "nothing"), done.stdout + done.stderr
        return [int(number) for number in numbers.split()]


@pytest.fixture(scope="session")
def runner() -> Runner:
    from cuda_host.build import build

    return Runner(build("faults"))


@pytest.mark.parametrize("case", FAULTS)
def test_a_planted_fault_is_seen_whatever_the_order(case: str, runner: Runner) -> None:
    for seed in SEEDS:
        done = runner.run(case, "wrong", seed)
        assert done.returncode == 0, done.stderr
        assert re.search(FAULTS[case], done.stdout), done.stdout


@pytest.mark.parametrize("case", [*FAULTS, "store_off_by_one", "last_tile_stale"])
def test_the_same_kernel_without_the_fault_runs(case: str, runner: Runner) -> None:
    for seed in SEEDS:
        runner.result(case, seed=seed)


def test_a_store_off_by_one_is_seen_by_address_sanitizer(runner: Runner) -> None:
    done = runner.run("store_off_by_one", "wrong")
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
    assert "store_kernel" in done.stderr


def test_a_stale_last_tile_gives_another_result(runner: Runner) -> None:
    # Every access is in order, so it shows where the result is compared, at a size that tiles do not divide.
    expected = sum(range(1, 151))
    assert runner.result("last_tile_stale")[0] == expected
    assert runner.result("last_tile_stale", "wrong")[0] != expected


def test_results_of_right_kernels(runner: Runner) -> None:
    assert runner.result("barrier_missing")[:64] == [64 - i for i in range(64)]
    assert runner.result("warp_barrier_missing")[:64] == [(i ^ 1) + 1 for i in range(64)]
    shuffled = runner.result("shuffle_divergent")[:64]
    assert shuffled == [i + 1 if i % 32 < 31 else i for i in range(64)]
    assert runner.result("atomics")[:2] == [3 * 64, 64]
    assert runner.result("dynamic")[:64] == [63 - i for i in range(64)]


def test_three_dimensions_cover_each_index_once(runner: Runner) -> None:
    assert runner.result("indices") == [1] * 60 + [0] * 10


def test_the_order_of_blocks_and_threads_follows_the_seed(runner: Runner) -> None:
    orders = [tuple(runner.result("order", seed=seed)[1:69]) for seed in range(6)]
    assert len(set(orders)) == 6
    assert all(sorted(order) == list(range(68)) for order in orders)
    assert {order[0] // 34 for order in orders} == {0, 1}
    assert orders[0] == tuple(runner.result("order", seed=0)[1:69])
