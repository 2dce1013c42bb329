"""Memory of long-lived buffers: plain tensors, whatever the system makes of the advice."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hotloop import _core
from hotloop.ops._memory import empty_buffer, move_to_huge_pages, zeros_buffer


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (1 << 22,), (1024, 4099)], ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.bfloat16, torch.float32], ids=str)
def test_zeros_are_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    buffer = zeros_buffer(shape, dtype)
    assert buffer.equal(torch.zeros(shape, dtype=dtype))
    assert (buffer.dtype, buffer.is_contiguous()) == (dtype, True)
    assert empty_buffer(shape, dtype).shape == shape


def test_other_devices_and_modes() -> None:
    assert zeros_buffer((1 << 21,), torch.float32, "meta").device.type == "meta"
    with torch.inference_mode():
        assert not empty_buffer((1 << 22,), torch.uint8).is_inference()
        assert not zeros_buffer((1 << 22,), torch.uint8).is_inference()


def test_the_contents_survive_the_advice_and_views_may_be_given() -> None:
    buffer = torch.arange(3 << 20)
    for view in (buffer, buffer[1:], buffer[::3], buffer[:0], buffer.view(3, -1).t(), buffer[5]):
        for touched in (False, True):
            _core.advise_huge_pages(view, touched)
    assert buffer.equal(torch.arange(3 << 20))
    with pytest.raises(TypeError, match=r"advise_huge_pages: tensor must be a torch\.Tensor, got list"):
        _core.advise_huge_pages([1], False)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="advise_huge_pages: touched must be an integer, got None"):
        _core.advise_huge_pages(buffer, None)  # type: ignore[arg-type]


def mapping(tensor: Tensor) -> dict[str, list[str]]:
    """What the system tells of the mapping that the tensor's middle lies in."""
    middle, inside, told = tensor.data_ptr() + tensor.nbytes // 2, False, {}
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *words = line.split()
        if "-" in name and not name.endswith(":"):
            low, high = (int(end, 16) for end in name.split("-"))
            inside = low <= middle < high
        elif inside:
            told[name.rstrip(":")] = words
    return told


def linux() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])


HUGE_PAGES = pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a system without huge pages"
)


@HUGE_PAGES
def test_a_large_buffer_is_advised() -> None:
    assert "hg" in mapping(zeros_buffer((1 << 26,), torch.uint8))["VmFlags"]


@HUGE_PAGES
@pytest.mark.skipif(linux() < (6, 1), reason="Linux 6.1 is the first that moves what is in use")
def test_memory_in_use_moves_to_huge_pages() -> None:
    """Which asks for 64 MiB of free memory in pieces of 2 MiB."""
    buffer = torch.arange(1 << 23)
    move_to_huge_pages([buffer])
    assert int(mapping(buffer)["AnonHugePages"][0]) >= (60 << 10)
    assert buffer.equal(torch.arange(1 << 23))


def test_what_is_small_or_elsewhere_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    advised = []
    monkeypatch.setattr(_core, "advise_huge_pages", lambda *told: advised.append(told))
    large = torch.zeros(1 << 20, requires_grad=True)
    move_to_huge_pages([torch.zeros((1 << 20) - 1), torch.zeros(1 << 20, device="meta"), large])
    assert [(tensor.data_ptr(), touched) for tensor, touched in advised] == [(large.data_ptr(), True)]
