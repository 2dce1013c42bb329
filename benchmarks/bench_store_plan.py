"""One rollout step of 1024 agents: storing it, and all the bookkeeping around it, beside the copy of its
bytes into walking memory and what the reference loop does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from hotloop.context import ComponentContext
from hotloop.experience import Experience
from hotloop.loop_rollout import StepBuilder
from interleave import Timing, interleaved, report, save
from rollouts import SPEC, plain_buffer, size_of, step

AGENTS = 1024
SHAPES = [(1024, 64), (4096, 128)]
FLOOR = "copy of the same bytes"
GROUPS: dict[str, dict[str, Timing]] = {}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_store_plan(benchmark: BenchmarkFixture, shape: tuple[int, int], one_thread: None) -> None:
    segments, horizon = shape
    window = slice(0, AGENTS)
    experience = Experience(
        total_agents=AGENTS,
        batch_size=segments * horizon,
        bptt_horizon=horizon,
        minibatch_size=horizon,
        experience_spec=SPEC,
    )
    steps = StepBuilder(experience, {}, reset_last_actions=False, all_valid=True)
    context = ComponentContext()
    steps.begin_rollout(None, context)
    data = step(AGENTS)
    made = {key: data[key] for key in ("actions", "act_log_prob", "values")}  # by the policy
    flags = data["dones"] > 4
    raw: tuple[Any, ...] = (data["env_obs"], data["rewards"], flags, flags, [], window, None, AGENTS)

    def store() -> None:
        if experience.ready_for_training:
            experience.reset_for_rollout()
        experience.store(data, window)

    def whole_step() -> None:
        if experience.ready_for_training:
            experience.reset_for_rollout()
        seen = steps.unpack(raw)
        td = steps.build(seen, context)
        td.update(made)
        experience.store(td, window)
        steps.remember(td, td["actions"], seen.window)

    buffer, rows, column = plain_buffer(segments, horizon), torch.arange(AGENTS), [-1]
    last, averages, ids = torch.zeros(AGENTS, 1, dtype=torch.int32), torch.zeros(AGENTS), rows.unsqueeze(1)
    template = buffer[rows, -1].select("env_obs", "actions")
    batch, bptt = torch.full((AGENTS,), AGENTS), torch.ones(AGENTS, dtype=torch.int64)

    def assign(td: Any = data) -> None:
        column[0] = (column[0] + 1) % horizon
        for key in SPEC:
            buffer[key][rows, column[0]] = td[key]

    def whole_step_of_the_reference() -> None:
        td = template[window].clone()
        td["env_obs"], td["rewards"] = data["env_obs"], data["rewards"]
        td["dones"], td["truncateds"] = flags.float(), flags.float()
        td["training_env_ids"], td["reward_baseline"] = ids, averages[rows]
        td["last_actions"] = last[td["training_env_ids"].reshape(-1)]
        td["batch"], td["bptt"] = batch, bptt
        td.update(made)
        assign(td)
        last[window] = td["actions"].detach().unsqueeze(1)

    size = size_of([data[key] for key in SPEC])
    source, walked = torch.ones(size, dtype=torch.uint8), [0]
    target = torch.zeros(segments * horizon // AGENTS, size, dtype=torch.uint8)

    def floor() -> None:
        walked[0] = (walked[0] + 1) % len(target)
        target[walked[0]].copy_(source)

    timings = interleaved(
        {
            FLOOR: floor,
            "hotloop.Experience.store": store,
            "buffer[key][rows, t] = td[key]": assign,
            "hotloop, whole step": whole_step,
            "reference, whole step": whole_step_of_the_reference,
        },
        rounds=200,
    )
    group = f"{AGENTS} agents into {segments}x{horizon}"
    GROUPS[group] = timings
    print("\n" + report(group, timings, FLOOR))
    experience.reset_for_rollout()
    store()
    for key in SPEC:
        assert torch.equal(experience.buffer[key][:AGENTS, 0], data[key])
    benchmark.pedantic(store, rounds=20)
    if len(GROUPS) == len(SHAPES):
        print(f"written to {save('store_plan', GROUPS)}")
