"""The loop's way on a device, with host memory in the device's place: it stores and learns what the loop in
host memory does, and nothing in its training phase waits."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor

from cuda_host_support import CUDA_SOURCES, on_backend
from device_support import NothingWaits, fake_device
from hotloop import ComponentContext, CoreTrainingLoop, Experience, LoopConfig
from hotloop.experience_rows import RowBook
from hotloop.experience_store import StepStore
from hotloop.loop_audit import HostSyncError
from hotloop.loop_boundary import RowBoundary
from hotloop.loop_direct import DirectActing
from hotloop.loop_rollout import StepBuilder
from hotloop.losses import ppo_losses
from hotloop.losses.ppo_loss import PPOLoss
from hotloop.optim import Adam
from hotloop.policies import LSTMPolicy, MLPPolicy
from recurrent_support import Counter
from slices_support import EpisodicEnv

AGENTS = 4
SIZES = {"batch_size": 96, "bptt_horizon": 6, "minibatch_size": 24}
CHOICES = gymnasium.spaces.Discrete(3)
SEVERAL = gymnasium.spaces.MultiDiscrete([2, 3])
NUMBERS = gymnasium.spaces.Box(-1.0, 1.0, (2,))


class Env(EpisodicEnv):
    def __init__(self, space: Any, windows: list[slice], autoreset: str, teacher: bool) -> None:
        super().__init__(windows, autoreset, absent=True)
        self.single_action_space = space
        self.teacher = teacher


class Capturable(torch.optim.Optimizer):
    """Momentum, whose step decides nothing on the host."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": 0.9, "capturable": True})
        self.rates: list[Any] = []

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            self.rates.append(group["lr"])
            for parameter in group["params"]:
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                parameter.sub_(group["lr"] * state["momentum"])


def make_loop(
    *,
    space: Any = CHOICES,
    recurrent: bool = False,
    policy: Any = None,
    fused: bool = True,
    accumulate: int = 1,
    loss: dict[str, Any] | None = None,
    capturable: bool = False,
    options: dict[str, Any] | None = None,
    **config: Any,
) -> CoreTrainingLoop:
    torch.manual_seed(1)
    kind: Any = LSTMPolicy if recurrent else MLPPolicy
    if policy is None:
        policy = kind((3,), space, hidden=(8,), **({"core_size": 8} if recurrent else {}))
    else:
        policy = policy()
    losses = ppo_losses(policy, fused=fused, **(loss or {}))
    experience = Experience.from_losses(
        total_agents=AGENTS,
        **SIZES,
        max_minibatch_size=SIZES["minibatch_size"] // accumulate,
        policy_experience_spec=policy.get_agent_experience_spec(),
        losses=losses,
        device="cpu",
    )
    context = ComponentContext(config=LoopConfig(**SIZES, **config), losses=losses)
    optimizer: Any = (Capturable if capturable else Adam)(policy.parameters(), lr=1e-2)
    return CoreTrainingLoop(policy, experience, losses, optimizer, "cpu", context, **(options or {}))


