from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hotloop import ops
from hotloop.ops import reference
from layouts import HALF_DTYPES, LAYOUTS, same

SHAPES = [(), (1,), (7,), (0, 3), (3, 5), (64, 4), (64, 64), (16, 1, 33), (129, 300)]
DTYPES = (torch.float32, torch.float64, *HALF_DTYPES)


def parameters_of(
    shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float32, scale: float = 1.0
) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
    for each in parameters:
        each.grad = (scale * torch.randn(each.shape, generator=generator)).to(dtype)
    return parameters


def gradients_of(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [each.grad.clone() for each in parameters if each.grad is not None]


def all_same(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(map(same, some, others))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_agrees_with_torch_and_the_reference(dtype: torch.dtype, max_norm: float, isa: str) -> None:
    ours, theirs, plain = (parameters_of(SHAPES, dtype) for _ in range(3))
    before = gradients_of(ours)
    norm = ops.clip_grad_norm_(ours, max_norm)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    slow = reference.clip_grad_norm_(plain, max_norm)
    assert norm.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    assert norm.shape == ()
    torch.testing.assert_close(norm, slow, rtol=1e-7, atol=0)
    rough = 2e-2 if dtype in HALF_DTYPES else 1e-5  # torch sums half precision in half precision
    torch.testing.assert_close(norm, expected.to(norm.dtype), rtol=rough, atol=0)
    # once more than the last bit of each dtype: the factor is rounded too
    step = {torch.float64: 1e-15, torch.float32: 2e-7, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    atol = 1e-7 if dtype is torch.float16 else 0.0  # subnormal
    torch.testing.assert_close(gradients_of(ours), gradients_of(plain), rtol=step, atol=atol)
    if dtype not in HALF_DTYPES:
        torch.testing.assert_close(gradients_of(ours), gradients_of(theirs), rtol=1e-5, atol=0)
    assert all_same(gradients_of(ours), before) == (max_norm > 1e5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_strides(layout: str, dtype: torch.dtype) -> None:
    for shape in ((9, 5), (3, 40), (700, 3), (40, 40)):
        parameter = nn.Parameter(torch.zeros(shape, dtype=dtype))
        values = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        parameter.grad = LAYOUTS[layout](values)
        strides = parameter.grad.stride()
        norm = ops.clip_grad_norm_(parameter, 0.25)
        plain = nn.Parameter(torch.zeros(shape, dtype=dtype))
        plain.grad = values.clone()
        expected = ops.clip_grad_norm_(plain, 0.25)
        torch.testing.assert_close(norm, expected, rtol=1e-6, atol=0)
        torch.testing.assert_close(parameter.grad, plain.grad, rtol=1e-2, atol=0)
        assert parameter.grad.stride() == strides
        assert float(torch.linalg.vector_norm(parameter.grad.double())) == pytest.approx(0.25, rel=1e-2)


def test_nothing_outside_a_strided_gradient_is_written() -> None:
    wide = torch.full((8, 12, 5), 7.0)
    parameter = nn.Parameter(torch.zeros(4, 6, 3))
    parameter.grad = wide[::2, 1::2, 1:4]
    ops.clip_grad_norm_(parameter, 1.0)
    outside = torch.ones_like(wide, dtype=torch.bool)
    outside[::2, 1::2, 1:4] = False
    assert (wide[outside] == 7.0).all()
    assert (wide[~outside] < 7.0).all()


def test_results_do_not_depend_on_threads(threads: None) -> None:
    found = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        parameters = parameters_of([(300, 700), (5,), (129, 1000), (64, 64)])
        transposed = nn.Parameter(torch.zeros(700, 300))
        transposed.grad = gradients_of(parameters)[0].t()
        norm = ops.clip_grad_norm_([*parameters, transposed], 0.5)
        found.append([norm, *gradients_of([*parameters, transposed])])
    assert all_same(found[0], found[1])
    assert all_same(found[0], found[2])


def test_results_do_not_depend_on_the_instruction_set(isa: str) -> None:
    x = parameters_of([(61, 17), (40,)])
    before = gradients_of(x)
    norm = ops.clip_grad_norm_(x, 0.5)
    total = math.fsum(float(v) ** 2 for g in before for v in g.flatten().tolist())
    assert float(norm) == pytest.approx(math.sqrt(total), rel=1e-7)
    factor = torch.tensor(0.5 / (math.sqrt(total) + 1e-6), dtype=torch.float32)
    assert all_same(gradients_of(x), [g * factor for g in before])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_that_are_none(bad: float, dtype: torch.dtype, backend: str) -> None:
    ours, theirs = parameters_of(SHAPES, dtype), parameters_of(SHAPES, dtype)
    for parameters in (ours, theirs):
        gradient = parameters[5].grad
        assert gradient is not None
        gradient[1, 2] = bad
    before = gradients_of(ours)
    # on a device that question is torch's: whoever asks it waits for the norm
    message = "is non-finite" if "cuda" in backend else "clip_grad_norm_: the norm of .* must be finite"
    with pytest.raises(RuntimeError, match=message):
        ops.clip_grad_norm_(ours, 0.5, error_if_nonfinite=True)
    assert all_same(gradients_of(ours), before)
    norm = ops.clip_grad_norm_(ours, 0.5)
    assert same(norm, torch.nn.utils.clip_grad_norm_(theirs, 0.5).to(norm.dtype))
    assert all_same(gradients_of(ours), gradients_of(theirs))


def test_squares_beyond_float32_are_no_infinity(backend: str) -> None:
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 1e30)
    norm = ops.clip_grad_norm_(parameter, 2.0, error_if_nonfinite="cuda" not in backend)
    assert float(norm) == pytest.approx(2e30)
    torch.testing.assert_close(parameter.grad, torch.ones(4))


def test_what_may_be_passed() -> None:
    parameters = parameters_of([(3,), (2, 2), (5,)])
    parameters[1].grad = None
    norm = ops.clip_grad_norm_((each for each in parameters), 1e9)
    expected = torch.cat(gradients_of(parameters)).norm()
    torch.testing.assert_close(norm, expected)
    assert float(ops.clip_grad_norm_(parameters[0], -1.0)) > 0, (
        "torch's sign rule: a negative norm is a factor"
    )
    assert ops.clip_grad_norm_([], 1.0).item() == 0.0
    assert ops.clip_grad_norm_(parameters[1], 1.0).item() == 0.0
    out = torch.zeros((), dtype=torch.float64)
    assert ops.clip_grad_norm_(parameters[2], 1e9, out=out) is out
    assert float(out) == pytest.approx(float(gradients_of(parameters)[1].norm()))


@pytest.mark.cpu_only  # on a device nobody knows when the call returns whether they were written to
def test_gradients_that_are_short_enough_keep_their_version() -> None:
    (parameter,) = parameters_of([(3,)])
    assert parameter.grad is not None
    before = parameter.grad._version
    ops.clip_grad_norm_(parameter, 1e9)
    assert parameter.grad._version == before
    ops.clip_grad_norm_(parameter, 1e-9)
    assert parameter.grad._version > before


def test_the_face_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("torch's own was called")

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", refuse)
    ops.clip_grad_norm_(parameters_of(SHAPES), 1.0)
    with pytest.raises(AssertionError):
        ops.clip_grad_norm_(left_to_torch()["sparse"], 1.0)


class Tagged(Tensor):
    pass


def left_to_torch() -> dict[str, list[nn.Parameter]]:
    """Gradients that torch's own function serves."""
    cases = {name: parameters_of([(3, 4), (4,)]) for name in ("sparse", "shared", "subclass", "graph")}
    matrix = cases["sparse"][0]
    values = matrix.grad
    assert values is not None
    matrix.grad = values.to_sparse()
    cases["shared"].append(nn.Parameter(torch.zeros(3, 4)))
    cases["shared"][-1].grad = cases["shared"][0].grad
    cases["subclass"][0].grad = values.clone().as_subclass(Tagged)
    cases["graph"][0].grad = (values * torch.ones(3, 4, requires_grad=True)).requires_grad_()
    return cases


@pytest.mark.parametrize("name", [name for name in left_to_torch() if name != "sparse"])
def test_other_gradients_are_left_to_torch(name: str) -> None:
    ours, theirs = left_to_torch()[name], left_to_torch()[name]
    norm = ops.clip_grad_norm_(ours, 0.1)
    assert torch.equal(norm, torch.nn.utils.clip_grad_norm_(theirs, 0.1))
    for a, b in zip(gradients_of(ours), gradients_of(theirs), strict=True):
        assert torch.equal(a, b)
    out = torch.zeros(())
    assert ops.clip_grad_norm_(left_to_torch()[name], 0.1, out=out) is out
    assert torch.equal(out, norm.as_subclass(Tensor))


def test_errors() -> None:
    parameters = parameters_of([(3,)])
    before = gradients_of(parameters)
    with pytest.raises(TypeError, match=r"clip_grad_norm_: parameters must be torch\.Tensor, got str"):
        ops.clip_grad_norm_(["weight"], 1.0)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="clip_grad_norm_: max_norm must be a number, got str"):
        ops.clip_grad_norm_(parameters, "1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="clip_grad_norm_: out must be float32 or float64, got int64"):
        ops.clip_grad_norm_(parameters, 1e-3, out=torch.zeros((), dtype=torch.int64))
    with pytest.raises(ValueError, match="clip_grad_norm_: out must be a number"):
        ops.clip_grad_norm_(parameters, 1e-3, out=torch.zeros(1))
    gradient = parameters[0].grad
    assert gradient is not None
    with pytest.raises(ValueError, match=r"clip_grad_norm_: out\[0\] must be memory of its own"):
        ops.clip_grad_norm_(parameters, 1e-3, out=gradient[1])
    assert all_same(gradients_of(parameters), before)
