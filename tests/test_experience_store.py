"""Experience.store: the native road and torch's, entries that change, last actions in passing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from hotloop import ops
from hotloop.experience import Experience

F32 = torch.float32
SPEC = {
    "env_obs": ((2, 3), torch.uint8),
    "values": ((), F32),
    "actions": ((2,), torch.int32),
    "memory": {"h": ((4,), torch.bfloat16)},
}
KEYS: list[Any] = ["env_obs", "values", "actions", ("memory", "h")]


def make(agents: int = 4, segments: int = 6, horizon: int = 2, **options: Any) -> Experience:
    return Experience(
        total_agents=agents,
        batch_size=segments * horizon,
        bptt_horizon=horizon,
        minibatch_size=horizon,
        experience_spec=SPEC,
        **options,
    )


def step(n: int, seed: int) -> TensorDict:
    g = torch.Generator().manual_seed(seed)
    return TensorDict(
        {
            "env_obs": torch.randint(0, 255, (n, 2, 3), generator=g).to(torch.uint8),
            "values": torch.randn(n, generator=g, dtype=torch.float64),
            "actions": torch.randint(0, 9, (n, 2), generator=g),
            "memory": {"h": torch.randn(n, 4, generator=g)},
        },
        [n],
    )


def by_torch(experience: Experience) -> Experience:
    """The same experience as on a device without native kernels."""
    experience._steps._plan = None
    return experience


def test_both_roads_write_the_same() -> None:
    native, other = make(), by_torch(make())
    windows = [slice(0, 1), slice(1, 4)]
    number = 0
    while not native.ready_for_training:
        for window in windows:
            if native.ready_for_training:
                break
            data = step(window.stop - window.start, number)
            native.store(data, window)
            other.store(data, window)
            number += 1
    for key in KEYS:
        assert native.buffer[key].equal(other.buffer[key]), key
        assert native.buffer[key].count_nonzero() > 0
    assert native.row_slot_ids.equal(other.row_slot_ids)
    assert native.t_in_row.equal(other.t_in_row)
    assert (native.full_rows, native.stored_steps) == (other.full_rows, other.stored_steps)


@pytest.mark.parametrize("prepare", [lambda e: e, by_torch])
def test_a_refused_step_changes_nothing(prepare: Any) -> None:
    experience = prepare(make())
    for name, wrong in (("values", torch.zeros(4, 1)), ("env_obs", None)):
        data = step(4, 0)
        if wrong is None:
            del data[name]
        else:
            data[name] = wrong
        with pytest.raises((KeyError, ValueError), match=f"Experience.store: .*{name}"):
            experience.store(data, slice(0, 4))
    assert all(experience.buffer[key].count_nonzero() == 0 for key in KEYS)
    assert experience.t_in_row.tolist() == [0] * 4
    assert experience.stored_steps == 0
    experience.store(step(4, 0), slice(0, 4))
    assert experience.t_in_row.tolist() == [1] * 4


def test_an_entry_that_is_replaced_is_written_where_it_is() -> None:
    experience = make()
    experience.store(step(4, 0), slice(0, 4))
    old = experience.buffer["values"]
    kept = old.clone()
    experience.buffer["values"] = torch.full((6, 2), 7.0, dtype=torch.float64)
    data = step(4, 1)
    experience.store(data, slice(0, 4))
    assert old.equal(kept)
    assert experience.buffer["values"][:4, 1].equal(data["values"])
    assert (experience.buffer["values"][:, 0] == 7).all()


def test_a_dict_is_a_step_too_and_others_are_refused() -> None:
    experience = make()
    data = step(4, 0)
    experience.store({key: data[key] for key in ("env_obs", "values", "actions", "memory")}, slice(0, 4))
    assert experience.buffer["memory", "h"][:4, 0].equal(data["memory", "h"].to(torch.bfloat16))
    data = step(4, 0)
    wrong = {**{key: data[key] for key in ("env_obs", "actions", "memory")}, "values": None}
    with pytest.raises((TypeError, AttributeError)):
        experience.store(wrong, slice(0, 4))
    assert experience.t_in_row.tolist() == [1] * 4


def test_other_devices_take_torch() -> None:
    """On the meta device nothing can be computed, so this is about which operations are asked for."""
    experience = make(device="meta")
    data = step(4, 0).to("meta")
    for _ in range(2):
        experience.store(data, slice(0, 4))
    assert experience.full_rows == 4
    assert experience.t_in_row_cpu.tolist() == [0] * 4
    minibatch, indices = experience.sample_sequential(0)
    assert minibatch["env_obs"].shape == (1, 2, 2, 3)
    assert indices.device.type == "meta"
    experience.update(
        torch.zeros(1, dtype=torch.int64, device="meta"), TensorDict({"values": minibatch["values"]}, [1, 2])
    )


# Last actions in passing


def test_actions_are_remembered_and_a_change_is_noticed() -> None:
    experience = make()
    data = step(2, 0)
    assert not experience.has_remembered(data["actions"], 1, 3)
    experience.store(data, slice(1, 3))
    assert not experience.has_remembered(data["actions"], 1, 3), "nobody asked for it"
    experience.reset_for_rollout()
    experience.last_actions = ops.LastActions(4, 2)
    experience.store(data, slice(1, 3))
    assert experience.last_actions.buffer[1:3].equal(data["actions"].to(torch.int32))
    assert experience.has_remembered(data["actions"], 1, 3)
    assert not experience.has_remembered(data["actions"], 0, 2)
    assert not experience.has_remembered(data["actions"].clone(), 1, 3)
    data["actions"][0] = 5
    assert not experience.has_remembered(data["actions"], 1, 3)


def test_actions_without_a_count_of_changes_are_never_taken_for_unchanged() -> None:
    experience = make()
    experience.last_actions = ops.LastActions(4, 2)
    with torch.inference_mode():
        data = step(4, 0)
    experience.store(data, slice(0, 4))
    assert not experience.has_remembered(data["actions"], 0, 4)


@pytest.mark.parametrize("wrong", [torch.zeros(4, 3), torch.zeros(4)])
def test_actions_of_another_width_are_not_remembered(wrong: Tensor) -> None:
    experience = make()
    experience.set_store_keys(["values"])
    experience.last_actions = ops.LastActions(4, 2)
    data = step(4, 0)
    data["actions"] = wrong
    experience.store(data, slice(0, 4))
    assert not experience.has_remembered(data["actions"], 0, 4)
