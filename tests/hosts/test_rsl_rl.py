"""rsl_rl's runner and PPO, trained with hotloop and without."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop import integrations, ops
from hotloop.integrations import UntestedHostError, VerificationError, hosts
from hotloop.integrations import rsl_rl as ours

pytest.importorskip("rsl_rl", reason="rsl-rl-lib is missing: make test-peers")
pytest.importorskip("git", reason="what rsl_rl imports is missing: make test-peers")
from rsl_rl.algorithms import PPO
from rsl_rl.runners import OnPolicyRunner
from rsl_rl.storage import RolloutStorage
from tensordict import TensorDict

AGENTS, STEPS = 6, 12
PATCHED = {
    PPO: ("compute_returns", "process_env_step"),
    RolloutStorage: ("add_transition", "mini_batch_generator", "recurrent_mini_batch_generator"),
}
THEIRS = {owner: {name: vars(owner)[name] for name in names} for owner, names in PATCHED.items()}


def untouched() -> bool:
    return all(vars(o)[name] is theirs for o, names in THEIRS.items() for name, theirs in names.items())


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    ours.uninstall()


class Environments:
    """What they tell depends on the actions; every episode ends by chance, or by a time limit."""

    num_envs, num_actions, max_episode_length, device = AGENTS, 2, 7, "cpu"
    cfg: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, dtype: torch.dtype = torch.float32, final: bool = False) -> None:
        self.random = torch.Generator().manual_seed(5)
        self.episode_length_buf = torch.zeros(AGENTS, dtype=torch.int64)
        self.dtype, self.final = dtype, final
        self.seen = self._observe(torch.zeros(AGENTS, 2))

    def _observe(self, actions: Tensor) -> TensorDict:
        policy = torch.randn(AGENTS, 5, generator=self.random) + actions.mean(1, keepdim=True)
        extra = torch.randint(0, 9, (AGENTS, 3), generator=self.random).to(self.dtype)
        return TensorDict({"policy": policy, "extra": extra}, batch_size=[AGENTS])

    def get_observations(self) -> TensorDict:
        return self.seen

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        final = self._observe(actions)
        rewards = final["policy"][:, 0] - actions.square().sum(1)
        self.episode_length_buf += 1
        out = self.episode_length_buf >= self.max_episode_length
        dones = (torch.rand(AGENTS, generator=self.random) < 0.1) | out
        self.seen = torch.where(dones, self._observe(torch.zeros(AGENTS, 2)), final)
        self.episode_length_buf[dones] = 0
        extras: dict[str, Any] = {"time_outs": out}
        if self.final:
            extras["final"] = final
        return self.seen, rewards, dones.long(), extras


def runner(
    model: str = "MLPModel", environments: Environments | None = None, rnn: dict[str, Any] | None = None,
    **changed: Any,
) -> Any:  # fmt: skip
    """A new runner; the same arguments make the same one."""
    torch.manual_seed(0)
    network = {"class_name": model, "hidden_dims": [16], "activation": "elu", **(rnn or {})}
    config = {
        "num_steps_per_env": STEPS,
        "save_interval": 100,
        "obs_groups": {"actor": ["policy"], "critic": ["policy", "extra"]},
        "actor": {**network, "distribution_cfg": {"class_name": "GaussianDistribution"}},
        "critic": {**network, "obs_normalization": True},
        "algorithm": {
            "class_name": "PPO", "num_learning_epochs": 3, "num_mini_batches": 2, "learning_rate": 0.003,
            **changed,
        },
    }  # fmt: skip
    made = OnPolicyRunner(environments or Environments(), config, log_dir=None, device="cpu")
    made.told = []
    update = made.alg.update

    def told() -> Any:
        storage = made.alg.storage
        names = ("actions", "rewards", "dones", "values", "actions_log_prob", "returns", "advantages")
        held = {name: getattr(storage, name).clone() for name in names}
        held |= {f"obs/{name}": x.clone() for name, x in storage.observations.items()}
        losses = update()
        models = (made.alg.actor, made.alg.critic)
        learned = {f"{i}/{n}": x.clone() for i, m in enumerate(models) for n, x in m.state_dict().items()}
        made.told.append(held | learned | losses | {"rate": made.alg.learning_rate})
        return losses

    made.alg.update = told
    return made


def run(made: Any, iterations: int = 3) -> list[dict[str, Any]]:
    made.learn(iterations)
    told: list[dict[str, Any]] = made.told
    return told


def assert_equal(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for iteration, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert list(a) == list(b)
        for name in b:
            same = torch.equal(a[name], b[name]) if isinstance(b[name], Tensor) else a[name] == b[name]
            assert same, (iteration, name, a[name], b[name])


LSTM = {"model": "RNNModel", "rnn": {"rnn_type": "lstm", "rnn_hidden_dim": 8, "rnn_num_layers": 2}}
GRU = {"model": "RNNModel", "rnn": {"rnn_type": "gru", "rnn_hidden_dim": 8}}
SETUPS = [
    {},
    {"normalize_advantage_per_mini_batch": True, "num_mini_batches": 3},
    {"num_mini_batches": 5, "gamma": 0.9, "lam": 1.0},  # 72 steps are not divided by 5
    LSTM,
    {**GRU, "num_mini_batches": 3, "schedule": "fixed"},
    {**GRU, "num_mini_batches": 4},  # nor 6 agents by 4
]


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_training_is_equal_to_the_last_bit(setup: dict[str, Any], copy: bool) -> None:
    expected = run(runner(**setup))
    ours.install(copy=copy)
    assert_equal(run(runner(**setup)), expected)
    assert expected[0]["value"] != expected[2]["value"]


@pytest.mark.parametrize("setup", [{}, LSTM], ids=str)
def test_integer_observations_keep_their_type(setup: dict[str, Any]) -> None:
    expected = run(runner(environments=Environments(torch.uint8), **setup))
    ours.install()
    assert_equal(run(runner(environments=Environments(torch.uint8), **setup)), expected)
    assert expected[0]["obs/extra"].dtype == torch.uint8


def test_a_runner_may_change_sides_between_iterations() -> None:
    expected = run(runner())
    made = runner()
    made.learn(1)
    ours.install()
    made.learn(1)
    ours.uninstall()
    made.learn(1)
    assert_equal(made.told, expected)


def test_what_is_patched_is_put_back() -> None:
    before = {owner: dict(vars(owner)) for owner in PATCHED}
    ours.install(final_observations="final")
    told = next(host for host in integrations.status() if host["name"] == "rsl_rl")
    assert [name.rpartition(".")[2] for name in told["patched"]] == [
        n for names in PATCHED.values() for n in names
    ]
    ours.install()  # in the place of the first
    assert vars(PPO)["process_env_step"] is THEIRS[PPO]["process_env_step"]
    ours.uninstall()
    for owner, names in before.items():
        assert vars(owner).keys() == names.keys()
        assert [name for name, value in names.items() if vars(owner)[name] is not value] == []
    ours.uninstall()


def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts.Host, "version", property(lambda self: "4.0.0"))
    with pytest.raises(UntestedHostError, match=r"tested with rsl-rl-lib 5\.5\.1, got 4\.0\.0"):
        ours.install()
    assert untouched()
    ours.install(force=True)
    assert not untouched()


@pytest.mark.parametrize("setup", [{}, LSTM, GRU], ids=str)
def test_verification_passes_and_changes_nothing(setup: dict[str, Any]) -> None:
    expected = run(runner(**setup))
    ours.install(verify=20)
    assert_equal(run(runner(**setup)), expected)


@pytest.mark.parametrize(
    ("name", "setup", "message"),
    [
        ("gae", {}, r"PPO\.compute_returns: returns differs .* by 1 at \[0, \d, 0\]"),
        ("scatter_", LSTM, r"recurrent_mini_batch_generator, batch 0,: observations\[policy\] differs"),
    ],
)
def test_verification_notices_a_difference(
    name: str, setup: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hotloop.integrations import rsl_rl_storage as storage

    owner: Any = ops if name == "gae" else storage
    right = getattr(owner, name)

    def wrong(*args: Any, **kwargs: Any) -> Any:
        result = right(*args, **kwargs)
        (kwargs["out"][1] if name == "gae" else args[0][0])[0] += 1.0
        return result

    ours.install(verify=True)
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(VerificationError, match=message):
        runner(**setup).learn(1)


def test_verification_notices_a_wrong_order(monkeypatch: pytest.MonkeyPatch) -> None:
    permutation = torch.randperm
    calls: list[int] = []

    def wrong(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return permutation(*args, **kwargs).flip(0) if len(calls) == 1 else permutation(*args, **kwargs)

    ours.install(verify=True)
    made = runner()
    monkeypatch.setattr(torch, "randperm", wrong)
    with pytest.raises(VerificationError, match=r"\.mini_batch_generator, batch 0,: actions differs"):
        made.learn(1)


def test_verification_notices_a_step_stored_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ops.StorePlan.store

    def wrong(self: Any, source: list[Tensor], *rest: Any) -> Any:
        return store(self, [source[0] + 0.25, *source[1:]], *rest)

    ours.install(verify=True)
    monkeypatch.setattr(ops.StorePlan, "store", wrong)
    with pytest.raises(
        VerificationError, match=r"add_transition: observations\[policy\] differs .* by 0\.25"
    ):
        runner().learn(1)


@pytest.mark.parametrize("setup", [{}, LSTM], ids=str)
def test_time_outs_are_exact_when_final_observations_are_given(setup: dict[str, Any]) -> None:
    """Beside `gae`, which is told of truncations and of the values that follow them."""
    ours.install(final_observations="final")
    made = runner(environments=Environments(final=True), **setup)
    critic, steps = made.alg.critic, []
    process = PPO.process_env_step

    def record(self: Any, obs: Any, rewards: Tensor, dones: Tensor, extras: dict[str, Any]) -> None:
        state = critic.get_hidden_state()
        if state is not None:
            state = copy.deepcopy(state)
        values = critic(extras["final"]).squeeze(-1).detach()
        critic.reset(hidden_state=state)
        steps.append((rewards.clone(), dones, extras["time_outs"], values))
        process(self, obs, rewards, dones, extras)

    made.alg.process_env_step = record.__get__(made.alg)
    made.alg.normalize_advantage_per_mini_batch = True
    made.learn(1)
    rewards, dones, out, final = (torch.stack(x) for x in zip(*steps, strict=True))
    assert 0 < int(out.sum()) < int(dones.sum())
    told = made.told[0]
    values = told["values"].squeeze(-1)
    expected, returns = ops.gae(
        rewards, values, (dones != 0) & ~out, out, last_values=torch.zeros(AGENTS), truncation_values=final,
        gamma=0.99, gae_lambda=0.95, time_major=True,
    )  # fmt: skip
    ended = (
        (dones != 0).flip(0).cummax(0).values.flip(0)
    )  # before the last end: the values after it are not known here
    torch.testing.assert_close(told["advantages"].squeeze(-1)[ended], expected[ended])
    torch.testing.assert_close(told["returns"].squeeze(-1)[ended], returns[ended])


@pytest.mark.parametrize("setup", [{}, LSTM], ids=str)
def test_exact_time_outs_change_nothing_but_rewards(setup: dict[str, Any]) -> None:
    expected = run(runner(environments=Environments(final=True), **setup), 1)[0]
    ours.install(final_observations="final")
    found = run(runner(environments=Environments(final=True), **setup), 1)[0]
    for name in ("actions", "values", "actions_log_prob", "dones", "obs/policy"):
        assert torch.equal(found[name], expected[name]), name
    changed = (found["rewards"] != expected["rewards"]) & (found["dones"] == 0)
    assert not torch.equal(found["rewards"], expected["rewards"])
    assert not changed.any()


def test_a_rollout_may_change_sides_in_its_middle_and_begin_anew() -> None:
    def filled(switch: int | None, clear: int | None) -> Any:
        torch.manual_seed(1)
        storage = RolloutStorage("rl", 4, 6, TensorDict({"policy": torch.zeros(4, 3)}, batch_size=[4]), [2])
        while storage.step < 6:
            if storage.step == switch:
                ours.install()
            if storage.step == clear:
                storage.clear()
                clear = None
            step = RolloutStorage.Transition()
            step.observations = TensorDict({"policy": torch.randn(4, 3)}, batch_size=[4])
            step.actions, step.distribution_params = torch.randn(4, 2), (torch.randn(4, 2), torch.rand(4, 2))
            step.rewards, step.dones, step.values = (
                torch.randn(4),
                torch.tensor([0, 1, 0, 0]),
                torch.randn(4, 1),
            )
            step.actions_log_prob = torch.randn(4)
            storage.add_transition(step)
        ours.uninstall()
        return storage

    for clear in (None, 4):
        expected, found = filled(None, clear), filled(2, clear)
        for name in ("rewards", "dones", "actions", "values", "actions_log_prob"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), (clear, name)
        assert torch.equal(found.observations["policy"], expected.observations["policy"])
        assert all(map(torch.equal, found.distribution_params, expected.distribution_params))


def test_memory_that_is_kept_does_not_depend_on_inference_mode() -> None:
    ours.install()
    made = runner(**LSTM)
    made.learn(1)  # begins under inference mode
    storage = made.alg.storage
    with torch.inference_mode():
        for _ in range(STEPS):
            made.alg.act(made.env.seen)
            made.alg.process_env_step(*made.env.step(torch.zeros(AGENTS, 2)))
        made.alg.compute_returns(made.env.seen)
        list(storage.recurrent_mini_batch_generator(2, 1))
    held = ours._WORK[storage]
    kept = [held.advantages, held._cursors.rows, held._cursors.positions, *held._padded.values()]
    assert not any(tensor.is_inference() for tensor in kept)
    made.alg.update()  # and goes on outside of it


def test_without_final_observations_time_outs_are_the_hosts() -> None:
    expected = run(runner())
    ours.install(final_observations="final")  # which these environments do not give
    assert_equal(run(runner()), expected)


def test_batches_of_later_epochs_are_the_same_memory_unless_copied() -> None:
    made = runner()
    made.alg.update = lambda: {}
    made.learn(1)
    storage = made.alg.storage
    for copied in (False, True):
        ours.install(copy=copied)
        batches = list(storage.mini_batch_generator(2, 2))
        same = [
            a.actions.data_ptr() == b.actions.data_ptr()
            for a, b in zip(batches[:2], batches[2:], strict=True)
        ]
        assert same == [not copied] * 2
        assert batches[0].observations is not batches[2].observations
        assert torch.equal(batches[0].actions, batches[2].actions)


def test_what_is_put_into_a_batch_is_gone_in_the_next_epoch() -> None:
    made = runner()
    made.alg.update = lambda: {}
    made.learn(1)
    ours.install()

    def change(observations: TensorDict, number: int) -> None:
        if number == 0:
            observations["more"] = observations["policy"]
        elif number == 1:
            observations["policy"] = observations["policy"] + 1
        elif number == 2:
            observations.rename_key_("extra", "other")
        elif number == 3:
            observations.batch_size = []
        elif number == 4:
            observations.lock_()

    wanted: list[dict[str, Tensor]] = []
    for number, batch in enumerate(made.alg.storage.mini_batch_generator(6, 3)):
        observations = batch.observations
        assert observations.batch_size == torch.Size([AGENTS * STEPS // 6])
        assert not observations.is_locked
        if number < 6:
            wanted.append({name: each.clone() for name, each in observations.items()})
        assert observations.keys() == {"policy", "extra"}
        assert all(torch.equal(observations[name], each) for name, each in wanted[number % 6].items())
        change(observations, number)
        del batch, observations


def test_wrong_uses_are_the_hosts_errors() -> None:
    ours.install()
    made = runner()
    made.alg.update = lambda: {}
    made.learn(1)
    storage, transition = made.alg.storage, RolloutStorage.Transition()
    with pytest.raises(OverflowError, match="overflow"):
        storage.add_transition(transition)
    storage.clear()
    transition.observations = TensorDict({"policy": torch.zeros(AGENTS, 5)}, batch_size=[AGENTS])
    with pytest.raises(KeyError, match=r"observations must have \['extra', 'policy'\], got \['policy'\]"):
        storage.add_transition(transition)
    storage.training_type = "distillation"
    for generator in (storage.mini_batch_generator, storage.recurrent_mini_batch_generator):
        with pytest.raises(ValueError, match="reinforcement learning"):
            next(generator(2))


def test_another_device_is_refused() -> None:
    ours.install()
    storage = RolloutStorage("rl", 2, 3, TensorDict({}, batch_size=[2]), [1], "meta")
    with pytest.raises(ValueError, match="RolloutStorage must be on the CPU, got device 'meta'"):
        storage.add_transition(RolloutStorage.Transition())
