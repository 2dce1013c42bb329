"""`hotloop.optim` beside `torch.optim`."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from hotloop import ops, optim

PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "Adam": (optim.Adam, torch.optim.Adam),
    "AdamW": (optim.AdamW, torch.optim.AdamW),
}


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Linear(4, 16), nn.Tanh(), nn.Conv1d(1, 3, 5), nn.Flatten(), nn.Linear(36, 2))
    return nn.Sequential(layers[0], layers[1], nn.Unflatten(1, (1, 16)), *layers[2:]).to(dtype)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1, first: int = 0, **kwargs: Any
) -> None:
    dtype = next(model.parameters()).dtype
    for step in range(first, first + steps):
        x = torch.randn(32, 4, generator=torch.Generator().manual_seed(step)).to(dtype)
        optimizer.zero_grad()
        (model(x) - x[:, :2].sin()).square().mean().backward()
        optimizer.step(**kwargs)


def values(model: nn.Module) -> list[Tensor]:
    return [each.detach().clone() for each in model.parameters()]


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the lists of all native calls."""
    calls: list[int] = []
    adam = ops.adam_

    def counted(params: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(len(params))
        adam(params, *args, **kwargs)

    monkeypatch.setattr(ops, "adam_", counted)
    return calls


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-5},
        {"lr": torch.tensor(0.01), "maximize": True},
    ],
    ids=["defaults", "settings", "tensor"],
)
def test_follows_torch(name: str, dtype: torch.dtype, settings: dict[str, Any], native: list[int]) -> None:
    (ours, theirs), models = PAIRS[name], [network(dtype), network(dtype)]
    train(models[0], ours(models[0].parameters(), **settings), steps=60)
    assert native == [6] * 60
    train(models[1], theirs(models[1].parameters(), fused=True, **settings), steps=60)
    step = 2e-5 if dtype is torch.float32 else 1e-12
    torch.testing.assert_close(values(models[0]), values(models[1]), rtol=step, atol=step)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("fused", [None, True])
