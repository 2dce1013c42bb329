"""Metta's storage and advantages, one at a time: attributes, live views, memory, errors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensordict import TensorDict

import metta_double
from hotloop.integrations import metta
from hotloop.integrations.metta import head, oct
from hotloop.integrations.metta.minibatches import MinibatchRows, RowBuffer
from metta_double import LAYOUTS, SCALAR, Leaf, Spec

SPEC = Spec(
    env_obs=Leaf(torch.Size((6, 3)), torch.uint8),
    actions=Leaf(torch.Size(()), torch.int32),
    **dict.fromkeys(("rewards", "dones", "truncateds", "values", "act_log_prob"), SCALAR),
)
SIZES: dict[str, Any] = {
    "total_agents": 4, "batch_size": 8 * 3, "bptt_horizon": 3, "minibatch_size": 12, "max_minibatch_size": 12,
}  # fmt: skip


def sampling(method: str = "sequential", alpha: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(method=method, prio_alpha=alpha, prio_beta0=0.6)


def made(
    layout: str, *, host: Any = None, method: str = "sequential", alpha: float = 0.0, **other: Any
) -> Any:
    kind = getattr(metta, layout).Experience if host is None else host.experience.Experience
    options = {"sampling_config": sampling(method, alpha)} if layout == "head" else {}
    return kind(**{**SIZES, "experience_spec": SPEC, "device": "cpu", **options, **other})


def step(agents: int, number: float = 1.0) -> TensorDict:
    td = SPEC.zeros(agents)
    for leaf in td.values():
        leaf += int(number)
    return td


def fill(experience: Any) -> None:
    for t in range(6):
        experience.store(step(4, t + 1), slice(0, 4))


NAMES = {
    "oct": ("ep_lengths", "ep_indices"),
    "head": ("t_in_row", "row_slot_ids", "t_in_row_cpu", "_ones_prio_weights", "sampling_config",
             "store_keys", "_store_keys", "_sequential_idx_cache"),
}  # fmt: skip
COMMON = (
    "free_idx", "full_rows", "segments", "minibatch_size", "minibatch_segments", "num_minibatches",
    "accumulate_minibatches", "total_agents", "batch_size", "bptt_horizon", "device", "_range_tensor",
    "ready_for_training",
)  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_experience_has_the_attributes_of_metta(layout: str) -> None:
    with metta_double.loaded(layout) as host:
        config = sampling()
        option = {"sampling_config": config} if layout == "head" else {}
        ours, theirs = made(layout, **option), made(layout, host=host, **option)
        for stored in range(8):
            for name in (*COMMON, *NAMES[layout]):
                a, b = getattr(ours, name), getattr(theirs, name)
                assert type(a) is type(b), name
                if isinstance(b, torch.Tensor):
                    assert a.dtype == b.dtype, name
                    assert torch.equal(a, b), name
                else:
                    assert a == b, name
            for experience in (ours, theirs):
                experience.store(step(2, stored), slice(0, 2) if stored % 2 else slice(2, 4))
        assert (ours.buffer == theirs.buffer).all()
        assert ours.give_me_empty_md_td().batch_size == theirs.give_me_empty_md_td().batch_size
        assert ours.stats() == theirs.stats()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_trackers_are_live_until_the_next_rollout(layout: str) -> None:
    positions, rows = NAMES[layout][:2]
    experience = made(layout)
    column, row = getattr(experience, positions), getattr(experience, rows)
    seen = []
    for _ in range(4):
        experience.store(step(4), slice(0, 4))
        seen.append((column.tolist(), row.tolist()))
    first, second = [0, 1, 2, 3], [4, 5, 6, 7]
    assert seen == [([1] * 4, first), ([2] * 4, first), ([0] * 4, second), ([1] * 4, second)]
    experience.reset_for_rollout()
    assert getattr(experience, positions) is column
    assert column.tolist() == [0] * 4
    assert getattr(experience, rows) is not row
    assert row.tolist() == second
    assert getattr(experience, rows).tolist() == first


def test_a_step_sees_its_column_move_on() -> None:
    """`t_in_row` of a rollout step is a view of the tracker; last actions, flags and baselines are copies."""
    from metta_runs import Run

    seen: list[Any] = []

    def watch(trainer: Any) -> None:
        inner = trainer.core_loop.losses["watcher"].rollout

        def rollout(td: TensorDict, context: Any) -> None:
            inner(td, context)
            keys = ("dones", "truncateds", "teacher_actions", "reward_baseline", "last_actions")
            seen.append((td, td["t_in_row"].tolist(), {key: td[key].clone() for key in keys}))

        trainer.core_loop.losses["watcher"].rollout = rollout

    Run("head", "install", epochs=1, rows=1, horizon=4, change=watch)
    assert [columns[0] for _, columns, _ in seen] == [1, 2, 3, 0]
    assert len({id(td) for td, _, _ in seen}) == 4
    for td, _, copies in seen:  # those that were kept still hold their own step
        assert all(torch.equal(td[key], value) for key, value in copies.items())


def test_minibatches_in_order_are_views() -> None:
    experience = made("head")
    fill(experience)
    advantages = torch.randn(8, 3)
    shared = experience.sample(1, 0, 100, 10, advantages)
    minibatch = shared["sampled_mb"]
    assert minibatch["rewards"].data_ptr() == experience.buffer["rewards"][4:].data_ptr()
    assert shared["advantages"].data_ptr() == advantages[4:].data_ptr()
    minibatch["returns"] = minibatch["rewards"] + 1
    minibatch["rewards"] = minibatch["rewards"] * 2
    assert "returns" not in experience.buffer
    assert experience.buffer["rewards"][4:].max() == 6
    assert shared["indices"].tolist() == [[4] * 3, [5] * 3, [6] * 3, [7] * 3]
    assert (shared["prio_weights"] == 1).all()


def test_copies_of_minibatches_in_order() -> None:
    experience = made("head", copy=True)
    fill(experience)
    advantages = torch.randn(8, 3)
    shared = experience.sample(1, 0, 100, 10, advantages)
    before = experience.buffer.clone(), advantages.clone()
    for leaf in (*shared["sampled_mb"].values(), shared["advantages"]):
        leaf += 1
    assert (experience.buffer == before[0]).all()
    assert torch.equal(advantages, before[1])


def test_drawn_minibatches_reuse_memory_that_nobody_holds() -> None:
    experience = made("head", method="prioritized", alpha=0.5)
    fill(experience)
    advantages = torch.rand(8, 3)

    def draw() -> TensorDict:
        return experience.sample(0, 0, 100, 10, advantages)

    def place(shared: TensorDict) -> int:
        return int(shared["sampled_mb"]["rewards"].data_ptr())

    shared = draw()
    first = place(shared)
    kept = shared["sampled_mb"].clone()
    second = draw()
    assert place(second) != first
    assert (shared["sampled_mb"] == kept).all()
    view = shared["sampled_mb"]["rewards"].flatten()
    del shared, second
    third = draw()
    assert place(third) != first
    assert torch.equal(view, kept["rewards"].flatten())
    weight = torch.ones(4, 3, requires_grad=True)
    product = (weight * third["sampled_mb"]["rewards"]).sum()
    place_of_third, rewards = place(third), third["sampled_mb"]["rewards"].clone()
    del third, view
    assert place(draw()) == first
    assert place(draw()) != place_of_third
    product.backward()
    assert torch.equal(weight.grad, rewards)
    del product
    held = draw()
    assert place(draw()) != place(held)


def test_draws_follow_advantages_that_change_in_place() -> None:
    """Priorities are kept for as long as they are those of the same numbers."""
    with metta_double.loaded("head") as host:
        ours, theirs = (made("head", host=one, method="prioritized", alpha=0.5) for one in (None, host))
        advantages = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
        drawn = []
        for experience in (ours, theirs):
            fill(experience)
            torch.manual_seed(1)
            now = advantages.clone()
            for alpha, factor in ((0.5, 1.0), (0.5, 1.0), (0.9, 1.0), (0.9, torch.arange(8.0)[:, None])):
                now *= factor
                experience.sampling_config.prio_alpha = alpha
                shared = experience.sample(0, 3, 100, 10, now)
                _, rows, weights = experience.sample_prioritized(1, 3, 100, 10, alpha, 0.4, now)
                drawn.append((shared["indices"], shared["prio_weights"], rows, weights))
        for a, b in zip(drawn[:4], drawn[4:], strict=True):
            for one, other in zip(a, b, strict=True):
                assert torch.equal(one, other)


def test_who_collects_minibatches_gets_them() -> None:
    experience = made("head", method="prioritized", alpha=0.5)
    fill(experience)
    drawn = [experience.sample(0, 0, 100, 10, torch.rand(8, 3)) for _ in range(9)]
    for shared in drawn:
        assert (shared["sampled_mb"] == experience.buffer[shared["indices"][:, 0]]).all()
    assert len({shared["sampled_mb"]["rewards"].data_ptr() for shared in drawn}) == 9
    assert len(experience._minibatches._memories) == 4


def test_a_buffer_that_was_replaced_is_written_where_it_is() -> None:
    for layout in LAYOUTS:
        experience = made(layout)
        experience.store(step(4), slice(0, 4))
        old, experience.buffer = experience.buffer, experience.buffer.clone()
        experience.store(step(4, 2), slice(0, 4))
        assert old["rewards"][0].tolist() == [1.0, 0.0, 0.0]
        assert experience.buffer["rewards"][0].tolist() == [1.0, 2.0, 0.0]


def buffer() -> tuple[RowBuffer, MinibatchRows]:
    made = RowBuffer({}, batch_size=(8, 3))
    made.update(TensorDict({"x": torch.arange(24.0).reshape(8, 3), "n": torch.rand(8, 3, 2)}, (8, 3)))
    made.taken_by = MinibatchRows(4, 3, torch.device("cpu"), copies=False)
    return made, made.taken_by


def test_rows_of_a_buffer_are_copied_once() -> None:
    made, taker = buffer()
    rows = torch.tensor([3, 0, 0, 7])
    plain = TensorDict(dict(made.items()), made.batch_size)
    taken = made[rows].clone()
    assert type(taken) is TensorDict
    assert (taken == plain[rows]).all()
    memory = taker._memories[0].plan.out["x"].data_ptr()
    assert taken["x"].data_ptr() == memory  # no second copy
    named = made[rows]
    copied = named.clone()
    assert type(copied) is TensorDict
    copied["x"].zero_()
    assert torch.equal(named["x"], plain["x"][rows])
    assert torch.equal(taken["x"], plain["x"][rows])
    shallow = named.clone(recurse=False)
    assert shallow["x"] is named["x"]


@pytest.mark.parametrize(
    "index",
    [
        slice(1, 3), 2, (torch.tensor([1, 2]), torch.tensor([0, 2])), torch.arange(8) > 4,
        torch.tensor([[1, 2], [3, 4]]), torch.tensor([-1, 2]), [1, 2],
        torch.tensor([1, 2], dtype=torch.int32),
        (torch.tensor([1, 2]), 0), torch.tensor([5]),
    ],
    ids=str,
)  # fmt: skip
def test_a_buffer_is_a_tensordict_to_everyone_else(index: Any) -> None:
    made, _ = buffer()
    plain = TensorDict(dict(made.items()), made.batch_size)
    assert made["x"] is plain["x"]
    assert (made[index] == plain[index]).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_update_does_nothing(layout: str) -> None:
    experience = made(layout)
    fill(experience)
    before = experience.buffer.clone()
    update = TensorDict({"values": torch.ones(4, 3), "ratio": torch.ones(4, 3)}, (4, 3))
    experience.update(torch.arange(4), update)
    assert (experience.buffer == before).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ratios_are_reset_where_there_are_some(layout: str) -> None:
    experience = made(layout)
    experience.reset_importance_sampling_ratios()
    experience.buffer["ratio"] = torch.zeros(8, 3)
    experience.reset_importance_sampling_ratios()
    assert (experience.buffer["ratio"] == 1).all()


def test_entries_that_a_loss_adds_are_stored() -> None:
    """In the layout of October whatever the buffer holds is stored; in January's what the spec said."""
    for layout, stored in (("oct", 5.0), ("head", 0.0)):
        experience = made(layout)
        experience.store(step(4), slice(0, 4))
        experience.buffer["advantages"] = torch.zeros(8, 3)
        td = step(4)
        td["advantages"] = torch.full((4,), 5.0)
        experience.store(td, slice(0, 4))
        assert experience.buffer["advantages"][0].tolist() == [0.0, stored, 0.0]
    experience = made("oct")
    experience.buffer["advantages"] = torch.zeros(8, 3)
    with pytest.raises(KeyError, match=r"Experience\.store: data_td must hold 'advantages'"):
        experience.store(step(4), slice(0, 4))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_torch_stores_what_the_native_plan_stores(layout: str) -> None:
    """What other devices do, done in host memory."""
    native, by_torch = made(layout), made(layout)
    for t in range(7):
        for window in (slice(0, 1), slice(1, 4)):
            td = step(window.stop - window.start, t + 1)
            native.store(td, window)
            keys = by_torch._keys_to_store()
            by_torch._store_by_torch(td, keys, window.start, window.stop)
            by_torch._follow(window.start, window.stop)
    assert (native.buffer == by_torch.buffer).all()
    assert torch.equal(native._rows, by_torch._rows)
    assert torch.equal(native._positions, by_torch._positions)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"total_agents": 9}, r"batch_size must be at least total_agents \* bptt_horizon = 9 \* 3"),
        ({"minibatch_size": 10, "max_minibatch_size": 10}, "must be a multiple of bptt_horizon 3, got 10"),
        ({"minibatch_size": 9, "max_minibatch_size": 9}, "multiple of the 3 segments of a minibatch"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(layout: str, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(layout, **sizes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(layout: str) -> None:
    experience = made(layout)
    before = experience.buffer.clone()
    with pytest.raises(TypeError, match=r"Experience\.store: the agents served must be a slice, got int"):
        experience.store(step(4), 3)
    with pytest.raises(KeyError, match=r"data_td must hold 'values', got only"):
        experience.store(step(4).exclude("values"), slice(0, 4))
    with pytest.raises(ValueError, match=r"source\[rewards\]|source\[env_obs\]"):
        experience.store(step(3), slice(0, 4))
    assert (experience.buffer == before).all()
    assert experience.full_rows == 0


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(KeyError, match=r"set_store_keys: the buffer has no \['nothing'\]"):
        made("head").set_store_keys(["values", "nothing"])
    with pytest.raises(ValueError, match="method must be 'sequential' or 'prioritized', got 'best'"):
        made("head", method="best").sample(0, 0, 1, 1, torch.zeros(8, 3))


def test_rollouts_without_actions_or_steps_are_refused() -> None:
    from metta_runs import Run

    def mute(trainer: Any) -> None:
        for loss in trainer.core_loop.losses.values():
            loss.rollout = lambda td, context: None

    def full(trainer: Any) -> None:
        trainer.experience.reset_for_rollout = lambda: None
        for _ in range(8):
            trainer.experience.store(SPEC_OF_RUN(trainer), slice(0, 6))

    def SPEC_OF_RUN(trainer: Any) -> TensorDict:  # noqa: N802
        return trainer.experience.buffer[:6, 0].clone()

    for layout in LAYOUTS:
        with pytest.raises(ValueError, match="no loss performed inference: one must write 'actions'"):
            Run(layout, "install", change=mute)
        with pytest.raises(RuntimeError, match="the rollout was complete before its first step"):
            Run(layout, "install", change=full)
    loop = oct.CoreTrainingLoop.__new__(oct.CoreTrainingLoop)
    with pytest.raises(ValueError, match=r"context\.training_env_id must be a slice, got None"):
        loop._begin_phase(SimpleNamespace(training_env_id=None))


def test_actions_of_several_numbers_are_refused_at_head() -> None:
    loop = head.CoreTrainingLoop.__new__(head.CoreTrainingLoop)
    context = SimpleNamespace(config=metta_double.config(2), state=SimpleNamespace(avg_reward=torch.zeros(2)))
    made = SimpleNamespace(window=None, entries={"reward_baseline": torch.zeros(2)})
    td = TensorDict({"actions": torch.zeros(2, 1), "rewards": torch.zeros(2)}, (2,))
    with pytest.raises(
        ValueError, match=r"'actions' must be \[n\], a discrete one for each agent, got \[2, 1\]"
    ):
        loop._finish(td, made, context)


def test_ratios_are_clamped_and_keep_their_graph() -> None:
    new = torch.tensor([[50.0, 0.5, -50.0, 9.5]], requires_grad=True)
    old = TensorDict({"act_log_prob": torch.zeros(1, 4)}, (1, 4))
    ratio = head._ratio(old, TensorDict({"act_log_prob": new}, (1, 4)))
    assert ratio is not None
    assert torch.equal(ratio, torch.exp(torch.tensor([[10.0, 0.5, -10.0, 9.5]])))
    (grad,) = torch.autograd.grad(ratio.sum(), new)
    assert (grad == 0).tolist() == [[True, False, True, False]]
    assert head._ratio(old, TensorDict({}, (1, 4))) is None
