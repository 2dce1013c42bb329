from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor

from hotloop import ops
from hotloop.ops import reference
from plan_support import F32, SPEC, Tagged, assert_same, flat, tree
from test_gather import DTYPES, leaf


@pytest.mark.parametrize("agents", [1, 7, 8, 9, 31, 33, 127, 129])
def test_a_rollout_equals_reference(agents: int) -> None:
    """Over several rows for each agent, so that rows are written in order, out of order and wrapped."""
    segments, horizon = agents + 3, 2
    buffer = tree((segments, horizon))
    expected = {key: each.clone() for key, each in flat(buffer).items()}
    cursors, twin = (kind.RowCursors(agents, segments, horizon) for kind in (ops, reference))
    last, last_twin = ops.LastActions(agents), reference.LastActions(agents)
    plan = ops.StorePlan(buffer, SPEC, cursors)
    half = (agents + 1) // 2
    for step in range(3 * horizon):
        for start, stop in ((0, agents),) if step < 3 else ((half, agents), (0, half)):
            source = tree((stop - start,), seed=100 + step)
            remembered = plan.store(source, start, stop, last)
            if stop > start:
                assert remembered is source["actions"]
            reference.store_plan(expected, flat(source), twin, start, stop, last_twin)
        assert_same(buffer, expected)
        assert cursors.rows.equal(twin.rows)
        assert cursors.positions.equal(twin.positions)
        assert (cursors.free_idx, cursors.full_rows) == (twin.free_idx, twin.full_rows)
        assert last.buffer.equal(last_twin.buffer)


