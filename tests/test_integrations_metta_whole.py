"""Metta's trainer with hotloop's loop and with its own, a plain torch one: equal to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metta_double import LAYOUTS, SCALAR, Leaf, Spec
from metta_runs import Run, assert_equal

INT = torch.int64
# Entries that the loop sets, and some that nobody does: those keep the last rollout's values.
STORED = Spec(
    training_env_ids=Leaf(torch.Size((1,)), INT),
    last_actions=Leaf(torch.Size((1,)), torch.int32),
    carried=Leaf(torch.Size((2,)), torch.float32),
    memory=Spec(h=SCALAR),
)
TRACKED = Spec(row_id=Leaf(torch.Size(()), INT), t_in_row=Leaf(torch.Size(()), INT), **STORED)


def fill(trainer: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    for key in ("carried", ("memory", "h")):
        leaf = trainer.experience.buffer[key]
        leaf.copy_(torch.rand(leaf.shape, generator=generator))


def accumulate(trainer: Any) -> None:
    trainer.core_loop.accumulate_minibatches = 2


def store_less(trainer: Any) -> None:
    trainer.experience.set_store_keys(["env_obs", "actions", "values", "rewards"])


def reschedule(trainer: Any, epoch: int) -> None:
    """As Metta's scheduler does it, between a rollout and its training."""
    trainer.config.clip_coef = 0.2 - 0.05 * epoch
    trainer.config.advantage.gamma = 0.9 + 0.03 * epoch
    trainer.config.advantage.gae_lambda = 0.8 + 0.05 * epoch
    trainer.config.advantage.vtrace_rho_clip = 1.0 - 0.2 * epoch
    trainer.config.advantage.reward_centering.beta = 0.1 + 0.1 * epoch
    trainer.config.sampling.method = ("sequential", "prioritized", "prioritized")[epoch]
    trainer.config.sampling.prio_alpha = 0.3 * epoch
    trainer.config.total_timesteps = 100 * (epoch + 1)


def close_gate(trainer: Any) -> None:
    trainer.context.loss_run_gates["ppo_critic"] = {"train": False}


CASES: dict[str, dict[str, Any]] = {
    "one slice": {},
    "two slices": {"slices": 2},
    "one row an agent": {"rows": 1},
    "rows that wrap": {"slices": 3, "batch_size": 7 * 4, "minibatch_size": 7 * 4},
    "slices of unequal speed": {"slices": 2, "order": (0, 0, 1), "rows": 1},
    "several passes": {"epochs": 2, "minibatches": 3, "update_epochs": 3},
    "recurrent": {"recurrent": True},
    "prioritised": {"method": "prioritized", "prio_alpha": 0.7, "slices": 3, "update_epochs": 2},
    "prioritised by 0": {"method": "prioritized"},
    "clipped ratios": {"vtrace_rho_clip": 0.9, "vtrace_c_clip": 0.8, "gamma": 1.0},
    "a schedule": {"each": reschedule},
    "a loss that stops": {"stop_at": 4, "update_epochs": 2},
    "accumulated": {"change": accumulate, "minibatches": 4},
    "an unfinished step": {"change": accumulate, "minibatches": 3},
}
OCT: dict[str, dict[str, Any]] = {
    "several actions": {"nvec": (3, 4), "slices": 2},
    "more is stored": {"extra": STORED, "change": fill, "slices": 2},
}
HEAD: dict[str, dict[str, Any]] = {
    "more is stored": {"extra": TRACKED, "change": fill, "slices": 2},
    "less is stored": {"change": store_less},
    "a loss that slices": {"sliced": True},
    # gamma * lambda is rounded once there and twice here, which shows where gamma is not 1
    "gradients through advantages": {"critic_update": "gtd_lambda", "gamma": 1.0},
    "a critic that pauses": {"critic_update": "gtd_lambda", "change": close_gate},
}
ALL = [
    *((layout, name, case) for layout in LAYOUTS for name, case in CASES.items()),
    *(("oct", name, case) for name, case in OCT.items()),
    *(("head", name, case) for name, case in HEAD.items()),
]


