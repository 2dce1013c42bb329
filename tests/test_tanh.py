"""`ops.tanh` and the module that uses it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hotloop import _core, ops
from hotloop.ops import reference
from hotloop.policies import MLPPolicy, Tanh, native_activations
from layouts import HALF_DTYPES, LAYOUTS, SHAPES

FLOATS = (torch.float32, torch.float64, *HALF_DTYPES)


def units(actual: Tensor, exact: Tensor) -> float:
    """The largest error in units of the last place of `exact`, float64."""
    spacing = torch.finfo(actual.dtype).eps * 2.0 ** exact.abs().clamp_min(1e-300).log2().floor()
    return float(((actual.double() - exact).abs() / spacing).max())


def numbers(dtype: torch.dtype) -> Tensor:
    g = torch.Generator().manual_seed(0)
    smallest = math.log10(torch.finfo(dtype).tiny)
    magnitudes = torch.logspace(smallest, 2, 20_000, dtype=torch.float64)
    near = torch.rand(50_000, generator=g, dtype=torch.float64) * 24 - 12
    return torch.cat((magnitudes, -magnitudes, near)).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (3, 0, 2), *SHAPES], ids=str)
def test_agrees_with_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))).to(dtype)
    y = ops.tanh(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, reference.tanh(x), rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_is_within_three_units_of_torchs_in_double_precision(dtype: torch.dtype) -> None:
    x = numbers(dtype)
    if dtype == torch.float64:  # torch's has an error of its own of one unit at most
        assert units(ops.tanh(x), torch.tanh(x)) <= 4
    else:
        assert units(ops.tanh(x), torch.tanh(x.double())) <= 3


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_is_odd_bounded_and_never_falls(dtype: torch.dtype) -> None:
    x = numbers(dtype)
    y = ops.tanh(x)
    assert torch.equal(ops.tanh(-x), -y)
    assert y.abs().max() == 1
    ordered = ops.tanh(torch.linspace(-11, 11, 9001, dtype=torch.float64).to(dtype))
    # of neighbours that are closer than the error the order may be lost by as much
    assert (ordered.diff() >= -3 * torch.finfo(dtype).eps).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_what_is_not_finite_and_both_zeros(dtype: torch.dtype) -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, -math.nan], dtype=dtype)
    y = ops.tanh(x)
    assert y[[0, 5]].isnan().all()
    assert y[1:5].tolist() == [1, -1, 0, 0]
    assert y[1:5].signbit().tolist() == [False, True, False, True]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_layout_and_instruction_set_do_not_change_a_bit(layout: str, dtype: torch.dtype, isa: str) -> None:
    x = (3 * torch.randn(37, 531, generator=torch.Generator().manual_seed(1))).to(dtype)
    place = LAYOUTS[layout]
    expected = ops.tanh(x)
    out = place(torch.zeros(37, 531, dtype=dtype))
    assert ops.tanh(place(x), out=out) is out
    assert torch.equal(out, expected)
    assert torch.equal(ops.tanh(place(x)), expected)
    inside = place(x)
    assert ops.tanh(inside, out=inside) is inside
    assert torch.equal(inside, expected)
    _core.set_isa("baseline")
    assert torch.equal(ops.tanh(x), expected)


def test_bits_do_not_depend_on_threads(threads: None) -> None:
    x = torch.randn(3000, 129, generator=torch.Generator().manual_seed(1))
    results = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        results.append(ops.tanh(x))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("strided", [False, True])
def test_gradient(strided: bool) -> None:
    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = (x.t() if strided else x).requires_grad_()
    assert torch.autograd.gradcheck(ops.tanh, (x,))
    ops.tanh(x).square().sum().backward()
    twin = x.detach().clone().requires_grad_()
    torch.tanh(twin).square().sum().backward()
    torch.testing.assert_close(x.grad, twin.grad)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0], None), TypeError, "x must be a torch.Tensor, got list"),
        ((torch.zeros(3).int(), None), TypeError, "x must be of a floating dtype, got int32"),
        ((torch.zeros(3), torch.zeros(2)), ValueError, r"out must be of shape \[3\], got float32 \[2\]"),
        (
            (torch.zeros(3), torch.zeros(3, 1)),
            ValueError,
            r"out must be of shape \[3\], got float32 \[3, 1\]",
        ),
        ((torch.zeros(3), torch.zeros(3).double()), TypeError, "out must be float32, got float64"),
        ((torch.zeros(3), torch.zeros(1).expand(3)), ValueError, "out must"),
        ((torch.zeros(3).requires_grad_(), torch.zeros(3)), ValueError, "out must be None"),
    ],
)
def test_errors(arguments: Any, error: type[Exception], message: str) -> None:
    x, out = arguments
    with pytest.raises(error, match=f"tanh: {message}"):
        ops.tanh(x, out=out)


def test_out_is_the_input_or_apart_from_it() -> None:
    memory = torch.zeros(8)
    with pytest.raises(ValueError, match="tanh: out must"):
        ops.tanh(memory[:6], out=memory[2:])
    ops.tanh(memory[:4], out=memory[4:])


@pytest.mark.parametrize("rows", [1, 300])  # few elements, and many
def test_the_module_is_torchs(rows: int) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(4, 64), Tanh(), nn.Linear(64, 2))
    theirs = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(rows, 4)
    for net in (ours, theirs):
        net(x).square().sum().backward()
    torch.testing.assert_close(ours(x), theirs(x))
    for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))
    assert isinstance(ours[1], nn.Tanh)
    assert torch.equal(copy.deepcopy(ours)(x), ours(x))


def test_the_module_leaves_to_torch_what_is_torchs() -> None:
    module = Tanh()
    x = torch.randn(200, 64)
    assert torch.equal(torch.func.vmap(module)(x), torch.tanh(x))
    slope = torch.func.grad(lambda row: module(row).sum())(x)
    torch.testing.assert_close(slope, 1 - torch.tanh(x) ** 2)
    assert torch.equal(torch.compile(module, backend="eager")(x), torch.tanh(x))
    assert torch.equal(module(x), ops.tanh(x))
    few = torch.randn(8, requires_grad=True)
    (curve,) = torch.autograd.grad(module(few).sum(), few, create_graph=True)
    assert curve.requires_grad


def test_native_activations_replaces_torchs_own_alone() -> None:
    class Own(nn.Tanh):
        pass

    hooked = nn.Tanh()
    hooked.register_forward_hook(lambda *_: None)
    inner = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    net = nn.ModuleDict({"inner": inner, "own": Own(), "hooked": hooked, "relu": nn.ReLU()}).eval()
    names, state = list(dict(net.named_modules())), net.state_dict()
    assert native_activations(net) is net
    assert type(inner[1]) is Tanh
    assert not inner[1].training
    assert [type(net[key]) for key in ("own", "hooked", "relu")] == [Own, nn.Tanh, nn.ReLU]
    assert list(dict(net.named_modules())) == names
    assert net.state_dict().keys() == state.keys()
    assert type(native_activations(nn.Tanh())) is Tanh
    assert sum(type(each) is Tanh for each in MLPPolicy((3,), 2).modules()) == 4
