"""The base loss: hooks, gates, statistics, configuration."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from hotloop.losses import (
    Loss,
    LossConfig,
    PPOActor,
    PPOActorConfig,
    PPOCritic,
    PPOCriticConfig,
    ppo_losses,
)
from hotloop.policies import MLPPolicy


class Recorder(Loss):
    """Remembers the calls that the gates let through."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.calls: list[str] = []

    def run_rollout(self, td: TensorDictBase, context: Any) -> None:
        self.calls.append("rollout")

    def run_train(
        self, shared: TensorDictBase, context: Any, mb_idx: int
    ) -> tuple[Tensor, TensorDictBase, bool]:
        self.calls.append(f"train {mb_idx}")
        return torch.ones(()), shared, True


def policy() -> MLPPolicy:
    return MLPPolicy((3,), 2)


def context(**members: Any) -> Any:
    return SimpleNamespace(**{"training_env_id": slice(0, 4), "loss_run_gates": {}, **members})


def empty() -> TensorDict:
    return TensorDict({}, batch_size=[4])


def test_open_gates_let_a_loss_roll_out_and_train() -> None:
    loss, shared = Recorder(policy()), empty()
    loss.rollout(empty(), context())
    value, returned, stop = loss.train(shared, context(), 3)
    assert loss.calls == ["rollout", "train 3"]
    assert value.item() == 1.0
    assert returned is shared
    assert stop is True


@pytest.mark.parametrize("key", ["mine", "recorder"])
def test_gates_close_by_instance_or_class_name_and_phase(key: str) -> None:
    loss, shared = Recorder(policy(), instance_name="mine"), empty()
    closed = context(loss_run_gates={key: {"train": False}})
    loss.rollout(empty(), closed)
    value, returned, stop = loss.train(shared, closed, 0)
    assert loss.calls == ["rollout"]
    assert (value.item(), value.requires_grad, stop) == (0.0, False, False)
    assert returned is shared
    loss.rollout(empty(), context(loss_run_gates={key: {"rollout": False}}))
    assert loss.calls == ["rollout"]
    assert loss._loss_gate_allows("train", context(loss_run_gates={"other": {"train": False}}))
    assert not loss._loss_gate_allows("train", closed)
    assert loss._loss_gate_allows("train", SimpleNamespace())


def test_the_instance_s_own_gate_wins_over_the_class_s() -> None:
    loss = Recorder(policy(), instance_name="mine")
    gates = {"mine": {"train": True}, "recorder": {"train": False}}
    assert loss._loss_gate_allows("train", context(loss_run_gates=gates))


def test_a_context_is_needed_and_remembered() -> None:
    loss = Recorder(policy())
    with pytest.raises(RuntimeError, match="Recorder: no context given and none attached"):
        loss.on_epoch_start()
    loss.attach_context(context())
    loss.on_epoch_start()
    loss.on_new_training_run()
    loss.on_mb_end(None, 0)
    loss.on_train_phase_end()
    loss.rollout(empty())
    assert loss.calls == ["rollout"]


def test_a_rollout_needs_to_know_its_slice() -> None:
    with pytest.raises(RuntimeError, match=r"Recorder.rollout: context.training_env_id must be set"):
        Recorder(policy()).rollout(empty(), context(training_env_id=None))


def test_a_rollout_starts_with_an_empty_memory() -> None:
    forgetful = policy()
    resets: list[int] = []
    forgetful.reset_memory = lambda: resets.append(1)  # type: ignore[method-assign]
    Loss(forgetful).on_rollout_start(context())
    assert resets == [1]


def test_the_older_hook_name_reaches_an_overridden_new_one() -> None:
    class Counting(Loss):
        starts = 0

        def on_epoch_start(self, context: Any = None) -> None:
            super().on_epoch_start(context)
            self.starts += 1

    loss = Counting(policy())
    loss.on_new_training_run(context())
    assert loss.starts == 1


def test_defaults_do_nothing() -> None:
    loss, shared = Loss(policy()), empty()
    assert loss.get_experience_spec() == {}
    assert loss.policy_output_keys(None) == set()
    td = empty()
    loss.rollout(td, context())
    assert not list(td.keys())
    assert loss.train(shared, context(), 0)[0].item() == 0.0
    assert loss.stats() == {}


