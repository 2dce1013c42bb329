"""The loop on a GPU. Every test is run with host memory in the device's place too, so that a test that fails
on a GPU has found something there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from device_support import FakeCalls, fake_device
from hotloop import ComponentContext, CoreTrainingLoop, Experience, LoopConfig
from hotloop.devices import CudaCalls, DeviceCalls, device_calls
from hotloop.loop_audit import HostSyncError
from hotloop.loop_transfer import ActionDownload, StepUpload
from hotloop.losses import ppo_losses
from hotloop.losses.ppo_loss import PPOLoss
from hotloop.optim import Adam
from hotloop.trainer import Trainer
from loop_support import TinyPolicy
from slices_support import EpisodicEnv
from test_loop_device import Capturable
from trainer_support import settings

AGENTS = 4
SIZES = {"batch_size": 96, "bptt_horizon": 6, "minibatch_size": 24}
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.cuda.is_available() is False")


@pytest.fixture(params=["fake", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """A GPU, or host memory that is taken for one."""
    if request.param == "cuda":
        yield torch.device("cuda", torch.cuda.current_device())
        return
    with fake_device():
        yield torch.device("cpu")


class Small(TinyPolicy):
    """What it does depends on the observations alone, so that two devices live through the same episodes."""

    def forward(self, td: Any, action: Tensor | None = None) -> Any:
        self.seen.clear()
        self.log.clear()
        return super().forward(td, action)


def make_loop(
    device: torch.device | str,
    *,
    capturable: bool = False,
    sampling: dict[str, Any] | None = None,
    fused: bool = True,
    **options: Any,
) -> CoreTrainingLoop:
    policy = Small().to(device)
    losses = ppo_losses(policy, fused=fused)
    experience = Experience.from_losses(
        total_agents=AGENTS,
        **SIZES,
        max_minibatch_size=None,
        policy_experience_spec=policy.get_agent_experience_spec(),
        losses=losses,
        device=device,
    )
    config = LoopConfig(**SIZES, **({"sampling": sampling} if sampling else {}))
    on_gpu = torch.device(device).type == "cuda"
    kind: Any = Adam if on_gpu or not capturable else Capturable
    optimizer = kind(policy.parameters(), lr=1e-2, **({"capturable": True} if capturable and on_gpu else {}))
    context = ComponentContext(config=config, losses=losses)
    return CoreTrainingLoop(policy, experience, losses, optimizer, device, context, **options)


def train(loop: CoreTrainingLoop, epochs: int = 3, windows: Any = None) -> list[dict[str, float]]:
    env = EpisodicEnv(windows or [slice(0, AGENTS)], "same_step", absent=True)
    env.teacher = False
    stats = []
    for _ in range(epochs):
        loop.rollout_phase(env, loop.context)
        stats.append(loop.training_phase(loop.context, 2)[0])
    return stats


def assert_alike(here: CoreTrainingLoop, there: CoreTrainingLoop, **tolerance: float) -> None:
    for key, entry in here.experience.buffer.items():
        torch.testing.assert_close(there.experience.buffer[key].cpu(), entry, **tolerance, msg=str(key))
    for mine, its in zip(here.policy.parameters(), there.policy.parameters(), strict=True):
        torch.testing.assert_close(its.detach().cpu(), mine.detach(), **tolerance)


METHODS = [
    {"method": "sequential"},
    {"method": "permutation"},
    {"method": "stratified"},
    {"method": "prioritized", "prio_alpha": 0.7},
    {"method": "prioritized", "prio_alpha": 0.7, "law": "systematic"},
]


@pytest.mark.parametrize("windows", [None, [slice(0, 2), slice(2, 4)]], ids=["whole", "slices"])
def test_a_rollout_stores_what_one_in_host_memory_does(device: torch.device, windows: Any) -> None:
    here, there = make_loop("cpu"), make_loop(device)
    for loop in (here, there):
        env = EpisodicEnv(windows or [slice(0, AGENTS)], "same_step", absent=True)
        env.teacher = False
        loop.rollout_phase(env, loop.context)
    assert_alike(here, there, rtol=1e-5, atol=1e-6)
    for name in ("row_slot_ids", "t_in_row"):
        assert torch.equal(getattr(there.experience, name).cpu(), getattr(here.experience, name))
    assert torch.equal(there.experience.row_slot_ids.cpu(), there.experience.cursors.rows)
    assert torch.equal(there.last_action.cpu(), here.last_action)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "two losses"])
@pytest.mark.parametrize("sampling", METHODS[:3], ids=lambda method: method["method"])
def test_training_learns_the_same(device: torch.device, sampling: Any, fused: bool) -> None:
    here, there = (make_loop(each, sampling=sampling, fused=fused) for each in ("cpu", device))
    for mine, its in zip(train(here, 2), train(there, 2), strict=True):
        assert mine.keys() == its.keys()
        for name, value in mine.items():
            assert its[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    assert_alike(here, there, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "two losses"])
@pytest.mark.parametrize("sampling", METHODS, ids=str)
def test_no_training_phase_waits(device: torch.device, sampling: Any, fused: bool) -> None:
    loop = make_loop(device, sampling=sampling, fused=fused, sync_audit=True)
    train(loop)
    calls = device_calls(device)
    assert calls is not None
    assert calls.sync_debug_mode() == 0


def test_one_item_is_found(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    run_train = PPOLoss.run_train

    def reads(self: PPOLoss, *arguments: Any) -> Any:
        result = run_train(self, *arguments)
        result[0].item()
        return result

    monkeypatch.setattr(PPOLoss, "run_train", reads)
    with pytest.raises(HostSyncError, match=r"'_train\.losses'"):
        train(make_loop(device, sync_audit=True))
    train(make_loop(device))


@pytest.mark.parametrize("audit", [False, True], ids=["unaudited", "audited"])
def test_a_captured_step_learns_what_an_ordinary_one_does(device: torch.device, audit: bool) -> None:
    ordinary = make_loop(device, capturable=True)
    captured = make_loop(device, capturable=True, capture_optimizer_step=True, sync_audit=audit)
    train(ordinary)
    train(captured)
    for mine, its in zip(ordinary.policy.parameters(), captured.policy.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)
    assert captured._on_device.captured is not None
    assert captured._on_device.captured.captures == 1


def test_a_captured_step_follows_the_learning_rate(device: torch.device) -> None:
    loop = make_loop(device, capturable=True, capture_optimizer_step=True)
    train(loop, 1)
    loop.optimizer.param_groups[0]["lr"] = 0.0
    before = [parameter.detach().clone() for parameter in loop.policy.parameters()]
    train(loop, 1)
    if device.type == "cuda":  # the fake's graphs run Python anew
        for mine, its in zip(loop.policy.parameters(), before, strict=True):
            assert torch.equal(mine, its)
    assert loop._on_device.captured is not None
    assert loop._on_device.captured.captures == 1


def runtime(device: torch.device) -> DeviceCalls:
    calls = device_calls(device)
    assert isinstance(calls, CudaCalls if device.type == "cuda" else FakeCalls)
    return calls


def busy(device: torch.device) -> None:
    """What is queued behind this has not happened when the call returns."""
    if device.type == "cuda":
        torch.cuda._sleep(50_000_000)


def test_steps_arrive_on_a_device_that_lags_behind(device: torch.device) -> None:
    upload = StepUpload(device, runtime(device))
    busy(device)
    arrived = []
    for number in range(8):
        step = [torch.full((1000, 30), float(number)), torch.full((1000,), number % 2 == 0)]
        arrived.append(upload((0, 1000), step))
    for number, (observations, flags) in enumerate(arrived):
        assert observations is not None
        assert flags is not None
        assert observations.device == flags.device == device
        assert bool((observations == number).all())
        assert bool((flags == (number % 2 == 0)).all())


def test_pinned_memory_is_pinned(device: torch.device) -> None:
    memory = runtime(device).pinned(1000)
    assert memory.dtype == torch.uint8
    assert memory.is_pinned() == (device.type == "cuda")


def test_actions_come_back_from_a_device_that_lags_behind(device: torch.device) -> None:
    download = ActionDownload(device, runtime(device))
    for number in range(4):
        busy(device)
        actions = torch.arange(1000, device=device, dtype=torch.int32) + number
        assert download(actions).tolist() == list(range(number, number + 1000))


def test_a_copy_of_actions_does_not_count_as_a_wait_that_the_audit_knows(device: torch.device) -> None:
    """The audit is of training phases; what waits by an event is not what torch reports."""
    calls = runtime(device)
    download = ActionDownload(device, calls)
    download(torch.zeros(4, device=device))
    if device.type == "cuda":
        calls.set_sync_debug_mode(2)
        try:
            download(torch.zeros(4, device=device))
        finally:
            calls.set_sync_debug_mode(0)


def test_a_side_stream_is_in_order_with_the_current_one(device: torch.device) -> None:
    x = torch.zeros(1000, device=device)
    busy(device)
    x += 1

    def work() -> None:
        x.mul_(3)

    runtime(device).on_side_stream(work)
    x += 1
    assert bool((x == 4).all())


def test_a_graph_does_what_it_recorded_once_more(device: torch.device) -> None:
    x = torch.ones(1000, device=device)

    def work() -> None:
        x.mul_(2)

    runtime(device).on_side_stream(work)
    graph = runtime(device).capture(work)
    graph.replay()
    graph.replay()
    assert bool((x == 8).all())


@pytest.mark.parametrize("capture", [False, True], ids=["ordinary", "captured"])
def test_the_trainer_trains_audited(device: torch.device, capture: bool, tmp_path: Path) -> None:
    if capture and device.type == "cpu":
        pytest.skip("torch's capturable optimizers do not step in host memory")
    config = settings(
        tmp_path / "run", device=str(device), sync_audit=True, capture_optimizer_step=capture, quiet=True
    )
    result = Trainer(config).train()
    assert result.epoch == 6
