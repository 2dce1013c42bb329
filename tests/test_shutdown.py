"""The interpreter's end while hotloop's objects live, and while threads are inside ops."""

from __future__ import annotations

import subprocess
import sys

import pytest


def end_of(program: str, times: int = 1) -> None:
    for _ in range(times):
        result = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "ignore", "-c", program],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, f"exit code {result.returncode}: {result.stderr}"
        assert result.stdout == "done\n"
        assert result.stderr == ""


LIVE = """
import torch
from hotloop import ComponentContext, CoreTrainingLoop, Experience, LoopConfig, SegmentSampler, ops
from hotloop.envs import GymnasiumEnvironment
from hotloop.losses import ppo_losses
from hotloop.policies import MLPPolicy

env = GymnasiumEnvironment("CartPole-v1", 4, seed=0, vectorization="{vectorization}")
policy = MLPPolicy.from_spaces(env.single_observation_space, env.single_action_space, hidden=[8])
losses = ppo_losses(policy)
sizes = {{"batch_size": 64, "bptt_horizon": 8, "minibatch_size": 32}}
experience = Experience.from_losses(
    total_agents=4, **sizes, max_minibatch_size=None, losses=losses, device="cpu",
    policy_experience_spec=policy.get_agent_experience_spec(),
)
context = ComponentContext(config=LoopConfig(**sizes))
optimizer = torch.optim.Adam(policy.parameters())
loop = CoreTrainingLoop(policy, experience, losses, optimizer, "cpu", context)
loop.rollout_phase(env, context)
loop.training_phase(context, 1)
sampler = SegmentSampler(8, 4)
cursors, last = ops.RowCursors(4, 8, 8), ops.LastActions(4)
column = torch.zeros(8, 8)
plans = [ops.StorePlan({{"x": column}}, ["x"], cursors), ops.GatherPlan({{"x": torch.zeros(2, 8)}})]


class Late:
    # an object that lives as long as the module and calls an op while the interpreter takes it apart
    def __init__(self):
        self.priorities, self.x, self.me = ops.row_priorities, column, self

    def __del__(self):
        try:
            self.priorities(self.x)
        except (TypeError, AttributeError, ImportError, ValueError, NameError):
            pass  # half of the modules are gone


import builtins
builtins.kept = [env, loop, experience, plans, Late(), plans[0].store, cursors.native, ops.gae]
late = Late()
print("done")
"""


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_objects_that_live_to_the_end(vectorization: str) -> None:
    end_of(LIVE.format(vectorization=vectorization))


DAEMONS = """
import threading, time, torch
from hotloop import ops
torch.set_num_threads({threads})
x = torch.randn(2048, 256)
inside = threading.Barrier(4)

def work():
    # `out`: torch's own functions, which would allocate it, abort when their thread is ended inside them
    out = torch.empty_like(x)
    ops.puff_advantage(x, x, x, x, 0.9, 0.9, out=out)
    inside.wait()
    while True:
        ops.puff_advantage(x, x, x, x, 0.9, 0.9, out=out)

for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
inside.wait()
time.sleep(0.05)
print("done", flush=True)
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_daemon_threads_that_are_inside_an_op(threads: int) -> None:
    """CPython ends them as they ask for the GIL: that must not end the process with an abort."""
    end_of(DAEMONS.format(threads=threads), times=3)


AT_EXIT = """
import atexit, torch
from hotloop import ops
x = torch.randn(64, 64)
expected = ops.puff_advantage(x, x, x, x, 0.9, 0.9)

@atexit.register
def last():
    assert torch.equal(ops.puff_advantage(x, x, x, x, 0.9, 0.9), expected)
    print("done")
"""


def test_ops_work_in_an_exit_handler() -> None:
    end_of(AT_EXIT)