@pytest.mark.parametrize("buffer_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("source_dtype", DTYPES, ids=str)
def test_converts_like_torch(buffer_dtype: torch.dtype, source_dtype: torch.dtype) -> None:
    buffer = {"x": torch.zeros(4, 3, 5, dtype=buffer_dtype), "y": torch.zeros(4, 3, dtype=buffer_dtype)}
    source = {"x": leaf((4, 5), source_dtype), "y": leaf((4,), source_dtype, 1)}
    ops.StorePlan(buffer, ["x", "y"], ops.RowCursors(4, 4, 3)).store(source, 0, 4)
    for key in buffer:
        assert buffer[key][:, 0].equal(source[key].to(buffer_dtype))
        assert buffer[key][:, 1:].count_nonzero() == 0


@pytest.mark.parametrize("kind", ["TensorDict", "dict", "list", "tuple"])
def test_kinds_of_sources(kind: str) -> None:
    buffer, source = tree((3, 2)), tree((3,), seed=9)
    nested = {
        **{key: source[key] for key in ("env_obs", "rewards", "actions", "valid")},
        "memory": {"h": source["memory", "h"], "deep": {"age": source["memory", "deep", "age"]}},
    }
    listed = list(flat(source).values())
    given: Any = {"TensorDict": source, "dict": nested, "list": listed, "tuple": tuple(listed)}[kind]
    last = ops.LastActions(3)
    remembered = ops.StorePlan(buffer, SPEC, ops.RowCursors(3, 3, 2)).store(given, 0, 3, last)
    for key, each in flat(source).items():
        assert buffer[key][:, 0].equal(each)
    if kind in ("TensorDict", "dict"):
        assert remembered is source["actions"]
        assert last.buffer.squeeze(1).equal(source["actions"])
    else:
        assert remembered is None
        assert last.buffer.count_nonzero() == 0


def test_mappings_that_are_no_dicts_and_objects_with_a_dict_made_for_the_occasion() -> None:
    class Mapped:
        """Makes its entries anew at every look: nothing but the plan keeps them alive."""

        @property
        def _tensordict(self) -> dict[str, Tensor]:
            return {"x": torch.full((2,), 5.0)}

    class Asked:
        def __getitem__(self, key: str) -> Tensor:
            if key != "x":
                raise KeyError(key)
            return torch.full((2,), 6.0)

    buffer = {"x": torch.zeros(2, 4)}
    plan = ops.StorePlan(buffer, ["x"], ops.RowCursors(2, 2, 4))
    assert plan.store(Mapped(), 0, 2, ops.LastActions(2)) is None
    assert plan.store(Asked(), 0, 2, ops.LastActions(2)) is None
    assert buffer["x"].tolist() == [[5, 6, 0, 0]] * 2


def test_strided_buffers_and_sources() -> None:
    buffer = {
        "a": torch.zeros(3, 6, 4).transpose(0, 1),  # time-major memory
        "b": torch.zeros(12, 3, 9)[::2, :, 1::2],
        "c": torch.zeros(6, 6)[:, ::2],
    }
    expected = {key: each.clone() for key, each in buffer.items()}
    source = {"a": leaf((4, 6), F32).t(), "b": leaf((12, 4), F32)[::2], "c": leaf((1,), F32).expand(6)}
    cursors, twin = ops.RowCursors(6, 6, 3), reference.RowCursors(6, 6, 3)
    plan = ops.StorePlan(buffer, buffer, cursors)
    for start, stop in ((0, 6), (0, 2), (2, 6)):
        part = {key: each[start:stop] for key, each in source.items()}
        plan.store(part, start, stop)
        reference.store_plan(expected, part, twin, start, stop)
    assert_same(buffer, expected)


def test_leaves_that_are_replaced_moved_or_resized_are_written_where_they_are_now() -> None:
    buffer = TensorDict({"x": torch.zeros(4, 3, 2), "y": torch.zeros(4, 3)}, [4, 3])
    plan = ops.StorePlan(buffer, ["x", "y"], ops.RowCursors(4, 4, 3))
    old = buffer["y"]
    source = {"x": torch.ones(4, 2), "y": torch.ones(4)}
    plan.store(source, 0, 4)
    buffer["y"] = torch.full((4, 3), 9.0)  # another tensor
    buffer["x"].data = torch.full((4, 3, 2), 9.0)  # the same one with other memory
    plan.store(source, 0, 4)
    assert old.tolist() == [[1, 0, 0]] * 4
    assert buffer["y"].tolist() == [[9, 1, 9]] * 4
    assert buffer["x"][0].tolist() == [[9, 9], [1, 1], [9, 9]]
    buffer["y"] = torch.zeros(4, 3, dtype=torch.float64)
    plan.store(source, 0, 4)
    assert buffer["y"].tolist() == [[0, 0, 1]] * 4
    wrong = TensorDict({"x": torch.zeros(4, 3, 2), "y": torch.zeros(4, 3)}, [4, 3])
    plan = ops.StorePlan(wrong, ["x", "y"], ops.RowCursors(4, 4, 3))
    wrong["x"].resize_(4, 2, 2)
    with pytest.raises(ValueError, match=r"buffer\[x\] must be \[S, T, ...\] with S = 4 and T = 3"):
        plan.store(source, 0, 4)
    assert wrong["y"].count_nonzero() == 0
    del wrong["x"]
    with pytest.raises(KeyError, match="x"):
        plan.store(source, 0, 4)


@pytest.mark.parametrize(
    ("actions", "width", "dtype"),
    [
        (torch.tensor([3, 4]), 1, torch.int32),
        (torch.tensor([[3], [4]]), 1, torch.int64),
        (torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.int32), 3, torch.int32),
        (torch.tensor([[0.5, -1.5], [2.0, 1.0]]), 2, F32),
        (torch.tensor([[1.0, 2.0, 7.0], [3.0, 4.0, 7.0]])[:, :2], 2, torch.float64),
    ],
)
def test_last_actions_of_any_space(actions: Tensor, width: int, dtype: torch.dtype) -> None:
    buffer = {"x": torch.zeros(4, 2)}
    last = ops.LastActions(4, width, dtype)
    plan = ops.StorePlan(buffer, ["x"], ops.RowCursors(4, 4, 2), actions=("out", "actions"))
    source = {"x": torch.ones(2), "out": {"actions": actions}}
    assert plan.store(source, 1, 3, last) is actions
    assert last.buffer[1:3].equal(actions.reshape(2, width).to(dtype))
    assert last.buffer[[0, 3]].count_nonzero() == 0


def test_actions_that_do_not_fit_are_left_to_the_caller() -> None:
    last = ops.LastActions(3)
    plan = ops.StorePlan({"x": torch.zeros(3, 9)}, ["x"], ops.RowCursors(3, 3, 9))
    for actions in (torch.ones(3, 2), torch.ones(2), torch.ones(3, 1, 1), None, "go", [1, 2, 3]):
        assert plan.store({"x": torch.ones(3), "actions": actions}, 0, 3, last) is None
    assert plan.store({"x": torch.ones(3)}, 0, 3, last) is None
    assert plan.store({"x": torch.ones(3), "actions": torch.ones(3)}, 0, 3, None) is None
    assert last.buffer.count_nonzero() == 0
    assert plan.cursors.positions.tolist() == [8] * 3


