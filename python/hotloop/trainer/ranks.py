"""How the trainers of several processes act as one; see `hotloop.distributed`.

Sizes in a configuration are those of the whole run. Each process makes its share of the environments, rank r
those numbered from r num_envs / N on, and holds its share of every minibatch. Only rank 0 writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hotloop.distributed import rank_device
from hotloop.experience_strata import rank_seed
from hotloop.gradients import broadcast_parameters
from hotloop.loop import RolloutResult
from hotloop.losses import ranks
from hotloop.trainer.build import Components
from hotloop.trainer.config import TrainConfig


def share_of_rank(config: TrainConfig) -> TrainConfig:
    """The part of a resolved configuration that this process carries out; itself where it is the only one.

    Raises:
        ValueError: a size does not divide by the number of processes; the message says what would.
    """
    _, size = ranks.rank_and_size()
    if size == 1:
        return config
    share, horizon = config.model_copy(deep=True), config.rollout.horizon
    batch, minibatch = config.rollout.batch_size, config.rollout.minibatch_size
    assert batch is not None, "resolved"
    assert minibatch is not None, "resolved"
    parts = config.rollout.accumulate
    each, factor = (f" and rollout.accumulate {parts}", f" * {parts}") if parts > 1 else ("", "")
    _require_multiple("num_envs", config.num_envs, size, f"the {size} processes")
    _require_multiple(
        "rollout.minibatch_size",
        minibatch,
        size * horizon * parts,
        f"rollout.horizon times the {size} processes{each}, {horizon} * {size}{factor} = "
        f"{size * horizon * parts}",
        within=batch,
    )
    agents, minibatches = config.num_envs // size, batch // minibatch
    if config.sampling.method == "stratified":
        _require_multiple(
            "num_envs", config.num_envs, size * minibatches,
            f"{minibatches} minibatches times the {size} processes for sampling.method 'stratified'",
        )  # fmt: skip
    share.num_envs = agents
    share.rollout.batch_size = batch // size
    share.rollout.minibatch_size = minibatch // size
    share.device = rank_device(config.device)
    return share


def _require_multiple(field: str, value: int, unit: int, what: str, *, within: int | None = None) -> None:
    """ValueError unless `value` is a multiple of `unit`; names the nearest that are, and that divide
    `within`."""
    if value % unit:
        below, above = value // unit * unit, (value // unit + 1) * unit
        while within is not None and below > 0 and within % below:
            below -= unit
        while within is not None and above < within and within % above:
            above += unit
        fitting = [size for size in (below, above) if size > 0]
        raise ValueError(
            f"{field} must be a multiple of {what}, got {value}: {' or '.join(map(str, fitting))} would work"
        )


def adopt_ranks(parts: Components, config: TrainConfig) -> None:
    """Makes the parts of a run, each built from its process's share, parts of the one run."""
    rank, size = ranks.rank_and_size()
    if size == 1:
        return
    broadcast_parameters(parts.policy)
    # Schedules count the steps of all.
    parts.context.config.batch_size *= size
    parts.context.config.minibatch_size *= size
    if rank:
        # What a policy draws for itself must differ from rank to rank; rank 0 goes on as a single process
        # would.
        torch.manual_seed(rank_seed(config.seed, rank))


def first_environment(share: TrainConfig) -> int:
    """The number of this process's first environment among those of all."""
    return ranks.rank_and_size()[0] * share.num_envs


def join_rollouts(rollout: RolloutResult, agents: int) -> RolloutResult:
    """The rollouts of all ranks as one: steps added up, infos in the order of steps and agents.

    `agents`: how many each rank has, by which `agent_id` in the infos counts on.
    """
    if not ranks.several_ranks():
        return rollout
    infos: list[tuple[int, dict[str, Any]]] = []
    steps = 0
    everyone = ranks.gathered((rollout.raw_infos, rollout.info_steps, rollout.agent_steps))
    for rank, (raw_infos, info_steps, agent_steps) in enumerate(everyone):
        steps += agent_steps
        for info, step in zip(raw_infos, info_steps, strict=True):
            if "agent_id" in info:
                info = {**info, "agent_id": info["agent_id"] + rank * agents}
            infos.append((step, info))
    infos.sort(key=lambda entry: entry[0])  # stable: of one step they stay in the order of ranks
    return rollout.model_copy(
        update={
            "raw_infos": [info for _, info in infos],
            "info_steps": [step for step, _ in infos],
            "agent_steps": steps,
        }
    )


def part_of_rank(state: Mapping[str, Any] | None, source: Path) -> dict[str, Any] | None:
    """The content of a checkpoint as this rank sees it.

    Raises:
        ValueError: the checkpoint is of another number of processes.
    """
    if state is None:
        return None
    rank, size = ranks.rank_and_size()
    parts = state.get("ranks", [])
    saved = max(1, len(parts))
    if saved != size:
        how = "hotloop train" if saved == 1 else f"torchrun --nproc-per-node {saved} -m hotloop train"
        raise ValueError(
            f"{source} is of a run of {saved} {'process' if saved == 1 else 'processes'}, whose environments "
            f"cannot be dealt out to {size}: continue it with {how} --resume"
        )
    if not parts:
        return dict(state)
    own = {**state, **parts[rank]}
    own["context"] = {**state["context"], "avg_reward": own.pop("avg_reward")}
    return own
