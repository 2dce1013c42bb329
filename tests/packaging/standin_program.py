"""Runs the wheel's native module on a Python for which there need be no torch.

The module `torch` of this process is a stand-in: a tensor is an array that publishes DLPack's exchange API on
its type, which is all that the native module asks of torch. Results are compared with the formulas in plain
Python.
"""

from __future__ import annotations

import array
import ctypes
import importlib.metadata
import math
import pathlib
import random
import sys
import types

CODES = {"f": (2, 32), "d": (2, 64), "q": (0, 64), "B": (1, 8)}  # array's letters: DLPack's code, bits


class Raw(ctypes.Structure):
    """DLTensor."""

    _fields_ = [
        ("data", ctypes.c_void_p), ("device", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16), ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


class Tensor:
    """Numbers of one type in memory of its own, row-major, or column-major where `turned`."""

    requires_grad = False
    dtype, layout, device = "dtype", "layout", "device"  # what error messages ask for

    def __init__(self, kind: str, numbers: list[float], *shape: int, turned: bool = False) -> None:
        assert len(numbers) == math.prod(shape)
        if turned:
            rows, columns = shape
            numbers = [numbers[i * columns + j] for j in range(columns) for i in range(rows)]
        self.kind, self.turned, self.sizes = kind, turned, shape
        self.memory = array.array(kind, numbers)
        strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        strides = [1, shape[0]] if turned else strides
        self.shape = (ctypes.c_int64 * len(shape))(*shape)
        self.strides = (ctypes.c_int64 * len(shape))(*strides)

    def is_neg(self) -> bool:
        return False

    def numbers(self) -> list[float]:
        if not self.turned:
            return self.memory.tolist()
        rows, columns = self.sizes
        return [self.memory[j * rows + i] for i in range(rows) for j in range(columns)]


class Parameter(Tensor):
    pass


@ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(Raw))
def describe(tensor: Tensor, raw: ctypes.Array[Raw]) -> int:
    code, bits = CODES[tensor.kind]
    address, _ = tensor.memory.buffer_info()
    shape, strides = (ctypes.addressof(numbers) for numbers in (tensor.shape, tensor.strides))
    raw[0] = Raw(address, 1, 0, len(tensor.sizes), code, bits, 1, shape, strides, 0)
    return 0


class Table(ctypes.Structure):
    """DLPackExchangeAPI."""

    _fields_ = [
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("previous", ctypes.c_void_p),
        ("managed", ctypes.c_void_p * 3), ("describe", type(describe)), ("stream", ctypes.c_void_p),
    ]  # fmt: skip


TABLE = Table(1, 3, None, (None,) * 3, describe, None)
WRITTEN: list[Tensor] = []


def install_standin() -> None:
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    Tensor.__dlpack_c_exchange_api__ = capsule(ctypes.addressof(TABLE), b"dlpack_exchange_api", None)
    torch, nn, inner = (types.ModuleType(name) for name in ("torch", "torch.nn", "torch._C"))
    nn.Parameter = Parameter
    inner._increment_version = WRITTEN.extend
    torch.Tensor, torch.nn, torch._C, torch.__version__ = Tensor, nn, inner, "0 (a stand-in)"
    torch.is_grad_enabled = lambda: False
    sys.modules.update({"torch": torch, "torch.nn": nn, "torch._C": inner})


def close(found: list[float], expected: list[float]) -> None:
    assert len(found) == len(expected)
    worst = max(abs(a - b) / (1 + abs(b)) for a, b in zip(found, expected, strict=True))
    assert worst < 1e-5, (worst, found[:4], expected[:4])


def check_gae(core: types.ModuleType, kind: str, n: int, t: int, turned: bool) -> None:
    draw = random.Random(n * t)
    rewards, values = ([draw.random() for _ in range(n * t)] for _ in range(2))
    ended = [float(draw.random() < 0.1) for _ in range(n * t)]
    last = [draw.random() for _ in range(n)]
    out = Tensor(kind, [7.0] * (n * t), n, t, turned=turned)
    returns = Tensor(kind, [7.0] * (n * t), n, t)
    core.gae(
        Tensor(kind, rewards, n, t), Tensor(kind, values, n, t, turned=turned),
        Tensor("B", [int(e) for e in ended], n, t), None, Tensor(kind, last, n), None, None,
        0.99, 0.95, False, None, None, out, returns,
    )  # fmt: skip
    expected = [0.0] * (n * t)
    for i in range(n):
        carried, following = 0.0, last[i]
        for j in reversed(range(t)):
            at = i * t + j
            alive = 1.0 - ended[at]
            carried = rewards[at] + 0.99 * alive * following - values[at] + 0.99 * 0.95 * alive * carried
            expected[at], following = carried, values[at]
    close(out.numbers(), expected)
    close(returns.numbers(), [a + v for a, v in zip(expected, values, strict=True)])
    assert any(tensor is out for tensor in WRITTEN), "autograd was not told of the write"


def check_gather(core: types.ModuleType) -> None:
    rows, width = 300, 5
    source = Tensor("f", [float(x) for x in range(rows * width)], rows, width)
    picked = [299, 0, 17, 17, 123]
    out = Tensor("f", [0.0] * (5 * width), 5, width)
    core.gather([source], Tensor("q", picked, 5), [out])
    assert out.numbers() == [float(i * width + j) for i in picked for j in range(width)]


def check_clip(core: types.ModuleType) -> None:
    numbers = [random.Random(1).gauss(0, 1) for _ in range(1001)]
    gradient, norm = Tensor("f", numbers, 7, 143), Tensor("f", [0.0])
    core.clip_grad_norm_([gradient], 0.5, False, norm)
    length = math.sqrt(sum(x * x for x in numbers))
    close(norm.numbers(), [length])
    close(gradient.numbers(), [x * 0.5 / (length + 1e-6) for x in numbers])


def check_refusals(core: types.ModuleType) -> None:
    row = Tensor("f", [0.0] * 4, 4)
    try:
        core.gather([row], Tensor("q", [4], 1), [Tensor("f", [0.0], 1)])
        message = "taken"
    except IndexError as error:
        message = str(error)
    assert "must be in [0, 4)" in message, message


def main() -> None:
    install_standin()
    import hotloop
    from hotloop import _core

    version = importlib.metadata.version("hotloop")
    assert _core.build_info()["version"] == hotloop.__version__ == version
    assert pathlib.Path(_core.__file__).is_relative_to(sys.prefix), _core.__file__
    isas = _core.isas_supported()
    for isa in isas:
        _core.set_isa(isa)
        for kind in "fd":
            for n, t in ((1, 1), (3, 7), (64, 64), (200, 33), (1024, 64)):
                for turned in (False, True):
                    check_gae(_core, kind, n, t, turned)
        check_gather(_core)
        check_clip(_core)
        check_refusals(_core)
    print(version, sys.version.split()[0], *isas)


if __name__ == "__main__":
    main()
