"""Policy heads, the loss and the optimizer's step as CUDA kernels under the host runner.

They give the CPU's bits, in as few launches as there should be, also where one block or table does not do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import test_gaussian
import test_ppo_loss
from cuda_host_support import CUDA_SOURCES, on_backend
from hotloop import ops
from layouts import row_strided
from test_categorical import logits_of, mask_of

pytestmark = pytest.mark.skipif(
    not CUDA_SOURCES.is_dir(), reason="an installed package carries no C++ sources"
)

INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}


def there(run: Callable[[], list[Tensor]]) -> tuple[list[Tensor], int]:
    """What it gives on the host runner, and in how many launches."""
    with on_backend("cuda_host") as device:
        before = device.counts()["launches"]
        return run(), device.counts()["launches"] - before


def assert_same_bits(some: list[Tensor], others: list[Tensor]) -> None:
    for a, b in zip(some, others, strict=True):
        assert a.dtype == b.dtype
        if a.dim():
            bits = INTEGERS[a.element_size()]
            assert torch.equal(a.contiguous().view(bits), b.contiguous().view(bits))
        else:
            assert a.item() == b.item()


# -- categorical ---------------------------------------------------------------------------------------------

# around a launch's heads (64) and a part of a wide head (256, or 512 from 65,537 choices on)
HEADS = [(5,), (33,), (257,), (70_000,), (3, 2, 4), (40, 300, 3), (2,) * 64, (2,) * 65, (1, 3, 40) * 43]


def categorical(logits: Tensor, nvec: tuple[int, ...], masked: bool) -> list[Tensor]:
    key: dict[str, Any] = {"nvec": nvec, "mask": mask_of(logits, nvec) if masked else None}
    real = torch.float64 if logits.dtype is torch.float64 else torch.float32
    full = torch.zeros(logits.shape, dtype=real)
    drawn = ops.categorical_sample(logits, seed=5, step=2**32 + 1, first_row=7, **key, log_probs=full)
    leaf = logits.clone().requires_grad_()
    log_prob, entropy = ops.categorical_evaluate(leaf, drawn[0], **key)
    weights = torch.linspace(-1, 2, len(logits), dtype=real)
    (gradient,) = torch.autograd.grad((weights * log_prob + weights.square() * entropy).sum(), leaf)
    return [*drawn, full, log_prob.detach(), entropy.detach(), gradient]


@pytest.mark.parametrize("nvec", HEADS, ids=lambda nvec: f"{len(nvec)}x{sum(nvec)}")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_categorical_bits_are_those_of_the_cpu(
    nvec: tuple[int, ...], masked: bool, dtype: torch.dtype
) -> None:
    logits = logits_of(5 if sum(nvec) > 1000 else 41, sum(nvec), dtype)
    found, launches = there(lambda: categorical(logits, nvec, masked))
    assert_same_bits(found, categorical(logits, nvec, masked))
    assert launches == 3 * -(-len(nvec) // 64)


def test_an_action_out_of_range_stops_the_kernel() -> None:
    logits = torch.zeros(3, 4)
    for actions in (torch.tensor([0, 3, 4]), torch.tensor([0, -1, 0], dtype=torch.int8)):
        with pytest.raises(RuntimeError, match=r"categorical_kernel.*__trap"):
            there(lambda actions=actions: list(ops.categorical_evaluate(logits, actions)))  # type: ignore[misc]


def test_a_mask_that_allows_nothing_gives_nan_in_its_row() -> None:
    mask = torch.tensor([[True, True], [False, False], [True, False]])
    (_, log_prob, entropy), _ = there(
        lambda: list(ops.categorical_sample(torch.zeros(3, 2), seed=0, step=0, mask=mask))
    )
    assert log_prob.isnan().tolist() == entropy.isnan().tolist() == [False, True, False]


# -- Gaussian ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (63, 4), (129, 17), (1100, 1)], ids=str)
def test_gaussian_bits_are_those_of_the_cpu(
    shape: tuple[int, int], dtype: torch.dtype, squash: bool, shared: bool
) -> None:
    mean, log_std = (x.to(dtype) for x in test_gaussian.inputs(*shape, shared=shared))

    def run() -> list[Tensor]:
        drawn = ops.gaussian_sample(mean, log_std, seed=1, step=2**33, first_row=3, squash=squash)
        leaves = (mean.clone().requires_grad_(), log_std.clone().requires_grad_())
        log_prob, entropy = ops.gaussian_evaluate(*leaves, drawn[0], squash=squash)
        weights = torch.linspace(-1, 2, len(mean), dtype=log_prob.dtype)
        gradients = torch.autograd.grad((weights * log_prob + weights.square() * entropy).sum(), leaves)
        return [*drawn, log_prob.detach(), entropy.detach(), *gradients]

    found, launches = there(run)
    assert_same_bits(found, run())
    assert launches == (4 if shared else 3)


# -- the loss ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("which", "launches"), [("", 2), ("n", 6), ("vw", 4), ("nwvc", 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1,), (1024,), (5000,), (3, 5000)], ids=str)
def test_loss_bits_are_those_of_the_cpu(
    shape: tuple[int, ...], dtype: torch.dtype, which: str, launches: int
) -> None:
    tensors = test_ppo_loss.inputs(shape, dtype)
    extra = test_ppo_loss.options(shape, which)
    tensors["returns"] = tensors["returns"].to(torch.bfloat16)

    def run() -> list[Tensor]:
        loss, statistics, gradients = test_ppo_loss.run(ops.ppo_loss, tensors, extra)
        return [loss, statistics, *gradients]

    found, counted = there(run)
    assert_same_bits(found, run())
    assert counted == launches


def test_a_loss_of_nothing_is_zero() -> None:
    (loss, statistics, *_), launches = there(
        lambda: [*ops.ppo_loss(*[torch.zeros(0)] * 7, valid=torch.ones(0))]
    )
    assert loss.item() == 0.0
    assert statistics.tolist() == [0.0] * 12
    assert launches == 3


# -- the optimizer's step ------------------------------------------------------------------------------------


def tensors_of(count: int, seed: int = 0) -> list[Tensor]:
    """Small ones, and some of several pieces (16,384 elements), around their ends."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(16_384,), (16_385,), (2, 16_384), (90, 300), (), (1,), (0, 4)]
    shapes += [(n % 7 + 1, n % 3 + 1) for n in range(count - len(shapes))]
    made = [torch.randn(shape, generator=generator) for shape in shapes]
    made[3] = row_strided(made[3])
    return made


