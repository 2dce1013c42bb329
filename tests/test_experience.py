"""Experience: storing, cursors, the end of a rollout, write-back, statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from hotloop.experience import Experience

F32 = torch.float32
SPEC: dict[str, Any] = {
    "env_obs": ((3,), torch.uint8),
    "rewards": ((), F32),
    "values": ((), F32),
    "memory": {"h": ((2,), F32)},
}


def make(agents: int = 2, segments: int = 4, horizon: int = 3, **options: Any) -> Experience:
    options.setdefault("experience_spec", SPEC)
    options.setdefault("minibatch_size", horizon * 2)
    return Experience(total_agents=agents, batch_size=segments * horizon, bptt_horizon=horizon, **options)


def step(n: int, number: float) -> TensorDict:
    """A step of n agents whose every entry tells which step and agent it was."""
    code = number * 10 + torch.arange(n, dtype=F32)
    return TensorDict(
        {
            "env_obs": code.to(torch.uint8).unsqueeze(1).expand(n, 3),
            "rewards": code.double(),
            "values": -code,
            "memory": {"h": code.unsqueeze(1).expand(n, 2)},
            "not_stored": code,
        },
        batch_size=[n],
    )


def fill(experience: Experience, windows: list[slice]) -> int:
    """Serve the windows in turn until the rollout is over; the number of steps it took."""
    number = 0
    while not experience.ready_for_training:
        window = windows[number % len(windows)]
        experience.store(step(window.stop - window.start, number), window)
        number += 1
    return number


def test_layout() -> None:
    experience = make(max_minibatch_size=3)
    assert experience.buffer.batch_size == (4, 3)
    assert experience.buffer["env_obs"].shape == (4, 3, 3)
    assert experience.buffer["env_obs"].dtype == torch.uint8
    assert experience.buffer["memory", "h"].shape == (4, 3, 2)
    sizes = (experience.segments, experience.minibatch_segments, experience.num_minibatches)
    assert sizes == (4, 1, 4)
    assert (experience.minibatch_size, experience.accumulate_minibatches) == (3, 2)
    assert experience._range_tensor.tolist() == [0, 1]
    assert experience.store_keys == ["env_obs", "rewards", "values", ("memory", "h")]
    empty = experience.give_me_empty_md_td()
    assert (empty.batch_size, len(empty.keys())) == ((1, 3), 0)


def test_a_rollout_of_one_slice_lands_in_rows_and_columns() -> None:
    experience = make()
    assert fill(experience, [slice(0, 2)]) == 6
    # agent i: row i in steps 0-2, row 2 + i in steps 3-5
    expected = torch.tensor([[0, 10, 20], [1, 11, 21], [30, 40, 50], [31, 41, 51]], dtype=F32)
    assert experience.buffer["rewards"].equal(expected)
    assert experience.buffer["values"].equal(-expected)
    assert experience.buffer["env_obs"].equal(expected.to(torch.uint8).unsqueeze(2).expand(4, 3, 3))
    assert experience.buffer["memory", "h"].equal(expected.unsqueeze(2).expand(4, 3, 2))
    assert experience.full_rows == 4


def test_cursors_and_their_older_names() -> None:
    experience = make(agents=4, segments=8, minibatch_size=6)
    experience.store(step(2, 0), slice(2, 4))
    assert experience.t_in_row.tolist() == [0, 0, 1, 1]
    assert experience.t_in_row.dtype == torch.int64
    for number in (1, 2):
        experience.store(step(2, number), slice(2, 4))
    assert experience.row_slot_ids.tolist() == [0, 1, 4, 5]
    assert experience.t_in_row.tolist() == [0, 0, 0, 0]
    assert (experience.free_idx, experience.full_rows, experience.stored_steps) == (6, 2, 3)
    assert experience.ep_indices.tolist() == [0, 1, 4, 5]
    assert experience.ep_indices.dtype == experience.ep_lengths.dtype == torch.int32
    assert experience.t_in_row_cpu.tolist() == [0, 0, 0, 0]


def test_trackers_are_live_and_reset_in_place() -> None:
    experience = make()
    rows, positions = experience.row_slot_ids[0:2], experience.t_in_row[0:2]
    fill(experience, [slice(0, 2)])
    experience.reset_for_rollout()
    assert experience.full_rows == 0
    assert not experience.ready_for_training
    assert rows.tolist() == [0, 1]
    assert experience.buffer["rewards"].count_nonzero() > 0
    experience.store(step(2, 0), slice(0, 2))
    assert positions.tolist() == [1, 1]


def test_slices_served_in_turn() -> None:
    experience = make(agents=4, segments=4, horizon=2, minibatch_size=4)
    fill(experience, [slice(0, 2), slice(2, 4)])
    expected = torch.tensor([[0, 20], [1, 21], [10, 30], [11, 31]], dtype=F32)
    assert experience.buffer["rewards"].equal(expected)


def test_rows_wrap_when_segments_is_no_multiple_of_agents() -> None:
    experience = make(agents=4, segments=6, horizon=2, minibatch_size=4)
    assert fill(experience, [slice(0, 4)]) == 4
    # the second round writes rows 4, 5 and once more, completely, 0 and 1
    expected = torch.tensor([[22, 32], [23, 33], [2, 12], [3, 13], [20, 30], [21, 31]], dtype=F32)
    assert experience.buffer["rewards"].equal(expected)
    assert experience.full_rows == 8
    assert experience.row_slot_ids.tolist() == [2, 3, 4, 5]


def test_no_row_is_left_half_overwritten_when_two_slices_wrap() -> None:
    """Six rows, slices of two: the slice that is late has no row left, and must not spoil a finished one."""
    experience = make(agents=4, segments=6, horizon=2, minibatch_size=4)
    fill(experience, [slice(0, 2), slice(2, 4)])
    expected = torch.tensor([[0, 20], [1, 21], [10, 30], [11, 31], [40, 60], [41, 61]], dtype=F32)
    assert experience.buffer["rewards"].equal(expected)
    assert experience.skipped_steps == 1


@pytest.mark.parametrize("seed", range(20))
def test_every_row_is_whole_however_unequal_the_slices_run(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    experience = make(agents=6, segments=18, horizon=3, minibatch_size=6)
    windows = [slice(0, 2), slice(2, 4), slice(4, 6)]
    served = [0, 0, 0]
    while not experience.ready_for_training:
        pick = int(torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), 1, generator=generator))
        code = torch.full((2,), 1000.0 * (pick + 1) + served[pick])
        data = step(2, 0)
        data["rewards"] = code
        experience.store(data, windows[pick])
        served[pick] += 1
    rewards = experience.buffer["rewards"]
    # inside a row: one slice, consecutive steps, starting at a multiple of the horizon
    assert (rewards[:, 1:] - rewards[:, :-1]).eq(1).all()
    assert (rewards[:, 0] % 1000 % 3).eq(0).all()
    assert len(rewards[:, 0].unique()) * 2 == 18


def test_unequal_speeds_with_a_remainder_are_refused_instead_of_mixing_rows() -> None:
    experience = make(agents=4, segments=5, horizon=2, minibatch_size=2)
    for number in range(2):
        experience.store(step(2, number), slice(2, 4))  # rows 2, 3; then 4 and 0, which agent 0 has not begun
    with pytest.raises(RuntimeError, match="multiple of total_agents"):
        experience.store(step(2, 2), slice(2, 4))


def test_store_after_the_end_is_refused() -> None:
    experience = make()
    fill(experience, [slice(0, 2)])
    before = experience.buffer.clone()
    with pytest.raises(RuntimeError, match="reset_for_rollout"):
        experience.store(step(2, 9), slice(0, 2))
    assert (experience.buffer == before).all()


@pytest.mark.parametrize(
    ("window", "error", "words"),
    [
        (slice(0, 4, 2), ValueError, "contiguous"),
        (slice(2, 5), IndexError, r"\[0, 4\)"),
        (slice(-2, 4), IndexError, r"\[0, 4\)"),
        (slice(2, 2), ValueError, "empty"),
        (slice(0.0, 2), TypeError, "int ends"),
        (torch.arange(2), TypeError, "got Tensor"),
    ],
)
def test_wrong_slices(window: Any, error: type[Exception], words: str) -> None:
    experience = make(agents=4, segments=4)
    with pytest.raises(error, match=words):
        experience.store(step(2, 1), window)
    assert experience.buffer["rewards"].count_nonzero() == 0
    assert experience.t_in_row.count_nonzero() == 0


def test_slices_that_overlap_in_part_are_refused() -> None:
    experience = make(agents=4, segments=4)
    experience.store(step(2, 1), slice(0, 2))
    with pytest.raises(ValueError, match="overlap"):
        experience.store(step(2, 1), slice(1, 3))


def test_missing_key_and_wrong_shape_write_nothing() -> None:
    experience = make()
    data = step(2, 1)
    del data["memory"]
    with pytest.raises(KeyError, match=r"memory\.h"):
        experience.store(data, slice(0, 2))
    wrong = dict(step(2, 1).items())
    wrong["values"] = torch.zeros(2, 1)
    with pytest.raises(ValueError, match=r"'values' must be \[2\], got \[2, 1\]"):
        experience.store(wrong, slice(0, 2))
    with pytest.raises(ValueError, match=r"\[1, 3\], got \[2, 3\]"):
        experience.store(step(2, 1), slice(0, 1))
    assert experience.buffer["rewards"].count_nonzero() == 0
    assert experience.t_in_row.count_nonzero() == 0


def test_store_keys() -> None:
    experience = make()
    experience.set_store_keys(["values", ("memory", "h")])
    experience.store(
        TensorDict({"values": torch.ones(2), "memory": {"h": torch.ones(2, 2)}}, [2]), slice(0, 2)
    )
    assert experience.buffer["values"][:2, 0].tolist() == [1, 1]
    assert experience.buffer["memory", "h"][:2, 0].sum() == 4
    assert experience.buffer["rewards"].count_nonzero() == 0
    with pytest.raises(KeyError, match="nope"):
        experience.set_store_keys(["values", "nope"])
    with pytest.raises(ValueError, match="got none"):
        experience.set_store_keys([])
    assert experience.store_keys == ["values", ("memory", "h")]
    experience.buffer["extra"] = torch.zeros(4, 3)
    experience.reset_store_keys()
    assert experience.store_keys == ["env_obs", "rewards", "values", ("memory", "h")]


def test_an_entry_that_was_replaced_is_written_in_the_next_rollout() -> None:
    experience = make()
    experience.buffer["values"] = torch.full((4, 3), 7.0)
    experience.reset_for_rollout()
    fill(experience, [slice(0, 2)])
    assert experience.buffer["values"][0].tolist() == [0, -10, -20]


def test_update_writes_back() -> None:
    experience = make()
    new = torch.arange(6, dtype=F32).reshape(2, 3).requires_grad_()
    h = torch.ones(2, 3, 2)
    experience.update(torch.tensor([3, 1]), TensorDict({"values": new, "memory": {"h": h}}, [2, 3]))
    assert experience.buffer["values"].tolist() == [[0, 0, 0], [3, 4, 5], [0, 0, 0], [0, 1, 2]]
    assert experience.buffer["memory", "h"].sum(dim=(1, 2)).tolist() == [0, 6, 0, 6]
    assert not experience.buffer["values"].requires_grad


def test_update_can_be_the_no_op_of_the_reference() -> None:
    data = TensorDict({"values": torch.ones(1, 3)}, [1, 3])
    experience = make()
    experience.update(torch.tensor([0]), data, write_back=False)
    assert experience.buffer["values"].count_nonzero() == 0
    quiet = make(write_back=False)
    quiet.update(torch.tensor([0]), data)
    assert quiet.buffer["values"].count_nonzero() == 0
    quiet.update(torch.tensor([0]), data, write_back=True)
    assert quiet.buffer["values"].count_nonzero() == 3


def test_update_errors_write_nothing() -> None:
    experience = make()
    good = torch.ones(2, 3)
    with pytest.raises(KeyError, match="valuse"):
        experience.update(torch.tensor([0, 1]), TensorDict({"values": good, "valuse": good}, [2, 3]))
    with pytest.raises(ValueError, match=r"'values' must be \[1, 3\], got \[2, 3\]"):
        experience.update(torch.tensor([0]), TensorDict({"values": good}, [2, 3]))
    with pytest.raises(ValueError, match=r"\[:, 0\]"):
        experience.update(torch.zeros(2, 3, dtype=torch.int64), TensorDict({"values": good}, [2, 3]))
    with pytest.raises(IndexError):
        experience.update(torch.tensor([0, 4]), TensorDict({"values": good}, [2, 3]))
    assert experience.buffer["values"].count_nonzero() == 0


def test_ratio_is_optional() -> None:
    data = TensorDict({"values": torch.ones(1, 3), "ratio": torch.full((1, 3), 2.0)}, [1, 3])
    experience = make()
    experience.update(torch.tensor([0]), data)
    experience.reset_importance_sampling_ratios()
    assert "ratio" not in experience.buffer
    with_ratio = make(experience_spec={**SPEC, "ratio": ((), F32)})
    with_ratio.update(torch.tensor([0]), data)
    assert with_ratio.buffer["ratio"][0].tolist() == [2, 2, 2]
    with_ratio.reset_importance_sampling_ratios()
    assert with_ratio.buffer["ratio"].unique().tolist() == [1]


def test_stats() -> None:
    spec = {
        "rewards": ((), F32),
        "values": ((), F32),
        "actions": ((), torch.int32),
        "valid": ((), torch.bool),
    }
    experience = make(experience_spec=spec)
    experience.buffer["rewards"][0, 0] = 12.0
    experience.buffer["values"][:] = 2.0
    experience.buffer["values"][0] = float("nan")
    experience.buffer["actions"][1:, 0] = 3
    experience.buffer["valid"][1:] = True
    experience.set_store_keys(["rewards"])
    experience.store(TensorDict({"rewards": torch.zeros(1)}, [1]), slice(1, 2))
    stats = experience.stats()
    assert set(stats) == {"rewards", "values", "actions_mean", "actions_std", "t_in_row"}
    assert stats["rewards"] == 1.0  # arrived on an invalid step, and yet a reward
    assert stats["values"] == 2.0  # of valid steps only
    assert stats["actions_mean"] == 1.0
    assert stats["actions_std"] == pytest.approx(torch.tensor([3.0, 0, 0] * 3).std().item())
    assert stats["t_in_row"] == 1.0


class SpecLoss:
    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.replay: Experience | None = None

    def get_experience_spec(self) -> dict[str, Any]:
        return self.spec

    def attach_replay_buffer(self, experience: Experience) -> None:
        self.replay = experience


def test_from_losses_merges_and_attaches() -> None:
    losses = {"a": SpecLoss({"x": ((), F32), "y": ((2,), F32)}), "b": SpecLoss({"y": ((3,), torch.int64)})}
    experience = Experience.from_losses(2, 12, 3, 6, 6, {"obs": ((4,), F32), "x": ((9,), F32)}, losses, "cpu")
    shapes = {key: tuple(leaf.shape[2:]) for key, leaf in experience.buffer.items()}
    assert shapes == {"obs": (4,), "x": (), "y": (3,), "reward_baseline": ()}
    assert experience.buffer["y"].dtype == torch.int64
    assert losses["a"].replay is experience
    assert losses["b"].replay is experience


@pytest.mark.parametrize(
    ("sizes", "error", "words"),
    [
        ({"total_agents": 5}, ValueError, r"at least total_agents \* bptt_horizon = 5 \* 3 = 15.*got 12"),
        ({"minibatch_size": 7}, ValueError, "multiple of bptt_horizon 3, got 7"),
        ({"minibatch_size": 9}, ValueError, "multiple of the 3 segments.*got 4"),
        ({"max_minibatch_size": 4}, ValueError, "multiple of max_minibatch_size 4, got 6"),
        ({"bptt_horizon": 0}, ValueError, "bptt_horizon must be positive"),
        ({"batch_size": 12.0}, TypeError, "batch_size must be an int"),
        ({"experience_spec": 3}, TypeError, "got int"),
    ],
)
def test_sizes_that_do_not_fit(sizes: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments: dict[str, Any] = {
        "total_agents": 2,
        "batch_size": 12,
        "bptt_horizon": 3,
        "minibatch_size": 6,
        "experience_spec": SPEC,
    }
    with pytest.raises(error, match=words):
        Experience(**(arguments | sizes))


def test_a_step_reads_no_scalar_from_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursors live in native code: a step must not read the device back."""
    experience = make()
    data = step(2, 0)

    def forbidden(*_: Any) -> Any:
        raise AssertionError("a tensor was read back")

    for name in ("item", "tolist", "__bool__", "__int__", "__float__"):
        monkeypatch.setattr(Tensor, name, forbidden)
    for _ in range(4):
        experience.store(data, slice(0, 2))
    assert experience.full_rows == 2