def test_leaves_without_elements() -> None:
    buffer = {"x": torch.zeros(3, 2), "y": torch.zeros(3, 2, 0, 4)}
    plan = ops.StorePlan(buffer, ["x", "y"], ops.RowCursors(3, 3, 2))
    for _ in range(2):
        plan.store({"x": torch.ones(3), "y": torch.zeros(3, 0, 4)}, 0, 3)
    assert (buffer["x"] == 1).all()
    gathered = ops.GatherPlan({"x": torch.zeros(5, 2), "y": torch.zeros(5, 2, 0, 4)})
    gathered.gather(buffer, torch.tensor([2, 1, 0, 1, 2]))
    assert (gathered.out["x"] == 1).all()


def test_no_agents_write_nothing() -> None:
    buffer = {"x": torch.zeros(3, 2)}
    plan = ops.StorePlan(buffer, ["x"], ops.RowCursors(3, 3, 2))
    assert plan.store({"x": torch.ones(0)}, 2, 2) is None
    assert buffer["x"]._version == 0
    assert plan.cursors.positions.tolist() == [0] * 3


def good() -> dict[str, Any]:
    return {"x": torch.ones(3, 2), "y": torch.ones(3), "actions": torch.ones(3, dtype=torch.int32)}


@pytest.mark.parametrize(
    ("change", "bounds", "error", "message"),
    [
        ({"y": torch.ones(2)}, (0, 3), ValueError, r"source\[y\] must be of shape \[3\], got float32 \[2\]"),
        ({"y": torch.ones(3, 1)}, (0, 3), ValueError, r"source\[y\] must be of shape \[3\]"),
        ({"x": torch.ones(3)}, (0, 3), ValueError, r"source\[x\] must be of shape \[3, 2\]"),
        ({"y": [1.0, 2.0, 3.0]}, (0, 3), TypeError, r"source\[y\] must be a torch.Tensor, got list"),
        ({"y": torch.ones(3).to_sparse()}, (0, 3), TypeError, r"source\[y\] must be a dense torch.Tensor"),
        ({"y": torch.ones(3, device="meta")}, (0, 3), TypeError, r"source\[y\] must be a .* on the CPU"),
        ({"y": torch.ones(3, requires_grad=True)}, (0, 3), ValueError, "does not require grad"),
        ({"y": torch._neg_view(torch.ones(3))}, (0, 3), ValueError, "negative bit"),
        ({}, (0, 4), IndexError, r"agents \[0, 4\) must lie in \[0, 3\)"),
        ({}, (-1, 2), IndexError, r"agents \[-1, 2\) must lie in \[0, 3\)"),
        ({}, (2, 1), IndexError, r"agents \[2, 1\) must lie in \[0, 3\)"),
    ],
)
def test_errors_leave_everything_as_it_was(
    change: dict[str, Any], bounds: tuple[int, int], error: type[Exception], message: str
) -> None:
    buffer = {"x": torch.zeros(3, 2, 2), "y": torch.zeros(3, 2)}
    last = ops.LastActions(3)
    plan = ops.StorePlan(buffer, ["x", "y"], ops.RowCursors(3, 3, 2))
    with pytest.raises(error, match=message):
        plan.store({**good(), **change}, *bounds, last)
    for each in (*buffer.values(), last.buffer, plan.cursors.positions):
        assert each.count_nonzero() == 0
    plan.store(good(), 0, 3, last)
    assert plan.cursors.positions.tolist() == [1] * 3


def test_a_missing_key_and_a_list_of_the_wrong_length() -> None:
    plan = ops.StorePlan({"x": torch.zeros(3, 2)}, ["x"], ops.RowCursors(3, 3, 2))
    with pytest.raises(KeyError, match="x"):
        plan.store({}, 0, 3)
    with pytest.raises(ValueError, match="source must be one tensor for each of the 1 leaves, got 2"):
        plan.store([torch.ones(3)] * 2, 0, 3)
    with pytest.raises(TypeError):
        plan.store(None, 0, 3)


def test_cursors_that_were_tampered_with() -> None:
    buffer = {"x": torch.zeros(3, 2)}
    plan = ops.StorePlan(buffer, ["x"], ops.RowCursors(3, 3, 2))
    source = {"x": torch.ones(3)}
    for which, value, error in (
        (plan.cursors.rows, 3, IndexError),
        (plan.cursors.rows, -1, IndexError),
        (plan.cursors.positions, 2, ValueError),
        (plan.cursors.positions, 1, ValueError),
    ):
        before = int(which[1])
        which[1] = value
        with pytest.raises(error, match=r"StorePlan\.store"):
            plan.store(source, 0, 3)
        which[1] = before
    plan.cursors.positions.fill_(2)
    with pytest.raises(IndexError, match=r"must lie in the buffer \[3, 2\]"):
        plan.store(source, 0, 3)
    assert buffer["x"].count_nonzero() == 0


