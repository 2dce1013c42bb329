"""Pickles and deep copies of experiences and loops: they go on as the original does, apart from it.

Those of plans, cursors and samplers stand with the tests of each.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from hotloop import ops
from hotloop.experience import Experience
from test_experience import make, step
from test_nonfinite import BrokenEnv, Training

Copy = Callable[[Any], Any]
HOW = {"deepcopy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing))}
everyway = pytest.mark.parametrize("how", HOW.values(), ids=HOW)


def finish(experience: Experience, number: int = 0) -> None:
    while not experience.ready_for_training:
        experience.store(step(2, number), slice(0, 2))
        number += 1


@everyway
def test_an_experience_in_the_middle_of_a_rollout(how: Copy) -> None:
    original = make()
    original.store(step(2, 7), slice(0, 2))
    original.store(step(2, 8), slice(0, 2))
    other = how(original)
    assert other.t_in_row.tolist() == [2, 2]
    finish(original, 20)
    # nothing that the original stored since has reached the copy
    assert other.buffer["rewards"][:, 2].tolist() == [0.0] * 4
    assert (other.full_rows, other.t_in_row.tolist()) == (0, [2, 2])
    other.store(step(2, 20), slice(0, 2))  # the trackers of the copy are live, too
    assert (other.full_rows, other.t_in_row.tolist(), other.row_slot_ids.tolist()) == (2, [0, 0], [2, 3])
    finish(other, 21)
    for key in (*original.store_keys, "values"):
        assert torch.equal(original.buffer[key], other.buffer[key])
    assert original.row_slot_ids.tolist() == other.row_slot_ids.tolist()
    assert [original.agent_of(row) for row in range(4)] == [other.agent_of(row) for row in range(4)]

    advantages = torch.randn(4, 3)
    config: dict[str, Any] = {"epoch": 0, "total_timesteps": 100, "batch_size": 12, "advantages": advantages}
    one, two = (each.sample(0, **config) for each in (original, other))
    assert torch.equal(one["indices"], two["indices"])
    assert torch.equal(one["sampled_mb", "rewards"], two["sampled_mb", "rewards"])
    values = TensorDict({"values": torch.full((1, 3), 5.0)}, batch_size=[1, 3])
    original.update(torch.tensor([0]), values)
    assert not (other.buffer["values"] == 5.0).any()


@everyway
def test_a_loop_goes_on_like_its_original(how: Copy) -> None:
    original = Training()
    original.epoch(BrokenEnv())
    parts = ("policy", "losses", "experience", "optimizer", "context", "loop")
    copied = how([getattr(original, part) for part in parts])
    other = Training()
    for part, thing in zip(parts, copied, strict=True):
        setattr(other, part, thing)
    # what belonged together still does
    assert other.loop.experience is other.experience
    assert other.losses["ppo"].replay is other.experience
    assert other.experience.last_actions is other.loop._steps.last_actions
    before = original.parameters()
    stats = other.epoch(BrokenEnv())
    assert all(torch.equal(a, b) for a, b in zip(before, original.parameters(), strict=True))
    assert original.epoch(BrokenEnv()) == stats
    assert all(torch.equal(a, b) for a, b in zip(original.parameters(), other.parameters(), strict=True))


@everyway
def test_last_actions(how: Copy) -> None:
    original = ops.LastActions(3, 2)
    original.write_(torch.tensor([[1, 2], [3, 4]]), 0, 2)
    other = how(original)
    original.write_(torch.tensor([[9, 9]]), 0, 1)
    assert other.buffer.tolist() == [[1, 2], [3, 4], [0, 0]]
    other.write_(torch.tensor([[5, 6]]), 2, 3)
    assert other.buffer.tolist() == [[1, 2], [3, 4], [5, 6]]
