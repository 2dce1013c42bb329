"""`hotloop._cuda` where there may be no GPU: it loads, it says what is missing, it takes no other tensors."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import hotloop
from cuda_host_support import CUDA_SOURCES, host_module
from hotloop import _core, ops
from test_exchange_api import answers

BUILT = importlib.util.find_spec("hotloop._cuda") is not None
needs_module = pytest.mark.skipif(
    not BUILT, reason="this hotloop was built without CUDA (no nvcc, or HOTLOOP_CUDA=0)"
)
needs_sources = pytest.mark.skipif(
    not CUDA_SOURCES.is_dir(), reason="an installed package carries no C++ sources"
)


def python(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_hotloop_and_computing_on_the_cpu_loads_no_cuda_module() -> None:
    code = (
        "import sys, torch, hotloop.ops as ops; x = torch.zeros(2, 3);"
        "ops.puff_advantage(x, x, x, x, 0.9, 0.9); print('hotloop._cuda' in sys.modules)"
    )
    assert python(code) == "False"


@needs_module
def test_the_module_loads_without_a_device_and_says_what_is_missing() -> None:
    code = "import hotloop; from hotloop import _cuda; print(_cuda.device_obstacle())"
    said = python(code, CUDA_VISIBLE_DEVICES="")
    assert re.search(r"no NVIDIA driver|CUDA runtime (says|finds)", said), said


@needs_module
def test_the_module_tells_how_it_was_built() -> None:
    from hotloop import _cuda

    build = _cuda.build_info()
    assert build["version"] == hotloop.__version__
    assert re.fullmatch(r"\d+\.\d+", build["cuda"])
    assert re.search(r"\d+\+PTX", build["archs"]), "newer GPUs than those it was compiled for need PTX"


@needs_module
def test_tensors_elsewhere_are_refused() -> None:
    from hotloop import _cuda

    x = torch.zeros(2, 3)
    with pytest.raises(
        TypeError, match=r"row_priorities: advantages must be a tensor on a CUDA device, .*one on cpu"
    ):
        _cuda.row_priorities(x, 1.0, torch.zeros(2))


@needs_module
@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file")
def test_the_module_exports_its_entry_point_alone_and_links_no_cuda_library() -> None:
    from hotloop import _cuda

    listing = subprocess.run(["nm", "-D", _cuda.__file__], capture_output=True, text=True, check=True).stdout
    defined = [line.split() for line in listing.splitlines() if re.search(r" [TDBRVWu] ", line)]
    assert [name for _, _, name in defined] == ["PyInit__cuda"]
    needed = subprocess.run(
        ["readelf", "-d", _cuda.__file__], capture_output=True, text=True, check=True
    ).stdout
    assert not re.search(r"NEEDED.*(cuda|torch)", needed)


# What a tensor on a CUDA device looks like to the native module, told by a table in place of torch's.
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU here would read the CPU's memory")


@no_gpu
@needs_module
def test_a_tensor_on_a_cuda_device_goes_to_the_cuda_module() -> None:
    (message,) = answers(changes=("raw.device = 2",))
    assert re.match(r"RuntimeError: puff_advantage: the launch failed: .*(driver|device)", message)


@no_gpu
def test_a_tensor_on_a_cuda_device_is_refused_where_there_is_no_cuda_module() -> None:
    without = "import sys\nsys.modules['hotloop._cuda'] = None"
    (message,) = answers(without, ("raw.device = 2",))
    assert message == (
        "TypeError: puff_advantage: values must be a tensor on the CPU, got one on cpu"
        " (this hotloop was built without CUDA; see hotloop doctor)"
    )


CLIP = """
parameters = [torch.nn.Parameter(torch.zeros(3)) for _ in range(2)]
for parameter in parameters:
    parameter.grad = torch.full((3,), 4.0)
before = torch.nn.utils.clip_grad_norm_
torch.nn.utils.clip_grad_norm_ = lambda *args, **kwargs: print("torch's own") or before(*args, **kwargs)
change = "raw.device = 2"
try:
    print(float(ops.clip_grad_norm_(parameters, 1.0)))
except RuntimeError as error:
    print(error)
"""


@no_gpu
def test_gradients_on_a_cuda_device_are_clipped_by_torch_where_there_is_no_cuda_module() -> None:
    without = "import sys\nsys.modules['hotloop._cuda'] = None"
    said, norm = answers(without, (), CLIP)
    assert said == "torch's own"
    assert float(norm) == pytest.approx(96**0.5)


@no_gpu
@needs_module
def test_gradients_on_a_cuda_device_go_to_the_cuda_module() -> None:
    (message,) = answers("", (), CLIP)
    assert re.match(r"clip_grad_norm_: the launch failed: .*(driver|device)", message)


@needs_sources
def test_host_and_device_modules_have_the_same_ops() -> None:
    host = {name for name in dir(host_module()) if not name.startswith("_")} - {"set_seed", "counts"}
    assert {"gae", "puff_advantage", "row_priorities"} <= host
    assert host - {"device_obstacle", "build_info", "set_exact", "force_scan_path", "scan_path"} <= set(
        dir(_core)
    )
    if BUILT:
        from hotloop import _cuda

        assert {name for name in dir(_cuda) if not name.startswith("_")} == host


@needs_sources
def test_a_stand_in_takes_the_calls_it_has_ops_for() -> None:
    module: Any = host_module()
    before = module.counts()["launches"]
    x = torch.randn(3, 5)
    _core.set_stand_in(module)
    try:
        ops.row_priorities(x)
    finally:
        _core.set_stand_in(None)
    assert module.counts()["launches"] == before + 1
    ops.row_priorities(x)
    assert module.counts()["launches"] == before + 1


@needs_sources
def test_a_fault_of_a_kernel_ends_the_call_and_not_the_process() -> None:
    module: Any = host_module()
    _core.set_stand_in(module)
    module.force_scan_path("packed")
    try:
        x = torch.zeros(2, 40)
        with pytest.raises(RuntimeError, match="puff_advantage: the launch failed: invalid launch"):
            ops.puff_advantage(x, x, x, x, 0.9, 0.9)
    finally:
        module.force_scan_path(None)
        _core.set_stand_in(None)


@pytest.mark.parametrize("order", ["strict", "fast"])
def test_the_order_of_additions_can_be_chosen_on_every_machine(order: Any) -> None:
    x = torch.randn(3, 5)
    with ops.determinism(order):
        ops.row_priorities(x)


def test_an_unknown_order_is_refused() -> None:
    with (
        pytest.raises(ValueError, match="order must be 'strict' or 'fast', got 'quick'"),
        ops.determinism("quick"),
    ):  # type: ignore[arg-type]
        pass


@needs_module
def test_the_order_is_put_back() -> None:
    from hotloop import _cuda

    with ops.determinism("strict"), ops.determinism("fast"):
        assert _cuda.set_exact(False) is False
    assert _cuda.set_exact(False) is False


@needs_sources
def test_the_sources_are_those_that_are_packed() -> None:
    manifest = (CUDA_SOURCES.parents[1] / "MANIFEST.in").read_text()
    suffixes = {Path(path).suffix for path in CUDA_SOURCES.iterdir()}
    assert all(f"*{suffix}" in manifest for suffix in suffixes)
