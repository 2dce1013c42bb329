"""`ColumnStore` beside assignments by index."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hotloop import ops

KINDS = {
    "observations": ((5, 3), torch.uint8),
    "actions": ((), torch.int64),
    "moves": ((2,), torch.int32),
    "rewards": ((), torch.float32),
    "terminals": ((), torch.float32),
    "truncated": ((), torch.uint8),
}


def made(
    agents: int, segments: int, horizon: int
) -> tuple[dict[str, Tensor], ops.RowCursors, ops.ColumnStore]:
    buffers = {
        name: torch.zeros(segments, horizon, *rest, dtype=dtype) for name, (rest, dtype) in KINDS.items()
    }
    cursors = ops.RowCursors(agents, segments, horizon)
    store = ops.ColumnStore(buffers, cursors)
    store.bind(buffers)
    return buffers, cursors, store


def step(count: int, source: torch.Generator) -> dict[str, Tensor]:
    told = {
        name: torch.randint(0, 200, (count, *rest), generator=source).to(dtype)
        for name, (rest, dtype) in KINDS.items()
    }
    told["terminals"] = told["terminals"] > 100  # converts
    told["truncated"] = told["truncated"] > 100
    told["rewards"] = told["rewards"].unsqueeze(1)  # networks tell values as [n, 1]
    return told


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("agents", "segments", "horizon", "slices"), [(4, 4, 8, 1), (70, 140, 33, 2), (6, 12, 1, 3)]
)
def test_a_rollout_lands_where_assignments_put_it(
    agents: int, segments: int, horizon: int, slices: int, wide: bool
) -> None:
    buffers, cursors, store = made(agents, segments, horizon)
    if wide:  # rows of the buffer that lie apart
        buffers["rewards"] = torch.zeros(segments, horizon + 3)[:, 3:]
        store.bind(buffers)
    expected = {name: buffer.clone() for name, buffer in buffers.items()}
    source, n, full = torch.Generator().manual_seed(0), agents // slices, 0
    versions = {name: buffer._version for name, buffer in buffers.items()}
    while full < segments:
        for start in range(0, agents, n):
            rows, position = cursors.rows[start : start + n].clone(), cursors.position(start)
            told = step(n, source)
            for name, each in told.items():
                expected[name][rows, position] = each.view(n, *KINDS[name][0]).to(KINDS[name][1])
            full = store.store(tuple(told.values()), start, start + n)
            assert full == cursors.full_rows
    assert torch.equal(buffers["observations"], expected["observations"])
    assert not buffers["actions"].any()  # not before it is asked for
    store.spread()
    for name, buffer in buffers.items():
        assert torch.equal(buffer, expected[name]), name
        assert buffer._version > versions[name]


class Marked(Tensor):
    pass


def test_subclasses_are_read() -> None:
    buffers, _, store = made(4, 4, 1)
    told = step(4, torch.Generator().manual_seed(0))
    told["actions"] = told["actions"].as_subclass(Marked)
    assert store.store(tuple(told.values()), 0, 4) == 4
    store.spread()
    assert torch.equal(buffers["actions"][:, 0], told["actions"].as_subclass(Tensor))


def test_what_does_not_fit_is_refused_and_nothing_is_written() -> None:
    buffers, cursors, store = made(4, 8, 2)
    told = step(4, torch.Generator().manual_seed(0))
    with pytest.raises(IndexError, match=r"agents \[0, 5\) must lie in \[0, 4\)"):
        store.store(tuple(told.values()), 0, 5)
    with pytest.raises(ValueError, match=r"source\[moves\] must be of shape \[4, 2\], got"):
        store.store(tuple((told | {"moves": torch.zeros(4, 3)}).values()), 0, 4)
    with pytest.raises(ValueError, match="sources must be a tuple of 6 tensors"):
        store.store(tuple(told.values())[:5], 0, 4)
    with pytest.raises(TypeError, match=r"source\[truncated\] must be a torch.Tensor"):
        store.store((*tuple(told.values())[:5], None), 0, 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"buffer\[observations\]"):
        store.store((buffers["observations"][:4, 0], *tuple(told.values())[1:]), 0, 4)
    assert not buffers["observations"].any()
    assert cursors.position(0) == 0
    cursors.advance(0, 2)
    with pytest.raises(ValueError, match="agents must be at one position of their rows, got several"):
        store.store(tuple(told.values()), 0, 4)
    with pytest.raises(ValueError, match=r"buffer\[rewards\] must be \[S, T, ...\] with S = 8 and T = 2"):
        store.bind(buffers | {"rewards": torch.zeros(8, 2).double()})
    with pytest.raises(RuntimeError, match=r"bind\(buffers\) must be called before"):
        store.store(tuple(told.values()), 0, 2)
    with pytest.raises(RuntimeError, match=r"bind\(buffers\) must be called before"):
        store.spread()
    with pytest.raises(KeyError, match="rewards"):
        store.bind({name: buffer for name, buffer in buffers.items() if name != "rewards"})
    with pytest.raises(ValueError, match=r"\[S, T, ...\], got \[8\]"):
        ops.ColumnStore({"a": torch.zeros(8, 2), "b": torch.zeros(8)}, cursors)


def test_a_step_gives_one_source_as_an_array() -> None:
    buffers, cursors, store = made(4, 8, 2)
    again, _, other = made(4, 8, 2)
    source = torch.Generator().manual_seed(0)
    for number in range(4):
        told = step(4, source)
        told["moves"] = told["moves"].t().contiguous().t()
        names = tuple(told)
        lent = number + 1
        full_rows, array = store.step(tuple(told.values()), 0, 4, lent)
        assert full_rows == cursors.full_rows == other.store(tuple(told.values()), 0, 4)
        expected = told[names[lent]].numpy()
        assert type(array) is np.ndarray
        assert (array.ctypes.data, array.dtype) == (expected.ctypes.data, expected.dtype)
        assert (array.shape, array.strides) == (expected.shape, expected.strides)
        assert array.flags.writeable
        kept = expected.copy()
        del told, expected
        torch.zeros(1 << 10)  # in the place of what was freed
        assert np.array_equal(array, kept)
    store.spread()
    other.spread()
    for name, buffer in buffers.items():
        assert torch.equal(buffer, again[name]), name


def test_a_step_of_what_numpy_does_not_know() -> None:
    _, cursors, store = made(4, 8, 1)
    told = step(4, torch.Generator().manual_seed(0))
    marked = told | {"actions": told["actions"].as_subclass(Marked)}
    full_rows, array = store.step(tuple(marked.values()), 0, 4, 1)
    assert full_rows == 4
    assert np.array_equal(array, told["actions"].numpy())
    halves = told | {"rewards": told["rewards"].half()}
    assert store.step(tuple(halves.values()), 0, 4, 3)[1].dtype == np.float16
    cursors.reset()
    with pytest.raises(TypeError, match="BFloat16"):
        store.step(tuple((told | {"rewards": told["rewards"].bfloat16()}).values()), 0, 4, 3)


def test_a_step_that_does_not_fit_is_refused() -> None:
    _, cursors, store = made(4, 8, 2)
    told = tuple(step(4, torch.Generator().manual_seed(0)).values())
    with pytest.raises(IndexError, match=r"agents \[0, 5\) must lie in \[0, 4\)"):
        store.step(told, 0, 5, 1)
    for lent in (-1, 6):
        with pytest.raises(ValueError, match=rf"ColumnStore.step: lent must be in \[0, 5\], got {lent}"):
            store.step(told, 0, 4, lent)
    with pytest.raises(TypeError, match=r"ColumnStore.step: start must be an integer, got str"):
        store.step(told, "0", 4, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected 4 positional arguments, got 3"):
        store.try_step(told, 0, 4)  # type: ignore[call-arg]
    assert cursors.position(0) == 0


def test_wide_rows_of_a_large_rollout() -> None:
    """They go past the cache."""
    buffers = {"wide": torch.zeros(32, 64, 600, dtype=torch.uint8), "narrow": torch.zeros(32, 64)}
    cursors = ops.RowCursors(32, 32, 64)
    store = ops.ColumnStore(buffers, cursors)
    store.bind(buffers)
    told = torch.randint(0, 255, (64, 32, 600), dtype=torch.uint8)
    for each in told:
        store.store((each, torch.ones(32)), 0, 32)
    store.spread()
    assert torch.equal(buffers["wide"], told.transpose(0, 1))
    assert bool((buffers["narrow"] == 1).all())


@pytest.mark.parametrize("horizon", [64, 67])
@pytest.mark.parametrize("offset", [0, 1])
def test_many_numbers(horizon: int, offset: int) -> None:
    """A mebibyte and more of them go past the cache."""
    shape = (2100, horizon)
    buffers = {"wide": torch.zeros(*shape, 2, dtype=torch.uint8)} | {
        name: torch.zeros(shape[0] * shape[1] + offset, dtype=dtype)[offset:].view(shape)
        for name, dtype in (("a", torch.int64), ("b", torch.float32), ("c", torch.uint8), ("d", torch.int16))
    }
    cursors = ops.RowCursors(shape[0], *shape)
    store = ops.ColumnStore(buffers, cursors)
    store.bind(buffers)
    told = {name: torch.randint(0, 100, (*shape, *b.shape[2:])).to(b.dtype) for name, b in buffers.items()}
    for time in range(horizon):
        store.store(tuple(each[:, time] for each in told.values()), 0, shape[0])
    store.spread()
    for name, buffer in buffers.items():
        assert torch.equal(buffer, told[name]), name
