"""Training past autograd and TensorDict leaves behind, to the last bit, what the ordinary way does."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor, nn

from hotloop import ComponentContext, CoreTrainingLoop, Experience, LoopConfig
from hotloop.loop_training_lane import TrainingLane
from hotloop.losses import Loss, PPOLoss, ppo_losses
from hotloop.policies import MLPPolicy, wrap_actor_critic
from slices_support import EpisodicEnv

AGENTS = 4
SIZES = {"batch_size": 96, "bptt_horizon": 6, "minibatch_size": 24}


class Discrete(EpisodicEnv):
    single_action_space: Any = gymnasium.spaces.Discrete(3)

    def __init__(self) -> None:
        super().__init__([slice(0, AGENTS)], "same_step", absent=True)
        self.teacher = False


class Several(Discrete):
    single_action_space = gymnasium.spaces.MultiDiscrete([2, 3])


class Shared(nn.Module):
    """A trunk that both outputs come from, with dropout in between."""

    def __init__(self, choices: int, *, fixed_value: bool = False, doubles_at: int | None = None) -> None:
        super().__init__()
        self.body, self.logits, self.value = nn.Linear(3, 8), nn.Linear(8, choices), nn.Linear(8, 1)
        self.dropout = nn.Dropout(0.2)
        self.fixed_value, self.doubles_at, self.trained = fixed_value, doubles_at, 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.dropout(self.body(x).tanh())
        logits, value = self.logits(hidden), self.value(hidden)
        if torch.is_grad_enabled():
            self.trained += 1
            if self.doubles_at is not None and self.trained > self.doubles_at:
                logits = logits.double()
        return logits, value.detach() if self.fixed_value else value


def make_loop(
    env: Any,
    *,
    policy: Any = None,
    network: nn.Module | None = None,
    sampling: Any = None,
    loss: dict[str, Any] | None = None,
    write_back: bool = True,
    **config: Any,
) -> CoreTrainingLoop:
    torch.manual_seed(1)
    if network is not None:
        policy = wrap_actor_critic(network, env.single_action_space, obs_shape=(3,))
    elif policy is None:
        policy = MLPPolicy((3,), env.single_action_space, hidden=(8,))
    losses = ppo_losses(policy, fused=True, **(loss or {}))
    experience = Experience.from_losses(
        total_agents=AGENTS,
        **SIZES,
        max_minibatch_size=None,
        policy_experience_spec=policy.get_agent_experience_spec(),
        losses=losses,
        device="cpu",
        write_back=write_back,
    )
    given = LoopConfig(**SIZES, sampling=sampling, **config) if sampling else LoopConfig(**SIZES, **config)
    context = ComponentContext(config=given, losses=losses)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    return CoreTrainingLoop(policy, experience, losses, optimizer, "cpu", context)


class Trained:
    """Three epochs, in the lane where that opens, or never."""

    def __init__(
        self, env: Any, monkeypatch: pytest.MonkeyPatch, *, lane: bool, network: Any = None, **options: Any
    ) -> None:
        torch.manual_seed(0)
        self.loop = loop = make_loop(env, network=None if network is None else network(), **options)
        self.taken: list[bool] = []
        if lane:
            run = TrainingLane.run

            def counted(*arguments: Any) -> Any:
                trained, stop = run(*arguments)
                left = trained < loop.experience.num_minibatches and not stop
                self.taken += [True] * trained + [False] * left
                return trained, stop

            monkeypatch.setattr(TrainingLane, "run", counted)
        else:
            monkeypatch.setattr(TrainingLane, "opens", lambda *_: False)
        self.stats = []
        for _ in range(3):
            loop.rollout_phase(env, loop.context)
            self.stats.append(loop.training_phase(loop.context, 2))
        self.random = torch.get_rng_state()
        monkeypatch.undo()


def assert_equal(one: Trained, other: Trained) -> None:
    assert one.stats == other.stats
    assert one.loop.policy.state_dict().keys() == other.loop.policy.state_dict().keys()
    for mine, its in zip(one.loop.policy.parameters(), other.loop.policy.parameters(), strict=True):
        assert torch.equal(mine, its)
        assert (mine.grad is None) is (its.grad is None)
        assert mine.grad is None or torch.equal(mine.grad, its.grad)
    for key, entry in other.loop.experience.buffer.items():
        assert torch.equal(one.loop.experience.buffer[key], entry), key
    assert torch.equal(one.random, other.random)


def both(
    monkeypatch: pytest.MonkeyPatch, env: type[Discrete] = Discrete, **options: Any
) -> tuple[Trained, Trained]:
    one, other = (Trained(env(), monkeypatch, lane=lane, **options) for lane in (True, False))
    assert not other.taken
    assert_equal(one, other)
    return one, other


CASES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "several choices": {"env": Several},
    "in order": {"sampling": {"method": "sequential"}},
    "in order, several choices": {"env": Several, "sampling": {"method": "sequential"}},
    "by priority": {"sampling": {"method": "prioritized", "prio_alpha": 0.6}},
    "with replacement": {"sampling": {"method": "prioritized", "law": "with_replacement"}},
    "systematically": {"sampling": {"method": "prioritized", "law": "systematic"}},
    "shuffled": {"sampling": {"method": "permutation"}},
    "by strata": {"sampling": {"method": "stratified"}},
    "no clipping": {"loss": {"clip_vloss": False, "norm_adv": False, "ent_coef": 0.1}},
    "nothing is written back": {"write_back": False},
    "a trunk with dropout": {"network": lambda: Shared(3)},
    "a value that is not learnt": {"network": lambda: Shared(3, fixed_value=True)},
    "double precision": {"network": lambda: Shared(3).double(), "doubles": True},
}


@pytest.mark.parametrize("name", CASES)
def test_both_ways_are_the_same_to_the_last_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = dict(CASES[name])
    if options.pop("doubles", False):
        network = options["network"]

        class Doubled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = network()

            def forward(self, x: Tensor) -> Any:
                return self.inner(x.double())

        options["network"] = Doubled
    one, _ = both(monkeypatch, **options)
    # Of 3 * 2 epochs of 4 minibatches all but those of the first, which show what the network gives.
    assert one.taken == [True] * 20
    assert not one.loop.experience.buffer["valid"].all()


def test_the_kl_target_stops_both_at_the_same_minibatch(monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = both(monkeypatch, loss={"target_kl": 1e-4})
    assert any(epochs == 1 for _, epochs in one.stats[1:])


def test_a_network_that_changes_its_outputs_leaves_the_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoDropout(Shared):
        def __init__(self) -> None:
            super().__init__(3, doubles_at=10)
            self.dropout = nn.Dropout(0.0)

    one, _ = both(monkeypatch, network=NoDropout)
    assert False in one.taken
    assert one.taken.count(True) < 20


@pytest.mark.parametrize("method", ["sequential", "permutation", "prioritized", "stratified"])
def test_a_copy_trains_by_itself(method: str) -> None:
    """Bound calls hold tensors, which a copy has anew."""
    env = Discrete()
    loop = make_loop(env, sampling={"method": method})
    for _ in range(2):
        loop.rollout_phase(env, loop.context)
        loop.training_phase(loop.context, 2)
    twin = copy.deepcopy(loop)
    assert twin.training_phase(twin.context, 2) == loop.training_phase(loop.context, 2)
    for mine, its in zip(loop.policy.parameters(), twin.policy.parameters(), strict=True):
        assert mine is not its
        assert torch.equal(mine, its)
    for key, entry in loop.experience.buffer.items():
        assert torch.equal(entry, twin.experience.buffer[key])


def test_nothing_to_train_is_an_error_in_the_lane_too(monkeypatch: pytest.MonkeyPatch) -> None:
    env = Discrete()
    loop = make_loop(env)
    loop.rollout_phase(env, loop.context)
    loop.training_phase(loop.context, 1)
    for parameter in loop.policy.parameters():
        parameter.requires_grad_(False)
    loop.rollout_phase(env, loop.context)
    assert opens(loop)
    with pytest.raises(ValueError, match="the total loss must depend on the policy's parameters"):
        loop.training_phase(loop.context, 1)
    assert torch.is_grad_enabled()


def opens(loop: CoreTrainingLoop) -> bool:
    loop._lane._seen = True
    return loop._lane.opens(loop.policy, loop.losses, loop.context)


class OwnLoss(PPOLoss):
    pass


class OwnForward(MLPPolicy):
    def forward(self, td: Any, action: Any = None) -> Any:
        return super().forward(td, action)


def test_is_not_taken_where_somebody_looks_at_a_minibatch() -> None:
    env = Discrete()
    assert opens(make_loop(env))
    fresh = make_loop(env)
    assert not fresh._lane.opens(fresh.policy, fresh.losses, fresh.context)

    second = make_loop(env)
    second.losses["second"] = Loss(second.policy)
    assert not opens(second)
    own = make_loop(env)
    own.losses["ppo"].__class__ = OwnLoss
    assert not opens(own)
    patched = make_loop(env)
    patched.losses["ppo"].train = patched.losses["ppo"].train
    assert not opens(patched)
    gated = make_loop(env)
    gated.context.loss_run_gates = {"ppo": {"train": False}}
    assert not opens(gated)
    assert not opens(make_loop(env, policy=OwnForward((3,), env.single_action_space, hidden=(8,))))
    head = make_loop(env)
    head.policy.head.evaluate = head.policy.head.evaluate
    assert not opens(head)
    experience = make_loop(env)
    experience.experience.update = experience.experience.update
    assert not opens(experience)
    numbers = make_loop(env)
    numbers.experience.buffer["valid"] = numbers.experience.buffer["valid"].float()
    assert not opens(numbers)
    silent = make_loop(env)
    silent.context.stopwatch = lambda name: nullcontext()
    assert not opens(silent)
    with torch.no_grad():
        assert not opens(make_loop(env))
