"""Steps go to a device through pinned memory that is not written to while the device reads it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from device_support import FakeCalls, LateCalls, fake_device
from hotloop import loop_transfer
from hotloop.devices import (
    CudaCalls,
    device_calls,
    exact_device,
    host_as_device,
    in_host_memory,
    moved,
    runs_ops,
)
from hotloop.loop_transfer import ActionDownload, StepUpload

CPU = torch.device("cpu")
AGENTS = (0, 4)


def step(number: int, agents: int = 4) -> list[Tensor | None]:
    """Of every kind that a step has, one of them not contiguous."""
    return [
        torch.full((agents, 3), number, dtype=torch.uint8),
        torch.arange(agents, dtype=torch.float32).add(number),
        torch.tensor([number % 2 == 0] * agents),
        None,
        torch.arange(2 * agents).reshape(agents, 2).T[0].add(number)[:agents],
        torch.zeros((agents, 0)),
    ]


def assert_is(got: list[Tensor | None], expected: list[Tensor | None]) -> None:
    for one, other in zip(got, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


def test_what_arrives_is_what_was_given_in_new_memory() -> None:
    upload = StepUpload(CPU, FakeCalls())
    arrived = [upload(AGENTS, step(number)) for number in range(5)]
    for number, got in enumerate(arrived):
        assert_is(got, step(number))


def test_the_order_is_wait_write_copy_record() -> None:
    calls = FakeCalls()
    upload = StepUpload(CPU, calls)
    for number in range(5):
        upload(AGENTS, step(number))
    assert [entry for entry in calls.log if entry[0] != "pinned"] == [
        ("copy",), ("record", 1),
        ("copy",), ("record", 0),
        ("wait", 1), ("copy",), ("record", 1),
        ("wait", 0), ("copy",), ("record", 0),
        ("wait", 1), ("copy",), ("record", 1),
    ]  # fmt: skip


def late_steps(monkeypatch: pytest.MonkeyPatch, *, fenced: bool = True) -> bool:
    """Whether six steps arrive as they were given, on a device that does nothing before it is waited for."""
    if not fenced:
        monkeypatch.setattr(loop_transfer._Piece, "wait", lambda self: None)
    calls = LateCalls()
    upload = StepUpload(CPU, calls)
    arrived = [upload(AGENTS, step(number)) for number in range(6)]
    assert calls.queue
    calls.finish()
    for number, got in enumerate(arrived):
        for one, other in zip(got, step(number), strict=True):
            if one is not None and other is not None and not torch.equal(one, other):
                return False
    return True


def test_memory_is_not_written_to_before_the_device_has_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert late_steps(monkeypatch)
    assert not late_steps(monkeypatch, fenced=False), "the fence can be left out, so nothing tests it"


def test_a_fence_that_is_left_out_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`FakeCalls` compares the memory's version when an event is waited for."""
    calls = FakeCalls()
    upload = StepUpload(CPU, calls)
    upload(AGENTS, step(0))
    piece = upload._rings[AGENTS]._pieces[1]
    piece.views[0].fill_(7)
    with pytest.raises(AssertionError, match="was written to while a copy read it"):
        piece.wait()


def test_slices_have_memory_of_their_own_and_a_new_layout_gets_new_memory() -> None:
    calls = FakeCalls()
    upload = StepUpload(CPU, calls)
    upload((0, 2), step(0, 2))
    upload((2, 4), step(1, 2))
    upload((0, 2), step(2, 2))
    assert sum(entry[0] == "pinned" for entry in calls.log) == 4
    wider = [torch.ones(2, 5), *step(0, 2)[1:]]
    assert_is(upload((0, 2), wider), wider)
    assert sum(entry[0] == "pinned" for entry in calls.log) == 6


def test_tensors_begin_at_multiples_that_every_dtype_accepts() -> None:
    calls = FakeCalls()
    arrived = StepUpload(CPU, calls)(
        AGENTS, [torch.ones(3, dtype=torch.bool), torch.ones(2, dtype=torch.float64)]
    )
    assert all(tensor is not None and tensor.data_ptr() % 8 == 0 for tensor in arrived)
    assert calls.log[0] == ("pinned", 512)


def test_nothing_to_carry_asks_for_nothing() -> None:
    calls = FakeCalls()
    assert StepUpload(CPU, calls)(AGENTS, [None, None]) == [None, None]
    there = torch.ones(2, device="meta")
    assert StepUpload(torch.device("meta"), calls)(AGENTS, [there])[0] is there
    assert calls.log == []


def test_actions_wait_for_their_own_copy_and_are_the_environments_to_keep() -> None:
    calls = LateCalls()
    download = ActionDownload(CPU, calls)
    first = download(torch.tensor([1, 2, 3], dtype=torch.int32))
    second = download(torch.tensor([4, 5, 6], dtype=torch.int32))
    assert first.tolist() == [1, 2, 3]
    assert second.tolist() == [4, 5, 6]
    assert first.dtype == np.int32
    assert [entry[0] for entry in calls.log] == ["pinned", *["copy", "record", "wait"] * 2]
    wider = download(torch.arange(8.0).reshape(4, 2))
    assert wider.tolist() == torch.arange(8.0).reshape(4, 2).tolist()
    assert calls.log[-4] == ("pinned", 32)


def test_actions_without_a_wait_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = LateCalls()
    monkeypatch.setattr(calls, "come_past", lambda event: None)
    assert ActionDownload(CPU, calls)(torch.tensor([1, 2])).tolist() != [1, 2]


def test_copies_have_memory_of_their_own() -> None:
    calls = FakeCalls()
    upload, download = StepUpload(CPU, calls), ActionDownload(CPU, calls)
    upload(AGENTS, step(0))
    download(torch.ones(3))
    assert copy.copy(upload)._rings == {}
    assert copy.copy(download)._event is None
    assert copy.copy(download)(torch.ones(3)).tolist() == [1.0, 1.0, 1.0]


def test_devices_are_told_apart() -> None:
    cuda = torch.device("cuda", 0)
    assert in_host_memory(CPU)
    assert not in_host_memory(cuda)
    assert [runs_ops(torch.device(kind)) for kind in ("cpu", "cuda", "meta")] == [True, True, False]
    assert device_calls(CPU) is None
    assert isinstance(device_calls(cuda), CudaCalls)
    with fake_device() as calls:
        assert not in_host_memory(CPU)
        assert device_calls(CPU) is calls
        with host_as_device(other := FakeCalls()):
            assert device_calls(CPU) is other
        assert device_calls(CPU) is calls
    assert in_host_memory(CPU)
    assert exact_device("cpu") == CPU
    assert exact_device("cuda:1") == torch.device("cuda", 1)


def test_what_is_there_already_is_not_moved() -> None:
    x: Any = torch.ones(2)
    assert moved(x, CPU) is x
    assert moved(x, torch.device("meta")).is_meta
