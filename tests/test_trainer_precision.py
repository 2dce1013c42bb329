"""bfloat16, torch.compile, the fused loss, and the same bits at any number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from hotloop.policies import MLPPolicy
from hotloop.trainer import Trainer
from hotloop.trainer.precision import use_autocast, use_compile
from trainer_support import Recorder, lasting, run, settings


@pytest.fixture(autouse=True)
def _torch_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


class SeesDtypes(torch.nn.Module):
    """Notes the dtype that a product comes out in, and writes it to every output."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)
        self.seen: list[torch.dtype] = []

    def forward(self, td: TensorDict, action: Any = None) -> TensorDict:
        out = self.linear(td["env_obs"])
        self.seen.append(out.dtype)
        td["values"], td["act_log_prob"], td["hidden"] = out[:, 0], out[:, 1], out
        return td


def test_autocast_computes_in_bfloat16_and_hands_out_float32() -> None:
    policy = SeesDtypes()
    names = list(policy.state_dict())
    use_autocast(policy, torch.bfloat16, torch.device("cpu"))
    td = TensorDict({"env_obs": torch.randn(5, 4)}, [5])
    for action in (None, torch.zeros(5, 1)):
        result = policy.forward(td.clone(), action=action)
        assert (result["values"].dtype, result["act_log_prob"].dtype) == (torch.float32, torch.float32)
        assert result["hidden"].dtype == torch.bfloat16
        result["values"].sum().backward()
    assert policy.seen == [torch.bfloat16] * 2
    assert policy.linear.weight.grad is not None
    assert policy.linear.weight.grad.dtype == torch.float32
    assert list(policy.state_dict()) == names


@pytest.mark.parametrize("space", [3, "continuous"])
def test_bfloat16_changes_log_probabilities_by_its_rounding_only(space: Any) -> None:
    from hotloop.policies import ActionSpec

    action = ActionSpec.continuous(2) if space == "continuous" else space
    torch.manual_seed(0)
    policy = MLPPolicy((4,), action, hidden=(32,))
    td = TensorDict({"env_obs": torch.randn(200, 4)}, [200])
    actions = policy(td.clone())["actions"].reshape(200, -1)
    exact = policy(td.clone(), action=actions)
    use_autocast(policy, torch.bfloat16, torch.device("cpu"))
    rough = policy(td.clone(), action=actions)
    for key in ("act_log_prob", "values", "entropy"):
        assert rough[key].dtype == torch.float32
        torch.testing.assert_close(rough[key], exact[key], rtol=0.05, atol=0.05)
    assert not torch.equal(rough["values"], exact["values"])


def test_a_run_in_bfloat16_learns_and_repeats(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(settings(tmp_path / name, amp="bf16"))
    run(settings(tmp_path / "full"))
    rows = lasting(tmp_path / "a")
    assert rows == lasting(tmp_path / "b")
    assert rows != lasting(tmp_path / "full")


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_recurrent_policy_in_bfloat16_passes_its_self_check(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = {"kind": kind, "hidden": [16], "core_size": 16}
    run(settings(tmp_path / "rough", amp="bf16", policy=policy))
    if kind == "gru":  # its CPU kernels take single steps in any case, and repeat them to the bit
        return
    monkeypatch.setattr("hotloop.trainer.precision._REPEAT_TOLERANCE", 1e-6)
    with pytest.raises(RuntimeError, match="must repeat the rollout"):
        run(settings(tmp_path / "strict", amp="bf16", policy=policy))


@pytest.mark.slow
@pytest.mark.parametrize("space", ["CartPole-v1", "Pendulum-v1"])
def test_a_compiled_policy_trains_like_a_plain_one(tmp_path: Path, space: str) -> None:
    """With the native ops around it: the heads and the loss."""
    changes: dict[str, Any] = {"env": space, "total_timesteps": 200}
    run(settings(tmp_path / "plain", **changes))
    run(settings(tmp_path / "compiled", compile=True, **changes))
    for plain, compiled in zip(lasting(tmp_path / "plain"), lasting(tmp_path / "compiled"), strict=True):
        for name in ("value_loss", "entropy", "explained_variance"):
            assert float(compiled[name]) == pytest.approx(float(plain[name]), rel=1e-3, abs=1e-5), name


def test_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function) or function)
    for policy in (MLPPolicy((4,), 2, hidden=(4,)), SeesDtypes()):
        use_compile(policy)
    assert [function.__name__ for function in compiled] == ["logits_and_value", "forward"]


def test_the_fused_loss_is_the_separate_ones_with_the_same_names(tmp_path: Path) -> None:
    trainers, reports = [], []
    for fused in (True, False):
        trainers.append(Trainer(settings(tmp_path / str(fused), fused_loss=fused), progress=Recorder()))
        reports.append(trainers[-1]._run_epoch())
    assert [list(trainer.losses) for trainer in trainers] == [["ppo"], ["ppo_critic", "ppo_actor"]]
    assert dict(reports[0].losses) == pytest.approx(dict(reports[1].losses), rel=1e-3, abs=1e-5)
    for a, b in zip(trainers[0].policy.parameters(), trainers[1].policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    for trainer in trainers:
        trainer.environment.close()


def test_the_same_bits_at_any_number_of_threads(tmp_path: Path) -> None:
    """Three epochs of one minibatch each, large enough for torch to split sums over it among threads:
    what comes of the first one's gradients shows in the second."""
    wide: dict[str, Any] = {
        "num_envs": 2048,
        "rollout": {"horizon": 32, "minibatch_size": 2048 * 32, "update_epochs": 1},
        "total_timesteps": 3 * 2048 * 32,
    }
    run(settings(tmp_path / "one", threads=1, deterministic=True, **wide))
    run(settings(tmp_path / "two", threads=2, deterministic=True, **wide))
    assert lasting(tmp_path / "one") == lasting(tmp_path / "two")
    # Without the setting the last digits show how many threads there were; else this would prove nothing.
    torch.use_deterministic_algorithms(False)
    run(settings(tmp_path / "plain", threads=2, **wide))
    assert lasting(tmp_path / "plain") != lasting(tmp_path / "one")


def test_deterministic_takes_one_thread(tmp_path: Path) -> None:
    trainer = Trainer(settings(tmp_path / "r", threads=2, deterministic=True), progress=Recorder())
    trainer.environment.close()
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
