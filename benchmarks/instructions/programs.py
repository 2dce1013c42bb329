"""The fixed set of calls whose instructions are counted, and the process in which that happens.

Run by tools/compare_instructions.py under `valgrind --tool=callgrind`; marks.so (built from marks.c) tells
Callgrind where each loop begins and ends. Small shapes: what matters is that a count repeats, and Callgrind
is fifty times slower than the processor.

usage: python programs.py MARKS.SO
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch

from hotloop import ops
from hotloop.bench.estimators import ESTIMATORS, make_inputs
from hotloop.bench.rollout_keys import KEYS, step_leaves
from hotloop.ops.sample_segments import LAWS

Call = Callable[[], object]
CALLS = 20  # and twice as many: the difference is what CALLS calls cost, whatever surrounds the loop


def programs() -> Iterator[tuple[str, Call]]:
    """Every program: a name and a call that does the same work each time."""
    for estimator in ESTIMATORS:
        if not estimator.available:
            continue
        function = getattr(ops, estimator.op)
        for layout in estimator.layouts:
            for rows, steps in ((8, 8), (64, 64)):
                x = make_inputs(estimator.reads, rows, steps, layout, 0)
                shape = vars(x)[estimator.reads[0]].shape
                out = tuple(torch.empty(shape) for _ in range(estimator.writes))
                call = partial(estimator.call, function, x, out)
                yield f"{estimator.op} {rows}x{steps} {layout}", call
    yield from _sampling()
    yield from _movement()


def _sampling() -> Iterator[tuple[str, Call]]:
    segments, count = 1024, 256
    g = torch.Generator().manual_seed(0)
    advantages, priorities = torch.randn(segments, 64, generator=g), torch.rand(segments, generator=g)
    total = torch.empty(segments)
    yield f"row_priorities {segments}x64", lambda: ops.row_priorities(advantages, 1.0, out=total)
    drawn = torch.empty(count, dtype=torch.int64), torch.empty(count)
    for law in LAWS:
        given = None if law in ("sequential", "permutation") else priorities
        draw = partial(
            ops.sample_segments, given, segments, count,
            law=law, seed=0, epoch=0, minibatch=0, beta=0.5, out=drawn,
        )  # fmt: skip
        yield f"sample_segments {law} {count} of {segments}", draw


def _movement() -> Iterator[tuple[str, Call]]:
    agents, horizon = 64, 8
    buffer = {key: torch.zeros(agents, horizon, *shape, dtype=dtype) for key, (shape, dtype) in KEYS.items()}
    step = step_leaves(agents)
    cursors = ops.RowCursors(agents, agents, horizon)
    plan = ops.StorePlan(buffer, KEYS, cursors)
    yield f"StorePlan.store {agents} agents", lambda: plan.store(step, 0, agents)
    sources = list(step.values())
    stage = ops.StagePlan({key: torch.empty_like(leaf) for key, leaf in step.items()})
    yield f"StagePlan.stage {agents} agents", lambda: stage.stage(sources)
    leaves = list(buffer.values())
    indices = torch.randperm(agents, generator=torch.Generator().manual_seed(0))[:16].contiguous()
    out = [torch.empty(len(indices), *leaf.shape[1:], dtype=leaf.dtype) for leaf in leaves]
    yield f"gather {len(indices)} of {agents}x{horizon}", lambda: ops.gather(leaves, indices, out=out)


def main(library: str, held: int = 0) -> int:
    """`held`: so many tensors are made first, and kept, so that others lie elsewhere."""
    kept = [torch.zeros(1) for _ in range(held)]
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    marks = ctypes.CDLL(library)
    made = list(programs())
    gc.disable()
    for name, call in made:
        for _ in range(3):
            call()
        for part, calls in (("once", CALLS), ("twice", 2 * CALLS)):
            label = f"{name}|{part}".encode()
            loop = itertools.repeat(None, calls)
            marks.marks_start()
            marks.marks_zero()
            for _ in loop:
                call()
            marks.marks_dump(label)
            marks.marks_stop()
    del kept
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
