"""The native module as it is loaded: one OpenMP runtime, governed by torch, no torch library linked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hotloop import _core

PROGRAM = """
import sys
{imports}
import torch
from hotloop import _core
paths = {{line.split()[-1] for line in open("/proc/self/maps") if "/" in line}}
names = ("libgomp", "libiomp", "libomp")
runtimes = sorted(p for p in paths if any(n in p.rsplit("/", 1)[-1] for n in names))
print(len(runtimes), *runtimes)
torch.set_num_threads(1)
print(_core.openmp_max_threads())
torch.set_num_threads(3)
print(_core.openmp_max_threads())
"""


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")
@pytest.mark.parametrize(
    "imports", ["import torch, hotloop", "import hotloop, torch", "from hotloop import ops"]
)
def test_one_openmp_runtime_that_torch_governs(imports: str) -> None:
    result = run(PROGRAM.format(imports=imports))
    assert result.returncode == 0, result.stderr
    runtimes, one, three = result.stdout.splitlines()
    assert runtimes.split()[0] == "1", runtimes
    shipped = Path(torch.__file__).parent / "lib" / "libgomp.so.1"
    if shipped.exists():  # and not the system's, which would be mapped if the native module came before torch
        assert runtimes.split()[1] == str(shipped)
    assert (one, three) == ("1", "3")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs readelf")
def test_no_torch_library_and_no_private_openmp_is_linked() -> None:
    listing = subprocess.run(
        ["readelf", "-d", _core.__file__], capture_output=True, text=True, check=True
    ).stdout
    needed = [line.split("[")[1].rstrip("]") for line in listing.splitlines() if "(NEEDED)" in line]
    assert needed, listing
    assert not [name for name in needed if "torch" in name or "c10" in name]
    assert [name for name in needed if "gomp" in name] == ["libgomp.so.1"], (
        "a hashed name would be a private copy"
    )
    assert "RPATH" not in listing
    assert "RUNPATH" not in listing


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs readelf")
def test_only_the_module_entry_is_exported() -> None:
    listing = subprocess.run(
        ["readelf", "--dyn-syms", "--wide", _core.__file__], capture_output=True, text=True, check=True
    ).stdout
    defined = [
        parts[7] for parts in (line.split() for line in listing.splitlines())
        if len(parts) >= 8 and parts[4] in ("GLOBAL", "WEAK") and parts[5] == "DEFAULT" and parts[6] != "UND"
    ]  # fmt: skip
    assert defined == ["PyInit__core"]


def test_the_fastest_instruction_set_is_picked() -> None:
    assert _core.isa() == _core.isas_supported()[-1]
    assert _core.isas_supported()[0] == "baseline"


def test_the_instruction_set_can_be_narrowed_by_the_environment() -> None:
    program = "from hotloop import _core; print(_core.isa())"
    assert run(program, HOTLOOP_ISA="baseline").stdout.strip() == "baseline"
    refused = run(program, HOTLOOP_ISA="sse9")
    assert refused.returncode != 0
    assert "HOTLOOP_ISA must be one of baseline" in refused.stderr
    with pytest.raises(ValueError, match=r"set_isa: isa must be one of baseline.*got sse9"):
        _core.set_isa("sse9")


def test_version_is_the_package_version() -> None:
    import hotloop

    assert _core.build_info()["version"] == hotloop.__version__


def test_calls_after_fork() -> None:
    x = torch.randn(2000, 128)
    from hotloop import ops

    expected = ops.puff_advantage(x, x, x, x, 0.9, 0.9)  # starts the OpenMP threads in the parent
    torch.set_num_threads(1)
    pid = os.fork()
    if pid == 0:
        equal = torch.equal(ops.puff_advantage(x, x, x, x, 0.9, 0.9), expected)
        os._exit(0 if equal else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