def test_each_loads_what_the_other_saved(name: str, fused: bool | None) -> None:
    ours, theirs = PAIRS[name]
    for first, second in ((ours, theirs), (theirs, ours), (ours, ours)):
        straight, resumed = network(), network()
        one = second(straight.parameters(), lr=0.01, fused=fused)
        train(straight, one, steps=8)
        saving = first(resumed.parameters(), lr=0.01, fused=fused)
        train(resumed, saving, steps=4)
        file = io.BytesIO()
        torch.save(saving.state_dict(), file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        loading = second(resumed.parameters(), lr=0.5, fused=fused)
        train(resumed, loading, steps=0)
        loading.load_state_dict(saved)
        assert loading.param_groups[0]["lr"] == 0.01
        train(resumed, loading, steps=4, first=4)
        torch.testing.assert_close(values(straight), values(resumed), rtol=1e-5, atol=1e-6)
        layout = {
            key: {entry: (value.dtype, value.shape) for entry, value in state.items()}
            for key, state in loading.state_dict()["state"].items()
        }
        assert layout == {
            key: {entry: (value.dtype, value.shape) for entry, value in state.items()}
            for key, state in one.state_dict()["state"].items()
        }
        assert loading.state_dict()["state"][0]["step"] == 8


def test_loading_continues_to_the_last_bit_and_in_the_same_optimizer() -> None:
    model = network()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    train(model, optimizer, steps=3)
    saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    train(model, optimizer, steps=3, first=3)
    expected = values(model)
    model.load_state_dict(weights)
    optimizer.load_state_dict(saved)
    train(model, optimizer, steps=3, first=3)
    assert all(map(torch.equal, values(model), expected))
    copied, twin = copy.deepcopy((model, optimizer))
    train(model, optimizer, steps=2, first=6)
    train(copied, twin, steps=2, first=6)
    assert all(map(torch.equal, values(model), values(copied)))


def test_groups_schedules_and_parameters_without_gradient(native: list[int]) -> None:
    models = [network(), network()]
    for model, kind in zip(models, (optim.Adam, torch.optim.Adam), strict=True):
        optimizer = kind(model[0].parameters(), lr=0.01)
        optimizer.add_param_group({"params": model[3].parameters(), "lr": 0.05, "weight_decay": 0.1})
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        for step in range(10):
            if step == 6:
                optimizer.add_param_group({"params": model[5].parameters()})
            model[3].bias.requires_grad_(step % 3 != 1)  # type: ignore[operator]
            train(model, optimizer, first=step)
            schedule.step()
        assert optimizer.param_groups[1]["lr"] == pytest.approx(0.05 * 0.9**10)
    assert native[:6] == [2, 2, 2, 1, 2, 2]
    assert len(native) == 10 * 2 + 4
    torch.testing.assert_close(values(models[0]), values(models[1]), rtol=1e-5, atol=1e-6)


def test_what_the_user_replaces_is_used() -> None:
    model = network()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    train(model, optimizer, steps=3)
    weight, bias = model[0].weight, model[0].bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    fresh = {name: torch.zeros_like(value) for name, value in optimizer.state[weight].items()}
    optimizer.state[weight] = dict(fresh)
    old = optimizer.state[bias]["exp_avg"]
    optimizer.state[bias]["exp_avg"] = torch.zeros(16)
    kept = old.clone()
    train(model, optimizer, first=3)
    assert optimizer.state[weight]["step"] == 1
    assert optimizer.state[weight]["exp_avg"].abs().sum() > 0
    assert torch.equal(old, kept)
    assert optimizer.state[bias]["exp_avg"].abs().sum() > 0
    optimizer.state.clear()
    train(model, optimizer, first=4)
    assert all(state["step"] == 1 for state in optimizer.state.values())
    other = nn.Parameter(torch.zeros(3))
    optimizer.param_groups[0]["params"][0] = other
    other.grad = torch.ones(3)
    before = weight.detach().clone()
    optimizer.step()
    assert torch.equal(weight, before)
    assert (other < 0).all()


def test_closures_and_hooks_run_once() -> None:
    seen: list[str] = []
    model = network()
    optimizer = optim.AdamW(model.parameters())
    torch.optim.AdamW(network().parameters())  # puts torch's wrapper round its own class

    def closure() -> float:
        assert torch.is_grad_enabled()
        seen.append("closure")
        optimizer.zero_grad()
        loss = model(torch.ones(3, 4)).square().mean()
        loss.backward()
        return float(loss.detach())

    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    before = values(model)
    with torch.no_grad():
        assert optimizer.step(closure) > 0
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled() is True
    assert seen == ["before", "closure", "after"]
    assert not any(map(torch.equal, values(model), before))
    handle = register_optimizer_step_post_hook(lambda *_: seen.append("global"))
    train(model, optim.Adam(model.parameters()))
    handle.remove()
    assert seen[3:] == ["global"]


class OfOnesOwn(optim.Adam):
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        return super().step(closure)


def test_hooks_of_a_subclass_with_its_own_step_run_once() -> None:
    seen: list[str] = []
    model = network()
    optimizer = OfOnesOwn(model.parameters())
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    train(model, optimizer)
    assert seen == ["before"]


def test_the_profiler_sees_the_step() -> None:
    model = network()
    optimizer = optim.Adam(model.parameters())
    with torch.profiler.profile() as profile:
        train(model, optimizer)
    assert any(event.key == "Optimizer.step#Adam.step" for event in profile.key_averages())


@pytest.mark.parametrize(
    "options",
    [
        {"foreach": True},
        {"fused": False},
        {"amsgrad": True},
        {"fused": True, "amsgrad": True},
    ],
    ids=str,
)
def test_other_implementations_are_torchs(options: dict[str, Any], native: list[int]) -> None:
    models = [network(), network()]
    train(models[0], optim.Adam(models[0].parameters(), **options), steps=3)
    train(models[1], torch.optim.Adam(models[1].parameters(), **options), steps=3)
    assert native == []
    assert all(map(torch.equal, values(models[0]), values(models[1])))


def test_a_differentiable_step_is_torchs() -> None:
    model = network()
    with pytest.raises(RuntimeError, match="leaf Variable"):  # as torch says of any leaf
        train(model, optim.Adam(model.parameters(), differentiable=True))
    assert torch.is_grad_enabled()


def test_only_plain_groups_are_native(native: list[int]) -> None:
    models = [network(), network()]
    for model, kind in zip(models, (optim.Adam, torch.optim.Adam), strict=True):
        half = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
        optimizer = kind([{"params": [half]}, {"params": list(model.parameters())}], lr=0.01)
        half.grad = torch.ones_like(half)
        groups = optimizer.param_groups
        for step in range(2):
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            for each in model.parameters():
                each.grad = None
            model(x).square().mean().backward()
            optimizer.step()
        assert optimizer.param_groups is groups
        assert optimizer.state[half]["step"] == 2
        assert (half < 1).all()
    assert native == [6, 6]
    torch.testing.assert_close(values(models[0]), values(models[1]), rtol=1e-5, atol=1e-6)


def test_a_step_of_a_grad_scaler_is_torchs(native: list[int]) -> None:
    model = network()
    optimizer = optim.Adam(model.parameters(), fused=True)
    train(model, optimizer)
    before = values(model)
    scaler = torch.amp.GradScaler("cpu")
    optimizer.zero_grad()
    scaler.scale(model(torch.full((3, 4), float("inf"))).square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(map(torch.equal, values(model), before)), "a step with infinite gradients is left out"
    train(model, optimizer)
    assert native == [6, 6]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="learning rate"):
        optim.Adam(network().parameters(), lr=-1.0)
    with pytest.raises(RuntimeError, match="fused"):
        optim.Adam(network().parameters(), fused=True, foreach=True)
    weight = nn.Parameter(torch.zeros(3, 2))
    weight.grad = torch.eye(3, 2).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optim.Adam([weight]).step()
    weight.grad = torch.ones(3, 2)
    optimizer = optim.Adam([weight])
    optimizer.step()
    optimizer.state[weight]["exp_avg"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"adam_: exp_avgs\[0\] must be float32 \[3, 2\]"):
        optimizer.step()
    assert torch.is_grad_enabled()


def test_an_empty_step_changes_nothing() -> None:
    model = network()
    optimizer = optim.Adam(model.parameters())
    before = values(model)
    optimizer.step()
    assert all(map(torch.equal, values(model), before))
    assert len(optimizer.state) == 0


def test_versions_advance_and_a_graph_notices() -> None:
    model = network()
    optimizer = optim.Adam(model.parameters())
    train(model, optimizer)
    loss = model(torch.ones(2, 4)).square().sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_large_group_is_torchs_fused_step_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the native step must not take this group")

    monkeypatch.setattr(ops, "adam_", forbidden)
    monkeypatch.setattr("hotloop.optim._LARGE", 100)
    weights = [torch.randn(60, 2), torch.randn(3)]
    results = []
    for kind, options in ((optim.Adam, {}), (torch.optim.Adam, {"fused": True})):
        params = [nn.Parameter(weight.clone()) for weight in weights]
        optimizer: torch.optim.Optimizer = kind(params, lr=1e-2, **options)  # type: ignore[arg-type]
        for step in range(3):
            for param in params:
                param.grad = torch.full_like(param, 0.1 * (step + 1))
            optimizer.step()
        results.append((params, optimizer.state_dict()["state"]))
    for ours, theirs in zip(results[0][0], results[1][0], strict=True):
        assert torch.equal(ours, theirs)
    assert results[0][1][0]["step"].item() == 3
