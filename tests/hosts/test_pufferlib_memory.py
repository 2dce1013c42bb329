"""PuffeRL with hotloop on environments that write into the same arrays, and policies that change these."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from hotloop.integrations import pufferlib as ours

pytest.importorskip("pufferlib.pufferl", reason="what it imports is missing: make test-peers")
from pufferl_trainers import HORIZON, SPACES, Agents, assert_equal, config, run, trainer
from pufferlib import emulation, models, pufferl, vector

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet_pufferl")]


class InPlace(Agents):
    """Each slice's numbers in the same memory at each step, as arrays of their own or, as out of shared
    memory, as new views of one."""

    def __init__(self, kind: str, slices: int, fresh_views: bool) -> None:
        super().__init__(SPACES[kind], slices)
        self.memory: dict[int, list[Any]] = {}
        self.fresh_views = fresh_views

    def recv(self) -> tuple[Any, ...]:
        told = super().recv()
        arrays = self.memory.setdefault(int(told[6][0]), [np.array(each) for each in told[:4]])
        for array, each in zip(arrays, told, strict=False):
            array[...] = each
        return (*(each[:] if self.fresh_views else each for each in arrays), *told[4:])


def made(kind: str, slices: int, fresh_views: bool, policy_of: Any = None, **changed: Any) -> Any:
    torch.manual_seed(0)
    environments = InPlace(kind, slices, fresh_views)
    policy: nn.Module = models.Default(environments, hidden_size=16)
    if policy_of is not None:
        policy = policy_of(policy)
    if changed.get("use_rnn"):
        policy = models.LSTMWrapper(environments, policy, 16, 16)
    trainer = pufferl.PuffeRL(config(4 * slices, **changed), environments, policy)
    trainer.utilization.stop()
    return trainer


@pytest.mark.parametrize("fresh_views", [False, True])
@pytest.mark.parametrize("slices", [1, 2, 20])
@pytest.mark.parametrize(
    "changed", [{"kind": "discrete"}, {"kind": "continuous"}, {"kind": "discrete", "use_rnn": True}], ids=str
)
def test_memory_that_comes_again(changed: dict[str, Any], slices: int, fresh_views: bool) -> None:
    expected = run(made(slices=slices, fresh_views=fresh_views, **changed))
    ours.install()
    assert_equal(run(made(slices=slices, fresh_views=fresh_views, **changed)), expected)


@pytest.mark.parametrize("slices", [1, 2])
def test_tensors_are_kept_for_a_rollout_and_no_longer(slices: int) -> None:
    seen: list[tuple[int, ...]] = []
    kept: list[Any] = []

    def watched(policy: Any) -> Any:
        forward = policy.forward_eval

        def forward_eval(observations: Any, state: Any) -> Any:
            kept.append((observations, state["reward"], state["done"]))  # so that no id comes again
            seen.append(tuple(map(id, kept[-1])))
            return forward(observations, state)

        policy.forward_eval = forward_eval
        return policy

    ours.install()
    hot = made("discrete", slices, True, watched)
    hot.evaluate()
    assert len(seen) == slices * HORIZON
    assert len(set(seen)) == slices
    assert ours._WORK[hot][0].lent.held() == 0
    hot.evaluate()
    assert len(set(seen)) == 2 * slices
    for array in (hot.vecenv.memory[0][0],):
        assert kept[0][0].data_ptr() == array.ctypes.data


def test_arrays_that_do_not_come_again_are_let_go() -> None:
    hot, alive, most = trainer(slices=2), [], 0
    recv = hot.vecenv.recv

    def told() -> Any:
        nonlocal most
        found = recv()
        alive.append(weakref.ref(found[0]))
        most = max(most, sum(each() is not None for each in alive))
        return found

    hot.vecenv.recv = told
    ours.install()
    hot.evaluate()
    gc.collect()
    assert most <= 6  # two for each slice, that of the step before, and this one
    assert not any(each() is not None for each in alive)


def test_they_are_let_go_after_an_error_too() -> None:
    ours.install()
    hot = made("discrete", 1, False)
    forward, calls = hot.policy.forward_eval, [0]

    def fail(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise ArithmeticError
        return forward(*args)

    hot.policy.forward_eval = fail
    with pytest.raises(ArithmeticError):
        hot.evaluate()
    assert ours._WORK[hot][0].lent.held() == 0


def meddling(policy: Any) -> Any:
    """In place: values, what a tensor points to, and whether it requires grad."""
    forward = policy.forward_eval

    def forward_eval(observations: Any, state: Any) -> Any:
        if "reward" not in state:  # training
            return forward(observations, state)
        assert not state["reward"].requires_grad
        state["reward"].data = state["reward"] + 0.25
        state["reward"].requires_grad_()
        state["done"].logical_not_()
        return forward(observations.mul_(0.5), state)

    policy.forward_eval = forward_eval
    return policy


def test_policies_that_change_what_they_are_told_in_place() -> None:
    expected = run(made("discrete", 2, False, meddling))
    ours.install()
    assert_equal(run(made("discrete", 2, False, meddling)), expected)


def test_actions_may_be_kept_and_changed() -> None:
    """They are the environments' own: neither the rollout nor the next step touches them."""

    def told(hot: Any) -> Any:
        send, kept = hot.vecenv.send, []

        def keep(actions: Any) -> None:
            kept.append((actions, actions.copy()))
            send(actions.copy())

        hot.vecenv.send = keep
        found = run(hot)
        assert all(np.array_equal(a, b) for a, b in kept)
        actions = hot.actions.clone()
        kept[-1][0][...] = 2
        assert torch.equal(hot.actions, actions)
        return found, [b for _, b in kept]

    expected, sent = told(trainer())
    ours.install()
    found, ours_sent = told(trainer())
    assert_equal(found, expected)
    assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(ours_sent, sent, strict=True))


@pytest.mark.parametrize("workers", [2])
def test_environments_in_other_processes(workers: int) -> None:
    def run_one() -> Any:
        torch.manual_seed(0)
        environments = vector.make(
            lambda buf=None, seed=0: emulation.GymnasiumPufferEnv(gymnasium.make("CartPole-v1"), buf=buf),
            num_envs=4, num_workers=workers, batch_size=4, backend=vector.Multiprocessing,
        )  # fmt: skip
        policy = models.Default(environments.driver_env, hidden_size=16)
        one = pufferl.PuffeRL(config(4), environments, policy)
        one.utilization.stop()
        try:
            return run(one)
        finally:
            environments.close()

    expected = run_one()
    ours.install()
    assert_equal(run_one(), expected)


def test_environments_that_do_not_name_their_batch() -> None:
    class Few:
        """All that PuffeRL asks of them."""

        def __init__(self, agents: Agents) -> None:
            self.recv, self.send, self.action_space = agents.recv, agents.send, agents.action_space
            self.single_observation_space = agents.single_observation_space

    def one() -> Any:
        hot = trainer(slices=1)
        hot.vecenv = Few(hot.vecenv)
        return hot

    expected = run(one(), epochs=1)
    ours.install()
    assert_equal(run(one(), epochs=1), expected)
