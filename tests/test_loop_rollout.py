"""The rollout phase: what a step holds, slices, last actions, rewards' averages, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from loop_support import BOOTSTRAPPED, F32, OBS, STORED, RecordingLoss, ScriptedEnv, Setup, TinyPolicy

ALL = [slice(0, 2)]
KEYS_8 = [
    *("env_obs", "rewards", "training_env_ids", "reward_baseline", "dones", "truncateds"),
    *("row_id", "t_in_row", "last_actions", "batch", "bptt"),
]
KEYS_9 = [*KEYS_8[:6], "teacher_actions", *KEYS_8[6:]]


def rollout(setup: Setup, env: ScriptedEnv) -> Any:
    return setup.loop.rollout_phase(env, setup.context)


@pytest.mark.parametrize("teacher", [False, True])
def test_what_the_policy_sees_and_what_is_stored(teacher: bool) -> None:
    setup = Setup()
    env = ScriptedEnv(ALL, teacher=teacher, terminal=lambda agents, t: agents == t)
    result = rollout(setup, env)
    first, second = setup.policy.seen[:2]
    assert list(first) == (KEYS_9 if teacher else KEYS_8)
    assert first["env_obs"].tolist() == [[0, 0, 1], [1, 0, 1]]
    assert first["rewards"].dtype == F32
    assert first["training_env_ids"].tolist() == [[0], [1]]
    assert first["training_env_ids"].dtype == torch.int64
    assert (first["dones"].tolist(), second["dones"].tolist()) == ([1, 0], [0, 1])
    assert first["dones"].dtype == first["truncateds"].dtype == F32
    assert first["last_actions"].tolist() == [[0], [0]]
    assert first["last_actions"].dtype == torch.int32
    assert first["batch"].tolist() == [2, 2]
    assert first["bptt"].tolist() == [1, 1]
    assert first["batch"].dtype == first["bptt"].dtype == torch.int64
    assert second["t_in_row"].tolist() == [1, 1]
    if teacher:
        assert first["teacher_actions"].tolist() == [0, 1]
        assert first["teacher_actions"].dtype == torch.int64
    rewards = setup.experience.buffer["rewards"]
    assert rewards.tolist() == [[0, 10, 20], [1, 11, 21], [30, 40, 50], [31, 41, 51]]
    assert setup.experience.buffer["env_obs"][2, 1].tolist() == [0, 4, 1]
    assert result.agent_steps == 12
    assert result.training_env_id == slice(0, 2)
    assert setup.context.training_env_id == slice(0, 2, 1)
    assert [info["call"] for info in result.raw_infos] == [1, 2, 3, 4, 5, 6]


def test_last_actions_are_shown_one_step_later_and_live() -> None:
    setup = Setup()
    live = setup.loop.last_action
    env = ScriptedEnv(ALL)
    rollout(setup, env)
    shown = [step["last_actions"].squeeze(1).tolist() for step in setup.policy.seen]
    sent = [actions.tolist() for actions in env.sent]
    assert shown == [[0, 0], *sent[:-1]]
    assert [0, 1] in sent
    assert live.squeeze(1).tolist() == sent[-1]
    setup.policy.seen.clear()
    rollout(setup, env)
    assert setup.policy.seen[0]["last_actions"].squeeze(1).tolist() == sent[-1]  # kept over rollouts


@pytest.mark.parametrize("flag", ["terminal", "truncation"])
def test_last_actions_can_be_reset_at_the_end_of_an_episode(flag: str) -> None:
    setup = Setup(reset_last_actions=True)
    env = ScriptedEnv(ALL, **{flag: lambda agents, t: (agents == 1) & (t == 3)})
    rollout(setup, env)
    shown = [step["last_actions"].squeeze(1).tolist() for step in setup.policy.seen]
    sent = [actions.tolist() for actions in env.sent]
    assert sent[2] == [1, 0] or sent[2][1] == 1
    assert shown[3] == [sent[2][0], 0]
    assert shown[4] == sent[3]
    assert setup.loop.last_action.squeeze(1).tolist() == sent[-1]


def test_add_last_action_to_td() -> None:
    setup = Setup(agents=4)
    setup.loop.last_action.copy_(torch.tensor([[5], [6], [7], [8]]))
    td = TensorDict({"training_env_ids": torch.tensor([[3], [1]])}, [2])
    setup.loop.add_last_action_to_td(td)
    assert td["last_actions"].tolist() == [[8], [6]]
    setup.loop.add_last_action_to_td(td, ScriptedEnv([slice(0, 4)]))
    assert td["last_actions"].tolist() == [[8], [6]]
    td["last_actions"].zero_()
    assert setup.loop.last_action.flatten().tolist() == [5, 6, 7, 8]


class WidePolicy(nn.Module):
    """Actions [n, 3] of any dtype: the observation itself."""

    def __init__(self, dtype: torch.dtype, *, declares: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(OBS))
        self.dtype, self.declares = dtype, declares
        self.seen: list[Tensor] = []
        self.given: list[Tensor] = []

    def get_agent_experience_spec(self) -> dict[str, Any]:
        actions = {"actions": ((3,), self.dtype)} if self.declares else {}
        return {"env_obs": ((OBS,), F32), **actions}

    def reset_memory(self) -> None: ...

    def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
        td["values"] = td["env_obs"] @ self.weight
        td["act_log_prob"] = torch.zeros(len(td["values"]))
        if action is None:
            self.seen.append(td["last_actions"].clone())
            td["actions"] = (td["env_obs"] + 0.5).to(self.dtype)
        else:
            self.given.append(action)
        return td


@pytest.mark.parametrize("declares", [False, True])
@pytest.mark.parametrize("dtype", [torch.int32, F32])
def test_actions_of_any_width_and_dtype(dtype: torch.dtype, declares: bool) -> None:
    class Space:
        shape = (3,)
        dtype = "float32"

    class MultiDiscrete:
        nvec = (9, 9, 9)

    setup = Setup(policy=WidePolicy(dtype, declares=declares))
    space = Space() if dtype == F32 else MultiDiscrete()
    env = ScriptedEnv(ALL, single_action_space=space)
    rollout(setup, env)
    assert setup.loop.last_action.shape == (2, 3)
    assert setup.loop.last_action.dtype == dtype
    assert env.sent[0].shape == (2, 3)
    expected = torch.from_numpy(env.sent[-1])
    assert setup.loop.last_action.equal(expected)
    assert setup.policy.seen[0].count_nonzero() == 0
    assert setup.policy.seen[2].equal(torch.from_numpy(env.sent[1]))
    if declares:
        setup.loop.training_phase(setup.context, 1)
        assert setup.policy.given[0].shape == (6, 3)
        assert setup.policy.given[0].dtype == dtype


def test_several_slices() -> None:
    setup = Setup(agents=4, segments=4, horizon=2)
    env = ScriptedEnv([slice(0, 1), slice(1, 4)])
    result = rollout(setup, env)
    assert setup.experience.buffer["rewards"].tolist() == [[0, 10], [1, 11], [2, 12], [3, 13]]
    assert [step["training_env_ids"].flatten().tolist() for step in setup.policy.seen[:2]] == [[0], [1, 2, 3]]
    assert [step["batch"].tolist() for step in setup.policy.seen[:2]] == [[1], [3, 3, 3]]
    assert [len(actions) for actions in env.sent] == [1, 3, 1, 3]
    assert setup.loop.last_action.flatten().tolist() == [*env.sent[2].tolist(), *env.sent[3].tolist()]
    assert result.training_env_id == slice(1, 4)
    assert result.agent_steps == 8


def test_trackers_of_a_step_are_live() -> None:
    setup = Setup(horizon=2)
    rollout(setup, ScriptedEnv(ALL))
    kept = setup.losses["actor"].steps[0]
    assert setup.policy.seen[0]["t_in_row"].tolist() == [0, 0]
    assert setup.policy.seen[0]["row_id"].tolist() == [0, 1]
    assert setup.policy.seen[2]["row_id"].tolist() == [2, 3]
    setup.experience.reset_for_rollout()
    setup.experience.t_in_row.fill_(1)
    assert kept["t_in_row"].tolist() == [1, 1]
    assert kept["row_id"].tolist() == [0, 1]


def test_a_policy_that_writes_into_its_inputs_does_not_spoil_the_next_step() -> None:
    class Careless(TinyPolicy):
        def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
            super().forward(td, action)
            for key in ("batch", "bptt", "last_actions", "reward_baseline", "dones"):
                if action is None:
                    td[key].fill_(9)
            return td

    setup = Setup(policy=Careless())
    rollout(setup, ScriptedEnv(ALL))
    for step in setup.policy.seen:
        assert step["batch"].tolist() == [2, 2]
        assert step["bptt"].tolist() == [1, 1]
        assert step["last_actions"].max() <= 1
        assert step["reward_baseline"].tolist() == step["dones"].tolist() == [0, 0]


def test_entries_that_the_policy_reads_and_nobody_sets_are_zeros() -> None:
    class Remembering(TinyPolicy):
        def get_agent_experience_spec(self) -> dict[str, Any]:
            return {
                **super().get_agent_experience_spec(),
                "memory": {"h": ((2,), F32)},
                "t_in_row": ((), torch.int64),
            }

        def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
            if action is None:
                assert td["memory", "h"].count_nonzero() == 0
                td["memory", "h"] += 1.0
            return super().forward(td, action)

    setup = Setup(policy=Remembering())
    for _ in range(2):
        rollout(setup, ScriptedEnv(ALL))
    assert setup.experience.buffer["memory", "h"].unique().tolist() == [1]
    assert setup.experience.buffer["t_in_row"].tolist() == [[0, 1, 2]] * 4
    setup.loop.training_phase(setup.context, 1)
    assert setup.policy.seen[-1]["memory"]["h"].shape == (6, 2)
    assert setup.policy.seen[-1]["t_in_row"].tolist() == [0, 1, 2, 0, 1, 2]


def test_valid_is_the_mask() -> None:
    setup = Setup(spec=BOOTSTRAPPED)
    env = ScriptedEnv(ALL, mask=lambda agents, t: agents <= t)
    result = rollout(setup, env)
    assert setup.experience.buffer["valid"].tolist() == [
        [True] * 3,
        [False, True, True],
        [True] * 3,
        [True] * 3,
    ]
    assert result.agent_steps == 11


@pytest.mark.parametrize("enabled", [False, True])
def test_reward_centering(enabled: bool) -> None:
    centering = {"enabled": enabled, "beta": 0.5, "initial_reward_mean": 2.0}
    setup = Setup(config={"advantage": {"reward_centering": centering}}, segments=2, horizon=3)
    rollout(setup, ScriptedEnv(ALL, reward=lambda agents, t: agents + 10.0))
    baselines = setup.experience.buffer["reward_baseline"].tolist()
    average = setup.context.state.avg_reward
    assert average is not None
    if enabled:
        assert baselines == [[2, 6, 8], [2, 6.5, 8.75]]
        assert average.tolist() == [9, 9.875]
    else:
        assert baselines == [[2, 2, 2], [2, 2, 2]]
        assert average.tolist() == [2, 2]


def test_stopwatch_names() -> None:
    setup = Setup()
    rollout(setup, ScriptedEnv(ALL))
    names = {"_rollout.env_wait", "_rollout.td_prep", "_rollout.inference", "_rollout.send"}
    assert set(setup.context.stopwatch.shares()) == names
    setup.loop.training_phase(setup.context, 1)
    parts = {"advantage", "sample", "forward", "losses", "backward", "optimizer"}
    assert set(setup.context.stopwatch.shares()) == names | {f"_train.{part}" for part in parts}


# Errors


def test_a_rollout_without_actions() -> None:
    setup = Setup()
    setup.losses["actor"].acts = False
    with pytest.raises(ValueError, match="write 'actions'"):
        rollout(setup, ScriptedEnv(ALL))


def test_a_policy_without_actions() -> None:
    class Silent(TinyPolicy):
        def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
            super().forward(td, action)
            del td["actions"]
            return td

    setup = Setup(policy=Silent())
    setup.experience.set_store_keys(["rewards"])
    with pytest.raises(ValueError, match="write 'actions'"):
        rollout(setup, ScriptedEnv(ALL))


def test_actions_of_the_wrong_shape() -> None:
    class Doubled(TinyPolicy):
        def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
            super().forward(td, action)
            td["actions"] = td["actions"].unsqueeze(1).expand(-1, 2)
            return td

    setup = Setup(policy=Doubled())
    setup.experience.set_store_keys(["rewards"])
    with pytest.raises(ValueError, match=r"'actions' must be \[2\] or \[2, 1\], got \[2, 2\]"):
        rollout(setup, ScriptedEnv(ALL))


@pytest.mark.parametrize(
    ("window", "error", "words"),
    [
        (slice(0, 4, 2), ValueError, "contiguous"),
        (slice(2, 6), IndexError, r"\[0, 4\).*slice\(2, 6"),
        (slice(0, 3), ValueError, "3 rows for the agents"),
        ([0, 1], TypeError, "got list"),
    ],
)
def test_wrong_slices_from_the_environment(window: Any, error: type[Exception], words: str) -> None:
    class Env(ScriptedEnv):
        def get_observations(self) -> tuple[Any, ...]:
            step = list(super().get_observations())
            step[-3] = window
            return tuple(step)

    setup = Setup(agents=4)
    with pytest.raises(error, match=words):
        rollout(setup, Env([slice(0, 2), slice(2, 4)]))


def test_an_environment_with_other_agents() -> None:
    setup = Setup(agents=4)
    with pytest.raises(ValueError, match="the 4 agents that the experience was built for, got 2"):
        rollout(setup, ScriptedEnv(ALL))


def test_a_step_with_too_few_entries() -> None:
    class Env(ScriptedEnv):
        def get_observations(self) -> tuple[Any, ...]:
            return super().get_observations()[:7]

    setup = Setup()
    with pytest.raises(ValueError, match="8 or 9 entries, got 7"):
        rollout(setup, Env(ALL))


def test_two_losses_that_store_the_same_step() -> None:
    def losses(log: list[str], policy: Any) -> dict[str, Any]:
        return {name: RecordingLoss(name, log, policy, acts=True, spec=STORED) for name in ("a", "b")}

    setup = Setup(losses=losses)
    with pytest.raises(RuntimeError, match="one loss must store each step, got 2"):
        rollout(setup, ScriptedEnv(ALL))


def test_a_rollout_that_nobody_stores_does_not_hang() -> None:
    setup = Setup()
    setup.losses["actor"].replay = type("Forgetful", (), {"store": lambda *_: None})()
    with pytest.raises(RuntimeError, match="added nothing"):
        rollout(setup, ScriptedEnv(ALL))


def test_agents_that_are_never_served_do_not_hang_the_rollout() -> None:
    setup = Setup(agents=4)
    env = ScriptedEnv([slice(0, 2)])
    env.total_parallel_agents = 4
    with pytest.raises(RuntimeError, match="never served"):
        rollout(setup, env)
