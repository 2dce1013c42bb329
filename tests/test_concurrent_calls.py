"""Ops called from several threads at once: each call has memory of its own, whatever runs beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop import ops
from hotloop.ops._memory import zeros_buffer

# 256 KB an input: above the grain from which the GIL is released, and from which ops take several threads
ROWS, STEPS = 512, 128
THREADS, CALLS = 4, 6


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def inputs(seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = {name: torch.randn(ROWS, STEPS, generator=g) for name in ("rewards", "values", "logp", "old")}
    x["dones"] = (torch.rand(ROWS, STEPS, generator=g) < 0.1).float()
    x["logits"] = torch.randn(ROWS * STEPS // 4, 5, generator=g)
    x["index"] = torch.randperm(ROWS, generator=g)
    return x


def estimators(x: dict[str, Tensor]) -> Any:
    r, v, d, last = x["rewards"], x["values"], x["dones"], x["values"][:, 0].contiguous()
    ratio = ops.importance_ratio(x["logp"], x["old"])
    kin: dict[str, Any] = {"last_values": last, "gamma": 0.97}
    return [
        ops.puff_advantage(v, r, d, ratio, 0.97, 0.9),
        *ops.gae(r, v, d, **kin, gae_lambda=0.9),
        *ops.vtrace(r, v, d, importance=ratio, **kin),
        ops.td_lambda(r, v, d, **kin, gae_lambda=0.9),
        ops.discounted_return(r, d, **kin),
        ops.reverse_scan(d, r),
        ops.row_priorities(v),
    ]


def sampling(x: dict[str, Tensor]) -> Any:
    priorities = ops.row_priorities(x["values"])
    keys: dict[str, Any] = {"seed": 3, "epoch": 1, "minibatch": 2}
    drawn = [
        ops.sample_segments(priorities, ROWS, 64, law=law, **keys) for law in ("successive", "systematic")
    ]
    gathered = ops.gather([x["rewards"], x["dones"]], x["index"])
    target = torch.zeros(ROWS, STEPS)
    ops.scatter_([target], x["index"], [x["values"]])
    return [*drawn[0], *drawn[1], *gathered, target]


def heads(x: dict[str, Tensor]) -> Any:
    actions, log_prob, entropy = ops.categorical_sample(x["logits"], seed=5, step=0)
    logits = x["logits"].clone().requires_grad_()
    new, spread = ops.categorical_evaluate(logits, actions)
    (new.sum() + spread.sum()).backward()
    normal = ops.gaussian_sample(x["logits"], x["logits"] * 0.1, seed=5, step=0)
    flat = {name: x[name].reshape(-1) for name in ("logp", "old", "values", "rewards")}
    log_probs = flat["logp"].clone().requires_grad_()
    loss, statistics = ops.ppo_loss(
        log_probs, flat["old"], flat["rewards"], flat["values"].clone().requires_grad_(), flat["values"],
        flat["rewards"], torch.ones_like(log_probs),
    )  # fmt: skip
    loss.backward()
    assert logits.grad is not None
    assert log_probs.grad is not None
    curved = ops.tanh(logits)
    curved.sum().backward()
    pixels = ops.scale_pixels(x["logits"].to(torch.uint8))
    return [
        curved.detach(),
        pixels,
        ops.pixel_linear(x["logits"].to(torch.uint8), x["logits"].detach()[:5]),
        ops.pixel_linear_grad(x["logits"].to(torch.uint8), x["logits"].detach()),
        actions,
        log_prob,
        entropy,
        logits.grad,
        *normal,
        loss.detach(),
        statistics,
        log_probs.grad,
    ]


def optimizer(x: dict[str, Tensor]) -> Any:
    weights = [x["values"].clone().requires_grad_(), x["logits"].clone().requires_grad_()]
    for weight in weights:
        weight.grad = weight.detach() * 2
    norm = ops.clip_grad_norm_(weights, 1.0)
    moments = [[torch.zeros_like(weight) for weight in weights] for _ in range(2)]
    steps = [torch.zeros(()) for _ in weights]
    gradients = [weight.grad for weight in weights]
    with torch.no_grad():
        ops.adam_(weights, gradients, *moments, steps, lr=0.1)
    return [norm, *(weight.detach() for weight in weights), *moments[0], *moments[1]]


def plans(x: dict[str, Tensor]) -> Any:
    cursors = ops.RowCursors(ROWS, ROWS, STEPS)
    columns = {"a": zeros_buffer((ROWS, STEPS), torch.float32, torch.device("cpu"))}
    store, last = ops.StorePlan(columns, ["a"], cursors), ops.LastActions(ROWS)
    for step in range(5):
        entry = {"a": x["values"][:, step].contiguous(), "actions": torch.full((ROWS,), step)}
        store.store(entry, 0, ROWS, last)
    rows = torch.zeros(ROWS, STEPS)
    ops.GatherPlan({"a": rows}).gather([columns["a"]], x["index"])
    staged = torch.zeros(ROWS)
    ops.StagePlan({"a": staged}).stage([x["rewards"][:, 0]])
    return [columns["a"].clone(), rows, staged, last.buffer.clone(), cursors.positions.clone()]


WORK: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "estimators": estimators, "sampling": sampling, "heads": heads, "optimizer": optimizer, "plans": plans,
}  # fmt: skip


def same(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(
        torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("name", [*WORK, "all of them"])
def test_threads_get_what_one_thread_gets(name: str) -> None:
    names = list(WORK) if name not in WORK else [name]
    given = [inputs(seed) for seed in range(THREADS)]
    expected = [[WORK[each](x) for each in names] for x in given]
    start = threading.Barrier(THREADS)
    wrong: list[str] = []
    finished: list[int] = []

    def work(number: int) -> None:
        start.wait()
        for _ in range(CALLS):
            for each, whole in zip(names, expected[number], strict=True):
                if not same(WORK[each](given[number]), whole):
                    wrong.append(f"{each} in thread {number}")
        finished.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(finished) == list(range(THREADS))
    assert not wrong


def test_threads_share_what_they_only_read() -> None:
    """The native module keeps a table of tensors that it knows, which others' calls overwrite."""
    shared = inputs(0)
    expected = estimators(shared)
    wrong: list[int] = []
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            ops.row_priorities(torch.randn(3, 4))

    def work() -> None:
        wrong.extend(0 for _ in range(CALLS) if not same(estimators(shared), expected))

    noise = threading.Thread(target=churn)
    workers = [threading.Thread(target=work) for _ in range(THREADS)]
    for worker in (noise, *workers):
        worker.start()
    for worker in workers:
        worker.join()
    stop.set()
    noise.join()
    assert not wrong
