"""Metta: what `install()` exchanges, `uninstall()` puts back and `verify=True` notices."""

from __future__ import annotations

import functools
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import metta_double
from hotloop import integrations
from hotloop.integrations import UntestedHostError, VerificationError, metta
from metta_double import LAYOUTS
from metta_runs import Run, assert_equal

NAMES = {
    "oct": ("CoreTrainingLoop", "Experience", "compute_advantage"),
    "head": ("CoreTrainingLoop", "Experience", "compute_advantage", "compute_delta_lambda"),
}


def bindings() -> dict[tuple[str, str], Any]:
    """Everything that is bound in a module of the double."""
    return {
        (name, bound): value
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "metta" and isinstance(module, ModuleType)
        for bound, value in vars(module).items()
        if not bound.startswith("__")
    }


@pytest.mark.parametrize(
    "options", [{}, {"copy": True}, {"verify": True}, {"copy": True, "verify": 2}], ids=str
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_everything_is_put_back(layout: str, options: dict[str, Any]) -> None:
    with metta_double.loaded(layout):
        before = bindings()
        assert metta.install(**options) == layout
        during = bindings()
        late = ModuleType("metta.late")  # imported while ours is there
        late.Loop = sys.modules["metta.rl.training.core"].CoreTrainingLoop  # type: ignore[attr-defined]
        sys.modules["metta.late"] = late
        metta.uninstall()
        assert late.Loop is before["metta.rl.training.core", "CoreTrainingLoop"]
        del sys.modules["metta.late"]
        after = bindings()
        assert before.keys() == during.keys() == after.keys()
        assert all(after[key] is value for key, value in before.items())
        changed = {key for key, value in before.items() if during[key] is not value}
        assert changed == {key for key in before if key[1] in NAMES[layout]}
        assert {name for _, name in changed} == set(NAMES[layout])
        if not options:
            ours = getattr(metta, layout)
            assert all(during[key] is getattr(ours, key[1]) for key in changed)
        metta.uninstall()


def test_the_status_tells_what_is_exchanged() -> None:
    def patched() -> list[str]:
        return next(host["patched"] for host in integrations.status() if host["name"] == "metta")

    with metta_double.loaded("head"):
        metta.install()
        told = patched()
        metta.uninstall()
        assert "metta.rl.training.core.CoreTrainingLoop" in told
        assert "metta.rl.trainer.Experience" in told
        assert patched() == []


def test_a_second_installation_replaces_the_first() -> None:
    with metta_double.loaded("head") as host:
        original = host.experience.Experience
        metta.install(copy=True)
        assert host.experience.Experience.copies
        metta.install()
        assert host.experience.Experience is metta.head.Experience
        assert not host.experience.Experience.copies
        metta.uninstall()
        assert host.experience.Experience is original


def test_nothing_is_installed_without_metta() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"hotloop\.integrations\.metta: metta is not installed"):
        metta.install(force=True)


def of_another_time(host: SimpleNamespace, layout: str) -> None:
    """A layout that is neither: a sampler more, or the device in the other place."""
    if layout == "oct":
        host.experience.Experience.sample = None
    else:
        del host.advantage.compute_delta_lambda


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_layout_is_refused_unless_forced(layout: str) -> None:
    with metta_double.loaded(layout) as host:
        before = bindings()
        of_another_time(host, layout)
        modules = host.core, host.experience, host.advantage
        with pytest.raises(
            UntestedHostError,
            match=r"6e370f620b \(October 2025\) and a8d1ecee19 \(January 2026\), got one with add",
        ):
            metta.install()
        assert metta.find_layout(*modules, force=True) == "head"
        assert bindings().keys() <= before.keys()
        assert host.core.CoreTrainingLoop is before["metta.rl.training.core", "CoreTrainingLoop"]


VERIFIED: list[tuple[str, dict[str, Any]]] = [
    ("oct", {"slices": 2}),
    ("oct", {"method": "prioritized", "prio_alpha": 0.7}),
    ("head", {"slices": 2, "rows": 1}),
    ("head", {"method": "prioritized", "prio_alpha": 0.7, "update_epochs": 2}),
    ("head", {"critic_update": "gtd_lambda", "gamma": 1.0, "recurrent": True}),
]


@pytest.mark.parametrize(("layout", "case"), VERIFIED)
@pytest.mark.parametrize("verify", [True, 3])
def test_verification_changes_nothing(layout: str, case: dict[str, Any], verify: bool | int) -> None:
    ours, theirs = Run(layout, "install", options={"verify": verify}, **case), Run(layout, **case)
    # the policy was run once more for each comparison: only that may show in its log
    ours.log = [entry for entry in ours.log if not entry[0].startswith("policy.")]
    theirs.log = [entry for entry in theirs.log if not entry[0].startswith("policy.")]
    assert_equal(ours, theirs)


