"""An optimizer step that is recorded once and replayed learns what ordinary steps do, and is recorded anew
where an address or a number has changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from device_support import GraphCalls
from hotloop.loop_captured_step import CapturedStep, clear_in_place
from test_loop_device import Capturable

CPU = torch.device("cpu")
LIMIT = 0.05


class Trained:
    """A network and its optimizer, stepped in one way or the other."""

    def __init__(self, captured: bool, **options: Any) -> None:
        torch.manual_seed(0)
        self.network = nn.Linear(3, 2)
        self.optimizer = Capturable(self.network.parameters(), lr=0.1, **options)
        self.calls = GraphCalls()
        self.step = CapturedStep(self.optimizer, CPU, self.calls) if captured else None
        self.limit = LIMIT

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.network.parameters())

    def work(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, self.limit, foreach=False)
        self.optimizer.step()

    def train(self, number: int) -> None:
        clear_in_place(self.optimizer)
        x = torch.sin(torch.arange(12.0).reshape(4, 3) + number)
        self.network(x).square().mean().backward()
        if self.step is None:
            self.work()
        else:
            self.step(self.parameters, self.work, self.limit)


def pair() -> tuple[Trained, Trained]:
    return Trained(True), Trained(False)


def assert_alike(one: Trained, other: Trained) -> None:
    for mine, its in zip(one.parameters, other.parameters, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-7)


def captures(trained: Trained) -> int:
    return trained.calls.log.count(("capture",))


def test_steps_are_those_of_an_ordinary_optimizer() -> None:
    captured, ordinary = pair()
    for number in range(6):
        for trained in (captured, ordinary):
            trained.train(number)
        assert_alike(captured, ordinary)
    assert captured.calls.log == [("side stream",), ("capture",)]
    assert captured.step is not None
    assert captured.step.captures == 1
    assert len(captured.optimizer.rates) == 2  # Python ran it for the first step and to record it


def test_a_learning_rate_may_change_without_a_new_recording() -> None:
    captured, ordinary = pair()
    for number in range(6):
        for trained in (captured, ordinary):
            trained.optimizer.param_groups[0]["lr"] = 0.1 / (1 + number)
            trained.train(number)
        assert_alike(captured, ordinary)
    assert captures(captured) == 1
    assert captured.optimizer.param_groups[0]["lr"] == 0.1 / 6
    assert isinstance(captured.optimizer.rates[1], Tensor)  # as it was recorded


def test_a_learning_rate_that_is_a_tensor_stays_the_users() -> None:
    captured, ordinary = pair()
    rate = torch.tensor(0.1)
    captured.optimizer.param_groups[0]["lr"] = rate
    for number in range(6):
        rate.fill_(0.1 / (1 + number))
        ordinary.optimizer.param_groups[0]["lr"] = 0.1 / (1 + number)
        for trained in (captured, ordinary):
            trained.train(number)
        assert_alike(captured, ordinary)
    assert captures(captured) == 1
    assert captured.optimizer.param_groups[0]["lr"] is rate


def new_gradient(trained: Trained) -> None:
    trained.network.bias.grad = torch.zeros(2)


def new_state(trained: Trained) -> None:
    state = copy.deepcopy(trained.optimizer.state_dict())
    for each in state["state"].values():
        each["momentum"].zero_()
    trained.optimizer.load_state_dict(state)


def new_limit(trained: Trained) -> None:
    trained.limit = 2 * LIMIT


def new_number(trained: Trained) -> None:
    trained.optimizer.param_groups[0]["momentum"] = 0.5


@pytest.mark.parametrize("change", [new_gradient, new_state, new_limit, new_number])
def test_what_a_recording_holds_makes_a_new_one_when_it_changes(change: Any) -> None:
    captured, ordinary = pair()
    for number in range(6):
        for trained in (captured, ordinary):
            if number == 3:
                change(trained)
            trained.train(number)
        assert_alike(captured, ordinary)
    assert captures(captured) == 2


@pytest.mark.parametrize("change", [new_gradient, new_state, new_limit, new_number])
def test_the_change_would_go_wrong_without_a_new_recording(
    change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CapturedStep, "_present", lambda *_: 0)
    captured, ordinary = pair()
    for number in range(6):
        for trained in (captured, ordinary):
            if number == 3:
                change(trained)
            trained.train(number)
    with pytest.raises(AssertionError):
        assert_alike(captured, ordinary)


def test_the_change_of_a_rate_would_go_wrong_without_its_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CapturedStep, "_set_rates", lambda self: self.__dict__.setdefault("_rates", []))
    captured, ordinary = pair()
    assert captured.step is not None
    captured.step._rates = [(0.1, torch.tensor(0.1))]
    for number in range(4):
        for trained in (captured, ordinary):
            trained.optimizer.param_groups[0]["lr"] = 0.1 / (1 + number)
            trained.train(number)
    with pytest.raises(AssertionError):
        assert_alike(captured, ordinary)


def test_optimizers_that_cannot_be_recorded_are_refused() -> None:
    parameters = list(nn.Linear(3, 2).parameters())
    for optimizer in (torch.optim.SGD(parameters, 0.1), torch.optim.Adam(parameters, 0.1)):
        with pytest.raises(ValueError, match=f"capturable=True .* got {type(optimizer).__name__} without"):
            CapturedStep(optimizer, CPU, GraphCalls())
    mixed = torch.optim.Adam([{"params": parameters[:1], "capturable": True}, {"params": parameters[1:]}])
    with pytest.raises(ValueError, match="capturable=True"):
        CapturedStep(mixed, CPU, GraphCalls())
    CapturedStep(torch.optim.Adam(parameters, 0.1, capturable=True), CPU, GraphCalls())


def test_hooks_are_refused_even_late() -> None:
    captured = Trained(True)
    captured.train(0)
    captured.optimizer.register_step_post_hook(lambda *_: None)
    with pytest.raises(ValueError, match="cannot be with hooks of the optimizer's step"):
        captured.train(1)


def test_a_failing_recording_leaves_the_rate_a_number() -> None:
    captured = Trained(True)
    captured.train(0)
    captured.optimizer.step = lambda: (_ for _ in ()).throw(RuntimeError("no"))  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError, match="no"):
        captured.train(1)
    assert captured.optimizer.param_groups[0]["lr"] == 0.1


def test_gradients_are_cleared_where_they_lie() -> None:
    network = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    clear_in_place(optimizer)
    network(torch.ones(1, 3)).sum().backward()
    assert network.weight.grad is not None
    address = network.weight.grad.data_ptr()
    network.bias.grad = None
    clear_in_place(optimizer)
    assert network.weight.grad.data_ptr() == address
    assert not network.weight.grad.any()
    assert network.bias.grad is None