def test_statistics_are_means_since_the_last_zeroing() -> None:
    loss = Loss(policy())
    loss.track("a", torch.tensor(1.0))
    loss.track("a", torch.tensor(4.0), weight=2.0)
    assert loss.stats() == {"a": 3.0}
    loss.zero_loss_tracker()
    assert loss.stats() == {}


def test_both_names_of_the_configuration_are_one_object() -> None:
    p = policy()
    cfg = PPOActorConfig(clip_coef=0.3)
    loss = PPOActor(p, cfg, trainer_cfg="trainer", env="env", device="cpu", instance_name="x")
    assert loss.cfg is cfg
    assert loss.loss_cfg is cfg
    assert (loss.policy, loss.trainer_cfg, loss.env, loss.instance_name) == (p, "trainer", "env", "x")
    assert loss.device == torch.device("cpu")
    assert loss.policy_experience_spec == p.get_agent_experience_spec()
    other = PPOActorConfig()
    loss.loss_cfg = other
    assert loss.cfg is other


def test_the_replay_buffer_is_attached_as_replay() -> None:
    loss = Loss(policy())
    assert loss.replay is None
    experience = object()
    loss.attach_replay_buffer(experience)
    assert loss.replay is experience


def test_configurations_check_values_also_when_changed_later() -> None:
    cfg = PPOActorConfig()
    cfg.clip_coef = 0.1
    for field, value in (("clip_coef", 0.0), ("ent_coef", -1.0), ("target_kl", 0.0)):
        with pytest.raises(ValidationError):
            setattr(cfg, field, value)
    with pytest.raises(ValidationError):
        PPOCriticConfig(vf_coef=-0.5)
    with pytest.raises(ValidationError):
        PPOCriticConfig(critic_update="gtd_lambda")
    with pytest.raises(ValidationError):
        LossConfig(surprise=1)


def test_the_wrong_policy_or_configuration_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Loss: policy must have a method forward\(\), got object"):
        Loss(object())
    with pytest.raises(TypeError, match=r"must have a method get_agent_experience_spec\(\), got Linear"):
        Loss(torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match="PPOActor: cfg must be a PPOActorConfig, got PPOCriticConfig"):
        PPOActor(policy(), PPOCriticConfig())  # type: ignore[arg-type]


def test_ppo_losses_routes_settings_and_keeps_the_critic_first() -> None:
    p = policy()
    losses = ppo_losses(p, clip_coef=0.3, vf_coef=0.7, target_kl=0.02, env="env", trainer_cfg="t")
    assert list(losses) == ["ppo_critic", "ppo_actor"]
    critic, actor = losses["ppo_critic"], losses["ppo_actor"]
    assert isinstance(critic, PPOCritic)
    assert isinstance(actor, PPOActor)
    assert (actor.cfg.clip_coef, actor.cfg.target_kl, critic.cfg.vf_coef) == (0.3, 0.02, 0.7)
    assert actor.cfg.ent_coef == PPOActorConfig().ent_coef
    for name, loss in losses.items():
        assert loss.instance_name == name
        assert (loss.policy, loss.env, loss.trainer_cfg) == (p, "env", "t")
        assert loss.device == torch.device("cpu")
    assert ppo_losses(p.to("meta"))["ppo_actor"].device == torch.device("meta")
    assert ppo_losses(p, device="cpu")["ppo_actor"].device == torch.device("cpu")


def test_ppo_losses_refuses_unknown_settings() -> None:
    with pytest.raises(TypeError, match=r"unknown settings \['clip_ceof'\]; known are .*'clip_coef'"):
        ppo_losses(policy(), clip_ceof=0.2)


def test_the_default_experience_spec_of_the_pair() -> None:
    spec: dict[str, Any] = {}
    for loss in ppo_losses(policy()).values():
        spec.update(loss.get_experience_spec())
    one = torch.Size([])
    scalars = ("act_log_prob", "values", "rewards", "dones", "truncateds", "truncation_values")
    assert spec == {**dict.fromkeys(scalars, (one, torch.float32)), "valid": (one, torch.bool)}
