"""One case of a fuzzer of the native boundary, whoever chooses: Hypothesis, atheris, or random numbers.

A case takes a call that works, puts something else in the place of one to three arguments, and calls the
native function. Whatever that is, the function must return or raise TypeError, ValueError, IndexError or
OverflowError; after an error no byte of any tensor may have changed, and after a success none outside of the
views that it was given. Reads outside are for AddressSanitizer to find (`tools/fuzz.sh`).

usage: python tests/boundary_fuzz.py [--runs 100000] [--seed 0]
"""

from __future__ import annotations

import argparse
import collections
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from hotloop import _core, ops

Choose = Callable[[int], int]  # an integer in [0, n)
ALLOWED = (TypeError, ValueError, IndexError, OverflowError)

DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.int8,
    torch.int16, torch.int32, torch.int64, torch.complex64, torch.uint16, torch.float8_e5m2,
)  # fmt: skip
SIZES = (0, 1, 2, 3, 4, 5, 7, 9, 17)
STRIDES = (0, 1, 2, 3, 5, 7, 8, 35)
WILD = 2**62
POOL_BYTES = 1 << 12
INTS = (0, 1, -1, 2, 3, 5, 7, 8, 2**31 - 1, 2**31, -(2**31), 2**63 - 1, -(2**63), 2**64, 2**70)
FLOATS = (0.0, 0.5, 1.0, -1.0, 1e-300, 1e308, float("nan"), float("inf"), -float("inf"))
OTHERS: tuple[Any, ...] = (
    None,
    True,
    "x",
    b"x",
    [],
    (),
    {},
    object(),
    np.zeros((5, 7), np.float32),
    [1, 2],
    [None],
)


class Call(NamedTuple):
    """A native function and arguments that it takes."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]


class Tagged(Tensor):
    pass


def corpus() -> list[Call]:
    """Every native op, as `test_torch_ops` calls it, and what is called by objects."""
    from test_torch_ops import calls

    found: list[Call] = []

    def record(name: str, native: Callable[..., Any], *args: Any) -> None:
        found.append(Call(name, native, args))
        native(*args)

    with mock.patch("hotloop.ops._register._call_native", record), torch.no_grad():
        for name, args, kwargs in calls():
            op, overload = name.split(".")
            getattr(getattr(torch.ops.hotloop, op), overload)(*args, **kwargs)
    x, index, zeros = torch.randn(5, 7), torch.tensor([3, 1]), torch.zeros(5, dtype=torch.int64)
    stored = (torch.zeros(9, 7, 3), torch.randn(5, 3), torch.zeros(5, 1), torch.ones(5), 0, 5)
    found += [
        Call("RowCursors", cursors, (zeros, zeros.clone(), 9, 7)),
        Call("RowCursors.advance", advance, (0, 5, 5, 0)),
        Call("GatherPlan", gather_plan, (torch.empty(2, 7), x, index)),
        Call("StagePlan", stage_plan, (torch.empty(5), x[:, 0])),
        Call("StorePlan", store_plan, stored),
        Call(
            "StepEndPlan",
            step_end_plan,
            (torch.zeros(9, 2), torch.ones(5, 2), torch.zeros(9), x[:, 0], x[:, 1], 0.1),
        ),
    ]
    return found


def cursors(rows: Any, positions: Any, segments: Any, horizon: Any) -> None:
    _core.RowCursors(rows, positions, segments, horizon)


def advance(start: Any, stop: Any, free: Any, full: Any) -> None:
    native = ops.RowCursors(5, 9, 7).native
    native.set_counters(free, full)
    native.position(start)
    native.advance(start, stop)


def gather_plan(buffer: Any, source: Any, index: Any) -> None:
    ops.GatherPlan({"x": buffer}).gather([source], index)


def stage_plan(buffer: Any, source: Any) -> None:
    ops.StagePlan({"x": buffer}).stage([source])


def step_end_plan(last: Any, actions: Any, averages: Any, rewards: Any, baseline: Any, beta: Any) -> None:
    ops.StepEndPlan(3, 8).finish(last, actions, averages, rewards, baseline, beta)


def store_plan(buffer: Any, source: Any, last: Any, actions: Any, start: Any, stop: Any) -> None:
    remembered = ops.LastActions(5, dtype=torch.float32)
    if isinstance(last, Tensor) and last.dim() == 2:  # an attribute that is not there to be set
        remembered.buffer = last
    plan = ops.StorePlan({"x": buffer}, ["x"], ops.RowCursors(5, 9, 7))
    plan.store({"x": source, "actions": actions}, start, stop, remembered)


def copied(value: Any) -> Any:
    """Arguments for one case: tensors of their own."""
    if isinstance(value, Tensor):
        return value.detach().clone(memory_format=torch.preserve_format)
    return type(value)(copied(item) for item in value) if type(value) in (list, tuple) else value


def places(args: Any, where: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Where something can be put: arguments, and entries of lists."""
    found: list[tuple[int, ...]] = []
    for i, value in enumerate(args):
        found.append((*where, i))
        if isinstance(value, (list, tuple)):
            found += places(value, (*where, i))
    return found


