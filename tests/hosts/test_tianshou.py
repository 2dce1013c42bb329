"""Tianshou with hotloop's recurrence and without: the same training, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sameness import assert_same, attributes, changed

pytest.importorskip("tianshou", reason="tianshou is missing: make test-peers")

import gymnasium
from tianshou.algorithm import A2C, PPO, algorithm_base
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
from tianshou.utils.torch_utils import policy_within_training_step, torch_train_mode

from hotloop import integrations, ops
from hotloop.integrations import hosts, tianshou

ENVS = 8


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short batches are hotloop's too."""
    monkeypatch.setattr(tianshou, "MIN_STEPS", 1)
    yield
    tianshou.uninstall()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the calls that were hotloop's."""
    made: list[tuple[int, ...]] = []
    original = ops.discounted_return

    def counted(rewards: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        made.append(tuple(rewards.shape))
        return original(rewards, *args, **kwargs)

    monkeypatch.setattr(ops, "discounted_return", counted)
    return made


def train(kind: type[Any], n_step: int | None = ENVS * 32, **options: Any) -> dict[str, Any]:
    """Parameters, and the losses of each update."""
    torch.manual_seed(0)
    np.random.seed(0)
    envs = DummyVectorEnv([lambda: gymnasium.make("CartPole-v1", max_episode_steps=25)] * ENVS)
    envs.seed(list(range(ENVS)))
    space: Any = envs.action_space[0]
    observed = Net(state_shape=(4,), hidden_sizes=[16]), Net(state_shape=(4,), hidden_sizes=[16])
    actor = DiscreteActor(preprocess_net=observed[0], action_shape=2, softmax_output=False)
    critic = DiscreteCritic(preprocess_net=observed[1])
    policy = ProbabilisticActorPolicy(
        actor=actor, dist_fn=lambda logits: torch.distributions.Categorical(logits=logits),
        action_space=space, action_scaling=False,
    )  # fmt: skip
    algorithm = kind(policy=policy, critic=critic, optim=AdamOptimizerFactory(lr=1e-3), **options)
    buffer = VectorReplayBuffer(ENVS * 64, ENVS)
    collector = Collector(policy, envs, buffer)
    collector.reset(gym_reset_kwargs={"seed": 0})
    results: dict[str, Any] = {}
    for iteration in range(4):
        with policy_within_training_step(policy):
            collector.collect(n_step=n_step, n_episode=None if n_step else ENVS)
            with torch_train_mode(algorithm):
                stats = algorithm.update(buffer=buffer, batch_size=64, repeat=2)
        buffer.reset()
        results[f"loss {iteration}"] = stats.get_loss_stats_dict()["loss"]
    envs.close()
    parameters = {
        f"{module} {name}": value.detach().clone()
        for module, held in (("actor", actor), ("critic", critic))
        for name, value in held.named_parameters()
    }
    return results | parameters


@pytest.mark.parametrize("options", [{}, {"return_scaling": True}, {"recompute_advantage": True}], ids=str)
def test_ppo_trains_to_the_same_bits(options: dict[str, Any], calls: list[tuple[int, ...]]) -> None:
    theirs = train(PPO, **options)
    assert calls == []
    tianshou.install(verify=2)
    ours = train(PPO, **options)
    assert calls == [(ENVS, 32)] * (8 if options.get("recompute_advantage") else 4)
    assert_same(ours, theirs)


def test_a2c_trains_to_the_same_bits(calls: list[tuple[int, ...]]) -> None:
    theirs = train(A2C)
    tianshou.install()
    assert_same(train(A2C), theirs)
    assert len(calls) == 4


def test_rows_of_several_lengths_are_the_hosts(calls: list[tuple[int, ...]]) -> None:
    theirs = train(PPO, n_step=None)
    tianshou.install()
    assert_same(train(PPO, n_step=None), theirs)
    assert calls == []


def arguments(rows: int = ENVS, steps: int = 30, dtype: Any = np.float32) -> list[Any]:
    rng = np.random.default_rng(0)
    v_s, v_s_ = (rng.normal(size=rows * steps).astype(dtype) for _ in range(2))
    ends = rng.random(rows * steps) < 0.1
    ends[steps - 1 :: steps] = True
    return [v_s, v_s_, rng.normal(size=rows * steps), ends, 0.97, 0.93]


@pytest.fixture
def rows() -> Iterator[None]:
    """As within `compute_episodic_return` with a buffer of `ENVS` environments."""
    token = tianshou._ROWS.set(ENVS)
    yield
    tianshou._ROWS.reset(token)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gives_what_its_own_gives(dtype: Any, rows: None, calls: list[tuple[int, ...]]) -> None:
    given = arguments(dtype=dtype)
    copies = [np.copy(each) for each in given]
    theirs = algorithm_base._gae(*given)
    tianshou.install()
    ours = algorithm_base._gae(*given)
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert_same({"": ours}, {"": theirs})
    assert calls == [(ENVS, 30)]
    assert all(np.array_equal(a, b) for a, b in zip(given, copies, strict=True))


def changed_argument(index: int, change: Any) -> list[Any]:
    given = arguments()
    given[index] = change(given[index])
    return given


def without_an_end(ends: Any) -> Any:
    ends[29] = False
    return ends


@pytest.mark.parametrize(
    "given",
    [
        [*(each[:-1] for each in arguments()[:4]), 0.97, 0.93],
        changed_argument(3, without_an_end),
        changed_argument(2, lambda rewards: rewards.astype(np.int64)),
        changed_argument(3, lambda ends: ends.astype(np.float64)),
    ],
    ids=["length", "an open row", "integers", "flags"],
)
def test_calls_that_are_the_hosts(given: list[Any], rows: None, calls: list[tuple[int, ...]]) -> None:
    theirs = algorithm_base._gae(*given)
    tianshou.install()
    assert_same({"": algorithm_base._gae(*given)}, {"": theirs})
    assert calls == []


def test_short_batches_and_few_rows_are_the_hosts(
    rows: None, monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, ...]]
) -> None:
    tianshou.install()
    monkeypatch.setattr(tianshou, "MIN_STEPS", ENVS * 30 + 1)
    algorithm_base._gae(*arguments())
    monkeypatch.setattr(tianshou, "MIN_STEPS", ENVS * 30)
    monkeypatch.setattr(tianshou, "MIN_ROWS", ENVS + 1)
    algorithm_base._gae(*arguments())
    assert calls == []
    monkeypatch.setattr(tianshou, "MIN_ROWS", ENVS)
    algorithm_base._gae(*arguments())
    assert len(calls) == 1


