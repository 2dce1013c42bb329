"""Of policy heads, the loss and the optimizer's step what only a GPU can show: see `test_cuda_gpu`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hotloop import ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch.cuda.is_available() is False: no GPU here"
    ),
]

ROWS = 3000


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def categorical(device: str) -> list[Tensor]:
    logits = numbers(ROWS, 46).to(device).requires_grad_()
    drawn = ops.categorical_sample(logits.detach(), seed=1, step=2, nvec=(3, 40, 3))
    log_prob, entropy = ops.categorical_evaluate(logits, drawn[0], nvec=(3, 40, 3))
    return [*drawn, log_prob.detach(), *torch.autograd.grad((log_prob - entropy).sum(), logits)]


def gaussian(device: str) -> list[Tensor]:
    mean, log_std = numbers(ROWS, 5).to(device), numbers(5).to(device)
    drawn = ops.gaussian_sample(mean, log_std, seed=1, step=2, squash=True)
    leaves = (mean.requires_grad_(), log_std.requires_grad_())
    log_prob, entropy = ops.gaussian_evaluate(*leaves, drawn[0], squash=True)
    return [*drawn, log_prob.detach(), *torch.autograd.grad((log_prob - entropy).sum(), leaves)]


def ppo_loss(device: str) -> list[Tensor]:
    tensors = [numbers(ROWS + i).to(device)[:ROWS] for i in range(7)]
    leaves = [tensors[i].requires_grad_() for i in (0, 3, 6)]
    valid = tensors[1] > -1
    loss, statistics = ops.ppo_loss(*tensors, valid=valid, vf_clip_coef=0.2, ent_coef=0.01)
    return [loss.detach(), statistics, *torch.autograd.grad(loss, leaves)]


def clip_grad_norm(device: str) -> list[Tensor]:
    parameters = [nn.Parameter(torch.zeros(n, 7, device=device)) for n in range(1, 8000, 60)]
    for each in parameters:
        each.grad = numbers(*each.shape).to(device)
    norm = ops.clip_grad_norm_(parameters, 0.5)
    return [norm, *(each.grad for each in parameters if each.grad is not None)]


def adam(device: str) -> list[Tensor]:
    lists = [[(numbers(n, 7) + i).to(device) for n in range(1, 8000, 60)] for i in range(4)]
    lists[3] = [each.square() for each in lists[3]]
    steps = [torch.full((), 3.0, device=device) for _ in lists[0]]
    ops.adam_(*lists, steps, lr=0.1, weight_decay=0.01)
    return [each for tensors in (*lists, steps) for each in tensors]


CALLS: list[Callable[[str], list[Tensor]]] = [categorical, gaussian, ppo_loss, clip_grad_norm, adam]
every_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)


@every_call
def test_results_are_those_of_the_cpu(call: Callable[[str], list[Tensor]]) -> None:
    for actual, expected in zip(call("cuda"), call("cpu"), strict=True):
        if call is adam:  # beta^t is the device's
            torch.testing.assert_close(actual.cpu(), expected, rtol=1e-6, atol=1e-7)
        else:
            assert torch.equal(actual.cpu(), expected)


@every_call
def test_results_are_the_same_each_time(call: Callable[[str], list[Tensor]]) -> None:
    for one, other in zip(call("cuda"), call("cuda"), strict=True):
        assert torch.equal(one, other)


def test_no_call_waits_for_the_device_and_all_can_be_captured() -> None:
    logits = torch.zeros(ROWS, 6, device="cuda")
    out = (
        torch.zeros(ROWS, dtype=torch.int32, device="cuda"),
        *torch.zeros(2, ROWS, device="cuda").unbind(),
    )
    weight, gradient, mean, square = torch.ones(4, 40_000, device="cuda").unbind()
    step, norm = torch.zeros(2, device="cuda").unbind()
    parameter = nn.Parameter(weight)
    parameter.grad = gradient

    def minibatch() -> Tensor:
        ops.categorical_sample(logits, seed=1, step=2, out=out)
        log_prob, entropy = ops.categorical_evaluate(logits, out[0])
        values = logits[:, 0]
        loss, _ = ops.ppo_loss(log_prob, out[1], values, values, values, values, entropy)
        ops.clip_grad_norm_(parameter, 0.5, out=norm)
        ops.adam_([weight], [gradient], [mean], [square], [step], lr=0.1)
        return loss

    torch.cuda.set_sync_debug_mode("error")
    try:
        minibatch()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = minibatch()
    logits.copy_(numbers(ROWS, 6))
    before = weight.clone()
    graph.replay()
    expected = ops.categorical_sample(logits, seed=1, step=2)
    assert torch.equal(out[0], expected[0])
    assert loss.isfinite()
    assert step.item() == 2.0
    assert not torch.equal(weight, before)
    assert gradient.norm().item() <= 0.5 + 1e-4
