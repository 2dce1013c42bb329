"""A whole prioritised minibatch of a quarter of the segments: priorities, draw, weights, and the gather of
all keys and of the advantages, beside the copy of the bytes that it must move and what the reference does."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from hotloop import SegmentSampler, ops
from hotloop.experience import Experience
from hotloop.ops._leaves import LeafKey
from interleave import Timing, interleaved, report, save
from rollouts import SPEC

SHAPES = [(1024, 64), (4096, 128), (16384, 64)]
FLOOR = "copy of the same bytes"
GROUPS: dict[str, dict[str, Timing]] = {}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_gather_plan(benchmark: BenchmarkFixture, shape: tuple[int, int], one_thread: None) -> None:
    segments, horizon = shape
    count = segments // 4
    experience = Experience(
        total_agents=1,
        batch_size=segments * horizon,
        bptt_horizon=horizon,
        minibatch_size=count * horizon,
        experience_spec=SPEC,
    )
    buffer, advantages = experience.buffer, torch.randn(shape)
    for key in SPEC:
        buffer[key].random_(0, 100)
    leaves: dict[LeafKey, Tensor] = {**{key: buffer[key] for key in SPEC}, "advantages": advantages}
    sampler = SegmentSampler(segments, count, alpha=0.8, schedule="constant", beta0=0.6)
    plan = ops.GatherPlan.allocate(leaves, count)
    number = [0]

    def minibatch() -> None:
        number[0] += 1
        advantages[0, 0] = number[0]  # priorities are made anew, as in the first minibatch of an epoch
        indices, _ = sampler.draw(advantages, epoch=number[0], minibatch=0)
        plan.gather(leaves, indices)

    outs = [torch.zeros_like(leaf[:count]) for leaf in leaves.values()]

    def floor() -> None:
        number[0] += 1
        first = number[0] % 4 * count
        for leaf, out in zip(leaves.values(), outs, strict=True):
            out.copy_(leaf[first : first + count])

    def reference() -> None:
        w = torch.nan_to_num(advantages.abs().sum(1) ** 0.8, 0, 0, 0)
        p = (w + 1e-6) / (w.sum() + 1e-6)
        indices = torch.multinomial(p, count)
        _ = buffer[indices].clone(), advantages[indices], (segments * p[indices]) ** -0.6

    def by_key() -> None:
        indices, _ = sampler.draw(advantages, epoch=number[0], minibatch=1)
        for leaf, out in zip(leaves.values(), outs, strict=True):
            torch.index_select(leaf, 0, indices, out=out)

    contestants = {
        FLOOR: floor,
        "hotloop: draw and gather": minibatch,
        "hotloop's draw, index_select(out=)": by_key,
        "multinomial, buffer[indices].clone()": reference,
    }
    timings = interleaved(contestants, rounds=max(5, 40_000 // segments))
    group = f"{count} of {segments}x{horizon}"
    GROUPS[group] = timings
    print("\n" + report(group, timings, FLOOR))
    indices, _ = sampler.draw(advantages, epoch=0, minibatch=0)
    plan.gather(leaves, indices)
    for name, leaf in leaves.items():
        assert torch.equal(plan.out[name], leaf[indices])
    benchmark.pedantic(minibatch, rounds=5)
    if len(GROUPS) == len(SHAPES):
        print(f"written to {save('gather_plan', GROUPS)}")
