"""Two real processes: what they normalise by and when they stop must be the same on both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hotloop.losses import formulas, ranks

WORLD = 2
SIZES = (12, 5)


def entries(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and validity of one rank: different scale, offset and number of valid entries."""
    generator = torch.Generator().manual_seed(rank)
    advantages = 1000.0 + 50 * rank + (1 + rank) * torch.randn(SIZES[rank], generator=generator)
    valid = torch.rand(SIZES[rank], generator=generator) > 0.3
    return advantages, valid


def test_a_single_process_issues_no_collective() -> None:
    assert not ranks.several_ranks()
    numbers = [torch.tensor(float(i)) for i in range(3)]
    assert all(a is b for a, b in zip(ranks.global_moments(*numbers), numbers, strict=True))
    assert ranks.global_sum(numbers[0]) is numbers[0]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"result{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("mask", ["all", "valid"])
def test_advantages_are_normalised_over_all_ranks(results: list[dict[str, torch.Tensor]], mask: str) -> None:
    parts = [entries(rank) for rank in range(WORLD)]
    joint_mask = None if mask == "all" else torch.cat([valid for _, valid in parts])
    joint = formulas.normalize_advantages(torch.cat([a.double() for a, _ in parts]), joint_mask)
    for result, want in zip(results, joint.split(SIZES), strict=True):
        torch.testing.assert_close(result[mask], want.float(), rtol=1e-4, atol=1e-4)


def test_sums_are_over_all_ranks_and_leave_the_argument_alone(results: list[dict[str, torch.Tensor]]) -> None:
    for rank, result in enumerate(results):
        assert result["sum"].tolist() == [3.0, 30.0]
        assert result["own"].tolist() == [1.0 + rank, 10.0 * (1 + rank)]


def test_both_ranks_stop_together(results: list[dict[str, torch.Tensor]]) -> None:
    # Rank 1 alone is far above the target, rank 0 alone far below, their mean above.
    for result in results:
        assert result["stops"].tolist() == [False, True]


def _work(rank: int, folder: Path) -> None:
    from datetime import timedelta
    from types import SimpleNamespace
    from typing import Any

    import torch.distributed as dist
    from tensordict import TensorDict

    from hotloop.losses import PPOActor, PPOActorConfig
    from hotloop.policies import MLPPolicy

    store = dist.FileStore(str(folder / "store"), WORLD)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD, timeout=timedelta(seconds=60))
    advantages, valid = entries(rank)
    own = torch.tensor([1.0, 10.0]) * (1 + rank)
    result = {
        "all": formulas.normalize_advantages(advantages),
        "valid": formulas.normalize_advantages(advantages, valid),
        "sum": ranks.global_sum(own),
        "own": own,
    }

    loss = PPOActor(MLPPolicy((3,), 2), PPOActorConfig(target_kl=0.05))
    context: Any = SimpleNamespace(loss_run_gates={})
    old = torch.zeros(2, 3)
    stops = []
    for mb_idx in range(2):
        new = torch.full((2, 3), 0.5 * rank, requires_grad=True)
        shared = TensorDict(
            {
                "sampled_mb": TensorDict({"act_log_prob": old}, batch_size=[2, 3]),
                "policy_td": TensorDict({"act_log_prob": new, "entropy": old}, batch_size=[2, 3]),
                "advantages": torch.randn(2, 3),
            },
            batch_size=[2, 3],
        )
        stops.append(loss.train(shared, context, mb_idx)[2])
    result["stops"] = torch.tensor(stops)
    torch.save(result, folder / f"result{rank}.pt")
    dist.destroy_process_group()


def _main(folder: Path) -> int:
    """Both ranks from one import of torch: forked before any thread or tensor exists."""
    child = os.fork()
    _work(int(child == 0), folder)
    return 0 if child == 0 else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
