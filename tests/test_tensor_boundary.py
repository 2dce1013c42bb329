"""The hazards of reading tensors through raw pointers, each with its guard."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hotloop import _core, ops
from hotloop.ops import reference


def arguments(**change: object) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    base: dict[str, Any] = {
        "values": torch.randn(4, 6, generator=g),
        "rewards": torch.randn(4, 6, generator=g),
        "dones": torch.zeros(4, 6),
        "importance": torch.ones(4, 6),
        "gamma": 0.9,
        "gae_lambda": 0.8,
    }
    return {**base, **change}


def negative_view() -> Tensor:
    """A tensor whose memory holds the negated values: what the imaginary part of a conjugate is."""
    return torch.view_as_complex(torch.randn(4, 6, 2)).conj().imag


# -- what the memory holds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["values", "rewards", "dones", "importance"])
def test_negative_bit_views_are_refused(name: str) -> None:
    view = negative_view()
    assert view.is_neg()
    with pytest.raises(
        ValueError, match=rf"puff_advantage: {name} must be a tensor whose memory.*resolve_neg"
    ):
        ops.puff_advantage(**arguments(**{name: view}))
    resolved = view.resolve_neg()
    assert torch.equal(
        ops.puff_advantage(**arguments(**{name: resolved})),
        reference.puff_advantage(**arguments(**{name: resolved})),
    )


def test_negative_bit_out_is_refused() -> None:
    with pytest.raises(ValueError, match="out must be a tensor whose memory"):
        ops.puff_advantage(**arguments(out=torch._neg_view(torch.zeros(4, 6))))


def test_negative_bit_leaves_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gather: sources\[1\] must be a tensor whose memory"):
        ops.gather([torch.zeros(4, 6), negative_view()], torch.tensor([0]))


def test_conjugate_and_complex_tensors_are_refused() -> None:
    complex_view = torch.randn(4, 6, dtype=torch.complex64).conj()
    with pytest.raises(TypeError, match="values must be of a real dtype"):
        ops.puff_advantage(**arguments(values=complex_view, out=torch.zeros(4, 6)))


# -- tensors without readable memory -------------------------------------------------------------------------


def test_meta_tensors_are_refused() -> None:
    with pytest.raises(TypeError, match=r"puff_advantage: values must be a .*CPU, got .*meta"):
        ops.puff_advantage(**arguments(values=torch.zeros(4, 6, device="meta"), out=torch.zeros(4, 6)))


def test_fake_tensors_take_the_dispatcher_and_never_the_kernel() -> None:
    with FakeTensorMode() as mode:
        fakes: dict[str, Any] = {
            n: mode.from_tensor(t) if isinstance(t, Tensor) else t for n, t in arguments().items()
        }
        result = ops.puff_advantage(**fakes)
    assert type(result).__name__ == "FakeTensor"
    assert result.shape == (4, 6)
    positional: list[Any] = [*fakes.values(), 1.0, 1.0, *[None] * 6, result]
    assert _core.puff_advantage(*positional) is NotImplemented


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_sparse_tensors_are_refused(layout: torch.layout) -> None:
    sparse = torch.eye(4, 6).to_sparse(layout=layout)
    with pytest.raises(TypeError, match=r"rewards must be a dense torch.Tensor on the CPU, got torch.sparse"):
        ops.puff_advantage(**arguments(rewards=sparse))


@pytest.mark.filterwarnings("ignore:.*quantiz.*")
def test_quantised_tensors_are_refused() -> None:
    quantised = torch.quantize_per_tensor(torch.zeros(4, 6), 0.1, 0, torch.quint8)
    with pytest.raises(TypeError, match="puff_advantage: dones must be"):
        ops.puff_advantage(**arguments(dones=quantised))


def test_nested_and_batched_tensors_do_not_reach_the_kernel() -> None:
    nested = torch.nested.nested_tensor([torch.zeros(3), torch.zeros(2)])
    with pytest.raises(TypeError):
        ops.puff_advantage(**arguments(rewards=nested))
    with pytest.raises((TypeError, RuntimeError)):
        torch.vmap(lambda v: ops.row_priorities(v))(torch.zeros(2, 3, 4))


# -- gradients and versions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["values", "rewards", "importance"])
def test_a_gradient_is_never_lost_silently(name: str) -> None:
    wanted = torch.randn(4, 6, requires_grad=True)
    with pytest.raises(ValueError, match=rf"{name} must be a tensor that does not require grad .*detach"):
        ops.puff_advantage(**arguments(**{name: wanted}))
    with torch.no_grad():
        inside = ops.puff_advantage(**arguments(**{name: wanted}))
    assert torch.equal(inside, ops.puff_advantage(**arguments(**{name: wanted.detach()})))
    positional = tuple(arguments(**{name: wanted}).values())
    with pytest.raises(ValueError, match="does not require grad"):
        torch.ops.hotloop.puff_advantage(*positional)


def test_parameters_are_plain_tensors() -> None:
    parameter = nn.Parameter(torch.randn(4, 6))
    with torch.no_grad():
        assert torch.equal(
            ops.puff_advantage(**arguments(values=parameter)),
            ops.puff_advantage(**arguments(values=parameter.detach())),
        )


def writers() -> dict[str, tuple[Tensor, object]]:
    """One call for each op that writes, with the tensor it writes to."""
    x = torch.zeros(4, 6)
    index = torch.tensor([1])
    priorities, pair = torch.zeros(4), (torch.zeros(4, 6), torch.zeros(4, 6))
    gathered, target, buffer = torch.zeros(1, 6), torch.zeros(4, 6), torch.zeros(4, 6, 2)
    drawn = (torch.zeros(2, dtype=torch.int64), torch.zeros(2))
    read, last = torch.zeros(2, 1), ops.LastActions(4, dtype=torch.float32)
    law: dict[str, Any] = {"law": "sequential", "seed": 0, "epoch": 0, "minibatch": 0}
    advantages = torch.zeros(4, 6)
    planned, staged, column = torch.zeros(1, 6), torch.zeros(2), torch.zeros(4, 6)
    plan = ops.StorePlan({"x": column}, ["x"], ops.RowCursors(4, 4, 6))
    end, averages = ops.StepEndPlan(0, 2), torch.zeros(4)
    choice = (torch.zeros(4, dtype=torch.int32), torch.zeros(4), torch.zeros(4), torch.zeros(4, 6))

    def draw() -> object:
        return ops.categorical_sample(x, seed=0, step=0, out=choice[:3], log_probs=choice[3])

    normal = (torch.zeros(4, 6), torch.zeros(4), torch.zeros(4))

    def draw_normal() -> object:
        return ops.gaussian_sample(x, x, seed=0, step=0, out=normal)

    kin: dict[str, Any] = {"last_values": x[:, 0], "gamma": 0.9}
    moments = torch.zeros(5, dtype=torch.float64)
    scan, deltas, targets, sums, q, ratio = (torch.zeros(4, 6) for _ in range(6))
    product, moved = torch.zeros(4, 4), torch.zeros(6, 6)
    estimators: dict[str, tuple[Tensor, object]] = {
        "reverse_scan": (scan, lambda: ops.reverse_scan(x, x, out=scan)),
        "delta_lambda": (deltas, lambda: ops.delta_lambda(x, x, x, 0.9, 0.9, out=deltas)),
        "td_lambda": (targets, lambda: ops.td_lambda(x, x, x, **kin, gae_lambda=0.9, out=targets)),
        "discounted_return": (sums, lambda: ops.discounted_return(x, x, **kin, out=sums)),
        "vtrace[0]": (pair[0], lambda: ops.vtrace(x, x, x, importance=x, **kin, out=pair)),
        "vtrace[1]": (pair[1], lambda: ops.vtrace(x, x, x, importance=x, **kin, out=pair)),
        "retrace": (q, lambda: ops.retrace(x, x, x, x, importance=x, **kin, out=q)),
    }
    tensors = [torch.ones(3) for _ in range(4)]
    clock, weight, length = torch.zeros(()), nn.Parameter(torch.zeros(3)), torch.zeros(())
    weight.grad = torch.ones(3)

    def step() -> object:
        return ops.adam_(*([each] for each in tensors), [clock], lr=0.1)

    def clip() -> object:
        return ops.clip_grad_norm_(weight, 0.1, out=length)

    return {
        "adam_, params": (tensors[0], step),
        "adam_, exp_avgs": (tensors[2], step),
        "adam_, exp_avg_sqs": (tensors[3], step),
        "adam_, steps": (clock, step),
        "clip_grad_norm_": (weight.grad, clip),
        "clip_grad_norm_, out": (length, clip),
        "puff_advantage": (advantages, lambda: ops.puff_advantage(**arguments(out=advantages))),
        "gae[0]": (
            pair[0],
            lambda: ops.gae(x, x, x, last_values=x[:, 0], gamma=0.9, gae_lambda=0.9, out=pair),
        ),
        "gae[1]": (
            pair[1],
            lambda: ops.gae(x, x, x, last_values=x[:, 0], gamma=0.9, gae_lambda=0.9, out=pair),
        ),
        **estimators,
        "importance_ratio": (ratio, lambda: ops.importance_ratio(x, x, out=ratio)),
        "return_moments": (moments, lambda: ops.return_moments(x, x, out=moments)),
        "tanh": (ratio, lambda: ops.tanh(x, out=ratio)),
        "scale_pixels": (ratio, lambda: ops.scale_pixels(x.to(torch.uint8), out=ratio)),
        "pixel_linear_grad": (moved, lambda: ops.pixel_linear_grad(x.to(torch.uint8), x, out=moved)),
        "pixel_linear": (product, lambda: ops.pixel_linear(x.to(torch.uint8), x, out=product)),
        "row_priorities": (priorities, lambda: ops.row_priorities(x, out=priorities)),
        "sample_segments[0]": (drawn[0], lambda: ops.sample_segments(None, 4, 2, **law, out=drawn)),
        "sample_segments[1]": (drawn[1], lambda: ops.sample_segments(None, 4, 2, **law, out=drawn)),
        "gather": (gathered, lambda: ops.gather([x], index, out=[gathered])),
        "scatter_": (target, lambda: ops.scatter_([target], index, [torch.ones(1, 6)])),
        "store_": (buffer, lambda: ops.store_([buffer], [torch.ones(1, 2)], index, index)),
        "GatherPlan": (planned, lambda: ops.GatherPlan({"x": planned}).gather([x], index)),
        "StagePlan": (staged, lambda: ops.StagePlan({"x": staged}).stage([torch.ones(2)])),
        "StorePlan": (column, lambda: plan.store({"x": torch.ones(1), "actions": torch.ones(1)}, 0, 1)),
        "StorePlan, last actions": (
            last.buffer,
            lambda: plan.store({"x": torch.ones(1), "actions": torch.ones(1)}, 0, 1, last),
        ),
        "StepEndPlan, last actions": (last.buffer, lambda: end.finish(last.buffer, torch.ones(2, 1))),
        "StepEndPlan, averages": (
            averages,
            lambda: end.finish(last.buffer, torch.ones(2, 1), averages, torch.ones(2), torch.ones(2), 0.1),
        ),
        "last_actions_read": (read, lambda: last.read(0, 2, out=read)),
        **{f"gaussian_sample[{i}]": (normal[i], draw_normal) for i in range(3)},
        **{f"categorical_sample[{i}]": (choice[i], draw) for i in range(4)},
        "last_actions_write_": (last.buffer, lambda: last.write_(torch.ones(2, 1), 0, 2)),
    }


@pytest.mark.parametrize("name", writers())
@pytest.mark.parametrize("grad_mode", [True, False])
def test_a_write_advances_the_version_counter(name: str, grad_mode: bool) -> None:
    target, call = writers()[name]
    before = target._version
    with torch.set_grad_enabled(grad_mode):
        call()  # type: ignore[operator]
    assert target._version > before


def test_autograd_notices_a_saved_tensor_that_an_op_overwrote() -> None:
    weight = torch.ones(4, 6, requires_grad=True)
    buffer = torch.ones(4, 6)
    loss = (weight * buffer).sum()
    ops.puff_advantage(**arguments(out=buffer))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inference_tensors() -> None:
    with torch.inference_mode():
        x = torch.zeros(4, 6)
        out = torch.zeros(4, 6)
        ops.puff_advantage(**arguments(values=x, out=out))
    # They have no version counter and no graph can hold them, so nothing is lost by writing to them outside.
    assert torch.equal(ops.puff_advantage(**arguments(out=out)), reference.puff_advantage(**arguments()))


# -- addresses -----------------------------------------------------------------------------------------------


def test_byte_offsets_and_strides_are_honoured() -> None:
    pool = torch.randn(500)
    values = pool[13:].as_strided((4, 6), (31, 2))
    assert torch.equal(
        ops.puff_advantage(**arguments(values=values)),
        reference.puff_advantage(**arguments(values=values.clone())),
    )


def test_expanded_inputs_are_read_with_stride_zero() -> None:
    ones = torch.ones(1, 1).expand(4, 6)
    assert torch.equal(ops.puff_advantage(**arguments(importance=ones)), ops.puff_advantage(**arguments()))


def test_unaligned_memory_is_refused() -> None:
    raw = np.zeros(4 * 6 * 4 + 1, dtype=np.uint8)
    unaligned = torch.from_numpy(np.frombuffer(raw.data, dtype=np.uint8)[1:].view(np.float32).reshape(4, 6))
    assert unaligned.data_ptr() % 4 == 1
    with pytest.raises(ValueError, match="values must be aligned to its element size"):
        ops.puff_advantage(**arguments(values=unaligned))


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)], ids=str)
def test_zero_size_dimensions(shape: tuple[int, int]) -> None:
    empty = torch.zeros(shape)
    assert ops.puff_advantage(empty, empty, empty, empty, 0.9, 0.9).shape == shape
    advantages, returns = ops.gae(
        empty, empty, empty, last_values=torch.zeros(shape[0]), gamma=0.9, gae_lambda=0.9
    )
    assert advantages.shape == returns.shape == shape
    assert ops.row_priorities(empty).tolist() == [0.0] * shape[0]
    assert ops.gather([empty], torch.zeros(0, dtype=torch.int64))[0].shape == (0, shape[1])


@pytest.mark.parametrize("name", ["values", "rewards", "dones", "importance"])
def test_out_that_overlaps_an_input_is_refused(name: str) -> None:
    pool = torch.zeros(60)
    for offset in (0, 5, 23):
        overlapping = pool[:24].view(4, 6)
        out = pool[offset : offset + 24].view(4, 6)
        with pytest.raises(
            ValueError, match=f"out must be memory of its own, got a tensor that overlaps {name}"
        ):
            ops.puff_advantage(**arguments(**{name: overlapping}, out=out))
    ops.puff_advantage(**arguments(**{name: pool[:24].view(4, 6)}, out=pool[24:48].view(4, 6)))


def test_out_that_overlaps_itself_is_refused() -> None:
    for overlapping in (torch.zeros(4, 1).expand(4, 6), torch.zeros(60).as_strided((4, 6), (5, 1))):
        with pytest.raises(ValueError, match="out must be a tensor whose elements do not overlap"):
            ops.puff_advantage(**arguments(out=overlapping))


def test_interleaved_views_share_no_byte_and_are_accepted() -> None:
    pair = torch.randn(4, 6, 2)
    expected = reference.puff_advantage(**arguments(values=pair[..., 0].clone()))
    ops.puff_advantage(**arguments(values=pair[..., 0], out=pair[..., 1]))
    assert torch.equal(pair[..., 1], expected)


def test_more_dimensions_than_the_kernels_hold_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sources\[0\] must be of at most 8 dimensions, got 9 dimensions"):
        ops.gather([torch.zeros([2] * 9)], torch.tensor([0]))


@pytest.mark.slow
def test_index_arithmetic_is_64_bit() -> None:
    # 2.2e9 elements of one byte: offsets beyond 2**31; pages that are not touched cost nothing
    rows, width = 2**15 + 2**12, 2**16
    buffer = torch.empty(rows, 1, width, dtype=torch.uint8)
    last = torch.tensor([rows - 1])
    ops.store_(
        [buffer], [torch.full((1, width), 5, dtype=torch.uint8)], last, torch.zeros(1, dtype=torch.int64)
    )
    assert int(buffer[-1].sum()) == 5 * width
    assert torch.equal(ops.gather([buffer], last)[0], buffer[-1:])
    # an element count beyond 2**31 in an estimator's strides
    wide = torch.empty(2**31 + 64).as_strided((2, 3), (2**31, 1))
    wide.copy_(torch.randn(2, 3))
    x = torch.randn(2, 3)
    assert torch.equal(
        ops.puff_advantage(wide, x, x, x, 0.9, 0.9), reference.puff_advantage(wide.clone(), x, x, x, 0.9, 0.9)
    )
    ops.puff_advantage(x, x, x, x, 0.9, 0.9, out=wide)
    assert torch.equal(wide, reference.puff_advantage(x, x, x, x, 0.9, 0.9))


# -- other objects -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["values", "rewards", "dones", "importance", "out"])
def test_numpy_arrays_get_a_hint(name: str) -> None:
    with pytest.raises(
        TypeError, match=rf"puff_advantage: {name} must be a torch.Tensor, got numpy.ndarray .*from_numpy"
    ):
        ops.puff_advantage(**arguments(**{name: np.zeros((4, 6), dtype=np.float32)}))


@pytest.mark.parametrize("bad", [None, 3.0, [[1.0]], "x", object()])
def test_other_objects_are_refused(bad: object) -> None:
    with pytest.raises(TypeError, match=r"puff_advantage: rewards must be a torch\.Tensor, got"):
        ops.puff_advantage(**arguments(rewards=bad))
    with pytest.raises(TypeError, match=r"puff_advantage: values must be a torch\.Tensor, got"):
        ops.puff_advantage(**arguments(values=bad))


def test_native_functions_check_their_number_of_arguments() -> None:
    with pytest.raises(TypeError, match="expected 15 positional arguments, got 1"):
        _core.puff_advantage(torch.zeros(1))  # type: ignore[call-arg]


class Tagged(Tensor):
    """A subclass without a dispatch of its own."""


def test_subclasses_give_the_same_numbers() -> None:
    tagged: dict[str, Any] = {
        n: t.as_subclass(Tagged) if isinstance(t, Tensor) else t for n, t in arguments().items()
    }
    expected = reference.puff_advantage(**arguments())
    assert torch.equal(ops.puff_advantage(**tagged).as_subclass(Tensor), expected)
    assert torch.equal(ops.puff_advantage(**arguments(values=tagged["values"])).as_subclass(Tensor), expected)


# -- the GIL -------------------------------------------------------------------------------------------------


def test_large_work_releases_the_gil() -> None:
    # Strided float64, so that one call takes some 100 ms. Were the GIL held, this thread would stand still
    # for as long as the call; on a busy machine others may keep it waiting, so one good call is enough.
    x = torch.randn(1024, 8192, dtype=torch.float64)[:, ::2]
    out = torch.empty_like(x)
    spans: list[tuple[float, float]] = []

    def work() -> None:
        for _ in range(12):
            start = time.perf_counter()
            ops.puff_advantage(x, x, x, x, 0.9, 0.9, out=out)
            spans.append((start, time.perf_counter()))

    worker = threading.Thread(target=work)
    ticks = [time.perf_counter()]
    worker.start()
    while worker.is_alive():
        ticks.append(time.perf_counter())

    def standstill(start: float, end: float) -> float:
        inside = [start, *(tick for tick in ticks if start < tick < end), end]
        return max(b - a for a, b in itertools.pairwise(inside)) / (end - start)

    assert min(standstill(*span) for span in spans) < 0.3


def test_small_work_keeps_the_gil() -> None:
    assert _core.build_info()["gil_grain_bytes"] == 64 * 1024


def test_ops_may_be_called_from_many_threads() -> None:
    x = arguments(values=torch.randn(300, 40), rewards=torch.randn(300, 40), dones=torch.zeros(300, 40))
    x["importance"] = torch.ones(300, 40)
    expected = reference.puff_advantage(**x)
    results: list[bool] = []

    def work() -> None:
        results.extend(torch.equal(ops.puff_advantage(**x), expected) for _ in range(50))

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 300
    assert all(results)
