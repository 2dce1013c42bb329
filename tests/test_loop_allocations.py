"""How much memory an epoch takes anew: none of the size of a minibatch, once the first one is over."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hotloop
from hotloop.context import ComponentContext, LoopConfig
from hotloop.experience import Experience
from hotloop.experience_sampling import MinibatchSampler
from hotloop.loop import CoreTrainingLoop
from hotloop.losses import ppo_losses
from slices_support import PeekingEnv

F32 = torch.float32
AGENTS, SEGMENTS, HORIZON, MINIBATCHES, WIDTH = 4, 8, 16, 2, 32
STEPS = SEGMENTS // MINIBATCHES * HORIZON  # of a minibatch
PACKAGE, TESTS = f"{Path(hotloop.__file__).parent}/", str(Path(__file__).parent)


class Allocation(NamedTuple):
    """New memory, and the innermost function of hotloop that asked for it."""

    numel: int
    numbytes: int
    where: str


class Allocations(TorchDispatchMode):
    """Lists the results of torch operations in hotloop that share no memory with what went in.

    What the policy allocates is its own, and the backward pass is autograd's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Allocation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {memory(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and memory(leaf) not in known:
                where, storage = culprit(), leaf.untyped_storage()
                if where is not None:
                    numel = storage.nbytes() // leaf.element_size()
                    self.found.append(Allocation(numel, storage.nbytes(), where))
        return result

    def of(self, *, numel: int = 0, numbytes: int = 0) -> Counter[str]:
        """Where at least so much was allocated at once, and how often."""
        return Counter(each.where for each in self.found if each.numel >= numel and each.numbytes >= numbytes)


def memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def culprit() -> str | None:
    """`module.py:function` of the innermost frame of hotloop; None below the policy, the environment and the
    backward pass."""
    where = None
    frame = sys._getframe(2)  # without this function and its caller
    while frame is not None:
        name = frame.f_code.co_filename
        if frame.f_code.co_name == "_engine_run_backward":
            return None
        if where is None and name.startswith(TESTS):
            return None
        # Of a comprehension, which is a frame of its own up to Python 3.11, the function it stands in.
        if where is None and name.startswith(PACKAGE) and not frame.f_code.co_name.startswith("<"):
            where = f"{name.removeprefix(PACKAGE)}:{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return where


class Plain(nn.Module):
    """Next to nothing between observations and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((WIDTH,), 0.01))

    def get_agent_experience_spec(self) -> dict[str, Any]:
        return {"env_obs": ((WIDTH,), F32), "actions": ((), torch.int32)}

    def reset_memory(self) -> None:
        pass

    def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
        logits = td["env_obs"] @ self.weight
        td["values"] = logits
        td["act_log_prob"] = nn.functional.logsigmoid(logits)
        if action is None:
            td["actions"] = torch.zeros(len(logits), dtype=torch.int32)
        else:
            td["entropy"] = logits.sigmoid()
        return td


class Wide(PeekingEnv):
    """Observations of `WIDTH` numbers."""

    def __init__(self) -> None:
        super().__init__([slice(0, 2), slice(2, 4)], autoreset="next_step")
        self.buffers = [torch.zeros(2, WIDTH) for _ in self.windows]

    def observation(self, agents: Tensor, t: int) -> Tensor:
        return torch.sin(agents.unsqueeze(1) + torch.arange(WIDTH) * 0.1 + t)


def second_epoch(method: str = "prioritized", *, fused: bool = True, boundary: Any = "exact") -> Allocations:
    torch.manual_seed(0)
    policy: Any = Plain()
    losses = ppo_losses(policy, fused=fused)
    batch = SEGMENTS * HORIZON
    spec = policy.get_agent_experience_spec()
    experience = Experience.from_losses(
        AGENTS, batch, HORIZON, batch // MINIBATCHES, None, spec, losses, "cpu"
    )
    config = LoopConfig(batch_size=batch, minibatch_size=batch // MINIBATCHES, bptt_horizon=HORIZON)
    config.sampling.method, config.sampling.prio_alpha = method, 0.7  # type: ignore[assignment]
    context = ComponentContext(config=config)
    optimizer = torch.optim.Adam(policy.parameters(), 1e-3)
    loop = CoreTrainingLoop(policy, experience, losses, optimizer, "cpu", context, boundary=boundary)
    env = Wide()
    allocations = Allocations()

    def epoch() -> None:
        loop.rollout_phase(env, context)  # type: ignore[arg-type]
        loop.training_phase(context, 2)

    epoch()
    with allocations:
        epoch()
    return allocations


WIDEST = STEPS * WIDTH * 4  # bytes of a minibatch's observations


@pytest.mark.parametrize("boundary", ["exact", "legacy"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("method", ["sequential", "permutation", "prioritized"])
def test_no_minibatch_is_allocated_again(method: str, fused: bool, boundary: str) -> None:
    allocations = second_epoch(method, fused=fused, boundary=boundary)
    assert allocations.of(numbytes=WIDEST) == {}
    assert allocations.found != []


def test_a_gather_into_new_memory_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    take = MinibatchSampler._take
    monkeypatch.setattr(
        MinibatchSampler, "_take", lambda self, leaves, indices, reuse: take(self, leaves, indices, False)
    )
    places = second_epoch().of(numbytes=WIDEST)
    assert sum(places.values()) == 2 * MINIBATCHES
    assert all(place.startswith("ops/gather.py:") for place in places)


# Tensors of one number a step, in an epoch with 2 update epochs of 2 minibatches each: where, and how often.
COLUMNS = Counter(
    {
        # Once a rollout: what is a truncated episode's own value.
        "loop_truncation.py:end_rollout": 1,
        # Once a minibatch: the gradients that autograd keeps for the backward pass.
        "ops/ppo_loss.py:_allocate": 4,
    }
)


@pytest.mark.parametrize("boundary", ["exact", "legacy"])
@pytest.mark.parametrize("method", ["sequential", "permutation", "prioritized"])
def test_columns_of_one_number_a_step_are_allocated_here_only(method: str, boundary: str) -> None:
    """With the losses in one native op; the two losses apart are made of torch's operations."""
    assert second_epoch(method, boundary=boundary).of(numel=STEPS) - COLUMNS == Counter()
