"""``hotloop doctor``: what this installation can do, and why not.

It must run where things are broken, so nothing here assumes that an import works. ``report()`` gathers facts
into a plain dict, ``main()`` prints them.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_REQUIRED = ("torch", "tensordict", "numpy", "pydantic")
_TRAIN = ("gymnasium", "matplotlib", "pyyaml", "rich", "tensorboard", "tyro")
# Wheels rename the runtimes they carry: libgomp-a34b3233.so.1.
_OPENMP = re.compile(r"/lib(?:gomp|iomp5|omp)(?:-[0-9a-f]+)?\.so[^/]*$")
_TOLERANCE = 2e-6

# From the driver's cuda.h: the answers of cuInit that a user can do something about.
_CUDA_ERRORS = {
    3: "the driver is not initialised",
    35: "the driver is too old",
    46: "all devices are busy or unavailable",
    100: "the driver finds no device",
    101: "the device is invalid",
    222: "the driver cannot run this kind of code",
    802: "the system is not yet initialised",
    803: "driver and kernel module have different versions",
    804: "the device cannot run in forward-compatibility mode",
    999: "unknown error of the driver",
}


def report() -> dict[str, Any]:
    """Everything that ``hotloop doctor`` knows, as plain values.

    Keys: ``versions``, ``torch``, ``core``, ``threads``, ``openmp`` (runtimes mapped; None where that cannot
    be told), ``cuda``, ``train``, ``check``, ``warnings`` and ``problems`` (lists of sentences), ``ok`` (no
    problems: training on the CPU can work).
    """
    versions = _versions()
    torch_facts = _torch()
    core = _core()
    facts: dict[str, Any] = {
        "versions": versions,
        "torch": torch_facts,
        "core": core,
        "threads": _threads(core),
        "check": _check(),
        # After the check, so that a runtime which only the native loops pull in is seen.
        "openmp": openmp_runtimes(),
        "cuda": _cuda(),
        "train": {name: _version(name) for name in _TRAIN},
    }
    facts["problems"] = _problems(facts)
    facts["warnings"] = _warnings(facts)
    facts["ok"] = not facts["problems"]
    return facts


def main() -> int:
    """Prints the report; returns 0 when training on the CPU can work, else 1."""
    facts = report()
    print("\n".join(_lines(facts)))
    return 0 if facts["ok"] else 1


def openmp_runtimes(maps: str | None = None) -> list[str] | None:
    """Files of the OpenMP runtimes in this process, in path order.

    Args:
        maps: text in the format of Linux's /proc/self/maps; that file when None.

    Returns:
        Paths, or None where the system does not tell.
    """
    if maps is None:
        try:
            maps = Path("/proc/self/maps").read_text()
        except OSError:
            return None
    paths = {fields[5] for line in maps.splitlines() if len(fields := line.split(maxsplit=5)) == 6}
    # A deleted file (replaced while running) is the same runtime as before.
    return sorted(path for path in paths if _OPENMP.search(path.removesuffix(" (deleted)")))


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _imported_version(module: str) -> str | None:
    try:
        return str(importlib.import_module(module).__version__)
    except Exception:
        return None


def _versions() -> dict[str, str | None]:
    return {
        "hotloop": _imported_version("hotloop"),
        "python": platform.python_version(),
        **{name: _imported_version(name) for name in _REQUIRED},
    }


def _torch() -> dict[str, Any]:
    try:
        torch: Any = importlib.import_module("torch")
    except Exception as error:
        return {"found": False, "error": _say(error)}
    return {
        "found": True,
        "version": str(torch.__version__),
        "path": str(Path(torch.__file__).parent),
        "dlpack_exchange_api": hasattr(torch.Tensor, "__dlpack_c_exchange_api__"),
    }


def _core() -> dict[str, Any]:
    try:
        core: Any = importlib.import_module("hotloop._core")
    except Exception as error:
        return {"loaded": False, "error": _say(error)}
    return {
        "loaded": True,
        "path": str(core.__file__),
        "isa": core.isa(),
        "isas_supported": list(core.isas_supported()),
        "build": dict(core.build_info()),
        "openmp_max_threads": core.openmp_max_threads(),
        "memory_obstacle": core.keep_freed_memory(),  # of this process, which ends soon
    }


def _threads(core: Mapping[str, Any]) -> dict[str, Any]:
    try:
        torch_threads = importlib.import_module("torch").get_num_threads()
    except Exception:
        torch_threads = None
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "torch": torch_threads,
        "hotloop": core.get("openmp_max_threads"),
        "processors": usable,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }


def _check() -> dict[str, Any]:
    """Runs one native op and its reference on the same numbers."""
    try:
        torch: Any = importlib.import_module("torch")
        ops: Any = importlib.import_module("hotloop.ops")
        reference: Any = importlib.import_module("hotloop.ops.reference")
        generator = torch.Generator().manual_seed(0)
        shape = (5, 19)  # odd, so that vector loops and their remainders both run
        values, rewards = (torch.randn(shape, generator=generator) for _ in range(2))
        dones = (torch.rand(shape, generator=generator) < 0.1).float()
        importance = torch.rand(shape, generator=generator) * 2
        arguments = (values, rewards, dones, importance, 0.99, 0.95)
        got, expected = ops.puff_advantage(*arguments), reference.puff_advantage(*arguments)
        difference = float((got - expected).abs().max())
    except Exception as error:
        return {"passed": False, "detail": f"puff_advantage failed: {_say(error)}"}
    # Written so that NaN fails.
    passed = difference <= _TOLERANCE
    return {
        "passed": passed,
        "detail": f"puff_advantage differs from its reference by at most {difference:.1e}",
    }


def _cuda() -> dict[str, Any]:
    """Whether CUDA tensors work here; ``obstacles`` lists every reason why not, outermost first."""
    obstacles = []
    build: dict[str, str] = {}
    own_obstacle: str | None = None
    built = _has_module("hotloop._cuda")
    if not built:
        obstacles.append("this hotloop was built without CUDA (it has no module hotloop._cuda)")
    else:
        try:
            native: Any = importlib.import_module("hotloop._cuda")
            build, own_obstacle = native.build_info(), native.device_obstacle()
        except Exception as error:
            obstacles.append(f"hotloop._cuda does not load: {_say(error)}")
    torch_cuda: str | None = None
    devices: list[str] = []
    try:
        torch: Any = importlib.import_module("torch")
        torch_cuda = torch.version.cuda
        if torch_cuda is None:
            kind = "a ROCm build" if getattr(torch.version, "hip", None) else "a CPU build"
            obstacles.append(f"torch {torch.__version__} is {kind}: torch.version.cuda is None")
        elif torch.cuda.is_available():
            devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        driver = _driver_obstacle()
        if driver is not None:
            obstacles.append(driver)
        elif torch_cuda is not None and not devices:
            obstacles.append("torch.cuda.is_available() is False although the driver answers")
        if driver is None and own_obstacle is not None:
            obstacles.append(f"hotloop._cuda finds no device: {own_obstacle}")
    except Exception as error:
        obstacles.append(f"torch does not load: {_say(error)}")
    return {
        "built": built,
        "build": build,
        "usable": not obstacles,
        "torch_cuda": torch_cuda,
        "devices": devices,
        "obstacles": obstacles,
    }


def _driver_obstacle() -> str | None:
    """What keeps the NVIDIA driver from running on a device, or None."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        return f"there is no NVIDIA driver here: {error}"
    code = int(driver.cuInit(0))
    if code != 0:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        hint = f" (CUDA_VISIBLE_DEVICES={hidden!r})" if hidden is not None else ""
        meaning = _CUDA_ERRORS.get(code, "see cuInit in its manual")
        return f"the NVIDIA driver answers error {code}: {meaning}{hint}"
    return None


