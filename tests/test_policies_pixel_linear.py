"""`policies.PixelLinear` against the formula that it stands for."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotloop.policies import MLPPolicy, PixelLinear
from hotloop.policies import pixel_linear as module
from layouts import LAYOUTS

WIDTH = 600  # 256 rows a block


@pytest.fixture(params=["bytes", "floats"])
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the forward pass multiplies, on whatever processor."""
    monkeypatch.setattr(module.ops, "pixel_linear_is_fast", lambda: request.param == "bytes")
    return str(request.param)


def bytes_of(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def layer_of(inputs: int = WIDTH, outputs: int = 7, bias: bool = True) -> PixelLinear:
    torch.manual_seed(1)
    return PixelLinear(inputs, outputs, bias=bias)


def formula(layer: nn.Linear, pixels: Tensor) -> Tensor:
    return F.linear(
        pixels.double() / 255, layer.weight.double(), None if layer.bias is None else layer.bias.double()
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("count", [0, 1, 31, 33, 128, 255, 256, 257, 511, 513, 800])
def test_product_and_gradients_are_those_of_the_formula(count: int, bias: bool, road: str) -> None:
    layer, pixels = layer_of(bias=bias), bytes_of(count, WIDTH)
    out = layer(pixels)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), formula(layer, pixels), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(layer(pixels), out, rtol=1e-6, atol=1e-6)
    weights = torch.randn(count, 7, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad((out * weights).sum(), list(layer.parameters()))
    expected = torch.autograd.grad((formula(layer, pixels) * weights).sum(), list(layer.parameters()))
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [1, 3, 4_000, 200_000])
def test_rows_of_any_width(width: int, road: str) -> None:
    layer, pixels = layer_of(width, 2), bytes_of(67, width)
    torch.testing.assert_close(layer(pixels).double(), formula(layer, pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, road: str) -> None:
    layer, pixels = layer_of(), bytes_of(300, WIDTH)
    placed = LAYOUTS[layout](pixels)
    assert torch.equal(layer(placed), layer(pixels))


def test_leading_dimensions_are_kept(road: str) -> None:
    layer, pixels = layer_of(), bytes_of(20, 30, WIDTH)
    assert layer(pixels).shape == (20, 30, 7)
    assert torch.equal(layer(pixels).view(600, 7), layer(pixels.view(600, WIDTH)))


def test_blocks_are_really_used(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.ops, "pixel_linear_is_fast", lambda: False)
    sizes: list[int] = []
    scale = module.ops.scale_pixels
    monkeypatch.setattr(
        module.ops, "scale_pixels", lambda part, out: (sizes.append(len(part)), scale(part, out=out))[1]
    )
    torch.set_num_threads(1)
    layer_of()(bytes_of(600, WIDTH)).sum().backward()
    assert sizes == [256, 256, 88] * 2
    torch.set_num_threads(2)
    layer_of()(bytes_of(600, WIDTH))
    assert sizes[6:] == [512, 88]


def test_bytes_are_really_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    product = module.ops.pixel_linear
    monkeypatch.setattr(module.ops, "pixel_linear_is_fast", lambda: True)

    def counted(rows: Tensor, *rest: Tensor, out: Tensor) -> Tensor:
        counts.append(len(rows))
        return product(rows, *rest, out=out)

    gradient = module.ops.pixel_linear_grad

    def counted_gradient(rows: Tensor, grad: Tensor) -> Tensor:
        counts.append(-len(rows))
        return gradient(rows, grad)

    monkeypatch.setattr(module.ops, "pixel_linear", counted)
    monkeypatch.setattr(module.ops, "pixel_linear_grad", counted_gradient)
    layer, pixels = layer_of(), bytes_of(600, WIDTH)
    out = layer(pixels)
    assert torch.equal(out, product(pixels, layer.weight.detach(), layer.bias.detach()))
    out.sum().backward()
    with torch.no_grad():
        layer(pixels[:64])
        layer(pixels[:63])  # too few to write the weights as digits
        layer_of(module.ops.PIXEL_LINEAR_WIDTH + 1, 2)(bytes_of(64, module.ops.PIXEL_LINEAR_WIDTH + 1))
    assert counts == [600, -600, 64]
    monkeypatch.setattr(module.ops, "pixel_linear_is_fast", lambda: False)
    layer(pixels)
    assert counts == [600, -600, 64]


def test_only_the_gradients_asked_for() -> None:
    layer = layer_of()
    layer.weight.requires_grad_(False)
    layer(bytes_of(300, WIDTH)).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    assert torch.equal(layer.bias.grad, torch.full((7,), 300.0))


def test_whatever_is_not_computed_in_blocks() -> None:
    layer, pixels = layer_of(), bytes_of(300, WIDTH)
    expected = F.linear(pixels.to(torch.float32) / 255.0, layer.weight, layer.bias)
    floats = torch.rand(3, WIDTH)
    assert torch.equal(layer(floats), F.linear(floats, layer.weight, layer.bias))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(pixels).dtype == torch.bfloat16
    assert torch.equal(torch.compile(layer, backend="eager")(pixels), expected)
    torch.testing.assert_close(torch.func.vmap(layer)(pixels), expected)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        layer(bytes_of(300, WIDTH - 1))
    with pytest.raises(RuntimeError, match="dtype"):
        copy.deepcopy(layer).double()(pixels)


def test_of_takes_the_parameters_over() -> None:
    plain = nn.Linear(WIDTH, 7).eval()
    layer = PixelLinear.of(plain)
    assert layer.weight is plain.weight
    assert layer.bias is plain.bias
    assert not layer.training
    assert layer.state_dict().keys() == plain.state_dict().keys()
    assert repr(layer) == repr(plain).replace("Linear", "PixelLinear")
    assert PixelLinear.of(nn.Linear(3, 2, bias=False)).bias is None


def test_the_default_policy_takes_bytes_through_it() -> None:
    torch.manual_seed(0)
    policy = MLPPolicy((20, 30), 4, obs_dtype=torch.uint8)
    torch.manual_seed(0)
    floats = MLPPolicy((20, 30), 4)
    assert isinstance(policy.actor[0], PixelLinear)
    assert policy.state_dict().keys() == floats.state_dict().keys()
    pixels = bytes_of(300, 20, 30)
    for got, wanted in zip(
        policy.logits_and_value(pixels), floats.logits_and_value(pixels / 255), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