def test_overlaps_are_refused() -> None:
    pool = torch.zeros(4, 3, 2)
    with pytest.raises(ValueError, match=r"buffer\[y\] must be memory of its own.* overlaps buffer\[x\]"):
        ops.StorePlan({"x": pool, "y": pool[..., 0]}, ["x", "y"], ops.RowCursors(4, 4, 3))
    with pytest.raises(ValueError, match=r"buffer\[x\] must be a tensor whose elements do not overlap"):
        ops.StorePlan({"x": torch.zeros(4, 1).expand(4, 3)}, ["x"], ops.RowCursors(4, 4, 3))
    plan = ops.StorePlan({"x": pool}, ["x"], ops.RowCursors(4, 4, 3))
    with pytest.raises(ValueError, match=r"buffer\[x\] must be memory of its own.* overlaps source\[x\]"):
        plan.store({"x": pool[:, 1]}, 0, 4)
    last = ops.LastActions(4, 2, F32)
    with pytest.raises(ValueError, match=r"last_actions must be memory of its own.* overlaps source\[a\]"):
        ops.StorePlan({"x": pool}, ["x"], ops.RowCursors(4, 4, 3), actions="a").store(
            {"x": torch.ones(4, 2), "a": last.buffer}, 0, 4, last
        )
    # two columns of one tensor share no byte
    interleaved = {"x": pool[..., 0], "y": pool[..., 1]}
    plan = ops.StorePlan(interleaved, ["x", "y"], ops.RowCursors(4, 4, 3))
    plan.store({"x": torch.ones(4), "y": torch.full((4,), 2.0)}, 0, 4)
    assert pool[:, 0].tolist() == [[1, 2]] * 4