@pytest.mark.parametrize(("layout", "case"), [pytest.param(a, c, id=f"{a}-{n}") for a, n, c in ALL])
def test_epochs_are_equal_to_the_last_bit(layout: str, case: dict[str, Any]) -> None:
    ours, theirs = Run(layout, "install", **case), Run(layout, **case)
    assert {kind.__module__.partition(".")[0] for kind in ours.kinds} == {"hotloop"}
    assert {kind.__module__.partition(".")[0] for kind in theirs.kinds} == {"metta"}
    assert_equal(ours, theirs)


def test_gradients_through_advantages_are_close_where_the_discount_rounds() -> None:
    case: dict[str, Any] = {"critic_update": "gtd_lambda", "epochs": 1}
    assert_equal(Run("head", "install", **case), Run("head", **case), tolerance=1e-5)


@pytest.mark.parametrize("case", [CASES["prioritised"], CASES["two slices"], CASES["recurrent"]])
@pytest.mark.parametrize(
    ("layout", "name"),
    [
        *(
            (layout, name)
            for layout in LAYOUTS
            for name in ("CoreTrainingLoop", "Experience", "compute_advantage")
        ),
        ("head", "compute_delta_lambda"),
    ],
)
def test_each_replaces_its_namesake_alone(layout: str, name: str, case: dict[str, Any]) -> None:
    if name == "compute_delta_lambda":
        case = {**case, "critic_update": "gtd_lambda", "gamma": 1.0}
    assert_equal(Run(layout, (name,), **case), Run(layout, **case))


@pytest.mark.parametrize("case", [CASES["prioritised"], CASES["several passes"]])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_copies_change_nothing(layout: str, case: dict[str, Any]) -> None:
    assert_equal(Run(layout, "install", options={"copy": True}, **case), Run(layout, **case))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_way_to_add_last_actions_is_taken(layout: str) -> None:
    """Whether a subclass has it or somebody put it on the loop."""

    def other(trainer: Any) -> None:
        def add(td: Any, env: Any = None) -> None:
            kind.add_last_action_to_td(trainer.core_loop, td, *(() if layout == "head" else (env,)))
            td["last_actions"] = td["last_actions"] + 7

        kind = type(trainer.core_loop)
        trainer.core_loop.add_last_action_to_td = add

    case: dict[str, Any] = {"extra": STORED, "slices": 2, "change": other, "epochs": 1}
    ours = Run(layout, "install", **case)
    assert int(ours.buffers[0]["last_actions"].min()) >= 7
    assert_equal(ours, Run(layout, **case))


def test_the_hooks_come_in_the_reference_order() -> None:
    """What the two runs above are equal in, spelled out for one."""
    run = Run("head", "install", epochs=1, rows=1, horizon=2, minibatches=1)
    names = [entry[0] for entry in run.log]
    losses = ("ppo_critic", "ppo_actor", "watcher")
    started = [call for loss in losses for call in (f"{loss}.on_rollout_start", "policy.reset_memory")]
    step = ["ppo_critic.rollout", "policy.forward", "ppo_actor.rollout", "watcher.rollout"]
    trained = [call for loss in losses for call in (f"{loss}.policy_output_keys", f"{loss}.train")]
    assert names == [
        *(f"{loss}.on_epoch_start" for loss in losses),
        *started,
        *step,
        *step,
        *(f"{loss}.zero_loss_tracker" for loss in losses),
        "policy.reset_memory",
        "policy.forward",
        *trained,
        *(f"{loss}.on_mb_end" for loss in losses),
        *(f"{loss}.on_train_phase_end" for loss in losses),
        *(f"{loss}.stats" for loss in losses),
    ]
    phases = ["_rollout.env_wait", "_rollout.td_prep", "_rollout.inference", "_rollout.send"]
    assert run.timed == phases * 2