def plant_function(name: str, wrong: Any) -> None:
    """Exchanges a function of the host wherever it was imported, before hotloop comes."""
    original = getattr(sys.modules["metta.rl.advantage"], name)

    @functools.wraps(original)  # with the signature by which layouts are told apart
    def planted(*args: Any, **named: Any) -> Any:
        return wrong(original(*args, **named))

    for (module, bound), value in bindings().items():
        if value is original:
            setattr(sys.modules[module], bound, planted)


def plant_advantage(host: SimpleNamespace) -> None:
    def wrong(result: Any) -> Any:
        result[1, 0] += 1e-2
        return result

    plant_function("compute_advantage", wrong)


def plant_delta_lambda(host: SimpleNamespace) -> None:
    plant_function("compute_delta_lambda", lambda result: result + 1e-3)


def plant_store(host: SimpleNamespace) -> None:
    inner = host.experience.Experience.store

    def store(self: Any, data_td: Any, env_id: slice) -> None:
        inner(self, data_td, env_id)
        self.buffer["rewards"][2] += 0.5

    host.experience.Experience.store = store


def plant_rows(host: SimpleNamespace) -> None:
    inner = host.experience.Experience.store

    def store(self: Any, data_td: Any, env_id: slice) -> None:
        inner(self, data_td, env_id)
        self.free_idx += 1

    host.experience.Experience.store = store


def plant_sample(host: SimpleNamespace) -> None:
    inner = host.experience.Experience.sample

    def sample(self: Any, *args: Any, **named: Any) -> Any:
        shared = inner(self, *args, **named)
        shared["sampled_mb"]["values"] = shared["sampled_mb"]["values"] + 0.25
        return shared

    host.experience.Experience.sample = sample


def plant_draw(host: SimpleNamespace) -> None:
    inner = host.experience.Experience.sample

    def sample(self: Any, *args: Any, **named: Any) -> Any:
        shared = inner(self, *args, **named)
        torch.rand(1)
        return shared

    host.experience.Experience.sample = sample


def plant_step(host: SimpleNamespace) -> None:
    inner = host.core.CoreTrainingLoop.add_last_action_to_td

    def with_more(self: Any, td: Any, env: Any) -> None:
        inner(self, td, env)
        td["last_actions"] = td["last_actions"] + 1

    def with_more_at_head(self: Any, td: Any) -> None:
        inner(self, td)
        td["last_actions"] = td["last_actions"] + 1

    takes = inner.__code__.co_argcount
    host.core.CoreTrainingLoop.add_last_action_to_td = with_more if takes == 3 else with_more_at_head


def plant_minibatch(host: SimpleNamespace) -> None:
    host.core.forward_for_training = _halved(host.core.forward_for_training)


def _halved(forward: Any) -> Any:
    def inner(policy: Any, minibatch: Any, spec: Any) -> Any:
        td = forward(policy, minibatch, spec)
        td["act_log_prob"] = td["act_log_prob"] * 0.5
        return td

    return inner


@pytest.mark.parametrize(
    ("layout", "plant", "message"),
    [
        (
            "oct",
            plant_advantage,
            r"compute_advantage: result differs from the host's own: by 0\.01 at \[1, 0\]",
        ),
        (
            "head",
            plant_advantage,
            r"compute_advantage: result differs .* by 0\.01 at \[1, 0\]",
        ),
        (
            "head",
            plant_delta_lambda,
            r"compute_delta_lambda: result differs .* by 0\.001",
        ),
        ("oct", plant_store, r"Experience\.store at column 0: rewards differs .* by 0\.5 at \[2\]"),
        ("head", plant_store, r"Experience\.store at column 0: rewards differs .* by 0\.5 at \[2\]"),
        ("head", plant_rows, r"Experience\.store at column 0: free_idx differs"),
        ("oct", plant_rows, r"Experience\.store at column 0: free_idx differs"),
        ("head", plant_sample, r"Experience\.sample: \('sampled_mb', 'values'\) differs .* by 0\.25"),
        ("head", plant_draw, r"Experience\.sample: generator differs"),
        (
            "oct",
            plant_step,
            r"the first step's td: last_actions differs from the host's own: by 1 at \[0, 0\]",
        ),
        (
            "head",
            plant_step,
            r"the first step's td: last_actions differs from the host's own: by 1 at \[0, 0\]",
        ),
        ("head", plant_minibatch, r"the first minibatch: .*(ratio|act_log_prob)'?\)? differs"),
    ],
)
def test_a_planted_difference_is_noticed(layout: str, plant: Any, message: str) -> None:
    case: dict[str, Any] = {"critic_update": "gtd_lambda"} if plant is plant_delta_lambda else {}
    with pytest.raises(VerificationError, match=message):
        Run(layout, "install", options={"verify": True}, plant=plant, **case)
    Run(layout, "install", options={"verify": False}, plant=plant, **case)
