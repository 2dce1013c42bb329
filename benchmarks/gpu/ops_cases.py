"""The ops that are timed: estimators over shapes for each of their kernels, and what a step and a minibatch
are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from hotloop import ops
from hotloop.bench.estimators import BATCH, ESTIMATORS, Estimator, make_inputs
from hotloop.bench.rollout_keys import KEYS, STEP_BYTES
from hotloop.ops.kernels import runs_on
from hotloop.optim import Adam

from .case import Case, largest_difference, sets_for
from .runtime import Runtime

#: rows and steps: for every kernel that scans some, among them those that other systems publish figures of
SHAPES = (
    (64, 64), (1024, 16), (32768, 8), (131072, 8), (1024, 64), (4096, 32), (4096, 128), (8192, 128),
    (16384, 64), (65536, 64), (8192, 1024), (2048, 1024), (256, 1024), (64, 2048), (512, 4096), (8192, 4096),
    (16, 16384), (132, 32768), (4, 100000), (1, 1000000),
)  # fmt: skip
OTHERS = ((1024, 64), (4096, 128), (8192, 1024))
QUICK = ((64, 16),)
LAWS = ("sequential", "permutation", "successive", "with_replacement", "systematic")

Maker = Callable[[Runtime, bool], Iterator[Case]]


def cases(runtime: Runtime, quick: bool) -> Iterator[Case]:
    """Every case, made when it is asked for: all at once would fill the device. `quick`: tiny ones."""
    for maker in (estimators, per_entry, sampling, rows, heads, update):
        yield from maker(runtime, quick)


def absent(device: torch.device) -> dict[str, str]:
    """Ops that are not timed, and why."""
    wanted = [estimator.op for estimator in ESTIMATORS if estimator.available]
    wanted += ["importance_ratio", "row_priorities", "sample_segments", "gather", "scatter_", "store_"]
    wanted += ["categorical_sample", "categorical_evaluate", "gaussian_sample", "gaussian_evaluate"]
    wanted += ["ppo_loss", "clip_grad_norm_", "adam_"]
    return {op: "has no CUDA kernel" for op in wanted if not runs_on(op, device)}


def estimators(runtime: Runtime, quick: bool) -> Iterator[Case]:
    for estimator in ESTIMATORS:
        if not estimator.available or not runs_on(estimator.op, runtime.device):
            continue
        shapes = SHAPES if estimator.op == "puff_advantage" else OTHERS
        for shape in QUICK if quick else shapes:
            yield _estimator_case(estimator, shape, runtime)


def _estimator_case(estimator: Estimator, shape: tuple[int, int], runtime: Runtime) -> Case:
    moved = estimator.moved(*shape)
    op = getattr(ops, estimator.op)
    host = make_inputs(estimator.reads, *shape, BATCH, 0)
    first = _there(host, runtime)
    inputs = [first] + [_copied(first) for _ in range(sets_for(moved, runtime) - 1)]
    outs = [tuple(torch.zeros(shape, device=runtime.device) for _ in range(estimator.writes)) for _ in inputs]

    def check() -> tuple[float, float]:
        estimator.call(op, inputs[0], outs[0])
        expected = tuple(torch.zeros(shape) for _ in range(estimator.writes))
        estimator.call(op, host, expected)
        difference, scale = largest_difference(outs[0], expected)
        return difference, 2e-6 * max(1.0, scale)

    def call(x: Any, out: tuple[Tensor, ...]) -> Callable[[], object]:
        return lambda: estimator.call(op, x, out)

    calls = [call(x, out) for x, out in zip(inputs, outs, strict=True)]
    return Case(estimator.op, shape, moved, calls, check)


def _there(x: SimpleNamespace, runtime: Runtime) -> SimpleNamespace:
    moved = {
        name: value.to(runtime.device) if isinstance(value, Tensor) else value
        for name, value in vars(x).items()
    }
    return SimpleNamespace(**moved)


def _copied(x: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(
        **{name: value.clone() if isinstance(value, Tensor) else value for name, value in vars(x).items()}
    )


def _plane(runtime: Runtime, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(runtime.device)


def per_entry(runtime: Runtime, quick: bool) -> Iterator[Case]:
    rows, steps = QUICK[0] if quick else (4096, 128)
    moved = 12 * rows * steps
    planes = [
        [_plane(runtime, rows, steps, seed=3 * i + k) for k in range(3)]
        for i in range(sets_for(moved, runtime))
    ]

    def ratio(new: Tensor, old: Tensor, out: Tensor) -> Callable[[], object]:
        return lambda: ops.importance_ratio(new, old, out=out)

    def check() -> tuple[float, float]:
        new, old, out = planes[0]
        ops.importance_ratio(new, old, out=out)
        expected = ops.importance_ratio(new.cpu(), old.cpu())
        difference, scale = largest_difference([out], [expected])
        return difference, 1e-5 * max(1.0, scale)

    if runs_on("importance_ratio", runtime.device):
        yield Case("importance_ratio", (rows, steps), moved, [ratio(*three) for three in planes], check)
    if runs_on("row_priorities", runtime.device):
        out = torch.zeros(rows, device=runtime.device)

        def priorities(plane: Tensor) -> Callable[[], object]:
            return lambda: ops.row_priorities(plane, 0.6, out=out)

        calls = [priorities(three[0]) for three in planes]
        yield Case("row_priorities", (rows, steps), 4 * rows * (steps + 1), calls)


def sampling(runtime: Runtime, quick: bool) -> Iterator[Case]:
    if not runs_on("sample_segments", runtime.device):
        return
    segments, count = (64, 16) if quick else (4096, 1024)
    priorities = _plane(runtime, segments).abs()
    out = (
        torch.zeros(count, dtype=torch.int64, device=runtime.device),
        torch.zeros(count, device=runtime.device),
    )

    def draw(law: str, minibatch: int) -> Callable[[], object]:
        weighted = law not in ("sequential", "permutation")
        return lambda: ops.sample_segments(
            priorities if weighted else None, segments, count,
            law=law, seed=0, epoch=minibatch, minibatch=minibatch % 4, out=out,
        )  # fmt: skip

    for law in LAWS:
        moved = 4 * segments + 12 * count
        yield Case("sample_segments", (segments, count), moved, [draw(law, i) for i in range(8)], note=law)


def rows(runtime: Runtime, quick: bool) -> Iterator[Case]:
    """A rollout step into the buffer, a minibatch out of it, and its new values back."""
    segments, horizon, count = (16, 4, 4) if quick else (1024, 64, 256)
    buffer = [
        torch.zeros((segments, horizon, *shape), dtype=dtype, device=runtime.device)
        for shape, dtype in KEYS.values()
    ]
    step = [
        torch.ones((segments, *shape), dtype=dtype, device=runtime.device) for shape, dtype in KEYS.values()
    ]
    everyone = torch.arange(segments, device=runtime.device)
    if runs_on("store_", runtime.device):
        columns = [torch.full((segments,), t, device=runtime.device) for t in range(horizon)]
        calls = [_store(buffer, step, everyone, column) for column in columns]
        yield Case("store_", (segments, horizon), 2 * segments * STEP_BYTES, calls, _all_ones(buffer, calls))
    chosen = [
        torch.randperm(segments, generator=torch.Generator().manual_seed(i))[:count].to(runtime.device)
        for i in range(8)
    ]
    out = [
        torch.zeros((count, horizon, *shape), dtype=dtype, device=runtime.device)
        for shape, dtype in KEYS.values()
    ]
    if runs_on("gather", runtime.device):
        calls = [_gather(buffer, indices, out) for indices in chosen]
        moved = 2 * count * horizon * STEP_BYTES
        yield Case("gather", (segments, horizon, count), moved, calls, _gathered(buffer, chosen[0], out))
    if runs_on("scatter_", runtime.device):
        values = torch.ones(count, horizon, device=runtime.device)
        targets = [torch.zeros(segments, horizon, device=runtime.device)]
        calls = [_scatter(targets, indices, [values]) for indices in chosen]
        yield Case("scatter_", (segments, horizon, count), 8 * count * horizon, calls)


def _store(buffer: list[Tensor], step: list[Tensor], rows: Tensor, column: Tensor) -> Callable[[], object]:
    return lambda: ops.store_(buffer, step, rows, column)


def _gather(buffer: list[Tensor], indices: Tensor, out: list[Tensor]) -> Callable[[], object]:
    return lambda: ops.gather(buffer, indices, out=out)


def _scatter(targets: list[Tensor], indices: Tensor, sources: list[Tensor]) -> Callable[[], object]:
    return lambda: ops.scatter_(targets, indices, sources)


def _all_ones(
    buffer: list[Tensor], calls: Sequence[Callable[[], object]]
) -> Callable[[], tuple[float, float]]:
    def check() -> tuple[float, float]:
        for call in calls:
            call()
        return largest_difference(buffer, [torch.ones_like(leaf) for leaf in buffer])[0], 0.0

    return check


def _gathered(buffer: list[Tensor], indices: Tensor, out: list[Tensor]) -> Callable[[], tuple[float, float]]:
    def check() -> tuple[float, float]:
        buffer[-1].copy_(torch.arange(buffer[-1].numel()).reshape(buffer[-1].shape))
        ops.gather(buffer, indices, out=out)
        return largest_difference(out, [leaf.index_select(0, indices) for leaf in buffer])[0], 0.0

    return check


def heads(runtime: Runtime, quick: bool) -> Iterator[Case]:
    """Drawing and evaluating actions; in training with its gradient."""
    n = 64 if quick else 16384
    logits = _plane(runtime, n, 16)
    if runs_on("categorical_sample", runtime.device):
        drawn = ops.categorical_sample(logits, seed=0, step=0)
        yield Case(
            "categorical_sample", (n, 16), n * (64 + 12),
            [lambda: ops.categorical_sample(logits, seed=0, step=1, out=drawn)],
        )  # fmt: skip
    if runs_on("categorical_evaluate", runtime.device):
        actions = torch.zeros(n, dtype=torch.int32, device=runtime.device)
        leaf = logits.clone().requires_grad_()
        yield Case(
            "categorical_evaluate", (n, 16), n * (3 * 64 + 4 + 16),
            [lambda: _both_passes(ops.categorical_evaluate(leaf, actions), [leaf])],
            note="forward and backward", graphs=False,
        )  # fmt: skip
    mean = _plane(runtime, n, 6)
    log_std = torch.full_like(mean, -0.3)
    if runs_on("gaussian_sample", runtime.device):
        yield Case(
            "gaussian_sample", (n, 6), n * (72 + 8),
            [lambda: ops.gaussian_sample(mean, log_std, seed=0, step=1)], graphs=False,
        )  # fmt: skip
    if runs_on("gaussian_evaluate", runtime.device):
        leaves = [mean.clone().requires_grad_(), log_std.clone().requires_grad_()]
        yield Case(
            "gaussian_evaluate", (n, 6), n * (5 * 24 + 16),
            [lambda: _both_passes(ops.gaussian_evaluate(leaves[0], leaves[1], mean), leaves)],
            note="forward and backward", graphs=False,
        )  # fmt: skip


def _both_passes(outputs: Sequence[Tensor], leaves: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(list(outputs), leaves, [torch.ones_like(each) for each in outputs])


def update(runtime: Runtime, quick: bool) -> Iterator[Case]:
    """The loss with its gradient, the clipping, and the optimizer's step."""
    shape = QUICK[0] if quick else (256, 64)
    planes = [_plane(runtime, *shape, seed=i) for i in range(7)]
    leaves = [planes[i].requires_grad_() for i in (0, 3, 6)]
    if runs_on("ppo_loss", runtime.device):
        numbers = shape[0] * shape[1]

        def both() -> tuple[Tensor, ...]:
            loss, _ = ops.ppo_loss(*planes, clip_coef=0.2, vf_clip_coef=0.2, ent_coef=0.01)
            return torch.autograd.grad(loss, leaves)

        yield Case(
            "ppo_loss", shape, 4 * numbers * 10, [both], note="forward and backward", graphs=False
        )  # fmt: skip
    sizes = [(64, 4), (64,), (64, 64), (64,), (2, 64), (2,)] * 2
    parameters = [_plane(runtime, *size, seed=i) for i, size in enumerate(sizes)]
    numbers = sum(each.numel() for each in parameters)
    gradients = [torch.full_like(each, 1e-3) for each in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    norm = torch.zeros((), device=runtime.device)
    if runs_on("clip_grad_norm_", runtime.device):
        yield Case(
            "clip_grad_norm_", (len(sizes), numbers), 8 * numbers,
            [lambda: ops.clip_grad_norm_(parameters, 1e-2, out=norm)],
        )  # fmt: skip
    # By whatever step the optimizer has there: ours, or torch's fused one.
    optimizer = Adam(parameters, lr=1e-3, fused=True)
    yield Case("optim.Adam.step", (len(sizes), numbers), 28 * numbers, [optimizer.step], graphs=False)
