"""Recurrent cores over segments `[B, T]` inside which episodes end.

A segment is cut where its state was reset. The pieces of all segments, longest first, run through torch's own
kernel in a few dense batches: the first covers the beginning of all pieces, the next what comes after it in
those that are longer, and so on. Where nothing was reset the segments are one plain batch.

torch's `PackedSequence` says the same in one call, but on the CPU the gradient of every step of it is as
large as the whole sequence: for 256 segments of 64 steps it took six times as long as a Python loop over the
steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# What a further call of the kernel costs, forward and backward, in multiply-adds of a step of one segment.
_CALL_COST = 1 << 20


class Batch(NamedTuple):
    """One dense batch: columns ``[begin, end)`` of the `pieces` longest pieces."""

    begin: int
    end: int
    pieces: int


class Pieces(NamedTuple):
    """How segments of B * T steps fall into P pieces, longest first, and these into batches.

    ``batches``: in the order of time. ``steps``: int64 ``[N]``, the step (row * T + column) at each place of
    the batches, one after the other, piece by piece; N is at least B * T, because a batch may run past the
    end of a piece. ``places``: int64 ``[B * T]``, the place of each step. ``real``: bool ``[N, 1]``, False
    past the end of a piece; None where no batch runs past one. ``rows``: int64 ``[P]``, the segment of each
    piece. ``continued``: bool ``[P, 1]``, whether it goes on from the segment's state instead of a new one.
    ``last``: int64 ``[B]``, the piece that ends each segment.
    """

    batches: list[Batch]
    steps: Tensor
    places: Tensor
    real: Tensor | None
    rows: Tensor
    continued: Tensor
    last: Tensor


def cut_at_resets(resets: Tensor, slack: int) -> Pieces:
    """The pieces into which `resets`, bool ``[B, T]``, cuts segments: each reset begins a new one.

    `slack`: a batch may hold so many places past the ends of pieces before it is cut; 0: none, and the state
    after each batch is then that at the ends of the pieces that end there.
    """
    rows, horizon = resets.shape
    device, total = resets.device, rows * horizon
    begins = resets.clone()
    begins[:, 0] = True
    starts = begins.flatten().nonzero().squeeze(1)  # [P], segment by segment
    ends = torch.cat((starts[1:], starts.new_tensor([total])))
    lengths, order = torch.sort(ends - starts, descending=True, stable=True)
    starts = starts[order]
    batches = _batches(torch.bincount(lengths, minlength=1).tolist(), slack)

    steps, places, columns = [], torch.empty(total, dtype=torch.int64, device=device), 0
    inside = []
    for begin, end, count in batches:
        column = torch.arange(begin, end, device=device)
        step = starts[:count].unsqueeze(1) + column
        real = column < lengths[:count].unsqueeze(1)
        place = torch.arange(columns, columns + step.numel(), device=device)
        places[step[real]] = place[real.flatten()]
        columns += step.numel()
        steps.append(step.flatten().clamp_(max=total - 1))
        inside.append(real.flatten())
    of_row = torch.div(starts, horizon, rounding_mode="floor")
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=device)
    return Pieces(
        batches,
        torch.cat(steps),
        places,
        torch.cat(inside).unsqueeze(1) if columns > total else None,
        of_row,
        ((starts % horizon == 0) & ~resets[of_row, 0]).unsqueeze(1),
        ranks[ends % horizon == 0],
    )


def _batches(histogram: list[int], slack: int) -> list[Batch]:
    """Batches for pieces of which ``histogram[n]`` are n steps long."""
    alive, result = sum(histogram), []
    begin, inside, wasted = 0, alive, 0
    for column in range(1, len(histogram)):
        alive -= histogram[column]  # what is longer than `column`
        wasted += inside - alive
        if alive == 0 or (alive < inside and wasted > slack):
            result.append(Batch(begin, column, inside))
            begin, inside, wasted = column, alive, 0
    return result


class _Take(torch.autograd.Function):
    """`x[order]`, whose gradient is taken likewise by `inverse`, with zeros where `real` is False.

    The gradient of `index_select` adds row after row, since it does not know that none comes twice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor, real: Tensor | None) -> Tensor:
        ctx.save_for_backward(inverse, real)
        return x.index_select(0, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        inverse, real = ctx.saved_tensors
        taken = gradient.index_select(0, inverse)
        return taken if real is None else taken.mul_(real), None, None, None


def _take(x: Tensor, order: Tensor, inverse: Tensor, real: Tensor | None = None) -> Tensor:
    taken: Tensor = _Take.apply(x, order, inverse, real)  # type: ignore[no-untyped-call]
    return taken


def unroll(
    core: nn.RNNBase,
    inputs: Tensor,
    state: tuple[Tensor, ...],
    resets: Tensor | None = None,
    *,
    need_state: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """Run `core` over segments.

    Parameters
    ----------
    core
        An `nn.LSTM` or `nn.GRU` with ``batch_first=True``, one direction and no projection.
    inputs
        ``[B, T, F]``.
    state
        ``(h, c)`` or ``(h,)``, each ``[layers, B, H]``: the state before column 0.
    resets
        bool ``[B, T]``: the steps before which the state goes back to zeros; None: none. Reading whether
        there are any, and where, waits for the device.
    need_state
        Whether to return the state after the last column, too.

    Returns outputs ``[B, T, H]`` and that state, or None.
    """
    if resets is None or not bool(resets.any()):
        outputs, after = core(inputs, _native(state))
        return outputs, _as_tuple(after) if need_state else None
    rows, horizon, width = inputs.shape
    slack = 0 if need_state else _CALL_COST // (core.hidden_size * (core.hidden_size + width))
    pieces = cut_at_resets(resets, slack)
    flat = _take(inputs.reshape(rows * horizon, width), pieces.steps, pieces.places)
    state = tuple(torch.where(pieces.continued, each.index_select(1, pieces.rows), 0.0) for each in state)
    results: list[Tensor] = []
    ended: list[tuple[Tensor, ...]] = []
    batches = pieces.batches
    parts = flat.split([batch.pieces * (batch.end - batch.begin) for batch in batches])
    for i, (batch, part) in enumerate(zip(batches, parts, strict=True)):
        outputs, after = core(part.view(batch.pieces, -1, width), _native(state))
        results.append(outputs.flatten(0, 1))
        going_on = batches[i + 1].pieces if i + 1 < len(batches) else 0
        state = tuple(each[:, :going_on] for each in _as_tuple(after))
        if need_state:
            ended.append(tuple(each[:, going_on:] for each in _as_tuple(after)))
    outputs = _take(torch.cat(results), pieces.places, pieces.steps, pieces.real)
    outputs = outputs.view(rows, horizon, -1)
    if not need_state:
        return outputs, None
    # The shortest pieces end first.
    finals = (torch.cat(each[::-1], dim=1) for each in zip(*ended, strict=True))
    return outputs, tuple(each.index_select(1, pieces.last) for each in finals)


def step(core: nn.RNNBase, inputs: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step of `core`: inputs ``[n, F]`` and state ``[layers, n, H]`` each; outputs ``[n, H]`` and the
    state after it."""
    after: list[tuple[Tensor, ...]] = []
    # Cell by cell: for few agents, arranging a sequence of one step costs the core half as much again.
    for layer, weights in enumerate(core.all_weights):
        before = tuple(each[layer] for each in state)
        if isinstance(core, nn.LSTM):
            after.append(torch.lstm_cell(inputs, before, *weights))
        else:
            after.append((torch.gru_cell(inputs, before[0], *weights),))
        inputs = after[-1][0]
    if len(after) == 1:
        return inputs, tuple(each.unsqueeze(0) for each in after[0])
    return inputs, tuple(torch.stack(layers) for layers in zip(*after, strict=True))


def _native(state: tuple[Tensor, ...]) -> Any:
    """As torch's cores take it: a pair for the LSTM, a tensor for the others."""
    contiguous = tuple(each.contiguous() for each in state)
    return contiguous if len(contiguous) > 1 else contiguous[0]


def _as_tuple(state: Any) -> tuple[Tensor, ...]:
    return tuple(state) if isinstance(state, tuple) else (state,)
