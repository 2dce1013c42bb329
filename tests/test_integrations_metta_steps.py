"""Metta's rollout steps: TensorDicts of their own, what is copied and what is remembered."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

import metta_double
from hotloop import entries
from hotloop.integrations.metta import head, storage
from hotloop.integrations.metta.steps import SliceSteps, StepMemory, StepTemplate
from hotloop.integrations.metta.windows import Window
from hotloop.loop_stage import Column
from metta_double import LAYOUTS
from metta_runs import Run
from plan_support import Tagged
from test_integrations_metta_parts import NAMES, made, step

CPU = torch.device("cpu")
COLUMNS = [Column("dones", (), torch.float32), Column("last_actions", (1,), torch.int32, windowed=True)]


def watched(layout: str, each: Any, **case: Any) -> list[TensorDict]:
    """The steps of one rollout; `each(td)` is called by the last loss."""
    seen: list[TensorDict] = []

    def watch(trainer: Any) -> None:
        def rollout(td: TensorDict, context: Any) -> None:
            seen.append(td)
            each(td)

        trainer.core_loop.losses["watcher"].rollout = rollout

    Run(layout, "install", epochs=1, rows=1, horizon=4, change=watch, **case)
    return seen


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_is_a_tensordict_of_its_own(layout: str) -> None:
    """Whoever keeps it, adds to it or locks it does so to no other."""

    def change(td: TensorDict) -> None:
        assert "more" not in td
        assert not td.is_locked
        assert td.names == [None]
        td["more"] = torch.ones(3)
        td["rewards"] = torch.zeros(3)
        del td["truncateds"]
        td.lock_()

    seen = watched(layout, change, slices=2)
    assert len(seen) == 8
    for td in seen:
        assert type(td) is TensorDict
        assert td.batch_size == (3,)
        assert td.device == CPU
        assert td.is_locked
        assert (td.clone() == td).all()
        assert td[1:]["env_obs"].shape == (2, 6, 3)
        assert td.to_dict().keys() == set(td.keys())
        assert "truncateds" not in td
    assert len({id(td._tensordict) for td in seen}) == 8


def steps_of(window: Window, copies: bool = False, horizon: int = 3) -> SliceSteps:
    buffer = TensorDict({"dones": torch.zeros(8, 3)}, (8, 3), device=CPU)
    provided = ["env_obs", "rewards", "dones", "training_env_ids", "last_actions"]
    template = StepTemplate(buffer, buffer, torch.arange(4), torch.zeros(4).long(), provided)
    memory = StepMemory(horizon, CPU, copies)
    return SliceSteps(template, window, {"training_env_ids": window.ids}, memory)


@pytest.mark.parametrize("copies", [False, True])
def test_small_entries_are_copies_for_as_many_steps_as_a_row_has(copies: bool) -> None:
    window = Window(slice(1, 3), torch.arange(4), CPU)
    slices, last = steps_of(window, copies), torch.zeros(4, 1, dtype=torch.int32)
    slices.lay_out(COLUMNS, last)
    dones, made = torch.zeros(2, dtype=torch.bool), []
    for t in range(4):
        last[:] = t
        dones[:] = bool(t % 2)
        made.append(slices.make(torch.zeros(2, 6), torch.zeros(2), (dones,), (last,)))
        assert slices.entries["last_actions"] is made[-1]["last_actions"]
    assert [td["last_actions"].tolist() for td in made[1:]] == [[[t]] * 2 for t in (1, 2, 3)]
    assert [td["dones"].tolist() for td in made[1:]] == [[1.0] * 2, [0.0] * 2, [1.0] * 2]
    assert made[0]["last_actions"].tolist() == [[0 if copies else 3]] * 2
    order = ["dones", "env_obs", "rewards", "training_env_ids", "last_actions", "batch", "bptt"]
    assert list(made[0].keys()) == order


def test_tensor_subclasses_are_staged_by_torch() -> None:
    window = Window(slice(1, 3), torch.arange(4), CPU)
    slices, last = steps_of(window), torch.arange(4, dtype=torch.int32).reshape(4, 1)
    slices.lay_out(COLUMNS, last)
    dones = torch.tensor([True, False]).as_subclass(Tagged)
    td = slices.make(torch.zeros(2, 6), torch.zeros(2), (dones,), (last,))
    assert td["dones"].tolist() == [1.0, 0.0]
    assert td["last_actions"].tolist() == [[1], [2]]
    with pytest.raises(ValueError, match=r"source\[dones\] must be of shape \[2\]"):
        slices.make(torch.zeros(2, 6), torch.zeros(2), (torch.zeros(3),), (last,))


@pytest.mark.parametrize(
    ("rewards", "actions"),
    [
        (torch.float32, torch.int32),
        (torch.float32, torch.int64),
        (torch.float64, torch.int32),  # the native plan takes float32 only
        (torch.float16, torch.int64),
    ],
)
@pytest.mark.parametrize("graph", [False, True])
def test_averages_and_last_actions_are_those_of_metta(
    rewards: torch.dtype, actions: torch.dtype, graph: bool
) -> None:
    loop = head.CoreTrainingLoop.__new__(head.CoreTrainingLoop)
    loop.last_action = torch.full((5, 1), 9, dtype=torch.int32)
    random = torch.Generator().manual_seed(0)
    average, given = torch.randn(5, generator=random), torch.randn(3, generator=random).to(rewards)
    before, baseline = average.clone(), average[1:4].clone()
    context = SimpleNamespace(config=metta_double.config(5), state=SimpleNamespace(avg_reward=average))
    td = TensorDict(
        {"rewards": given.requires_grad_(graph), "actions": torch.tensor([1, 2, 3], dtype=actions)}, (3,)
    )
    window: Any = Window(slice(1, 4), torch.arange(5), CPU)
    slices: Any = SimpleNamespace(window=window, entries={"reward_baseline": baseline})
    assert loop._finish(td, slices, context) is td["actions"]
    wanted = before.clone()
    wanted[1:4] = baseline + 0.1 * (given.detach().to(torch.float32) - baseline)
    assert context.state.avg_reward is average
    assert torch.equal(average, wanted)
    assert loop.last_action.flatten().tolist() == [9, 1, 2, 3, 9]


@pytest.mark.parametrize("order", ["little", "big"])
def test_trackers_follow_where_they_cannot_be_views(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.sys, "byteorder", order)
    experience = made("oct")
    assert experience._live == (order == "little")
    column, row = (getattr(experience, name) for name in NAMES["oct"])
    for t in range(7):
        assert column.dtype == torch.int32
        assert column.tolist() == [t % 3] * 4
        assert row.tolist() == [i + 4 * (t // 3) % 8 for i in range(4)]
        experience.store(step(4), slice(0, 4))
    experience.reset_for_rollout()
    assert column.tolist() == [0] * 4


def test_a_key_that_takes_the_place_of_another_is_stored() -> None:
    experience = made("oct")
    experience.store(step(4), slice(0, 4))
    del experience.buffer["values"]
    experience.buffer["more"] = torch.zeros(8, 3)
    td = step(4).exclude("values")
    td["more"] = torch.full((4,), 5.0)
    experience.store(td, slice(0, 4))
    assert experience.buffer["more"][0].tolist() == [0.0, 5.0, 0.0]
    assert experience.full_rows == 0
    assert experience.ep_lengths.tolist() == [2] * 4
    with pytest.raises(KeyError, match=r"data_td must hold 'more', got only"):
        experience.store(step(4), slice(0, 4))
    assert experience.ep_lengths.tolist() == [2] * 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_the_losses_share_does_not_outlive_its_phase(layout: str) -> None:
    """It holds the last minibatch and what the network made of it."""
    held: list[Any] = []

    def watch(trainer: Any) -> None:
        loss = trainer.core_loop.losses["watcher"]
        inner = loss.train

        def train(shared: TensorDict, context: Any, mb_idx: int) -> Any:
            held.append(weakref.ref(shared["policy_td"]["entropy"]))
            return inner(shared, context, mb_idx)

        loss.train = train

    run = Run(layout, "install", epochs=1, change=watch)
    assert held
    assert run.trainer.core_loop is not None
    assert all(each() is None for each in held)


def test_a_minibatch_buffer_that_was_exchanged_is_read_anew() -> None:
    """Memory that is known to fit the leaves is looked at again when these are others."""
    experience = made("head", method="prioritized", alpha=0.5)
    advantages = torch.rand(8, 3)

    def rows() -> tuple[Tensor, Tensor]:
        shared = experience.sample(0, 0, 100, 10, advantages)
        assert (shared["sampled_mb"] == experience.buffer[shared["indices"][:, 0]]).all()
        return shared["sampled_mb"]["rewards"], shared["sampled_mb"]["values"]

    for t in range(3):
        experience.store(step(4, t + 1), slice(0, 4))
        rows()
    experience.buffer["values"] = experience.buffer["values"].double() + 1
    assert rows()[1].dtype == torch.float64
    experience.buffer = experience.buffer.clone()
    experience.buffer["rewards"] = torch.rand(8, 3, 2)
    assert rows()[0].shape == (4, 3, 2)
    experience.buffer["more"] = torch.ones(8, 3)
    rows()
    experience.buffer = experience.buffer.select("rewards", "values")
    rows()


def test_a_tensordict_with_more_to_it_is_made_by_its_constructor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shell cannot copy is left to TensorDict."""
    monkeypatch.setattr(entries, "_CONSTANTS", ())
    shell = entries.TensorDictShell((2,), CPU)
    assert shell._state is None
    given = {"a": torch.ones(2), "b": torch.zeros(2, 3)}
    td = shell(given)
    assert type(td) is TensorDict
    assert (td == TensorDict(given, (2,), device=CPU)).all()
    assert td.device == CPU
