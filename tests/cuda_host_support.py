"""Runs op tests elsewhere than on the CPU: `cuda_host`, the CUDA kernels under the host runner, and `cuda`.

Test modules whose op has a kernel in csrc/cuda run each of their tests on every backend that is there. The
tests pass tensors on the CPU: `cuda_host` reads them in place, `cuda` carries them over and back.
"""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hotloop import _core

HERE = Path(__file__).resolve().parent
CUDA_SOURCES = HERE.parent / "csrc" / "cuda"
# Tests of several ops, beside those that bear the name of one.
SHARED_TESTS = ("departure_estimators", "summary", "discounted_return")


def has_cuda_kernels(module: str) -> bool:
    """Whether a test module is of ops that csrc/cuda has."""
    stem = module.rpartition(".")[2].removeprefix("test_")
    return CUDA_SOURCES.is_dir() and ((CUDA_SOURCES / f"{stem}.cu").is_file() or stem in SHARED_TESTS)


def backends() -> list[str]:
    """Those beside the CPU."""
    return ["cuda_host", *(["cuda"] if torch.cuda.is_available() else [])]


def gpu_facts() -> dict[str, Any]:
    """Device, driver and commit of a run on a GPU."""

    def said(*command: str) -> str:
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE)
        except (OSError, subprocess.SubprocessError):
            return "unknown"
        return result.stdout.strip()

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "devices": [torch.cuda.get_device_name(i) for i in range(count)],
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "commit": said("git", "describe", "--always", "--dirty"),
    }


@functools.cache
def host_module() -> Any:
    """The kernels compiled for the host runner: a module like `hotloop._cuda` for tensors on the CPU."""
    from cuda_host.build import build

    spec = importlib.util.spec_from_file_location("_cuda", build())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def carried(op: Callable[..., Any]) -> Callable[..., Any]:
    """An op of `hotloop._cuda` for tensors on the CPU. Storages travel whole: strides and overlaps stay."""

    def call(*args: Any) -> Any:
        storages: dict[int, tuple[Tensor, Tensor]] = {}

        def over(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return [over(item) for item in value]
            if type(value) not in (Tensor, torch.nn.Parameter):
                return value
            if value.layout is not torch.strided:
                return value.cuda()
            storage = value.untyped_storage()
            key = storage.data_ptr()
            if key not in storages:
                flat = torch.empty(0, dtype=torch.uint8).set_(storage)
                storages[key] = flat, flat.cuda()
            there = torch.empty(0, dtype=value.dtype, device="cuda").set_(
                storages[key][1].untyped_storage(), value.storage_offset(), value.shape, value.stride()
            )
            return there.requires_grad_(value.requires_grad)

        result = op(*map(over, args))
        for here, there in storages.values():
            here.copy_(there)
        return result

    return call


@functools.cache
def cuda_module() -> Any:
    from hotloop import _cuda  # type: ignore[attr-defined]

    ops = {name: carried(op) for name, op in vars(_cuda).items() if callable(op)}
    return types.SimpleNamespace(**ops)


@contextmanager
def on_backend(name: str) -> Iterator[Any]:
    """Every op that the backend has runs there, in the CPU's order of additions. Yields its module."""
    module = host_module() if name == "cuda_host" else cuda_module()
    exact = module.set_exact(True)
    _core.set_stand_in(module)
    try:
        yield module
    finally:
        _core.set_stand_in(None)
        module.force_scan_path(None)
        module.set_exact(exact)
