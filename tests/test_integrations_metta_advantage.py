"""`compute_advantage` with either order of its arguments, and `compute_delta_lambda`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import metta_double
from hotloop import ops
from hotloop.integrations.metta import advantage, head, oct
from hotloop.integrations.metta.advantage import compute_advantage, compute_delta_lambda

CPU = torch.device("cpu")


def columns(rows: int = 5, horizon: int = 7) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    values, rewards, ratio = torch.randn(3, rows, horizon, generator=generator)
    dones = (torch.rand(rows, horizon, generator=generator) < 0.2).float()
    return [values, rewards, dones, ratio.exp(), torch.full((rows, horizon), 9.0)]


@pytest.mark.parametrize("name", ["oct", "head"])
def test_it_fills_what_metta_fills(name: str) -> None:
    clips: tuple[Any, ...] = (0.9, 1.1, CPU) if name == "oct" else (CPU, 0.9, 1.1)
    ours, theirs = columns(), columns()
    with metta_double.loaded(name) as host:
        expected = host.advantage.compute_advantage(*theirs, 0.97, 0.9, *clips)
    found = compute_advantage(*ours, 0.97, 0.9, *clips)
    assert found is ours[4]
    assert torch.equal(found, expected)
    assert (found[:, -1] == 9.0).all()


@pytest.mark.parametrize(
    ("rest", "named"),
    [
        ((0.9, 1.1, CPU), {}),
        ((CPU, 0.9, 1.1), {}),
        (("cpu", 0.9, 1.1), {}),
        ((CPU,), {"vtrace_rho_clip": 0.9, "vtrace_c_clip": 1.1}),
        ((CPU, 0.9), {"vtrace_c_clip": 1.1}),
        ((0.9, 1.1), {"device": CPU}),
        ((), {"device": CPU, "vtrace_c_clip": 1.1, "vtrace_rho_clip": 0.9}),
    ],
)
def test_both_orders_mean_the_same(rest: tuple[Any, ...], named: dict[str, Any]) -> None:
    expected = ops.puff_advantage(*columns()[:4], 0.97, 0.9, 0.9, 1.1)
    found = compute_advantage(*columns(), 0.97, 0.9, *rest, **named)
    assert torch.equal(found[:, :-1], expected[:, :-1])


def test_limits_are_1_unless_given() -> None:
    expected = ops.puff_advantage(*columns()[:4], 0.97, 0.9, 1.0, 1.0)
    assert torch.equal(compute_advantage(*columns(), 0.97, 0.9, CPU)[:, :-1], expected[:, :-1])


@pytest.mark.parametrize(
    ("rest", "named", "message"),
    [
        ((1.0, 1.0), {}, "device must be a torch.device, got None"),
        ((1.0, 1.0, 1.0), {}, "device must be a torch.device, got 1.0"),
        ((CPU, 1.0, 1.0, 1.0), {}, "behind gae_lambda come .* got 4 arguments"),
        ((CPU,), {"device": CPU}, r"got 1 arguments and \['device'\] by name"),
        ((CPU,), {"rho": 1.0}, r"got 1 arguments and \['rho'\] by name"),
    ],
)
def test_other_arguments_are_refused(rest: tuple[Any, ...], named: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        compute_advantage(*columns(), 0.97, 0.9, *rest, **named)


def test_columns_may_lie_anyhow() -> None:
    """Metta's kernel reads them as if they were contiguous."""
    expected = compute_advantage(*columns(), 0.97, 0.9, CPU)
    strided = [column.t().contiguous().t() for column in columns()]
    found = compute_advantage(*strided, 0.97, 0.9, CPU)
    assert found is strided[4]
    assert torch.equal(found, expected)


def test_graphs_end_in_it() -> None:
    with_graph = columns()
    with_graph[0].requires_grad_()
    with_graph[3] = with_graph[3].requires_grad_() * 1.0
    found = compute_advantage(*with_graph, 0.97, 0.9, CPU)
    assert not found.requires_grad
    assert torch.equal(found, compute_advantage(*columns(), 0.97, 0.9, CPU))


def test_elsewhere_the_hosts_own_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def host(*args: Any, **named: Any) -> Tensor:
        given.append((args[5:], named))
        return torch.zeros(())

    monkeypatch.setitem(advantage.hosts_own, "compute_advantage", host)
    compute_advantage(*columns(), 0.97, 0.9, torch.device("meta"), vtrace_c_clip=0.5)
    assert given == [((0.97, 0.9, torch.device("meta")), {"vtrace_c_clip": 0.5})]


def test_elsewhere_torch_computes_without_a_host() -> None:
    """In host memory, where the result can be looked at."""
    ours = columns()
    found = advantage._elsewhere(tuple(ours), 0.97, 0.9, 1.0, 1.0, CPU, ((), {}))
    torch.testing.assert_close(found, compute_advantage(*columns(), 0.97, 0.9, CPU))
    assert found.data_ptr() == ours[4].data_ptr()


@pytest.mark.parametrize("gamma", [1.0, 0.97])
def test_delta_lambda_and_its_gradients(gamma: float) -> None:
    values, rewards, dones = columns()[:3]
    weights = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    found = []
    with metta_double.loaded("head") as host:
        for function in (compute_delta_lambda, host.advantage.compute_delta_lambda):
            v, r = values.clone().requires_grad_(), rewards.clone().requires_grad_()
            result = function(values=v, rewards=r, dones=dones, gamma=gamma, gae_lambda=0.9)
            (result * weights).sum().backward()
            found.append((result.detach(), v.grad, r.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        if gamma == 1.0:  # gamma * lambda is rounded once there, its factors first here
            assert torch.equal(ours, theirs)


def test_delta_lambda_compiles() -> None:
    values, rewards, dones = columns()[:3]
    values.requires_grad_()

    @torch.compile(backend="aot_eager", fullgraph=True)
    def loss(v: Tensor) -> Tensor:
        found = compute_delta_lambda(values=v, rewards=rewards, dones=dones, gamma=0.9, gae_lambda=0.8)
        return (found**2).sum()

    (grad,) = torch.autograd.grad(loss(values), values)
    expected = compute_delta_lambda(values=values, rewards=rewards, dones=dones, gamma=0.9, gae_lambda=0.8)
    torch.testing.assert_close(grad, torch.autograd.grad((expected**2).sum(), values)[0])


def test_the_layouts_share_them() -> None:
    assert oct.compute_advantage is head.compute_advantage is compute_advantage
    assert head.compute_delta_lambda is compute_delta_lambda
