"""What the binding does with whatever a DLPack exchange API may say, as told by a stand-in for torch's table.

Some of it torch does not say on a machine without a GPU, or not in this version: a byte offset, no strides,
another device, several lanes. The native module looks the table up once, at its import: hence the processes.
"""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import ctypes
import torch

class Header(ctypes.Structure):
    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("previous", ctypes.c_void_p)]

class Raw(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16), ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    ]

Read = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(Raw))

class Table(ctypes.Structure):
    _fields_ = [
        ("header", Header), ("managed", ctypes.c_void_p * 3), ("read", Read), ("stream", ctypes.c_void_p)
    ]

NAME = b"dlpack_exchange_api"
pointer = ctypes.pythonapi.PyCapsule_GetPointer
pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
capsule = ctypes.pythonapi.PyCapsule_New
capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]

theirs = Table.from_address(pointer(torch.Tensor.__dlpack_c_exchange_api__, NAME))
table = Table.from_buffer_copy(theirs)

change = "pass"

kept = []

def numbers(*values):
    # the address of an array of int64
    kept.append((ctypes.c_int64 * len(values))(*values))
    return ctypes.addressof(kept[-1])

@Read
def read(tensor, raw):
    status = theirs.read(tensor, raw)
    said = {{"raw": raw.contents, "status": status, "numbers": numbers}}
    exec(change, said)
    return said["status"]

table.read = read
{prepare}
torch.Tensor.__dlpack_c_exchange_api__ = capsule(ctypes.addressof(table), NAME, None)
try:
    from hotloop import ops
    from hotloop.ops import reference
except Exception as error:
    print(f"{{type(error).__name__}}: {{error}}")
    raise SystemExit from None

g = torch.Generator().manual_seed(0)
inputs = [torch.rand(9, 7, generator=g) for _ in range(4)]
for change in {changes}:
    try:
        out = ops.puff_advantage(*inputs, 0.99, 0.95)
    except Exception as error:
        print(f"{{type(error).__name__}}: {{error}}")
    else:
        change = "pass"
        print(torch.equal(out, reference.puff_advantage(*inputs, 0.99, 0.95)))
{after}
"""


def answers(prepare: str = "", changes: tuple[str, ...] = ("pass",), after: str = "") -> list[str]:
    """What the program prints with a prepared table, a line for each change of what it says of tensors.

    `after` is code for behind those; there `change` is what is set in it.
    """
    result = subprocess.run(
        [
            sys.executable,
            "-X",
            "faulthandler",
            "-c",
            PROGRAM.format(prepare=prepare, changes=changes, after=after),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.splitlines()


def test_every_way_to_describe_the_same_memory_is_read() -> None:
    changes = (
        "pass",
        "raw.data, raw.byte_offset = raw.data - 64, 64",
        "raw.strides = None  # they are compact",
        "raw.device = 3  # pinned host memory",
        "raw.device_id = 77  # of which the host has one",
    )
    assert answers(changes=changes) == ["True"] * len(changes)


def test_what_the_kernels_cannot_read_is_refused() -> None:
    expected = {
        "raw.device = 10  # ROCm": "TypeError: puff_advantage: values must be a tensor on the CPU",
        "raw.data = None": "TypeError: puff_advantage: values must be a tensor with memory",
        "raw.lanes = 4": "TypeError: puff_advantage: values must be of a real dtype of at most 64 bits",
        "raw.code = 5": "TypeError: puff_advantage: values must be of a real dtype of at most 64 bits",
    }
    for line, message in zip(answers(changes=tuple(expected)), expected.values(), strict=True):
        assert line.startswith(message)


DENSE = (
    "TypeError: puff_advantage: values must be a dense torch.Tensor on the CPU, got torch.strided "
    "torch.float32 on cpu"
)
FITS = "TypeError: puff_advantage: values must be a tensor that its DLPack description fits, got one with"
HOSTILE = {
    "raw.ndim = 0": "ValueError: puff_advantage: values must be [S, T]",
    "raw.ndim = -1": f"{FITS} no dimensions",
    "raw.ndim = -(2**31)": f"{FITS} no dimensions",
    "raw.ndim = 65": "ValueError: puff_advantage: values must be of at most 8 dimensions, got 65 dimensions",
    "raw.ndim = 2**31 - 1": "ValueError: puff_advantage: values must be of at most 8 dimensions",
    "raw.shape = None": f"{FITS} no dimensions",
    # torch knows no negative strides; inputs may have them, an output may not
    "raw.data += 8 * 7 * 4; raw.strides = numbers(-7, 1)": "ValueError: puff_advantage: out must be",
    # nothing to read may have any strides
    "raw.data, raw.shape = None, numbers(0, 7); raw.strides = numbers(2**63 - 1, -(2**63))": "False",
    "raw.shape = numbers(-9, 7)": f"{FITS} a negative size",
    "raw.shape = numbers(0, -(2**63))": f"{FITS} a negative size",
    "raw.shape = numbers(2**62, 2**62)": f"{FITS} sizes or strides beyond memory",
    "raw.shape, raw.strides = numbers(2**32, 2**32), None": f"{FITS} sizes or strides beyond memory",
    "raw.strides = numbers(2**62, 1)": f"{FITS} sizes or strides beyond memory",
    "raw.strides = numbers(1, -(2**63))": f"{FITS} sizes or strides beyond memory",
    "raw.byte_offset = 1": "ValueError: puff_advantage: values must be aligned to its element size",
    "raw.byte_offset = 2**64 - 1": "ValueError: puff_advantage: values must be aligned to its element size",
    "raw.bits = 0": "TypeError: puff_advantage: values must be of a real dtype of at most 64 bits",
    "raw.bits, raw.code = 255, 255": "TypeError: puff_advantage: values must be of a real dtype",
    "raw.lanes = 0": "TypeError: puff_advantage: values must be of a real dtype of at most 64 bits",
    "raw.device = 0": "TypeError: puff_advantage: values must be a tensor on the CPU",
    "raw.device = -1": "TypeError: puff_advantage: values must be a tensor on the CPU",
    "status = -1": f"{DENSE} (no reason given)",
    "status = 12345": "TypeError: puff_advantage: values must be a dense torch.Tensor on the CPU",
}


def test_what_describes_no_tensor_is_refused() -> None:
    for line, message in zip(answers(changes=tuple(HOSTILE)), HOSTILE.values(), strict=True):
        assert line.startswith(message)


def test_a_table_that_cannot_be_used_is_refused_at_import() -> None:
    offers = "ImportError: hotloop reads tensors through DLPack exchange API 1.x, which torch"
    (message,) = answers("table.read = Read(0)")
    assert message.startswith(offers)
    (message,) = answers("table.header = Header(0, 0, None)")
    assert message.startswith(offers)
    (message,) = answers('NAME = b"something_else"')
    assert message == "ImportError: initialization failed"  # its cause says that the capsule has another name


def test_an_older_table_behind_a_newer_one_is_found() -> None:
    prepare = "older = Table.from_buffer_copy(table)\ntable.header = Header(2, 0, ctypes.addressof(older))"
    assert answers(prepare) == ["True"]
    assert answers("table.header.minor = 99") == ["True"]


def test_an_exchange_api_of_another_major_version_is_refused() -> None:
    (message,) = answers("table.header = Header(2, 0, None)")
    assert message.startswith(
        "ImportError: hotloop reads tensors through DLPack exchange API 1.x, which torch"
    )
