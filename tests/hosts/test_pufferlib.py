"""PuffeRL, the class itself out of pufferlib-core, trained with hotloop and without."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from hotloop import integrations, ops
from hotloop.integrations import UntestedHostError, VerificationError, hosts
from hotloop.integrations import pufferlib as ours
from hotloop.integrations import pufferlib_rollout as rollouts

pytest.importorskip("pufferlib.pufferl", reason="what it imports is missing: make test-peers")
from pufferl_trainers import HORIZON, assert_equal, config, run, trainer
from pufferlib import emulation, models, pufferl, vector

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet_pufferl")]
THEIRS = pufferl.compute_puff_advantage, pufferl.PuffeRL.evaluate, pufferl.PuffeRL.train


def untouched() -> bool:
    found = pufferl.compute_puff_advantage, pufferl.PuffeRL.evaluate, pufferl.PuffeRL.train
    return all(a is b for a, b in zip(found, THEIRS, strict=True))


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "discrete"},
        {"kind": "discrete", "slices": 1},
        {"kind": "discrete", "prio_alpha": 0.0, "prio_beta0": 1.0, "anneal_lr": False},
        {"kind": "multidiscrete", "vtrace_rho_clip": 0.9, "vtrace_c_clip": 0.8},
        {"kind": "continuous", "clip_coef": 0.01, "vf_clip_coef": 0.01},
        {"kind": "discrete", "use_rnn": True},
        {"kind": "multidiscrete", "minibatch_size": 32, "max_minibatch_size": 16},
        {"kind": "discrete", "batch_size": 128},  # more segments than agents
    ],
    ids=str,
)
def test_training_is_equal_to_the_last_bit(changed: dict[str, Any]) -> None:
    expected = run(trainer(**changed))
    ours.install()
    assert_equal(run(trainer(**changed)), expected)
    # and it did learn something
    assert not torch.equal(expected[0]["values"], expected[2]["values"])


@pytest.mark.parametrize("kind", ["discrete", "multidiscrete"])
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("options", [{}, {"truncations": "final", "masks": True}], ids=str)
def test_rows_that_changed_are_all_that_has_to_be_computed(
    kind: str, options: dict[str, Any], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hotloop.integrations import pufferlib_training as training

    changed = {"slices": 8, "minibatch_size": 32, "max_minibatch_size": 32, "masked": bool(options)}
    ours.install(**options)
    with monkeypatch.context() as patched:  # all of them
        patched.setattr(training.Training, "_state_of", lambda *_: (object(),))
        expected = run(trainer(kind, **changed))
    monkeypatch.setattr(training, "_MANY", 1)
    if not native:  # what torch adds in another order
        monkeypatch.setattr(ops.PuffDraw, "_tried", lambda _: (False, False))
    rows: list[int] = []
    compute = ops.puff_advantage

    def counted(values: Tensor, *rest: Any, **more: Any) -> Tensor:
        rows.append(len(values))
        return compute(values, *rest, **more)

    monkeypatch.setattr(ops, "puff_advantage", counted)
    renew = ops.PuffDraw.renew

    def renewed(self: ops.PuffDraw, *arguments: Any) -> bool:
        done = renew(self, *arguments)
        rows.extend([len(self.rows)] if done else [])
        assert done is native
        return done

    monkeypatch.setattr(ops.PuffDraw, "renew", renewed)
    assert_equal(run(trainer(kind, **changed)), expected)
    assert rows == 3 * [32, *15 * [4]]
    made = trainer(kind, **changed)
    made.evaluate()
    step, rows[:] = made.optimizer.step, []

    def meddle(*args: Any) -> None:
        step(*args)
        made.rewards[3, 2] += 1.0

    made.optimizer.step = meddle  # somebody else writes into the rollout
    made.train()
    assert rows == 16 * [32]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0, -0.3])
@pytest.mark.parametrize(("segments", "count"), [(4, 4), (8, 1), (33, 7), (1025, 256)])
@pytest.mark.parametrize("odd", [None, torch.nan, torch.inf, 3e38, 0.0], ids=str)
def test_rows_are_drawn_as_the_host_draws_them(
    segments: int, count: int, alpha: float, odd: float | None
) -> None:
    sums = torch.rand(segments, generator=torch.Generator().manual_seed(segments)) * 100
    if odd is not None:
        sums[:3] = odd
    # PuffeRL.train
    torch.manual_seed(5)
    powers = torch.nan_to_num(sums**alpha, 0, 0, 0)
    chances = (powers + 1e-6) / (powers.sum() + 1e-6)
    expected, after = None, None
    with suppress(RuntimeError):  # what it adds up to is infinite
        expected = torch.multinomial(chances, count)
        after = torch.get_rng_state()
    ours.install()
    batch = {"batch_size": segments * HORIZON, "minibatch_size": count * HORIZON}
    made = trainer(slices=1, max_minibatch_size=count * HORIZON, **batch)
    training = ours._work(made, rollouts.Options())[1]
    training._draw.sums.copy_(sums)
    torch.manual_seed(5)
    if expected is None:
        with pytest.raises(RuntimeError, match="invalid multinomial distribution"):
            training._draw.draw(alpha)
        return
    assert torch.equal(training._draw.draw(alpha), expected)
    assert torch.equal(training._draw.chances, chances)
    assert torch.equal(torch.get_rng_state(), after)


def test_large_buffers_move_to_huge_pages_once(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[list[int]] = []
    monkeypatch.setattr(
        rollouts, "move_to_huge_pages", lambda buffers: moved.append([each.data_ptr() for each in buffers])
    )
    ours.install()
    made = trainer()
    run(made, epochs=2)
    assert len(moved) == 1
    assert made.observations.data_ptr() in moved[0]


def test_training_in_emulated_environments_is_equal_to_the_last_bit() -> None:
    def made() -> Any:
        torch.manual_seed(0)
        environments = vector.make(
            lambda buf=None, seed=0: emulation.GymnasiumPufferEnv(gymnasium.make("CartPole-v1"), buf=buf),
            num_envs=8, backend=vector.Serial,
        )  # fmt: skip
        policy = models.Default(environments.driver_env, hidden_size=16)
        return pufferl.PuffeRL(config(8), environments, policy)

    plain = made()
    plain.utilization.stop()
    expected = run(plain)
    ours.install()
    hot = made()
    hot.utilization.stop()
    assert_equal(run(hot), expected)


def test_in_bfloat16_too() -> None:
    expected = run(trainer(precision="bfloat16"))
    ours.install()
    assert_equal(run(trainer(precision="bfloat16")), expected)


def test_the_phases_of_the_dashboard_are_the_hosts() -> None:
    def phases() -> list[Any]:
        made, told = trainer(), []

        class Profile(pufferl.Profile):  # type: ignore[misc]
            def __call__(self, name: str, epoch: int, nest: bool = False) -> None:
                told.append((name, epoch, nest))

            def end(self) -> None:
                told.append("end")

        made.profile = Profile()
        run(made, epochs=2)
        return told

    expected = phases()
    ours.install()
    assert phases() == expected


def test_what_is_patched_is_put_back() -> None:
    before = [dict(vars(owner)) for owner in (pufferl, pufferl.PuffeRL)]
    ours.install()
    told = next(host for host in integrations.status() if host["name"] == "pufferlib")
    assert told["patched"] == [
        "pufferlib.pufferl.compute_puff_advantage",
        "pufferlib.pufferl.PuffeRL.evaluate",
        "pufferlib.pufferl.PuffeRL.train",
    ]
    ours.install(masks=True)  # in the place of the first
    ours.uninstall()
    for owner, names in zip((pufferl, pufferl.PuffeRL), before, strict=True):
        assert vars(owner).keys() == names.keys()
        assert [name for name, value in names.items() if vars(owner)[name] is not value] == []
    ours.uninstall()


def test_a_trainer_may_change_sides_between_epochs() -> None:
    expected = run(trainer(), epochs=3)
    made = trainer()
    found = run(made, epochs=1)
    ours.install()
    found += run(made, epochs=1)
    ours.uninstall()
    assert_equal(found + run(made, epochs=1), expected)


def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts.Host, "version", property(lambda self: "3.1.0"))
    with pytest.raises(UntestedHostError, match=r"tested with pufferlib-core 3\.0\.23, got 3\.1\.0"):
        ours.install()
    assert untouched()
    ours.install(force=True)
    assert not untouched()


@pytest.mark.parametrize("changed", [{}, {"use_rnn": True}, {"batch_size": 128}], ids=str)
def test_verification_passes_and_changes_nothing(changed: dict[str, Any]) -> None:
    expected = run(trainer(**changed))
    ours.install(verify=2)
    assert_equal(run(trainer(**changed)), expected)


def test_verification_runs_the_hosts_own_op(monkeypatch: pytest.MonkeyPatch) -> None:
    ours.install(verify=True)
    made = trainer()
    made.evaluate()
    monkeypatch.setattr(ops, "puff_advantage", lambda *_, out, **__: out.fill_(0.5))
    with pytest.raises(VerificationError, match=r"pufferlib: train: values differs .* by .* at \[\d, \d\]"):
        made.train()


def test_verification_notices_a_wrong_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    ours.install(verify=True)
    made = trainer()
    store = rollouts.Rollout.store

    def wrong(self: Any, start: int, stop: int, step: tuple[Tensor, ...], *rest: Any) -> int:
        return store(self, start, stop, (*step[:3], step[3] + 1e-3, *step[4:]), *rest)

    monkeypatch.setattr(rollouts.Rollout, "store", wrong)
    with pytest.raises(VerificationError, match=r"pufferlib: evaluate: rewards differs .* by 0\.001"):
        made.evaluate()


def test_options_that_there_are_not() -> None:
    with pytest.raises(ValueError, match="must be one of ignore, terminal, final, previous, got 'x'"):
        ours.install(truncations="x")
    with pytest.raises(TypeError, match="masks must be a bool, got 1"):
        ours.install(masks=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="verify compares with what PuffeRL does"):
        ours.install(verify=True, masks=True)
    assert untouched()


def test_another_device_is_refused() -> None:
    made = trainer()
    made.config["device"] = "meta"
    ours.install()
    with pytest.raises(ValueError, match="PuffeRL must be on the CPU, got device 'meta'"):
        made.evaluate()


def test_agents_that_run_ahead_are_refused() -> None:
    made = trainer(slices=2)
    recv = made.vecenv.recv
    made.vecenv.recv = lambda: (*recv()[:6], np.arange(4), np.ones(4, bool))
    ours.install()
    with pytest.raises(RuntimeError, match=r"agents 0 to 3 have filled .* no row is free of 8 segments"):
        made.evaluate()


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_the_advantage_function_is_the_hosts(layout: str) -> None:
    random = torch.Generator().manual_seed(0)
    shape = (33, 17)
    values, rewards, last = (torch.randn(shape, generator=random) for _ in range(3))
    dones = (torch.rand(shape, generator=random) < 0.1).float()
    ratio = 2 * torch.rand(shape, generator=random)
    theirs = pufferl.compute_puff_advantage(values, rewards, dones, ratio, last.clone(), 0.99, 0.95, 1.1, 0.9)
    if layout == "transposed":  # which the host's op refuses
        values, rewards, dones, ratio = (x.t().contiguous().t() for x in (values, rewards, dones, ratio))
    ours.install()
    out = last.clone()
    found = pufferl.compute_puff_advantage(
        values, rewards, dones, ratio.requires_grad_(), out, 0.99, 0.95, 1.1, 0.9
    )
    assert found is out
    assert torch.equal(found, theirs)
    assert torch.equal(found[:, -1], last[:, -1])


def told(made: Any) -> dict[str, Tensor]:
    """Runs a rollout, one slice; what the environments told, [agents, horizon]."""
    recv, steps = made.vecenv.recv, []

    def record() -> Any:
        steps.append(copy.deepcopy(recv()))
        return steps[-1]

    made.vecenv.recv = record
    made.evaluate()
    names = {"rewards": 1, "terminals": 2, "truncations": 3, "mask": 7}
    return {name: torch.from_numpy(np.stack([s[i] for s in steps], 1)) for name, i in names.items()}


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("truncations", ["ignore", "terminal", "final", "previous"])
def test_advantages_with_truncations_and_masks(truncations: str, masks: bool) -> None:
    """Beside `gae`, departure-indexed, which knows of truncations and fillers by itself."""
    ours.install(truncations=truncations, masks=masks)
    made = trainer(slices=1, masked=True)
    came = told(made)
    found = ours._work(made, None)[1].advantages_of(made)  # type: ignore[arg-type]
    values, mask = made.values, came["mask"] | (not masks)
    rewards, terminated = came["rewards"].clamp(-1, 1)[:, 1:], came["terminals"] | ~mask
    truncated = came["truncations"] & ~terminated
    counts = mask.clone()
    if truncations == "final":
        counts &= ~(came["terminals"] | came["truncations"])
    if truncations == "terminal":
        terminated, truncated = terminated | truncated, torch.zeros_like(truncated)
    if truncations == "ignore":
        truncated = torch.zeros_like(truncated)
    expected, _ = ops.gae(
        rewards, values[:, :-1], terminated[:, 1:], truncated[:, 1:], last_values=values[:, -1],
        truncation_values=values[:, 1:] if truncations == "final" else values[:, :-1],
        valid=counts[:, :-1], gamma=0.97, gae_lambda=0.9,
    )  # fmt: skip
    assert bool(came["truncations"].any())
    torch.testing.assert_close(found[:, :-1], expected)
    assert not found[:, -1].any()
    if truncations != "ignore":
        assert torch.equal(made.truncations, came["truncations"].float())


def test_masked_steps_count_for_nothing() -> None:
    ours.install(masks=True)

    def trained(other: bool) -> Any:
        made = trainer(slices=1, masked=True, minibatch_size=32, max_minibatch_size=32)
        masked = ~told(made)["mask"]
        assert 0 < int(masked.sum()) < masked.numel() / 2
        if other:  # something else in every masked step
            made.observations[masked] = 0.3
            made.actions[masked] = 2
            for name in ("logprobs", "values"):
                getattr(made, name)[masked] -= 0.7
        made.last_log_time = 0.0
        made.train()
        return made

    one, other = trained(False), trained(True)
    for name in ("policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "explained_variance"):
        assert one.losses[name] == pytest.approx(other.losses[name], rel=1e-6, abs=1e-9), name
    for a, b in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("count", [0, 1])
def test_an_epoch_in_which_next_to_nothing_counts_leaves_no_nan(count: int) -> None:
    ours.install(masks=True)
    made = trainer(slices=1, minibatch_size=32, max_minibatch_size=32)
    recv = made.vecenv.recv
    made.vecenv.recv = lambda: (*recv()[:7], (np.arange(4) < count) & (made.vecenv.turn == 2))
    made.evaluate()
    made.train()
    assert made.global_step == count
    assert all(bool(p.isfinite().all()) for p in made.policy.parameters())