def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except Exception:
        return False


def _problems(facts: Mapping[str, Any]) -> list[str]:
    problems = []
    torch, core = facts["torch"], facts["core"]
    if not torch["found"]:
        problems.append(f"torch cannot be imported: {torch['error']}")
    elif not torch["dlpack_exchange_api"]:
        problems.append(f"torch {torch['version']} has no DLPack exchange API: install torch 2.10 or newer")
    problems += [
        f"{name} cannot be imported: pip install {name}"
        for name in _REQUIRED
        if facts["versions"][name] is None and name != "torch"
    ]
    if not core["loaded"]:
        problems.append(f"the native module hotloop._core does not load: {core['error']}")
    if not facts["check"]["passed"]:
        problems.append(facts["check"]["detail"])
    return problems


def _warnings(facts: Mapping[str, Any]) -> list[str]:
    warnings = []
    runtimes = facts["openmp"] or []
    if len(runtimes) > 1:
        warnings.append(
            f"{len(runtimes)} OpenMP runtimes are in one process ({', '.join(runtimes)}): each starts its own"
            " threads, and torch.set_num_threads governs only one; import torch before hotloop, and install"
            " hotloop and torch from the same channel"
        )
    threads = facts["threads"]
    if None not in (threads["torch"], threads["hotloop"]) and threads["torch"] != threads["hotloop"]:
        warnings.append(
            f"torch uses {threads['torch']} threads but hotloop would use {threads['hotloop']}:"
            " they do not share an OpenMP runtime"
        )
    if facts["core"].get("build", {}).get("openmp") is False:
        warnings.append("hotloop was built without OpenMP: its loops run on one thread")
    missing = [name for name, version in facts["train"].items() if version is None]
    if missing:
        warnings.append(f"hotloop train needs {', '.join(missing)}: pip install 'hotloop[train]'")
    return warnings


