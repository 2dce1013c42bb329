"""What a step's memory is, what of it is shared, and that last actions are those that were sent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from hotloop import entries
from hotloop.loop_stage import Column, Stage
from loop_support import BOOTSTRAPPED, F32, STORED, RecordingLoss, ScriptedEnv, Setup, TinyPolicy

ALL = [slice(0, 2)]


def columns() -> list[Column]:
    return [
        Column("dones", (), F32),
        Column("last_actions", (2,), torch.int32, windowed=True, cleared=True),
        Column("baseline", (), F32, windowed=True),
        Column(("memory", "h"), (3,), F32),
    ]


@pytest.mark.parametrize("window", [(0, 5), (2, 4), (3, 4)])
def test_both_roads_stage_the_same(window: tuple[int, int]) -> None:
    start, stop = window
    n = stop - start
    native, other = (Stage(columns(), start, stop, torch.device("cpu")) for _ in range(2))
    other._plan = None
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        sources = [
            torch.rand(n, generator=g) < 0.5,
            torch.randint(1, 9, (5, 2), generator=g),
            torch.rand(5, generator=g),
            torch.zeros(()).expand(n, 3),
        ]
        ends = (torch.rand(n, generator=g) < 0.4, torch.rand(n, generator=g) < 0.4)
        ours, theirs = native(sources, ends), other(sources, ends)
        assert list(ours) == list(theirs)
        for key in ours:
            assert ours[key].equal(theirs[key]), key
            assert ours[key].dtype == theirs[key].dtype
        ended = ends[0] | ends[1]
        assert ours["last_actions"][ended].count_nonzero() == 0
        assert ours["last_actions"][~ended].equal(sources[1][start:stop][~ended].int())


def test_memory_of_the_native_road_is_used_again() -> None:
    stage = Stage(columns(), 0, 2, torch.device("cpu"))
    sources = [torch.ones(2), torch.ones(2, 2), torch.ones(2), torch.ones(2, 3)]
    with torch.inference_mode():
        first = dict(stage(sources, ()))
    assert not any(entry.is_inference() for entry in first.values())
    second = stage(sources, ())
    assert all(first[key] is second[key] for key in first)


def test_observations_and_rewards_are_the_environments_own() -> None:
    env = ScriptedEnv(ALL)
    seen: list[bool] = []

    class Looking(TinyPolicy):
        def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
            if action is None:
                seen.append(td["env_obs"].data_ptr() == env.buffers[0].data_ptr())
            return super().forward(td, action)

    setup = Setup(policy=Looking())
    setup.loop.rollout_phase(env, setup.context)
    assert len(seen) == 6
    assert all(seen)


def test_a_step_has_no_entries_of_the_step_before() -> None:
    class Adding(TinyPolicy):
        def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
            if action is None:
                assert "extra" not in td
                assert "values" not in td
                td["extra"] = torch.ones(len(td["env_obs"]))
                del td["bptt"]
                td["dones"] = torch.full_like(td["dones"], 9.0)  # replaced, not written to
            return super().forward(td, action)

    setup = Setup(policy=Adding(), spec=BOOTSTRAPPED)
    setup.loop.rollout_phase(ScriptedEnv(ALL), setup.context)
    assert setup.experience.buffer["dones"].unique().tolist() == [9]
    assert "bptt" not in setup.policy.seen[-1]


@pytest.mark.parametrize("how", ["in place", "replaced", "not at all"])
def test_last_actions_are_those_that_were_sent(how: str) -> None:
    """A loss may change the actions after another one has stored the step."""

    class Meddler(RecordingLoss):
        def rollout(self, td: TensorDict, context: Any) -> None:
            if how == "in place":
                td["actions"][0] = 77
            elif how == "replaced":
                td["actions"] = torch.full_like(td["actions"], 78)

    def losses(log: list[str], policy: Any) -> dict[str, Any]:
        return {
            "actor": RecordingLoss("actor", log, policy, acts=True, spec=STORED),
            "meddler": Meddler("meddler", log),
        }

    setup = Setup(losses=losses)
    env = ScriptedEnv(ALL)
    setup.loop.rollout_phase(env, setup.context)
    shown = [step["last_actions"].flatten().tolist() for step in setup.policy.seen]
    sent = [actions.tolist() for actions in env.sent]
    assert shown == [[0, 0], *sent[:-1]]
    assert setup.loop.last_action.flatten().tolist() == sent[-1]
    assert {"in place": 77, "replaced": 78, "not at all": 0}[how] in sent[0]


def test_last_actions_of_a_slice_that_is_done_are_still_remembered() -> None:
    setup = Setup(agents=4, segments=4, horizon=2)
    env = ScriptedEnv([slice(0, 2), slice(0, 2), slice(0, 2), slice(2, 4)])
    setup.loop.rollout_phase(env, setup.context)
    assert setup.experience.skipped_steps > 0
    first = [actions.tolist() for i, actions in enumerate(env.sent) if i % 4 != 3]
    assert setup.loop.last_action[:2].flatten().tolist() == first[-1]


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_rollout_in_inference_mode(mode: Any) -> None:
    setup = Setup()
    env = ScriptedEnv(ALL)
    with mode():
        setup.loop.rollout_phase(env, setup.context)
    assert setup.loop.last_action.flatten().tolist() == env.sent[-1].tolist()
    setup.loop.rollout_phase(env, setup.context)
    setup.loop.training_phase(setup.context, 1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.float16, torch.int16])
def test_last_actions_lose_nothing_of_the_stored_ones(dtype: torch.dtype) -> None:
    class Typed(TinyPolicy):
        def get_agent_experience_spec(self) -> dict[str, Any]:
            return {**super().get_agent_experience_spec(), "actions": ((), dtype)}

        def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
            super().forward(td, action)
            if action is None:
                td["actions"] = torch.tensor([2**40 + 1, 3]).to(dtype)
            return td

    setup = Setup(policy=Typed())
    env = ScriptedEnv(ALL)
    setup.loop.rollout_phase(env, setup.context)
    assert setup.loop.last_action.flatten().tolist() == env.sent[-1].tolist()
    assert setup.loop.last_action.dtype == (torch.int32 if dtype == torch.int16 else dtype)
    assert setup.experience.buffer["actions"][0, 0].item() == env.sent[-1][0]


@pytest.mark.parametrize("has_entries", [True, False])
def test_a_flat_tensordict_is_an_ordinary_one(has_entries: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "_HAS_ENTRIES", has_entries)
    device = torch.device("cpu")
    flat = entries.flat_tensordict({"b": torch.ones(3), "a": torch.zeros(3, 2)}, (3,), device)
    nested = entries.flat_tensordict({"b": torch.ones(3), ("m", "h"): torch.zeros(3, 2)}, (3,), device)
    for td in (flat, nested):
        assert (td.batch_size, td.device) == ((3,), device)
        td["new"] = torch.ones(3, 4)
        td["b"] += 1
        assert td[1:]["b"].tolist() == [2, 2]
        with pytest.raises(RuntimeError):
            td["wrong"] = torch.ones(2)
        assert td.clone().select("new").reshape(3, 1)["new"].shape == (3, 1, 4)
    assert list(flat.keys()) == ["b", "a", "new"]
    assert nested["m", "h"].shape == (3, 2)


def test_rewards_of_another_size_are_refused() -> None:
    class Env(ScriptedEnv):
        def get_observations(self) -> tuple[Any, ...]:
            step = list(super().get_observations())
            step[1] = step[1][:1]
            return tuple(step)

    setup = Setup()
    with pytest.raises(ValueError, match="rewards must have 2 rows for the agents"):
        setup.loop.rollout_phase(Env(ALL), setup.context)