def run(
    epochs: int = 3,
    *,
    windows: list[slice] | None = None,
    autoreset: str = "same_step",
    teacher: bool = False,
    between: Any = None,
    **settings: Any,
) -> tuple[CoreTrainingLoop, list[Any], list[Any]]:
    env = Env(settings.get("space", CHOICES), windows or [slice(0, AGENTS)], autoreset, teacher)
    loop, stats = make_loop(**settings), []
    for epoch in range(epochs):
        if between is not None:
            between(loop, epoch)
        loop.rollout_phase(env, loop.context)
        stats.append(loop.training_phase(loop.context, 2)[0])
    return loop, stats, env.sent


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "next_step": {"autoreset": "next_step"},
    "slices": {"windows": [slice(0, 2), slice(2, 4)]},
    "teacher": {"teacher": True},
    "several choices": {"space": SEVERAL},
    "numbers": {"space": NUMBERS},
    "two losses": {"fused": False},
    "sequential": {"sampling": {"method": "sequential"}},
    "stratified": {"sampling": {"method": "stratified"}},
    "prioritized": {"sampling": {"method": "prioritized", "prio_alpha": 0.7}},
    "systematic": {"sampling": {"method": "prioritized", "prio_alpha": 0.7, "law": "systematic"}},
    "accumulated": {"accumulate": 2},
    "recurrent": {"recurrent": True},
    "recurrent, own": {"policy": Counter, "space": gymnasium.spaces.Discrete(2)},
    "recurrent, next_step": {"recurrent": True, "autoreset": "next_step"},
    "centred": {"advantage": {"reward_centering": {"enabled": True, "beta": 0.1}}},
    "legacy": {"options": {"boundary": "legacy", "truncation": "legacy"}},
    "last actions shown": {"options": {"reset_last_actions": True}},
    "target_kl": {"loss": {"target_kl": 1e-3}},
    "skip": {"options": {"on_nan": "skip"}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_loop_on_a_device_does_what_one_in_host_memory_does(name: str) -> None:
    here, here_stats, here_sent = run(**SETTINGS[name])
    with fake_device() as calls:
        there, there_stats, there_sent = run(**SETTINGS[name])
    assert calls.log.count(("copy",)) >= 2 * len(there_sent)  # there and back
    compare(here, there)
    assert here_stats == there_stats
    for mine, its in zip(here_sent, there_sent, strict=True):
        assert (mine == its).all()


@pytest.mark.skipif(not CUDA_SOURCES.is_dir(), reason="an installed package carries no C++ sources")
@pytest.mark.parametrize("name", ["plain", "slices", "prioritized", "systematic", "recurrent", "numbers"])
def test_the_cuda_kernels_under_the_host_runner_do_the_same(name: str) -> None:
    here, here_stats, _ = run(2, **SETTINGS[name])
    with fake_device(), on_backend("cuda_host"):
        there, there_stats, _ = run(2, **SETTINGS[name])
    compare(here, there)
    assert here_stats == there_stats


def compare(here: CoreTrainingLoop, there: CoreTrainingLoop) -> None:
    for key, entry in here.experience.buffer.items():
        assert torch.equal(entry, there.experience.buffer[key]), key
    for one, other in zip(here.policy.parameters(), there.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(here.last_action, there.last_action)
    assert torch.equal(here.experience.row_slot_ids, there.experience.row_slot_ids)
    assert torch.equal(here.experience.t_in_row, there.experience.t_in_row)
    assert there.experience.row_slot_ids is not there.experience.cursors.rows
    assert torch.equal(there.experience.row_slot_ids, there.experience.cursors.rows)


def test_a_plain_step_takes_the_direct_way_and_one_kernel_stores_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[int] = []
    write = StepStore._write_by_op
    monkeypatch.setattr(StepStore, "_write_by_op", lambda *a: (stored.append(1), write(*a))[1])
    acted: list[int] = []
    act = DirectActing.act
    monkeypatch.setattr(DirectActing, "act", lambda *a: (acted.append(1), act(*a))[1])
    with fake_device():
        run(1)
    assert len(stored) == SIZES["batch_size"] // AGENTS
    assert 0 < len(acted) < len(stored)  # some steps are truncated


WAITING = ("target_kl", "skip", "recurrent", "recurrent, next_step")


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in WAITING])
def test_nothing_in_a_training_phase_waits(name: str) -> None:
    settings = copy.copy(SETTINGS[name])
    settings["options"] = {**settings.get("options", {}), "sync_audit": True}
    with fake_device() as calls:
        _, stats, _ = run(**settings)
    assert calls.modes == [2, 0] * 3
    assert stats[-1]["value_loss"] > 0


def test_our_own_recurrent_cores_look_where_episodes_end_and_are_found_out() -> None:
    with fake_device(), pytest.raises(HostSyncError, match=r"'_train.forward'"):
        run(1, recurrent=True, options={"sync_audit": True})


@pytest.mark.parametrize("name", ["plain", "slices", "next_step", "several choices", "numbers", "centred"])
def test_nothing_in_a_step_waits_but_for_its_actions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment's step to the actions: what acts, stores, and keeps what arrives after rows."""
    watched: list[str] = []

    def watch(owner: Any, method: str) -> None:
        ordinary = getattr(owner, method)

        def call(*arguments: Any) -> Any:
            watched.append(method)
            with NothingWaits():
                return ordinary(*arguments)

        monkeypatch.setattr(owner, method, call)

    for owner, method in (
        (DirectActing, "act"), (StepBuilder, "unpack"), (StepBuilder, "build"),
        (StepBuilder, "track_rewards"), (RowBoundary, "before_step"), (RowBoundary, "after_step"),
        (Experience, "store"), (PPOLoss, "rollout"), (Experience, "reset_for_rollout"),
    ):  # fmt: skip
        watch(owner, method)
    with fake_device():
        run(2, **SETTINGS[name])
    assert {"act", "unpack", "build", "after_step", "store", "rollout", "reset_for_rollout"} <= set(watched)


def planted(self: PPOLoss, *arguments: Any) -> Tensor:
    loss = ORDINARY(self, *arguments)
    loss.item()
    return loss


ORDINARY = PPOLoss._fused


def test_one_item_in_a_loss_is_found_and_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PPOLoss, "_fused", planted)
    with fake_device() as calls:
        with pytest.raises(HostSyncError, match=r"waited for the device in '_train.losses'") as caught:
            run(1, options={"sync_audit": True})
        assert caught.value.phase == "_train.losses"
        assert calls.mode == 0
        run(1)  # without the audit it goes


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: bool(x.sum() > 0),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: torch.equal(x, x),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x + torch.tensor([1.0, 2.0, 3.0]),
    ],
    ids=["bool", "nonzero", "boolean index", "masked_select", "equal", "tolist", "cpu", "tensor of a list"],
)
def test_every_way_to_wait_is_found(wait: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PPOLoss, "on_mb_end", lambda self, context, mb: wait(torch.ones(3)))
    with fake_device(), pytest.raises(HostSyncError, match="between its parts"):
        run(1, options={"sync_audit": True})


