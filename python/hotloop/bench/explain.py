"""`hotloop bench --explain`: the path that an estimator takes on a shape, and the time of a perfect one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hotloop import _core
from hotloop.bench.case import floor, sets_for
from hotloop.bench.estimators import ESTIMATORS, TIME, Estimator
from hotloop.bench.table import megabytes, microseconds
from hotloop.bench.timing import interleaved

# Of csrc/cpu/scan_engine.h and scan_tile.h; tests/test_bench_command.py compares them.
TILE_ROWS, TILE_STEPS, LANES = 16, 128, 256


def path(layout: str, shape: tuple[int, int], moved: int, threads: int, grain: int) -> dict[str, Any]:
    """What the recurrence engine does with contiguous inputs `[rows, steps]` (or `[steps, rows]`).

    One column, or one row, is contiguous both ways: neighbouring rows count as lanes only where
    neighbouring steps are apart.
    """
    rows, steps = shape
    lanes = layout == TIME and rows > 1
    width = LANES if lanes else TILE_ROWS
    blocks = -(-rows // width)
    parallel = threads > 1 and blocks > 1 and moved >= grain
    return {
        "path": "time-major lanes" if lanes else "batch-major tiles",
        "block_rows": width,
        "blocks": blocks,
        "tiles_per_row": 1 if lanes else -(-steps // TILE_STEPS),
        "threads_used": min(threads, blocks) if parallel else 1,
        "serial_because": None if parallel else _why_serial(threads, blocks, moved, grain),
    }


def _why_serial(threads: int, blocks: int, moved: int, grain: int) -> str:
    if threads == 1:
        return "one thread was asked for"
    if blocks == 1:
        return "there is one block"
    return f"{megabytes(moved)} are below the grain of {megabytes(grain)}"


def facts(shape: tuple[int, int], threads: int, seconds: float) -> list[dict[str, Any]]:
    """What `--explain` prints, for every estimator and layout; the copy of its bytes is measured here."""
    return [
        _explain(estimator, layout, shape, threads, seconds)
        for estimator in ESTIMATORS
        if estimator.available
        for layout in estimator.layouts
    ]


def _explain(
    estimator: Estimator, layout: str, shape: tuple[int, int], threads: int, seconds: float
) -> dict[str, Any]:
    moved = estimator.moved(*shape)
    sets = sets_for(shape, moved, True)
    race = interleaved({"copy": floor(moved, sets).calls}, seconds=min(seconds, 0.3))
    copy = race.timings["copy"].median
    grain = int(_core.build_info()["serial_grain_bytes"])
    weighed = 4 * estimator.grain_arrays * shape[0] * shape[1]
    return {
        "op": estimator.op,
        "layout": layout,
        "shape": list(shape),
        "threads": threads,
        "instruction_set": _core.isa(),
        "grain_bytes": grain,
        "moved_bytes": moved,
        "reads": list(estimator.reads),
        "writes": estimator.writes,
        "input_sets": sets,
        "copy_microseconds": copy,
        "bytes_per_second": moved / (copy * 1e-6),
        "other_load": race.other_load,
        **path(layout, shape, weighed, threads, grain),
    }


def lines(fact: Mapping[str, Any]) -> list[str]:
    """One estimator's facts as text."""
    rows, steps = fact["shape"]
    if fact["path"] == "time-major lanes":
        how = f"rows are vector lanes, blocks of {fact['block_rows']} rows walk all {steps} steps"
    else:
        how = (
            f"blocks of {fact['block_rows']} rows, each in {fact['tiles_per_row']} "
            f"tile{'s' if fact['tiles_per_row'] > 1 else ''} of up to {TILE_STEPS} steps that stay in L1"
        )
    used, reason = fact["threads_used"], fact["serial_because"]
    where = "the cache" if fact["input_sets"] == 1 else "memory"
    load = fact["other_load"]
    return [
        f"{fact['op']} {rows}x{steps} {fact['layout']}",
        f"  path      {fact['path']}, {fact['instruction_set']}: {how}",
        f"  threads   {used} of {fact['threads']}"
        + (f": {reason}" if reason else f", {fact['blocks']} blocks shared out")
        + f" (serial below {megabytes(fact['grain_bytes'])})",
        f"  bytes     {megabytes(fact['moved_bytes'])}: reads {', '.join(fact['reads'])}; writes "
        f"{fact['writes']} result{'s' if fact['writes'] > 1 else ''}",
        f"  at best   {microseconds(fact['copy_microseconds'])}: a copy of as many bytes moves "
        f"{fact['bytes_per_second'] / 1e9:.1f} GB/s here, read and written in {where}"
        + ("" if load is None else f" (other load {100 * load:.0f} %)"),
    ]