@pytest.mark.parametrize(
    ("buffer", "error", "message"),
    [
        ({}, KeyError, "x"),
        ({"x": torch.zeros(4)}, ValueError, r"StorePlan: buffer\[x\] must be \[S, T, ...\]"),
        ({"x": torch.zeros(4, 2)}, ValueError, "with S = 4 and T = 3, got float32 \\[4, 2\\]"),
        ({"x": None}, TypeError, r"StorePlan: buffer\[x\] must be a torch.Tensor, got NoneType"),
    ],
)
def test_wrong_buffers(buffer: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.StorePlan(buffer, ["x"], ops.RowCursors(4, 4, 3))


def test_versions_advance() -> None:
    buffer, last = tree((3, 2)), ops.LastActions(3)
    before = [each._version for each in (*flat(buffer).values(), last.buffer)]
    ops.StorePlan(buffer, SPEC, ops.RowCursors(3, 3, 2)).store(tree((3,)), 0, 3, last)
    after = [each._version for each in (*flat(buffer).values(), last.buffer)]
    assert all(b > a for a, b in zip(before, after, strict=True))


def test_subclasses_take_the_dispatcher() -> None:
    buffer, expected, source = tree((4, 3)), tree((4, 3)), tree((2,), seed=3)
    plain, tagged = ops.LastActions(4), ops.LastActions(4)
    ops.StorePlan(expected, SPEC, ops.RowCursors(4, 4, 3)).store(source, 1, 3, plain)
    for key in SPEC:
        source[key] = source[key].as_subclass(Tagged)
    plan = ops.StorePlan(buffer, SPEC, ops.RowCursors(4, 4, 3))
    remembered = plan.store(source, 1, 3, tagged)
    assert type(remembered) is Tagged
    assert_same(buffer, flat(expected))
    assert tagged.buffer.equal(plain.buffer)
    assert plan.cursors.positions.tolist() == [0, 1, 1, 0]
    with pytest.raises(IndexError, match=r"agents \[3, 5\)"):
        plan.store(source, 3, 5)


@pytest.mark.parametrize("through", ["pickle", "deepcopy"])
def test_copies_are_independent(through: str) -> None:
    plan = ops.StorePlan(tree((3, 2)), SPEC, ops.RowCursors(3, 3, 2))
    plan.store(tree((3,), seed=5), 0, 3)
    other = pickle.loads(pickle.dumps(plan)) if through == "pickle" else copy.deepcopy(plan)
    other.store(tree((3,), seed=6), 0, 3)
    assert plan.cursors.positions.tolist() == [1] * 3
    assert other.buffer["rewards"][:, 0].equal(plan.buffer["rewards"][:, 0])
    assert not other.buffer["rewards"][:, 1].equal(plan.buffer["rewards"][:, 1])


def test_two_threads_may_use_one_plan() -> None:
    """Each its own agents; wide enough that the kernel runs without the GIL."""
    agents, horizon, width = 64, 50, 4096
    buffer = {"x": torch.zeros(agents, horizon, width), "y": torch.zeros(agents, horizon)}
    plan = ops.StorePlan(buffer, ["x", "y"], ops.RowCursors(agents, agents, horizon))

    def work(start: int, stop: int) -> None:
        for t in range(horizon - 1):
            x = torch.full((stop - start, width), float(start + t))
            plan.store({"x": x, "y": x[:, 0]}, start, stop)

    half = agents // 2
    workers = [threading.Thread(target=work, args=bounds) for bounds in ((0, half), (half, agents))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    expected = torch.arange(horizon, dtype=F32) + torch.tensor([0.0, half]).repeat_interleave(half)[:, None]
    expected[:, -1] = 0
    assert buffer["y"].equal(expected)
    assert buffer["x"].equal(expected.unsqueeze(2).expand(-1, -1, width))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_property_any_slices_in_any_order(data: st.DataObject) -> None:
    agents = data.draw(st.integers(1, 9))
    segments, horizon = agents + data.draw(st.integers(0, 5)), data.draw(st.integers(1, 3))
    cuts = sorted(data.draw(st.sets(st.integers(1, agents - 1), max_size=3))) if agents > 1 else []
    bounds = list(zip([0, *cuts], [*cuts, agents], strict=True))
    dtype = data.draw(st.sampled_from(DTYPES))
    buffer = {"x": torch.zeros(segments, horizon, 3, dtype=dtype), "y": torch.zeros(segments, horizon)}
    expected = {key: each.clone() for key, each in buffer.items()}
    cursors, twin = (kind.RowCursors(agents, segments, horizon) for kind in (ops, reference))
    last, last_twin = ops.LastActions(agents, 2, F32), reference.LastActions(agents, 2, F32)
    plan = ops.StorePlan(buffer, ["x", "y"], cursors)
    for step in range(data.draw(st.integers(1, 12))):
        start, stop = data.draw(st.sampled_from(bounds))
        n = stop - start
        source = {
            "x": leaf((n, 3), F32, step),
            "y": leaf((n,), torch.int32, step),
            "actions": leaf((n, 2), F32),
        }
        plan.store(source, start, stop, last)
        reference.store_plan(expected, source, twin, start, stop, last_twin)
    assert_same(buffer, expected)
    assert last.buffer.equal(last_twin.buffer)
    assert cursors.rows.equal(twin.rows)
    assert cursors.positions.equal(twin.positions)


@pytest.mark.parametrize("width", [255, 256, 257, 321, 600])
@pytest.mark.parametrize("offset", [0, 1, 63])
def test_wide_rows_of_a_large_buffer_go_past_the_cache(width: int, offset: int) -> None:
    """Rows at every alignment to a cache line, and nothing beside them touched."""
    agents, horizon = 9, 2**24 // (9 * width) + 1
    pool = torch.full((agents, horizon, width + 64), 7, dtype=torch.uint8)
    buffer = {"x": pool[:, :, offset : offset + width]}
    plan = ops.StorePlan(buffer, ["x"], ops.RowCursors(agents, agents, horizon))
    expected = pool[:, :3].clone()
    for t, bounds in enumerate([(0, 9), (0, 9), (0, 4), (4, 9)]):
        source = leaf((bounds[1] - bounds[0], width), torch.uint8, seed=t)
        expected[slice(*bounds), min(t, 2), offset : offset + width] = source
        plan.store({"x": source}, *bounds)
    assert pool[:, :3].equal(expected)
    assert (pool[:, 3:5] == 7).all()


def test_converted_numbers_of_many_agents_in_rows_of_their_own() -> None:
    """Rows of 80 bytes and more: their lines are asked for in parts of 64 rows."""
    agents, horizon = 150, 20
    buffer = {"flags": torch.zeros(agents, horizon), "wide": torch.zeros(agents, horizon, 4)}
    cursors = ops.RowCursors(agents, agents, horizon)
    plan = ops.StorePlan(buffer, list(buffer), cursors)
    for column in range(2):
        step = {"flags": torch.rand(agents) < 0.5, "wide": torch.rand(agents, 4)}
        plan.store(step, 0, agents, None)
        for key, stored in step.items():
            assert buffer[key][:, column].equal(stored.float())
