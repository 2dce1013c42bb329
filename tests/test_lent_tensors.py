"""`LentTensors` and `ColumnStore.step`: NumPy arrays and tensors in one another's memory."""

from __future__ import annotations

import gc
import warnings
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from hotloop.ops.column_store import LentTensors

Array = npt.NDArray[Any]


def arrays(count: int = 4) -> tuple[Array, Array, Array]:
    """Observations, rewards, terminals."""
    return np.zeros((count, 3, 2), np.uint8), np.zeros(count, np.float32), np.zeros(count, np.bool_)


def views(of: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(each[:] for each in of)


def same(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    return all(x is y for x, y in zip(a, b, strict=True))


def test_the_same_memory_is_the_same_tensors() -> None:
    lent, told = LentTensors(2), arrays()
    first = lent.tensors(told)
    for array, tensor in zip(told, first, strict=True):
        assert type(tensor) is Tensor
        assert tensor.data_ptr() == array.ctypes.data
        assert tensor.shape == array.shape
        assert tensor.dtype == torch.from_numpy(array).dtype
    told[0][1, 2, 1], told[1][3] = 7, 0.5
    assert first[0][1, 2, 1] == 7
    assert first[1][3] == 0.5
    assert same(lent.tensors(told), first)
    assert same(lent.tensors(views(told)), first)  # other objects, as out of shared memory
    other = lent.tensors(arrays())
    assert not any(x is y for x, y in zip(other, first, strict=True))
    assert same(lent.tensors(told), first)
    assert lent.held() == 2
    lent.forget()
    assert lent.held() == 0
    assert not same(lent.tensors(told), first)


@pytest.mark.parametrize(
    "other",
    [
        lambda a: a.reshape(4, 2, 3),
        lambda a: a.reshape(4, 6),
        lambda a: a[:3],
        lambda a: a[1:],
        lambda a: a.view(np.int8),
        lambda a: a[:, ::-1][:, ::-1][:, :1],
        lambda a: np.lib.stride_tricks.as_strided(a, (4, 3, 2), (6, 1, 3)),
    ],
    ids=["shape", "dimensions", "count", "address", "dtype", "part", "strides"],
)
def test_other_places_are_other_tensors(other: Any) -> None:
    lent, (observations, rewards, terminals) = LentTensors(4), arrays()
    observations[:] = np.arange(24).reshape(4, 3, 2)
    first = lent.tensors((observations, rewards, terminals))
    changed = other(observations)
    for told in ((changed, rewards, terminals), (changed[:], rewards[:], terminals[:])):
        found = lent.tensors(told)
        assert found[0] is not first[0]
        assert torch.equal(found[0], torch.from_numpy(changed))
        assert found[0].stride() == torch.from_numpy(changed).stride()
    assert lent.held() == 2
    assert same(lent.tensors((observations, rewards, terminals)), first)
    assert lent.tensors((observations, rewards[::-1][::-1][:2], terminals))[1].shape == (2,)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[2].unsqueeze_(1),
        lambda t: t[0].transpose_(1, 2),
        lambda t: t[1].requires_grad_(),
        lambda t: setattr(t[1], "data", torch.ones(4)),
        lambda t: setattr(t[1], "data", t[1].data.view(torch.int32)),
    ],
    ids=["shape", "strides", "grad", "data", "dtype"],
)
def test_tensors_that_were_changed_in_place_are_made_anew(change: Any) -> None:
    lent, told = LentTensors(2), arrays()
    first = lent.tensors(told)
    change(first)
    again = lent.tensors(told)
    for array, tensor in zip(told, again, strict=True):
        assert tensor.data_ptr() == array.ctypes.data
        assert tensor.shape == array.shape
        assert tensor.is_contiguous()
        assert tensor.dtype == torch.from_numpy(array).dtype
        assert not tensor.requires_grad
    assert not same(again, first)
    assert same(lent.tensors(told), again)
    assert lent.held() == 1


def test_what_is_held_is_not_given_to_others() -> None:
    lent = LentTensors(64)
    seen: dict[int, float] = {}
    for number in range(64):  # each dies as soon as it was read, but for what is held
        told = (np.full(1 << 14, number, np.float32),)
        address = told[0].ctypes.data
        assert address not in seen
        seen[address] = number
        assert lent.tensors(told)[0][0] == number


def test_memory_that_does_not_come_again_is_let_go() -> None:
    lent, alive = LentTensors(3), []
    for number in range(20):
        told = arrays()
        told[1][:] = number
        alive.append(weakref.ref(told[0]))
        found = lent.tensors(told)
        assert bool((found[1] == number).all())
        assert lent.held() == (number + 1 if number < 3 else 0)
    del told, found
    gc.collect()
    assert not any(each() is not None for each in alive)
    told = arrays()
    assert not same(lent.tensors(told), lent.tensors(told))  # until `forget`
    lent.forget()
    assert same(lent.tensors(told), lent.tensors(told))


def test_forgetting_lets_memory_go() -> None:
    lent, told = LentTensors(2), arrays()
    alive = weakref.ref(told[0])
    lent.tensors(told)
    del told
    assert alive() is not None
    lent.forget()
    assert alive() is None


def test_what_is_no_plain_array_is_made_a_tensor_each_time() -> None:
    lent = LentTensors(4)
    observations, rewards, terminals = arrays()
    tensor = torch.zeros(4, 3, 2)
    found = lent.tensors((tensor, [0.5, 1.0], terminals))
    assert found[0] is tensor
    assert torch.equal(found[1], torch.tensor([0.5, 1.0]))
    assert lent.held() == 0

    class Marked(np.ndarray[Any, Any]):
        pass

    for each in (observations.view(Marked), observations[:0], np.zeros((1,) * 9, np.float32)):
        assert torch.equal(lent.tensors((each, rewards))[0], torch.as_tensor(each))
        assert lent.held() == 0
    observations.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns once in a process
        assert lent.tensors((observations, rewards))[0].data_ptr() == observations.ctypes.data
    assert lent.held() == 0
    with pytest.raises(TypeError, match=r"can't convert np.ndarray of type numpy.str_|numpy.str"):
        lent.tensors((np.array(["a"]), rewards))
    with pytest.raises(TypeError, match=r"LentTensors.tensors: arrays must be a tuple, got list"):
        lent.tensors([observations])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected 1 positional arguments, got 2"):
        lent.tensors(rewards, terminals)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="limit must be at least 0, got -1"):
        LentTensors(-1)
    assert not LentTensors(0).tensors((rewards,))[0].any()


def test_the_methods_keep_what_they_belong_to() -> None:
    tensors = LentTensors(2).tensors
    gc.collect()
    told = arrays()
    assert same(tensors(told), tensors(told))