def at(args: Any, place: tuple[int, ...]) -> Any:
    for i in place:
        args = args[i]
    return args


def put(args: Any, place: tuple[int, ...], value: Any) -> Any:
    first, *rest = place
    entry = value if not rest else put(args[first], tuple(rest), value)
    return [*args[:first], entry, *args[first + 1 :]]


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for item in value for t in tensors(item)] if isinstance(value, (list, tuple)) else []


def view_of_pool(choose: Choose, pool: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A view with strides and an offset of chance, as far as the pool reaches; it may overlap itself."""
    numbers = pool.view(dtype)
    strides = [STRIDES[choose(len(STRIDES))] for _ in shape]
    if choose(3) == 0:  # those of a compact tensor
        strides = [int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape))]
    span = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    if 0 in shape:
        span = 0
    if span > len(numbers):
        return numbers[: choose(len(numbers) + 1)]
    return numbers.as_strided(shape, strides, choose(len(numbers) - span + 1))


def hostile(choose: Choose, now: Any, pool: Tensor, others: list[Tensor]) -> Any:
    """Something to put in the place of `now`."""
    kind = choose(16)
    is_tensor = isinstance(now, Tensor)
    if is_tensor and now.dtype == torch.int64 and choose(3) == 0:
        kind = 8  # what indices hold matters more than what they are
    shape = tuple(now.shape) if is_tensor else tuple(SIZES[choose(len(SIZES))] for _ in range(choose(4)))
    dtype = now.dtype if is_tensor else torch.float32
    if kind == 0:
        return OTHERS[choose(len(OTHERS))]
    if kind == 1:
        return INTS[choose(len(INTS))]
    if kind == 2:
        return FLOATS[choose(len(FLOATS))]
    if kind == 3:  # what else the call has, or a part of it
        other = others[choose(len(others))] if others else now
        part = choose(5)
        sliceable = isinstance(other, Tensor) and other.layout == torch.strided and other.dim()
        return other[:part] if sliceable and part < 4 else other
    if kind == 4:
        return torch.empty(shape, dtype=dtype, device="meta")
    if kind == 5:  # nothing in it, but strides that overflow when they are multiplied
        empty = choose(max(1, len(shape)))
        sizes = tuple(0 if i == empty else size for i, size in enumerate(shape or (0,)))
        return torch.empty(0, dtype=dtype).as_strided(sizes, [WILD] * len(sizes))
    if kind == 6:
        odd, which = torch.zeros(shape, dtype=torch.complex64), choose(3)
        return (
            odd.conj().imag
            if which == 0
            else torch._neg_view(torch.zeros(shape))
            if which == 1
            else odd.to_sparse()
        )
    if kind == 7:
        real, which = torch.zeros(shape), choose(4)
        if which == 0:
            return torch.zeros(5, 7).to_mkldnn()
        return (
            real.requires_grad_()
            if which == 1
            else nn.Parameter(real)
            if which == 2
            else real.as_subclass(Tagged)
        )
    if kind == 8 and is_tensor and now.dtype == torch.int64:  # numbers that index nothing
        return torch.tensor([INTS[choose(13)] for _ in range(now.numel())]).reshape(now.shape)
    if kind == 9:
        dtype = DTYPES[choose(len(DTYPES))]
    if kind == 10:
        shape = tuple(SIZES[choose(len(SIZES))] for _ in range(choose(6)))
    if kind == 11:
        shape = (*shape, *[1 + choose(2)] * choose(10))
    if kind == 12 and shape:
        shape = (*shape[:-1], SIZES[choose(len(SIZES))])
    if kind == 13:
        raw = np.zeros(POOL_BYTES + 8, dtype=np.uint8)[1 + choose(7) :][:POOL_BYTES]
        pool = torch.from_numpy(raw)  # at any address
    if dtype == torch.bool:  # whose bytes are 0 or 1
        return view_of_pool(choose, pool.to(torch.bool), shape, dtype)
    return view_of_pool(choose, pool, shape, dtype)


def inside(view: Tensor, storage: Tensor) -> Tensor:
    """Which bytes of a storage (uint8) a view may write: bool, of its size."""
    touched = torch.zeros(len(storage), dtype=torch.bool)
    if view.numel():
        size = view.element_size()
        start = torch.arange(1)
        for length, stride in zip(view.shape, view.stride(), strict=True):
            start = (start[:, None] + torch.arange(length) * stride).flatten()
        first = (view.storage_offset() + start) * size
        for byte in range(size):
            touched[first + byte] = True
    return touched


def memory(view: Tensor) -> Tensor | None:
    """The whole storage behind a tensor, as bytes; None where there is none in reach."""
    if view.is_meta or view.layout != torch.strided or view.is_quantized:
        return None
    storage = view.detach().untyped_storage()
    return torch.empty(0, dtype=torch.uint8).set_(storage)  # type: ignore[call-overload]


def run_case(calls: list[Call], choose: Choose) -> str:
    """Make one call, and check; what came of it: ``"returned"`` or the kind of error."""
    call = calls[choose(len(calls))]
    args: Any = list(copied(call.args))
    draw = random.Random(choose(256))
    pool = torch.tensor([draw.randrange(256) for _ in range(64)] * (POOL_BYTES // 64), dtype=torch.uint8)
    for _ in range(1 + choose(3)):
        where = places(args)
        place = where[choose(len(where))]
        args = put(args, place, hostile(choose, at(args, place), pool, tensors(args)))
    views = [(t, memory(t)) for t in tensors(args)]
    before = [None if bytes_ is None else bytes_.clone() for _, bytes_ in views]
    described = f"{call.name}({', '.join(map(describe, args))})"
    try:
        call.function(*args)
    except ALLOWED as error:
        for (view, now), then in zip(views, before, strict=True):
            if now is not None and not torch.equal(now, then):
                raise AssertionError(f"{described} wrote to {describe(view)} and raised {error!r}") from error
        return type(error).__name__
    except (MemoryError, RuntimeError) as error:
        # torch's own, from a face: of what it cannot do with a sparse, a meta or a read-only tensor
        if not isinstance(error, NotImplementedError) and "hotloop" in str(error):
            raise AssertionError(f"{described} raised {error!r}") from error
        return type(error).__name__
    written: dict[int, Tensor] = {}
    for view, now in views:
        if now is not None and len(now):
            touched = inside(view, now)
            written[now.data_ptr()] = written.get(now.data_ptr(), torch.zeros_like(touched)) | touched
    for (view, now), then in zip(views, before, strict=True):
        if now is not None and len(now):
            changed = now != then
            if bool((changed & ~written[now.data_ptr()]).any()):
                raise AssertionError(f"{described} wrote outside of {describe(view)}")
    return "returned"


def describe(value: Any) -> str:
    if isinstance(value, Tensor):
        strides = value.stride() if value.layout == torch.strided else value.layout
        return f"{type(value).__name__}({value.dtype}, {tuple(value.shape)}, {strides})"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(describe, value))}]"
    return repr(value)[:40]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    calls, outcomes = corpus(), collections.Counter[str]()
    start = time.monotonic()
    for number in range(options.runs):
        draw = random.Random(options.seed * 1_000_003 + number)  # a case can be repeated by itself
        try:
            outcomes[run_case(calls, draw.randrange)] += 1
        except BaseException:
            print(f"case {number} of seed {options.seed}", flush=True)
            raise
    print(f"{options.runs} cases in {time.monotonic() - start:.0f} s: {dict(outcomes)}")


if __name__ == "__main__":
    main()
