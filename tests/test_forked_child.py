"""Ops in a process that was forked after the parent had used threads: libgomp's do not come along."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="forks")

PROGRAM = """
import os, signal, threading, torch
torch.set_num_threads(2)
from hotloop import _core, ops

x = torch.randn(3000, 128)  # 1.5 MB: well above the grain from which ops take several threads
ends, backwards = x < -2, torch.arange(2999, -1, -1)
gradients = [torch.nn.Parameter(torch.zeros(200_000)) for _ in range(4)]
for gradient in gradients:
    gradient.grad = torch.ones(200_000)


def work():
    advantages, returns = ops.gae(x, x, ends, last_values=x[:, 0], gamma=0.9, gae_lambda=0.9)
    norm = ops.clip_grad_norm_(gradients, 1e9)
    rows = ops.gather([x], backwards)[0]
    return [ops.puff_advantage(x, x, x, x, 0.9, 0.9), advantages, returns, norm, rows]


def equal(a, b):
    # not torch.equal: torch's own ops do hang there, unless they are given one thread
    return all(one.numpy().tobytes() == other.numpy().tobytes() for one, other in zip(a, b))


assert _core.openmp_max_threads() == 2
expected = work()  # starts the threads, in the parent


def in_child(body):
    # what `body` returns in a child, or which signal ended that
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        os._exit(0 if body() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def threads():
    results = []
    workers = [threading.Thread(target=lambda: results.append(work())) for _ in range(3)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    return len(results) == 3 and all(equal(result, expected) for result in results)


print(in_child(lambda: equal(work(), expected)))
print(in_child(lambda: in_child(lambda: equal(work(), expected)) == 0))  # a grandchild
print(in_child(threads))  # threads of the child's own
print(int(equal(work(), expected)))  # the parent goes on, with its threads
"""


def test_ops_work_in_a_forked_child() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=150, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["0", "0", "0", "1"]


POOL = """
import multiprocessing, torch
torch.set_num_threads(2)
from hotloop import ops

x = torch.randn(3000, 128)


def work(number):
    return ops.puff_advantage(x, x, x, x, 0.9, 0.9).numpy().tobytes()


if __name__ == "__main__":
    expected = work(0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map_async(work, range(8)).get(60) == [expected] * 8)
"""


def test_ops_work_in_a_pool_of_forked_workers() -> None:
    result = subprocess.run(
        [sys.executable, "-c", POOL], capture_output=True, text=True, timeout=150, check=False
    )
    assert result.stdout.split() == ["True"], result.stderr
