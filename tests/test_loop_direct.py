"""A rollout's direct way stores what the TensorDict way does, and is taken when nobody looks at a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDictBase

from hotloop import ComponentContext, CoreTrainingLoop, Experience, LoopConfig
from hotloop.envs import GymnasiumEnvironment
from hotloop.loop_direct import DirectActing
from hotloop.loop_lane import RolloutLane
from hotloop.losses import Loss, PPOCritic, ppo_losses
from hotloop.policies import MLPPolicy

AGENTS = 4


def make_loop(env: Any, *, fused: bool = True, policy: Any = None, **config: Any) -> CoreTrainingLoop:
    torch.manual_seed(1)
    space = env.single_observation_space
    if policy is None:
        policy = MLPPolicy.from_spaces(space, env.single_action_space, hidden=(8,))
    losses = ppo_losses(policy, fused=fused)
    sizes = {"batch_size": 96, "bptt_horizon": 12, "minibatch_size": 48}
    experience = Experience.from_losses(
        total_agents=AGENTS,
        **sizes,
        max_minibatch_size=None,
        policy_experience_spec=policy.get_agent_experience_spec(),
        losses=losses,
        device="cpu",
    )
    context = ComponentContext(config=LoopConfig(**sizes, **config), losses=losses)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    return CoreTrainingLoop(policy, experience, losses, optimizer, "cpu", context)


def direct(loop: CoreTrainingLoop) -> DirectActing | None:
    return DirectActing.of(loop.policy, loop.experience, loop.losses, loop._steps, loop.context)


def trained(env: Any, monkeypatch: pytest.MonkeyPatch, *, take: bool, **options: Any) -> CoreTrainingLoop:
    """After three epochs, on the direct way, not in the lane, or on the ordinary one."""
    loop = make_loop(env, **options)
    monkeypatch.setattr(RolloutLane, "of", classmethod(lambda *_: None))
    acted: list[int] = []
    if take:
        act = DirectActing.act
        monkeypatch.setattr(DirectActing, "act", lambda *args: (acted.append(1), act(*args))[1])
    else:
        monkeypatch.setattr(DirectActing, "of", classmethod(lambda *_: None))
    with env:
        for _ in range(3):
            loop.rollout_phase(env, loop.context)
            loop.training_phase(loop.context, 2)
    monkeypatch.undo()
    assert bool(acted) == take
    return loop


@pytest.mark.parametrize("autoreset", ["next_step", "same_step"])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("centering", [False, True])
def test_both_ways_store_and_learn_the_same_bits(
    env_id: str, autoreset: Any, centering: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = []
    for take in (True, False):
        env = GymnasiumEnvironment(
            env_id, AGENTS, seed=0, autoreset=autoreset, env_kwargs={"max_episode_steps": 7}
        )
        advantage = {"reward_centering": {"enabled": centering, "beta": 0.1}}
        loops.append(trained(env, monkeypatch, take=take, advantage=advantage))
    first, second = loops
    assert first.experience.buffer["truncateds"].any()
    for key, entry in first.experience.buffer.items():
        assert torch.equal(entry, second.experience.buffer[key]), key
    assert torch.equal(first.last_action, second.last_action)
    assert torch.equal(first.context.state.avg_reward, second.context.state.avg_reward)
    for one, other in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        assert torch.equal(one, other)


class WatchingLoss(Loss):
    def run_rollout(self, td: TensorDictBase, context: ComponentContext) -> None:
        assert "actions" in td


class OwnForward(MLPPolicy):
    def forward(self, td: TensorDictBase, action: Any = None) -> TensorDictBase:
        return super().forward(td, action)


class OwnCritic(PPOCritic):
    pass


def test_is_not_taken_where_somebody_looks_at_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    env = GymnasiumEnvironment("CartPole-v1", AGENTS, seed=0)
    loop = make_loop(env)
    assert direct(loop) is not None
    assert direct(make_loop(env, fused=False)) is not None

    watched = make_loop(env)
    watched.losses["watching"] = WatchingLoss(watched.policy)
    assert direct(watched) is None
    watched.losses["watching"] = Loss(watched.policy)
    assert direct(watched) is not None
    watched.losses["watching"].rollout = lambda td, context: None
    assert direct(watched) is None

    own = OwnForward.from_spaces(env.single_observation_space, env.single_action_space, hidden=(8,))
    assert direct(make_loop(env, policy=own)) is None
    patched = make_loop(env)
    patched.policy.forward = patched.policy.forward
    assert direct(patched) is None

    gated = make_loop(env)
    gated.losses["ppo"].instance_name = "ppo"
    gated.context.loss_run_gates = {"ppo": {"rollout": False}}
    assert direct(gated) is None

    critic = make_loop(env, fused=False)
    critic.losses["ppo_critic"] = OwnCritic(critic.policy)
    assert direct(critic) is None

    burning = make_loop(env)
    burning.losses["ppo"].burn_in_steps = 3
    assert direct(burning) is None

    keys = make_loop(env)
    keys.experience.set_store_keys(["env_obs", "rewards"])
    assert direct(keys) is None
    env.close()


def test_the_network_acts_in_inference_mode_unless_it_must_not(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[bool] = []

    class Recording(MLPPolicy):
        def logits_and_value(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            modes.append(torch.is_inference_mode_enabled())
            return super().logits_and_value(obs)

    env = GymnasiumEnvironment("CartPole-v1", AGENTS, seed=0)
    for allowed in (True, False):
        policy = Recording.from_spaces(env.single_observation_space, env.single_action_space, hidden=(8,))
        policy.acts_in_inference_mode = allowed
        loop = make_loop(env, policy=policy)
        modes.clear()
        loop.rollout_phase(env, loop.context)
        # Of 24 steps one is looked at by the boundary of rows, which looks at one more at the end.
        assert modes.count(allowed) >= 23
        assert (True in modes) is allowed
        loop.training_phase(loop.context, 1)
    env.close()
