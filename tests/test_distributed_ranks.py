"""What two ranks with unequal parts make of losses, statistics, gradients and the decision to stop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from hotloop.losses import formulas, ppo_losses
from hotloop.policies import MLPPolicy

WORLD, B, T = 2, 4, 6
CONTEXT: Any = SimpleNamespace(training_env_id=slice(0, B), loss_run_gates={})
OUTPUTS = ("act_log_prob", "entropy", "values")
Results = list[dict[str, Any]]


def draw(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(B, T, generator=torch.Generator().manual_seed(seed))


def valid() -> Tensor:
    """Rank 0's rows are nearly all invalid, rank 1's nearly all valid."""
    chance = torch.tensor([0.2, 0.2, 0.9, 0.9]).unsqueeze(1)
    return torch.rand(B, T, generator=torch.Generator().manual_seed(9)) < chance


class Replay:
    def __init__(self, rows: slice) -> None:
        self.buffer = TensorDict({"values": draw(20), "valid": valid()}, batch_size=[B, T])[rows].clone()

    def update(self, indices: Tensor, td: TensorDict) -> None:
        pass


def train(rows: slice, fused: bool) -> dict[str, Any]:
    """Loss, weighed as the loop does, gradients and statistics of some rows of a minibatch."""
    from hotloop.loop_training import rank_weight

    replay, size = Replay(rows), [rows.stop - rows.start, T]
    sampled = {"act_log_prob": draw(1, 0.3), "values": draw(20), "valid": valid()}
    outputs = {"act_log_prob": draw(2, 0.3), "entropy": draw(3).abs(), "values": draw(4)}
    policy_td = {name: x[rows].clone().requires_grad_() for name, x in outputs.items()}
    shared = TensorDict(
        {
            "sampled_mb": TensorDict({n: x[rows].clone() for n, x in sampled.items()}, batch_size=size),
            "policy_td": TensorDict(policy_td, batch_size=size),
            "advantages": draw(5)[rows],
            "advantages_pg": (draw(6, 3.0) + torch.arange(B).unsqueeze(1))[rows],
            "advantages_full": draw(8)[rows],
            "indices": torch.arange(rows.stop - rows.start)[:, None].expand(-1, T),
        },
        batch_size=[],
    )  # fmt: skip
    total = torch.zeros(())
    losses = ppo_losses(MLPPolicy((3,), 2), fused=fused, clip_vloss=True, ent_coef=0.1)
    for loss in losses.values():
        loss.attach_replay_buffer(replay)
        value, shared, _ = loss.train(shared, CONTEXT, 0)
        total = total + value
    weight = rank_weight(shared["sampled_mb"])
    total = total if weight is None else total * weight
    gradients = torch.autograd.grad(total, [policy_td[name] for name in OUTPUTS])
    statistics: dict[str, float] = {}
    for loss in losses.values():
        statistics.update(loss.stats())
    return {"loss": total.detach(), "gradients": list(gradients), "statistics": statistics}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, __file__, str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"result{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize("fused", [False, True])
def test_ranks_with_unequal_numbers_of_valid_steps_weigh_right(results: Results, fused: bool) -> None:
    joint = train(slice(0, B), fused)
    parts = [result["fused" if fused else "pair"] for result in results]
    mean = torch.stack([part["loss"] for part in parts]).mean()
    torch.testing.assert_close(mean, joint["loss"], rtol=1e-5, atol=1e-6, check_dtype=False)
    for i, expected in enumerate(joint["gradients"]):
        found = torch.cat([part["gradients"][i] for part in parts]) / WORLD
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    for part in parts:
        assert part["statistics"] == pytest.approx(joint["statistics"], rel=1e-5, abs=1e-6)


def test_explained_variance_is_that_of_all(results: Results) -> None:
    x = (
        torch.cat([result["values"] for result in results]),
        torch.cat([result["returns"] for result in results]),
    )
    joint = formulas.explained_variance(*x)
    for result in results:
        torch.testing.assert_close(result["explained"], joint, rtol=1e-5, atol=1e-6)
    own = formulas.explained_variance(results[0]["values"], results[0]["returns"])
    assert not torch.isclose(own, joint, rtol=0.1), "or the test proves nothing"


def test_gradients_are_averaged_and_absent_ones_count_as_zero(results: Results) -> None:
    for rank, result in enumerate(results):
        assert result["grads"] == {
            "both": [1.5, 1.5],  # 1 and 2
            "one": [5.0],  # none and 10
            "low": [0.75],  # 0.5 and 1, bfloat16
            "none": None,
            "frozen": None,
        }, rank
        assert "must be dense with several ranks" in result["sparse"]


def test_parameters_and_buffers_are_those_of_rank_0(results: Results) -> None:
    for result in results:
        assert result["parameters"] == [7.0, 0.0, 3.0]


def test_decisions_and_objects_are_shared(results: Results) -> None:
    for rank, result in enumerate(results):
        assert result["decisions"] == [5, True, False, "of 0", ["of 0", "of 1"]]
        assert result["gathered_by_first"] == ([["of 0"], ["of 1"]] if rank == 0 else [])


def test_a_stop_that_one_rank_asks_for_stops_both(results: Results) -> None:
    # Rank 1's loss asks for it at the third minibatch of four.
    for result in results:
        assert result["steps"] == 2
    assert torch.equal(results[0]["trained"], results[1]["trained"])


def test_accumulated_gradients_are_averaged_once_a_step(results: Results) -> None:
    for result in results:
        assert result["averages"] == 2, "four minibatches, two to a step"


def _gradients(rank: int) -> dict[str, Any]:
    from hotloop.gradients import GradientAverage, broadcast_parameters

    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.none = nn.Parameter(torch.zeros(3))
            self.both = nn.Parameter(torch.zeros(2))
            self.low = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
            self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
            self.one = nn.Parameter(torch.zeros(1))

    policy = Policy()
    policy.both.grad = torch.full((2,), 1.0 + rank)
    policy.low.grad = torch.full((1,), 0.5 + 0.5 * rank, dtype=torch.bfloat16)
    if rank == 1:
        policy.one.grad = torch.full((1,), 10.0)
    GradientAverage(policy)()
    grads = {n: None if p.grad is None else p.grad.tolist() for n, p in policy.named_parameters()}

    sparse = nn.Embedding(3, 2, sparse=True)
    sparse(torch.tensor([1])).sum().backward()
    message = ""
    try:
        GradientAverage(sparse)()
    except TypeError as error:
        message = str(error)

    other = nn.BatchNorm1d(1)
    nn.init.constant_(other.weight, 7.0 - rank)
    assert other.running_mean is not None
    other.running_mean.fill_(3.0 + rank)
    broadcast_parameters(other)
    parameters = [other.weight.item(), other.bias.item(), other.running_mean.item()]
    return {"grads": grads, "sparse": message, "parameters": parameters}


def _loop(rank: int, *, stop_at: int | None, accumulate: int) -> dict[str, Any]:
    from loop_support import STORED, RecordingLoss, ScriptedEnv, Setup, squared_values

    def losses(log: list[str], policy: Any) -> dict[str, Any]:
        loss = RecordingLoss(
            "actor", log, policy, acts=True, spec=STORED, loss=squared_values, stop_at=stop_at
        )
        return {"actor": loss}

    setup = Setup(minibatches=4 // accumulate, max_minibatch_size=3, losses=losses)
    env = ScriptedEnv([slice(0, 2)], reward=lambda agents, t: agents + 10.0 * t + 100.0 * rank)
    setup.loop.rollout_phase(env, setup.context)
    averages = 0
    average = setup.loop._gradients

    def counted() -> None:
        nonlocal averages
        averages += 1
        average()

    setup.loop._gradients = counted  # type: ignore[assignment]
    setup.loop.training_phase(setup.context, 1)
    return {"averages": averages, "trained": torch.cat([p.flatten() for p in setup.parameters()])}


def _work(rank: int, folder: Path) -> None:
    from datetime import timedelta

    import torch.distributed as dist

    from hotloop.losses import ranks

    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), WORLD)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD, timeout=timedelta(seconds=60))
    rows = slice(rank * B // WORLD, (rank + 1) * B // WORLD)
    generator = torch.Generator().manual_seed(rank)
    returns = 10.0 * rank + torch.randn(5 + rank, generator=generator)
    values = returns + torch.randn(5 + rank, generator=generator)
    stopped = _loop(rank, stop_at=2 if rank == 1 else None, accumulate=1)
    result = {
        "pair": train(rows, False),
        "fused": train(rows, True),
        "values": values,
        "returns": returns,
        "explained": formulas.explained_variance(values, returns),
        **_gradients(rank),
        "decisions": [
            ranks.greatest(5 * rank), ranks.any_rank(rank == 1), ranks.any_rank(False),
            ranks.from_first(f"of {rank}"), ranks.gathered(f"of {rank}"),
        ],
        "gathered_by_first": ranks.gathered_by_first([f"of {rank}"]),
        "steps": stopped["averages"],
        "trained": stopped["trained"],
        "averages": _loop(rank, stop_at=None, accumulate=2)["averages"],
    }  # fmt: skip
    torch.save(result, folder / f"result{rank}.pt")
    dist.destroy_process_group()


def _main(folder: Path) -> int:
    """Both ranks from one import of torch: forked before any thread or tensor exists."""
    child = os.fork()
    _work(int(child == 0), folder)
    return 0 if child == 0 else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
