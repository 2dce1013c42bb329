"""The registered twins: torch.library.opcheck, and tracing without a graph break."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop import _core, ops

X = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
FLAGS = (X > 1).float()
GRAD = X.clone().requires_grad_()
RATES = torch.rand(5, generator=torch.Generator().manual_seed(2))
INDEX = torch.tensor([3, 1])
POSITIONS = torch.tensor([0, 6])
GAE = (X, X, FLAGS, None, X[:, 0].clone(), None, None, 0.9, 0.8)
LOGITS = X.clone().requires_grad_()
CHOICES = torch.tensor([[0, 1], [1, 2], [2, 3], [0, 0], [1, 1]])
PIXELS = torch.arange(35, dtype=torch.uint8).reshape(5, 7)
ALLOWED = torch.ones(5, 7, dtype=torch.bool)
LOSS = (None, None, 0.2, None, 0.5, 0.01, True, 1e-8)
CLOCKS = [torch.tensor(0.0), torch.tensor(3.0)]
RATES_OF_ADAM = (1e-3, 0.9, 0.99, 1e-8, 0.1, True, False)
DRAW = (X.abs().sum(1), 5, 3, "successive", 7, 1, 0, 0.5)


def calls() -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    return [
        ("puff_advantage.default", (X, X, FLAGS, X, 0.9, 0.8), {}),
        ("puff_advantage.default", (X, X, FLAGS, X, 0.9, 0.8, 1.0, 1.0, X[:, 0], X[:, 1], FLAGS[:, 0]), {}),
        ("puff_advantage.out", (X, X, FLAGS, X, 0.9, 0.8), {"out": torch.empty(5, 7)}),
        ("gae.default", GAE, {}),
        ("gae.out", GAE, {"advantages": torch.empty(5, 7), "returns": torch.empty(5, 7)}),
        ("gae.default", (*GAE, False, None, RATES), {}),
        ("puff_advantage.default", (X, X, FLAGS, X, 0.9, 0.8, 1.0, 1.0, None, None, None, RATES, RATES), {}),
        ("reverse_scan.default", (X, X), {}),
        ("reverse_scan.default", (GRAD, GRAD, GRAD[:, 0]), {}),
        ("reverse_scan.out", (X, X, X[0].clone(), True), {"out": torch.empty(5, 7)}),
        ("reverse_scan_backward.default", (X, X, X, None, False), {}),
        ("delta_lambda.default", (X, X, FLAGS, 0.9, 0.8), {}),
        ("delta_lambda.default", (GRAD, GRAD, FLAGS, 0.9, 0.8, GRAD[:, 0], X[:, 0], FLAGS[:, 0], FLAGS), {}),
        ("delta_lambda.out", (X, X, FLAGS, 0.9, 0.8), {"out": torch.empty(5, 7)}),
        ("delta_lambda_backward.default", (X, FLAGS, 0.0, 0.8, None, None, RATES), {}),
        ("td_lambda.default", (GRAD, *GAE[1:]), {}),
        ("td_lambda.default", (X, GRAD, FLAGS, FLAGS, RATES, GRAD, None, 0.0, 0.8, False, RATES), {}),
        ("td_lambda.out", GAE, {"out": torch.empty(5, 7)}),
        ("td_lambda_backward.default", (X, FLAGS, FLAGS, None, 0.9, 0.8, False), {}),
        ("discounted_return.default", (X, FLAGS, None, RATES, None, None, 0.9), {}),
        ("discounted_return.out", (X, FLAGS, None, RATES, None, None, 0.9), {"out": torch.empty(5, 7)}),
        ("vtrace.default", (X, X, FLAGS, None, X, RATES, None, None, 0.9), {}),
        (
            "vtrace.out",
            (X, X, FLAGS, None, X, RATES, None, None, 0.9, 0.8, 1.0, 2.0),
            {"targets": torch.empty(5, 7), "pg_advantages": torch.empty(5, 7)},
        ),
        ("retrace.default", (X, X, X, FLAGS, None, X, RATES, None, None, 0.9), {}),
        ("retrace.out", (X, X, X, FLAGS, None, X, RATES, None, None, 0.9), {"out": torch.empty(5, 7)}),
        ("importance_ratio.default", (X, X * 2, FLAGS, 0.5), {}),
        ("importance_ratio.out", (X, X * 2), {"out": torch.empty(5, 7)}),
        ("return_moments.default", (X, X * 2, FLAGS), {}),
        ("return_moments.out", (X, X * 2), {"out": torch.empty(5, dtype=torch.float64)}),
        ("row_priorities.default", (X, 0.7), {}),
        ("row_priorities.out", (X,), {"out": torch.empty(5)}),
        ("sample_segments.default", DRAW, {}),
        (
            "sample_segments.out",
            DRAW,
            {"indices": torch.empty(3, dtype=torch.int64), "weights": torch.empty(3)},
        ),
        ("gather.default", ([X, FLAGS.bool()], INDEX), {}),
        ("gather.out", ([X, FLAGS], INDEX), {"out": [torch.empty(2, 7), torch.empty(2, 7).double()]}),
        ("scatter_.default", ([X.clone(), FLAGS.clone()], INDEX, [X[:2], X[2:4]]), {}),
        ("store_.default", ([torch.zeros(5, 7, 2)], [X[:2, :2].clone()], INDEX, POSITIONS), {}),
        ("last_actions_read.default", (torch.ones(5, 2), 1, 3), {}),
        ("last_actions_read.out", (torch.ones(5, 2), 1, 3, FLAGS[:3, 0].clone()), {"out": torch.empty(3, 2)}),
        ("last_actions_write_.default", (torch.zeros(5, 2), 1, X[:2, :2].clone()), {}),
        ("categorical_sample.default", (X, None, None, 1, 2), {}),
        (
            "categorical_sample.out",
            (X, ALLOWED, [3, 4], 1, 2),
            {
                "actions": torch.empty(5, 2, dtype=torch.int64),
                "log_prob": torch.empty(5),
                "entropy": torch.empty(5),
                "log_probs": torch.empty(5, 7),
            },
        ),
        ("categorical_evaluate.default", (LOGITS, CHOICES[:, 0], None, None), {}),
        ("categorical_evaluate.default", (LOGITS, CHOICES, ALLOWED, [3, 4]), {}),
        (
            "categorical_evaluate_backward.default",
            (X[:, 0].clone(), X[:, 1].clone(), X, CHOICES, ALLOWED, [3, 4], torch.rand(5, 6)),
            {},
        ),
        ("gaussian_sample.default", (X, X[0].clone(), 1, 2, False), {}),
        (
            "gaussian_sample.out",
            (X, X.clone(), 1, 2, True),
            {"actions": torch.empty(5, 7), "log_prob": torch.empty(5), "entropy": torch.empty(5)},
        ),
        ("gaussian_evaluate.default", (LOGITS, X[0].clone().requires_grad_(), X.clone(), False), {}),
        ("gaussian_evaluate.default", (LOGITS, X.clone(), X.tanh(), True), {}),
        (
            "gaussian_evaluate_backward.default",
            (X[:, 0].clone(), X[:, 1].clone(), X, X[0].clone(), X.clone(), False),
            {},
        ),
        ("adam_.default", (*([X.clone(), X[0].clone()] for _ in range(4)), CLOCKS, *RATES_OF_ADAM), {}),
        ("clip_grad_norm_.default", ([X.clone(), X.clone().double()], 0.1, False, torch.empty(())), {}),
        ("tanh.default", (X,), {}),
        ("tanh.default", (LOGITS,), {}),
        ("scale_pixels.default", (PIXELS,), {}),
        ("scale_pixels.out", (PIXELS,), {"out": torch.empty(5, 7)}),
        ("pixel_linear_grad.default", (PIXELS, torch.ones(5, 2)), {}),
        ("pixel_linear_grad.out", (PIXELS, torch.ones(5, 2)), {"out": torch.empty(2, 7)}),
        ("pixel_linear.default", (PIXELS, torch.ones(3, 7), None), {}),
        ("pixel_linear.out", (PIXELS, torch.ones(3, 7), torch.ones(3)), {"out": torch.empty(5, 3)}),
        ("ppo_loss.default", (LOGITS, X, X, LOGITS, X, X, LOGITS, *LOSS), {}),
        ("ppo_loss.default", (X, X, X, X, X, X, LOGITS, X, ALLOWED, *LOSS[2:]), {}),
    ]


def test_every_native_op_has_a_twin_in_this_list() -> None:
    native = {name for name in dir(_core) if name[0] != "_" and hasattr(torch.ops.hotloop, name)}
    assert native == {name.split(".")[0] for name, _, _ in calls()}
    assert len(native) == 33


@pytest.mark.parametrize("case", range(len(calls())), ids=[name for name, _, _ in calls()])
def test_opcheck(case: int) -> None:
    name, args, kwargs = calls()[case]
    op, overload = name.split(".")
    torch.library.opcheck(getattr(getattr(torch.ops.hotloop, op), overload), args, kwargs)


def faces() -> dict[str, Callable[..., Any]]:
    """Public faces as functions of tensors, with results that can be compared."""

    def scatter(target: Tensor, source: Tensor) -> Tensor:
        target = target.clone()
        ops.scatter_([target], INDEX, [source[:2]])
        return target + 1

    def store(target: Tensor, source: Tensor) -> Tensor:
        target = target.clone()
        ops.store_([target], [source[:2, 0]], INDEX, POSITIONS)
        return target + 1

    def last_actions(last: Tensor, actions: Tensor) -> Tensor:
        memory = ops.LastActions(5, 7, torch.float32)
        memory.write_(actions[:2], 1, 3)
        return memory.read(0, 4) + last[:4]

    def adam(x: Tensor, y: Tensor) -> Tensor:
        lists = [[x.clone()], [y], [x * 0], [x * 0], [x.new_zeros(())]]
        ops.adam_(*lists, lr=0.1)
        return lists[0][0] + lists[4][0]

    return {
        "adam_": adam,
        "puff_advantage": lambda x, y: ops.puff_advantage(x * 2, y, FLAGS, y, 0.9, 0.8) + 1,
        "puff_advantage_out": lambda x, y: ops.puff_advantage(x, y, FLAGS, y, 0.9, 0.8, out=x * 0) + 1,
        "gae": lambda x, y: ops.gae(x, y, FLAGS, last_values=y[:, 0], gamma=0.9, gae_lambda=0.8),
        "gae_per_row": lambda x, y: ops.gae(
            x, y, FLAGS, last_values=y[:, 0], gamma=x[:, 0].sigmoid(), gae_lambda=0.8
        ),
        "puff_advantage_per_row": lambda x, y: ops.puff_advantage(x, y, FLAGS, y, 0.9, x[:, 0].sigmoid()),
        "reverse_scan": lambda x, y: ops.reverse_scan(x, y, y[:, 0]),
        "delta_lambda": lambda x, y: ops.delta_lambda(x, y, FLAGS, 0.9, 0.8) + 1,
        "td_lambda": lambda x, y: ops.td_lambda(
            x, y, FLAGS, last_values=y[:, 0], gamma=0.9, gae_lambda=x[:, 0].sigmoid()
        ),
        "discounted_return": lambda x, y: ops.discounted_return(x, FLAGS, last_values=y[:, 0], gamma=0.9),
        "vtrace": lambda x, y: ops.vtrace(x, y, FLAGS, importance=x.exp(), last_values=y[:, 0], gamma=0.9),
        "retrace": lambda x, y: ops.retrace(
            x, y, y, FLAGS, importance=x.exp(), last_values=y[:, 0], gamma=0.9
        ),
        "importance_ratio": lambda x, y: ops.importance_ratio(x + y, y, FLAGS),
        "return_moments": lambda x, y: ops.return_moments(x + y, y, FLAGS).to(x.dtype),
        "row_priorities": lambda x, y: ops.row_priorities(x + y, 0.5),
        "sample_segments": lambda x, y: ops.sample_segments(
            x.abs().sum(1), 5, 3, law="successive", seed=1, epoch=2, minibatch=0
        ),
        "gather": lambda x, y: ops.gather([x, y + 1], INDEX),
        "scatter_": scatter,
        "store_": store,
        "last_actions": last_actions,
        "categorical_sample": lambda x, y: ops.categorical_sample(x + y, seed=1, step=2, nvec=(3, 4)),
        "categorical_evaluate": lambda x, y: ops.categorical_evaluate(x * y, CHOICES, nvec=(3, 4)),
        "gaussian_sample": lambda x, y: ops.gaussian_sample(x + y, x, seed=1, step=2),
        "gaussian_evaluate": lambda x, y: ops.gaussian_evaluate(x + y, x[0], y.tanh(), squash=True),
        "tanh": lambda x, y: ops.tanh(x + y) + ops.tanh(x, out=x * 0),
        "scale_pixels": lambda x, y: ops.scale_pixels((x * y).to(torch.uint8)) + 1,
        "pixel_linear_grad": lambda x, y: ops.pixel_linear_grad((x * y).to(torch.uint8), y) + 1,
        "pixel_linear": lambda x, y: ops.pixel_linear((x * y).to(torch.uint8), y) + 1,
        "ppo_loss": lambda x, y: ops.ppo_loss(x * y, x, y, x, y, x, x * x, valid=ALLOWED, vf_clip_coef=0.1),
    }


def differentiable() -> dict[str, Callable[[Tensor], Any]]:
    return {
        "categorical_evaluate": lambda x: ops.categorical_evaluate(x * 2, CHOICES, nvec=(3, 4)),
        "gaussian_evaluate": lambda x: ops.gaussian_evaluate(x * 2, x[0], X),
        "gaussian_squashed": lambda x: ops.gaussian_evaluate(x * 2, x / 3, X.tanh(), squash=True),
        "tanh": lambda x: [ops.tanh(x * 2)],
        "ppo_loss": lambda x: ops.ppo_loss(x / 9, X / 8, X, x * 2, X, X, x * x, ent_coef=0.1)[:1],
    }


@pytest.mark.parametrize("name", differentiable())
def test_traced_gradients_are_those_of_the_face(name: str) -> None:
    torch.compiler.reset()
    face = differentiable()[name]
    compiled = torch.compile(face, fullgraph=True, backend="aot_eager")
    gradients = []
    for function in (face, compiled):
        leaf = X.clone().requires_grad_()
        loss = sum((i + 1) * value.sum() for i, value in enumerate(function(leaf)))
        assert isinstance(loss, Tensor)
        gradients.append(torch.autograd.grad(loss, leaf)[0])
    assert torch.equal(*gradients)
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize("name", faces())
def test_traces_without_a_graph_break(name: str) -> None:
    torch.compiler.reset()
    face = faces()[name]
    compiled = torch.compile(face, fullgraph=True, backend="aot_eager")
    actual, expected = compiled(X, X + 1), face(X, X + 1)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def differentiable_faces() -> dict[str, Callable[..., Tensor]]:
    return {
        "reverse_scan": lambda x, y: ops.reverse_scan(x, y * 2, y[:, 0]),
        "delta_lambda": lambda x, y: ops.delta_lambda(x, y, FLAGS, 0.9, RATES, valid=1 - FLAGS),
        "td_lambda": lambda x, y: ops.td_lambda(
            x, y, FLAGS, FLAGS, last_values=x[:, 0], truncation_values=y, gamma=RATES, gae_lambda=0.8
        ),
    }


@pytest.mark.parametrize("name", differentiable_faces())
def test_traces_with_its_gradient(name: str) -> None:
    torch.compiler.reset()
    face = differentiable_faces()[name]
    gradients = []
    for function in (face, torch.compile(face, fullgraph=True, backend="aot_eager")):
        x, y = X.clone().requires_grad_(), (X + 1).requires_grad_()
        function(x, y).square().sum().backward()
        assert x.grad is not None
        assert y.grad is not None
        gradients.append((x.grad, y.grad))
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.slow
def test_compiles_with_the_default_backend() -> None:
    torch.compiler.reset()

    def both(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        advantages, returns = ops.gae(x, y, FLAGS, last_values=y[:, 0], gamma=0.9, gae_lambda=0.8)
        return ops.puff_advantage(x * 2, y, FLAGS, advantages.exp(), 0.9, 0.8) + 1, returns

    compiled = torch.compile(both, fullgraph=True)
    torch.testing.assert_close(compiled(X, X + 1), both(X, X + 1))


def test_a_gradient_is_refused_while_tracing_too() -> None:
    torch.compiler.reset()
    compiled = torch.compile(lambda x: ops.row_priorities(x * 2), backend="aot_eager")
    with pytest.raises(Exception, match=r"require grad|does not require grad"):
        compiled(X.clone().requires_grad_()).sum().backward()
