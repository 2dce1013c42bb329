"""Memory of long-lived buffers: plain tensors, whatever the system makes of the advice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hotloop import _core
from hotloop.ops._memory import empty_buffer, zeros_buffer


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
        _core.advise_huge_pages(view)
    assert buffer.equal(torch.arange(3 << 20))
    with pytest.raises(TypeError, match=r"advise_huge_pages: tensor must be a torch\.Tensor, got list"):
        _core.advise_huge_pages([1])  # type: ignore[arg-type]


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a system without huge pages"
)
def test_a_large_buffer_is_advised() -> None:
    buffer = zeros_buffer((1 << 26,), torch.uint8)
    middle, advised = buffer.data_ptr() + (1 << 25), None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name = line.split()[0]
        if "-" in name and not name.endswith(":"):
            low, high = (int(end, 16) for end in name.split("-"))
            inside = low <= middle < high
        elif name == "VmFlags:" and inside:
            advised = "hg" in line.split()
    assert advised is True