def test_bad_input_is_refused_by_the_host(rows: None) -> None:
    tianshou.install()
    given = arguments()
    with pytest.raises((TypeError, ValueError)):
        algorithm_base._gae(given[0][:7], *given[1:])
    with pytest.raises(TypeError):
        algorithm_base._gae(*given, 1)


def test_results_that_somebody_holds_are_never_written_again(rows: None) -> None:
    tianshou.install()
    held = [algorithm_base._gae(*arguments(steps=30)[:4], gamma, 0.9) for gamma in (0.9, 0.8, 0.7, 0.6, 0.5)]
    tianshou.uninstall()
    for gamma, each in zip((0.9, 0.8, 0.7, 0.6, 0.5), held, strict=True):
        assert_same({"": each}, {"": algorithm_base._gae(*arguments(steps=30)[:4], gamma, 0.9)})


EXCHANGED = {
    ("tianshou.algorithm.algorithm_base", "_gae"),
    ("tianshou.algorithm.algorithm_base.Algorithm", "compute_episodic_return"),
}


def test_uninstall_puts_the_same_objects_back() -> None:
    before = attributes("tianshou")
    tianshou.install()
    tianshou.install(verify=1)
    exchanged = changed(before, attributes("tianshou"))
    assert exchanged == EXCHANGED
    patched = next(each["patched"] for each in integrations.status() if each["name"] == "tianshou")
    assert set(patched) == {".".join(at) for at in exchanged}
    tianshou.uninstall()
    assert changed(before, attributes("tianshou")) == set()
    tianshou.uninstall()


def test_verify_catches_a_difference(rows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tianshou.install(verify=2)
    algorithm_base._gae(*arguments())
    original = ops.discounted_return
    monkeypatch.setattr(
        ops, "discounted_return", lambda *a, gamma, **k: original(*a, gamma=gamma * 0.999, **k)
    )
    with pytest.raises(integrations.VerificationError, match="tianshou: _gae: advantage differs from the"):
        algorithm_base._gae(*arguments())
    algorithm_base._gae(*arguments())


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts.Host, "version", property(lambda self: "1.2.0"))
    before = attributes("tianshou")
    with pytest.raises(integrations.UntestedHostError, match=r"tested with tianshou 2\.0\.1, got 1\.2\.0"):
        tianshou.install()
    assert changed(before, attributes("tianshou")) == set()
    tianshou.install(force=True)
