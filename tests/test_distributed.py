"""The parts of data-parallel runs that need no second process: settings, shares, keys of draws."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from hotloop import distributed
from hotloop.distributed import Launch, backend_for, launched, on_first, process_group, rank_device, speaks
from hotloop.experience_strata import Strata, rank_seed
from hotloop.loop import RolloutResult
from hotloop.losses import ranks
from hotloop.policies.draws import AgentDraws, agents_key
from hotloop.trainer import ranks as trainer_ranks
from hotloop.trainer.config import TrainConfig
from hotloop.trainer.ranks import first_environment, join_rollouts, part_of_rank, share_of_rank

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def rank_1_of_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "rank_and_size", lambda: (1, 2))


def set_environment(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in (*TORCHRUN, "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_without_torchrun_there_is_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, {})
    assert launched() is None
    assert speaks()
    with process_group("cpu"):
        assert not torch.distributed.is_initialized()
    assert on_first(lambda: 3) == 3
    set_environment(monkeypatch, {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"})
    assert launched() is None
    assert speaks()


def test_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, TORCHRUN)
    assert launched() == Launch(1, 4, 1, 4)
    assert not speaks()
    set_environment(monkeypatch, {**TORCHRUN, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"})
    assert launched() == Launch(1, 4, 0, 2)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2"}, "MASTER_ADDR, MASTER_PORT not: start with torchrun"),
        ({**TORCHRUN, "RANK": "x"}, "the environment variable RANK must be an integer, got 'x'"),
        ({**TORCHRUN, "RANK": "4"}, r"RANK must be in \[0, WORLD_SIZE = 4\), got 4"),
    ],
)
def test_wrong_variables_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    set_environment(monkeypatch, variables)
    with pytest.raises(ValueError, match=message):
        process_group("cpu")


def test_devices_and_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, {**TORCHRUN, "LOCAL_RANK": "3"})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert (rank_device("cpu"), rank_device("cuda")) == ("cpu", "cuda:3")
    with pytest.raises(
        ValueError, match="device must be 'cuda' with 4 processes, each of which takes one, got 'cuda:1'"
    ):
        rank_device("cuda:1")
    launch = launched()
    assert launch is not None
    assert (backend_for("cpu", launch), backend_for("cuda", launch)) == ("gloo", "cpu:gloo,cuda:nccl")
    # NCCL refuses two processes on one device.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (rank_device("cuda"), backend_for("cuda", launch)) == ("cuda:1", "gloo")


def test_the_share_of_a_rank(rank_1_of_2: None) -> None:
    config = TrainConfig(num_envs=12, total_timesteps=999).resolved()
    assert (config.rollout.batch_size, config.rollout.minibatch_size) == (384, 96)
    with pytest.raises(
        ValueError, match=r"rollout.minibatch_size must be a multiple of .* got 96: 64 or 128 would"
    ):
        share_of_rank(config)
    config.rollout.minibatch_size = 64
    share = share_of_rank(config)
    assert (share.num_envs, share.rollout.batch_size, share.rollout.minibatch_size) == (6, 192, 32)
    assert (share.total_timesteps, share.seed, config.num_envs) == (999, config.seed, 12)
    assert first_environment(share) == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_envs": 9}, "num_envs must be a multiple of the 2 processes, got 9: 8 or 10 would work"),
        (
            {
                "num_envs": 12,
                "sampling": {"method": "stratified"},
                "rollout": {"horizon": 4, "batch_size": 192, "minibatch_size": 24},
            },
            "num_envs must be a multiple of 8 minibatches times the 2 processes for sampling.method "
            "'stratified', got 12: 16 would work",
        ),
    ],
)  # fmt: skip
def test_sizes_that_do_not_divide_are_refused(
    rank_1_of_2: None, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        share_of_rank(TrainConfig(**settings).resolved())


def test_one_process_keeps_its_settings() -> None:
    config = TrainConfig(num_envs=7).resolved()
    assert share_of_rank(config) is config


def test_rollouts_are_joined_in_the_order_of_steps_and_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def result(agent: int, steps: list[int], agent_steps: int) -> RolloutResult:
        infos: list[dict[str, Any]] = [{"agent_id": agent, "step": step} for step in steps]
        return RolloutResult(
            raw_infos=infos, agent_steps=agent_steps, training_env_id=slice(0, 2), info_steps=steps
        )

    first, second = result(1, [0, 4, 4], 10), result(0, [1, 4], 7)
    assert join_rollouts(first, 2) is first, "one process"
    monkeypatch.setattr(ranks, "several_ranks", lambda: True)
    monkeypatch.setattr(
        trainer_ranks.ranks,
        "gathered",
        lambda mine: [mine, (second.raw_infos, second.info_steps, second.agent_steps)],
    )
    joint = join_rollouts(first, 2)
    assert joint.agent_steps == 17
    assert [(info["step"], info["agent_id"]) for info in joint.raw_infos] == [
        (0, 1),
        (1, 2),
        (4, 1),
        (4, 1),
        (4, 2),
    ]
    assert joint.info_steps == [0, 1, 4, 4, 4]


def test_a_checkpoint_is_seen_by_each_rank_with_its_own_part(rank_1_of_2: None) -> None:
    parts = [{"loop": r, "avg_reward": 10 * r} for r in range(2)]
    state = {"epoch": 3, "context": {"avg_reward": None, "agent_step": 5}, "ranks": parts}
    own = part_of_rank(state, Path("run"))
    assert own is not None
    assert (own["epoch"], own["loop"], own["context"]) == (3, 1, {"avg_reward": 10, "agent_step": 5})
    assert part_of_rank(None, Path("run")) is None
    with pytest.raises(
        ValueError, match="run is of a run of 1 process, whose environments cannot be dealt out to 2"
    ):
        part_of_rank({"epoch": 3}, Path("run"))


@pytest.mark.parametrize(("agents", "segments", "rows"), [(12, 12, 4), (12, 36, 12), (12, 24, 8), (8, 8, 8)])
def test_strata_are_the_same_for_any_number_of_processes(agents: int, segments: int, rows: int) -> None:
    device, depth = torch.device("cpu"), segments // rows
    one = Strata(segments, rows, agents, 0, 1, device)
    for epoch in (0, 1):
        seen = torch.cat([one.draw(m, 5, epoch) for m in range(depth)])
        assert sorted(seen.tolist()) == list(range(segments)), "every row once an epoch"
        for m in range(depth):
            whole = sorted(one.draw(m, 5, epoch).tolist())
            assert [row // depth for row in whole] == list(range(rows)), "one of each block"
            for size in (2, 4):
                if rows % size or (agents // size) % depth:
                    continue
                mine, union = agents // size, []
                for rank in range(size):
                    part = Strata(segments // size, rows // size, mine, rank, size, device)
                    local = part.draw(m, 5, epoch)
                    assert len(local) == rows // size
                    union += (local // mine * agents + rank * mine + local % mine).tolist()
                assert sorted(union) == whole, (size, m)
    if depth > 1:
        assert not torch.equal(one.draw(0, 5, 0), one.draw(0, 5, 1))
        assert not torch.equal(one.draw(0, 5, 0), one.draw(0, 6, 0))


def test_strata_that_no_process_holds_whole_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be a multiple of the 4 minibatches .* got 6"):
        Strata(24, 6, 6, 0, 2, torch.device("cpu"))


def test_keys_of_ranks_differ_and_rank_0_keeps_its_own() -> None:
    assert rank_seed(17, 0) == 17
    keys = {rank_seed(seed, rank) for seed in (0, 1, 2**62) for rank in range(64)}
    assert len(keys) == 3 * 64
    assert all(-(2**63) <= key < 2**63 for key in keys)


def test_draws_are_keyed_by_agent_and_by_how_often_it_acted() -> None:
    assert agents_key(4) is None, "no rollout"
    # Two slices of two agents served in turn, against all four at once, against the second half elsewhere.
    with AgentDraws(7) as draws:
        whole = []
        for _ in range(2):
            draws.act(0, 4)
            whole.append(agents_key(4))
    with AgentDraws(7, first_agent=2) as draws:
        draws.act(0, 2)
        elsewhere = agents_key(2)
    with AgentDraws(7) as draws:
        slices = []
        for start in (0, 2, 2, 0):  # out of order
            draws.set_aside()
            thrown_away = agents_key(17)
            draws.act(start, start + 2)
            slices.append(agents_key(2))
            assert thrown_away is not None
            assert thrown_away.step >= 2**62
        assert agents_key(3) is None, "other rows than the agents that act"
        second = agents_key(2)
    assert agents_key(4) is None
    assert [key and (key.seed, key.first_row) for key in whole] == [(7, 0), (7, 0)]
    assert whole[0] is not None
    assert whole[1] is not None
    assert whole[0].step != whole[1].step
    assert elsewhere == whole[0]._replace(first_row=2)
    steps = [key and (key.step, key.first_row) for key in slices]
    a, b = whole[0].step, whole[1].step
    assert steps == [(a, 0), (a, 2), (b, 2), (b, 0)]
    assert second is not None
    assert second.step not in (a, b), "a second draw of one pass"


def test_what_rank_0_refuses_is_raised_on_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "several_ranks", lambda: True)
    said: list[Any] = []

    def refuse() -> int:
        raise FileExistsError("taken")

    monkeypatch.setattr(distributed.ranks, "from_first", lambda x: said.append(x) or (said[0]))
    monkeypatch.setattr(ranks, "rank_and_size", lambda: (0, 2))
    with pytest.raises(FileExistsError, match="taken"):
        on_first(refuse)
    monkeypatch.setattr(ranks, "rank_and_size", lambda: (1, 2))
    with pytest.raises(FileExistsError, match="taken"):
        on_first(lambda: pytest.fail("rank 1 must not act"))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("[/a/gloo/pair.cc:537] Read error [::1]:5: Connection reset by peer. Advice. More.\nx",
         "Read error [::1]:5: Connection reset by peer"),
        ("Timed out waiting 300000ms", "Timed out waiting 300000ms"),
        ("", "RuntimeError"),
    ],
)  # fmt: skip
def test_a_lost_rank_is_one_clear_sentence(rank_1_of_2: None, said: str, reason: str) -> None:
    with pytest.raises(ranks.RankLostError) as caught, ranks.collective("the gradients"):
        raise RuntimeError(said)
    assert str(caught.value) == f"rank 1 of 2 lost another rank while it waited for the gradients: {reason}"