def _lines(facts: Mapping[str, Any]) -> list[str]:
    def row(name: str, value: Any) -> str:
        return f"  {name:<22}{value}"

    def found(version: str | None) -> str:
        return version or "not found"

    lines = ["versions"]
    lines += [row(name, found(version)) for name, version in facts["versions"].items()]

    torch = facts["torch"]
    if torch["found"]:
        api = "yes" if torch["dlpack_exchange_api"] else "no"
        lines += ["torch", row("found in", torch["path"]), row("DLPack exchange API", api)]

    core = facts["core"]
    lines.append("native module")
    if core["loaded"]:
        build = core["build"]
        lines += [
            row("loaded from", core["path"]),
            row("built", f"version {build.get('version')}, {build.get('compiler')}"),
            row("OpenMP", "yes" if build.get("openmp") else "no"),
            row(
                "instruction set",
                f"{core['isa']} (this processor can run {', '.join(core['isas_supported'])})",
            ),
            row(
                "freed memory",
                f"cannot be kept: {core['memory_obstacle']}"
                if core["memory_obstacle"]
                else "can be kept (hotloop.keep_freed_memory)",
            ),
        ]
    else:
        lines.append(row("not loaded", core["error"]))
    lines.append(
        row("self test", f"{'passed' if facts['check']['passed'] else 'FAILED'}: {facts['check']['detail']}")
    )

    threads, runtimes = facts["threads"], facts["openmp"]
    setting = threads["OMP_NUM_THREADS"]
    lines += [
        "threads",
        row("torch", threads["torch"]),
        row("hotloop", threads["hotloop"]),
        row("processors", threads["processors"]),
        row("OMP_NUM_THREADS", "not set" if setting is None else setting),
        row("OpenMP runtimes", "unknown" if runtimes is None else (", ".join(runtimes) or "none")),
    ]

    cuda = facts["cuda"]
    lines += [
        "CUDA",
        row("built", _cuda_build(cuda)),
        row("usable", f"yes, on {', '.join(cuda['devices'])}" if cuda["usable"] else "no"),
        *(row("because" if i == 0 else "", obstacle) for i, obstacle in enumerate(cuda["obstacles"])),
    ]

    lines.append("hotloop train")
    lines += [row(name, found(version)) for name, version in facts["train"].items()]

    lines += ["", *(f"warning: {text}" for text in facts["warnings"])]
    lines += [f"problem: {text}" for text in facts["problems"]]
    lines.append(
        "Training on the CPU can work."
        if facts["ok"]
        else "Training on the CPU cannot work: see the problems above."
    )
    return lines


def _cuda_build(cuda: Mapping[str, Any]) -> str:
    if not cuda["built"]:
        return "no"
    build = cuda["build"]
    return f"yes, with CUDA {build.get('cuda')} for {build.get('archs')}" if build else "yes"


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
