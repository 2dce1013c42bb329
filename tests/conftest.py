from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import hotloop  # noqa: F401  (torch first, then the native module)
from cuda_host_support import backends, gpu_facts, has_cuda_kernels, on_backend
from hotloop import _core


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu-results", metavar="FILE", help="write what ran on which GPU to a JSON file")


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """The record of a run on a GPU: device, driver, commit and how many tests passed and failed."""
    path = config.getoption("--gpu-results")
    if path:
        counts = {
            kind: len(terminalreporter.stats.get(kind, []))
            for kind in ("passed", "failed", "skipped", "error")
        }
        Path(path).write_text(json.dumps({**gpu_facts(), **counts}, indent=2) + "\n")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Instruction sets for tests that ask for them, and other devices for tests of ops that these have."""
    cpu = list(_core.isas_supported()) if "isa" in metafunc.fixturenames else ["cpu"]
    only_cpu = metafunc.definition.get_closest_marker("cpu_only") is not None
    others = backends() if has_cuda_kernels(metafunc.module.__name__) and not only_cpu else []
    if "isa" in metafunc.fixturenames or others:
        if metafunc.definition.get_closest_marker("ends_the_gpu") is not None:
            others = [name for name in others if name != "cuda"]
        gpu = [pytest.param(name, marks=pytest.mark.gpu) if name == "cuda" else name for name in others]
        metafunc.parametrize("backend", [*cpu, *gpu], indirect=True)


@pytest.fixture(autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """What the native ops run on: an instruction set of the CPU, `cpu` for its best, or another device."""
    name: str = getattr(request, "param", "cpu")
    if name == "cuda" and request.node.get_closest_marker("asks_for_values") is not None:
        pytest.skip("no op waits for a GPU to look at values: docs/cuda.md")
    before = _core.isa()
    if name in _core.isas_supported():
        _core.set_isa(name)
    with nullcontext() if name in ("cpu", *_core.isas_supported()) else on_backend(name):
        yield name
    _core.set_isa(before)  # which a test itself may have changed


@pytest.fixture
def isa(backend: str) -> str:
    """Runs a test once for each instruction set that this processor has, and on other devices."""
    return backend


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts torch's number of threads back after a test that changes it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