def test_another_error_stays_what_it_is_and_the_mode_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: PPOLoss, context: Any, mb_idx: int) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(PPOLoss, "on_mb_end", fails)
    with fake_device() as calls:
        calls.mode = 1
        with pytest.raises(RuntimeError, match="something else"):
            run(1, options={"sync_audit": True})
    assert calls.modes == [2, 1]


@pytest.mark.parametrize("option", ["sync_audit", "capture_optimizer_step"])
def test_options_of_a_device_are_refused_in_host_memory(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}=True needs a CUDA device, got cpu"):
        make_loop(options={option: True})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": {"target_kl": 0.1}}, "target_kl of the loss 'ppo'"),
        ({"options": {"on_nan": "skip"}}, "on_nan='skip'"),
        ({"recurrent": True, "options": {"recurrent_check": "always"}}, "recurrent_check='always'"),
    ],
    ids=["target_kl", "skip", "always"],
)
def test_the_audit_refuses_what_must_wait(settings: dict[str, Any], message: str) -> None:
    settings = {**settings, "options": {**settings.get("options", {}), "sync_audit": True}}
    with fake_device() as calls, pytest.raises(ValueError, match=message):
        run(1, **settings)
    assert calls.modes == []


def scheduled(loop: CoreTrainingLoop, epoch: int) -> None:
    for group in loop.optimizer.param_groups:
        group["lr"] = 1e-2 / (1 + epoch)


def test_a_captured_step_learns_the_same() -> None:
    with fake_device() as calls:
        ordinary, expected, _ = run(capturable=True, between=scheduled)
        assert ("capture",) not in calls.log
        options = {"capture_optimizer_step": True}
        captured, stats, _ = run(capturable=True, between=scheduled, options=options)
    assert calls.log.count(("side stream",)) == 1
    assert calls.log.count(("capture",)) == 1  # the schedule costs none
    steps = 3 * 2 * SIZES["batch_size"] // SIZES["minibatch_size"]
    assert calls.log.count(("replay",)) == steps - 1
    for mine, its in zip(captured.policy.parameters(), ordinary.policy.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-7)
    assert stats[0].keys() == expected[0].keys()
    assert captured.optimizer.param_groups[0]["lr"] == 1e-2 / 3


@pytest.mark.parametrize("audit", [False, True])
def test_a_captured_step_with_the_audit(audit: bool) -> None:
    options = {"capture_optimizer_step": True, "sync_audit": audit}
    with fake_device():
        loop, _, _ = run(capturable=True, options=options)
    assert loop._on_device.captured is not None
    assert loop._on_device.captured.captures == 1


@pytest.mark.parametrize("captured", [False, True])
def test_an_optimizer_may_be_put_in_anothers_place(captured: bool) -> None:
    moved = []

    def replaced(loop: CoreTrainingLoop, epoch: int) -> None:
        moved.append([parameter.detach().clone() for parameter in loop.policy.parameters()])
        if epoch == 1:
            loop.optimizer = Capturable(loop.policy.parameters(), lr=0.0)

    with fake_device():
        loop, _, _ = run(capturable=True, between=replaced, options={"capture_optimizer_step": captured})
    for at_last, after_one, at_first in zip(loop.policy.parameters(), moved[1], moved[0], strict=True):
        assert torch.equal(at_last, after_one)
        assert not torch.equal(at_last, at_first)


def test_a_captured_step_is_refused_with_what_it_cannot_be_with() -> None:
    with fake_device():
        with pytest.raises(
            ValueError, match=r"needs an optimizer made with capturable=True .* got Adam without"
        ):
            make_loop(options={"capture_optimizer_step": True})
        with pytest.raises(ValueError, match="cannot be with on_nan='skip'"):
            run(1, capturable=True, options={"capture_optimizer_step": True, "on_nan": "skip"})


@pytest.mark.parametrize(("agents", "segments"), [(3, 3), (3, 4), (3, 5), (3, 8), (2, 7)])
def test_rows_on_the_device_are_those_of_the_cursors(agents: int, segments: int) -> None:
    """Nothing is sent: the device counts by itself, over the end of the buffer too."""
    with fake_device() as calls:
        book = RowBook(agents, segments, 2, torch.device("cpu"))
        wrapped = False
        for _ in range(2):
            book.reset()
            while not book.complete:
                column = book.begin_store(0, agents)
                if column is None:
                    break
                book.cursors.advance(0, agents)
                book.end_store(0, agents, column)
                assert torch.equal(book.rows, book.cursors.rows)
                assert torch.equal(book.positions, book.cursors.positions)
                wrapped |= bool((book.rows[1:] < book.rows[:-1]).any())
    assert book.rows.data_ptr() != book.cursors.rows.data_ptr()
    assert wrapped or segments % agents == 0
    assert calls.log == []


def test_a_copy_of_the_loop_has_memory_of_its_own() -> None:
    with fake_device():
        loop, _, _ = run(1)
        other = copy.deepcopy(loop)
        env = Env(CHOICES, [slice(0, AGENTS)], "same_step", False)
        other.rollout_phase(env, other.context)
    assert other._steps._upload is not loop._steps._upload