@pytest.mark.parametrize(("count", "tables"), [(7, 1), (120, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("max_norm", [0.5, 1e9])
def test_clipping_bits_are_those_of_the_cpu(
    count: int, tables: int, dtype: torch.dtype, max_norm: float
) -> None:
    def run() -> list[Tensor]:
        parameters = [nn.Parameter(torch.zeros(x.shape, dtype=dtype)) for x in tensors_of(count)]
        for parameter, values in zip(parameters, tensors_of(count), strict=True):
            parameter.grad = values.to(dtype)
        parameters[3].grad = row_strided(tensors_of(count)[3].to(dtype))  # 90 runs of one row
        norm = ops.clip_grad_norm_(parameters, max_norm)
        return [norm, *(p.grad for p in parameters if p.grad is not None)]

    found, launches = there(run)
    assert_same_bits(found, run())
    assert launches == 1 + 2 * tables


def test_the_norm_of_no_gradient_is_zero() -> None:
    with on_backend("cuda_host") as device:
        out = torch.full((), 7.0)
        device.clip_grad_norm_([], 1.0, False, out)
    assert out.item() == 0.0


def test_clipping_on_a_device_counts_as_a_change_of_every_gradient() -> None:
    # whether they were written to is known there alone
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.ones(3)
    before = parameter.grad._version
    there(lambda: [ops.clip_grad_norm_(parameter, 1e9)])
    assert parameter.grad._version > before
    assert parameter.grad.tolist() == [1.0] * 3


@pytest.mark.parametrize(("count", "wide", "launches"), [(7, False, 4), (60, True, 5), (280, False, 11)])
def test_adam_bits_are_those_of_the_cpu(count: int, wide: bool, launches: int) -> None:
    def run() -> list[Tensor]:
        dtypes = [torch.float64 if wide and i % 3 == 0 else torch.float32 for i in range(count)]
        lists = [
            [x.to(dtype) for x, dtype in zip(tensors_of(count, seed), dtypes, strict=True)]
            for seed in range(4)
        ]
        lists[3] = [x.square() for x in lists[3]]
        for each in lists:
            each[3] = row_strided(each[3])  # 90 runs of one row
        steps = [torch.tensor(float(i % 5), dtype=torch.float64 if i % 2 else None) for i in range(count)]
        ops.adam_(*lists, steps, lr=0.1, weight_decay=0.01 * (count > 7))
        return [x for each in (*lists, steps) for x in each]

    found, counted = there(run)
    assert_same_bits(found, run())
    assert counted == launches
