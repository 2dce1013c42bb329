"""Experience.sample: the laws, what a minibatch holds, and what it shares with the buffer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict

from hotloop import ops
from hotloop.context import SamplingConfig
from hotloop.experience import Experience

F32 = torch.float32
SEGMENTS, HORIZON, ROWS = 12, 3, 4


def make(**options: Any) -> Experience:
    spec = {
        "env_obs": ((2,), F32),
        "values": ((), F32),
        "memory": {"h": ((2,), F32), "age": ((), torch.int64)},
    }
    experience = Experience(
        total_agents=2,
        batch_size=SEGMENTS * HORIZON,
        bptt_horizon=HORIZON,
        minibatch_size=ROWS * HORIZON,
        experience_spec=spec,
        **options,
    )
    code = torch.arange(SEGMENTS * HORIZON, dtype=F32).reshape(SEGMENTS, HORIZON)
    experience.buffer["values"].copy_(code)
    experience.buffer["env_obs"].copy_(code.unsqueeze(2).expand(-1, -1, 2))
    experience.buffer["memory", "h"].copy_(-code.unsqueeze(2).expand(-1, -1, 2))
    experience.buffer["memory", "age"].copy_(code)
    return experience


def advantages() -> torch.Tensor:
    return torch.randn(SEGMENTS, HORIZON, generator=torch.Generator().manual_seed(0))


def sample(experience: Experience, mb_idx: int = 0, **options: Any) -> TensorDict:
    options = {"epoch": 0, "total_timesteps": 3600, "batch_size": 36, "advantages": advantages()} | options
    return experience.sample(mb_idx, **options)


def check_rows(experience: Experience, shared: TensorDict) -> torch.Tensor:
    """Every entry is the row that the indices name; returns the row numbers."""
    assert shared.batch_size == (ROWS, HORIZON)
    indices = shared["indices"]
    assert indices.dtype == torch.int64
    assert indices.shape == (ROWS, HORIZON)
    rows = indices[:, 0]
    assert indices.equal(rows.unsqueeze(1).expand(-1, HORIZON))
    minibatch = shared["sampled_mb"]
    assert minibatch.batch_size == (ROWS, HORIZON)
    for key in ("env_obs", "values", ("memory", "h"), ("memory", "age")):
        assert minibatch[key].equal(experience.buffer[key][rows]), key
    assert shared["advantages"].equal(advantages()[rows])
    assert shared["prio_weights"].shape == (ROWS, HORIZON)
    assert shared["prio_weights"].dtype == F32
    return rows


CONFIGS = {
    "sequential": SamplingConfig(),
    "no priority": SamplingConfig(method="prioritized", prio_alpha=0.0),
    "permutation": SamplingConfig(method="permutation"),
    "prioritized": SamplingConfig(method="prioritized", prio_alpha=0.8),
}


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_what_a_minibatch_holds(name: str, reuse: bool) -> None:
    experience = make(sampling_config=CONFIGS[name])
    experience.buffer["advantages_full"] = advantages()
    for mb_idx in range(3):
        shared = sample(experience, mb_idx, reuse=reuse)
        rows = check_rows(experience, shared)
        assert shared["sampled_mb", "advantages_full"].equal(advantages()[rows])
        assert len(rows.unique()) == ROWS
        if name in ("sequential", "no priority"):
            assert rows.tolist() == list(range(mb_idx * ROWS, mb_idx * ROWS + ROWS))
        if name != "prioritized":
            assert shared["prio_weights"].unique().tolist() == [1]


def test_the_config_is_read_at_every_call_and_may_be_given() -> None:
    config = SamplingConfig()
    experience = make(sampling_config=config)
    assert sample(experience)["indices"][:, 0].tolist() == [0, 1, 2, 3]
    config.method = "permutation"
    drawn = sample(experience)["indices"][:, 0].tolist()
    assert drawn != [0, 1, 2, 3]
    config.method = "sequential"
    assert sample(experience, sampling_config=CONFIGS["permutation"])["indices"][:, 0].tolist() == drawn


def test_a_permutation_covers_every_row_once_and_differs_by_draw_and_seed() -> None:
    experience = make(sampling_config=CONFIGS["permutation"], seed=5)

    def order(**options: Any) -> list[int]:
        return [row for mb in range(3) for row in sample(experience, mb, **options)["indices"][:, 0].tolist()]

    first = order()
    assert sorted(first) == list(range(SEGMENTS))
    assert order() == first
    assert order(seed=5) == first
    assert order(draw=0) == first
    assert order(epoch=1) != first
    assert order(draw=1) == order(epoch=1)
    assert order(seed=6) != first


def test_prioritized_follows_the_op_and_weights_match_the_law() -> None:
    alpha, beta0, epoch = 0.7, 0.4, 20
    experience = make(
        sampling_config=SamplingConfig(method="prioritized", prio_alpha=alpha, prio_beta0=beta0), seed=3
    )
    shared = sample(experience, 2, epoch=epoch)
    rows = check_rows(experience, shared)
    priorities = advantages().abs().sum(1) ** alpha
    expected, _ = ops.sample_segments(
        priorities, SEGMENTS, ROWS, law="successive", seed=3, epoch=epoch, minibatch=2, beta=1.0
    )
    assert rows.equal(expected)
    p = (priorities.double() + 1e-6) / (priorities.double().sum() + 1e-6)
    beta = beta0 + (1 - beta0) * alpha * epoch / 100  # 3600 // 36 epochs
    weights = (SEGMENTS * p[rows]) ** -beta
    torch.testing.assert_close(shared["prio_weights"].double(), weights.unsqueeze(1).expand(-1, HORIZON))


def test_beta_never_exceeds_one() -> None:
    experience = make()
    beta = experience._sampler.beta
    assert beta(1.0, 0.5, 0, 10) == 0.5
    assert beta(1.0, 0.5, 5, 10) == 0.75
    assert beta(1.0, 0.5, 10, 10) == 1.0
    assert beta(1.0, 0.5, 25, 10) == 1.0


def test_sample_prioritized_is_what_sample_draws_and_is_sequential_at_alpha_zero() -> None:
    experience = make(sampling_config=CONFIGS["prioritized"], seed=1)
    shared = sample(experience, 1, epoch=4)
    minibatch, indices, weights = experience.sample_prioritized(1, 4, 3600, 36, 0.8, 0.6, advantages())
    assert indices.equal(shared["indices"][:, 0])
    assert weights.equal(shared["prio_weights"])
    assert minibatch["values"].equal(shared["sampled_mb", "values"])
    _, indices, weights = experience.sample_prioritized(1, 4, 3600, 36, 0.0, 0.6, advantages())
    assert indices.tolist() == [4, 5, 6, 7]
    assert weights.equal(torch.ones(ROWS, HORIZON))


def test_priorities_follow_advantages_that_were_changed_in_place() -> None:
    experience = make(sampling_config=CONFIGS["prioritized"])
    full = torch.zeros(SEGMENTS, HORIZON)
    full[:ROWS] = 1.0
    assert sorted(sample(experience, advantages=full)["indices"][:, 0].tolist()) == [0, 1, 2, 3]
    full.zero_()
    full[-ROWS:] = 1.0
    assert sorted(sample(experience, advantages=full)["indices"][:, 0].tolist()) == [8, 9, 10, 11]


def test_sequential_index_wraps_with_the_minibatch_number() -> None:
    minibatch, indices = make().sample_sequential(4)
    assert indices.tolist() == [4, 5, 6, 7]
    assert minibatch["values"][0].tolist() == [12, 13, 14]


@pytest.mark.parametrize("name", list(CONFIGS))
def test_new_keys_of_a_minibatch_do_not_reach_the_buffer(name: str) -> None:
    experience = make(sampling_config=CONFIGS[name])
    minibatch = sample(experience)["sampled_mb"]
    minibatch["returns"] = torch.zeros(ROWS, HORIZON)
    minibatch["memory", "new"] = torch.zeros(ROWS, HORIZON)
    minibatch["values"] = torch.zeros(ROWS, HORIZON)
    assert set(experience.buffer.keys()) == {"env_obs", "values", "memory"}
    assert set(experience.buffer["memory"].keys()) == {"h", "age"}
    assert experience.buffer["values"][1].tolist() == [3, 4, 5]


def test_wide_entries_of_a_sequential_minibatch_are_views() -> None:
    experience = make()
    minibatch, _ = experience.sample_sequential(1)
    assert minibatch["env_obs"].data_ptr() == experience.buffer["env_obs"][ROWS].data_ptr()


@pytest.mark.parametrize("name", list(CONFIGS))
def test_values_may_be_written_back_while_a_graph_uses_the_old_ones(name: str) -> None:
    """As a critic does: the backward pass must see the minibatch's values, not those written meanwhile."""
    experience = make(sampling_config=CONFIGS[name])
    shared = sample(experience, reuse=True)
    old = shared["sampled_mb", "values"]
    before = old.clone()
    scale = torch.tensor(2.0, requires_grad=True)
    loss = (scale * old).sum()  # saves `old`
    experience.update(shared["indices"][:, 0], TensorDict({"values": old * 100}, [ROWS, HORIZON]))
    loss.backward()
    assert scale.grad == before.sum()
    assert experience.buffer["values"].max() >= 100


def test_reused_memory_is_reused_and_fresh_memory_is_fresh() -> None:
    experience = make(sampling_config=CONFIGS["permutation"])
    first = sample(experience, 0, reuse=True)["sampled_mb", "env_obs"]
    assert sample(experience, 1, reuse=True)["sampled_mb", "env_obs"].data_ptr() == first.data_ptr()
    fresh = sample(experience, 0)["sampled_mb", "env_obs"]
    kept = fresh.clone()
    sample(experience, 1)
    sample(experience, 1, reuse=True)
    assert fresh.equal(kept)


def test_errors() -> None:
    experience = make()
    with pytest.raises(ValueError, match=r"advantages must be \[12, 3\], got \[12, 2\]"):
        sample(experience, advantages=torch.zeros(12, 2))

    class Odd:
        method = "random"

    with pytest.raises(ValueError, match="got 'random'"):
        sample(experience, sampling_config=Odd())


@pytest.mark.parametrize("law", ["successive", "with_replacement", "systematic"])
@pytest.mark.parametrize("schedule", ["linear", "reference", "constant"])
def test_the_law_and_the_schedule_of_the_config_are_used(law: Any, schedule: Any) -> None:
    config = SamplingConfig(
        method="prioritized", prio_alpha=0.7, prio_beta0=0.4, law=law, beta_schedule=schedule
    )
    shared = sample(make(sampling_config=config, seed=3), 1, epoch=20)
    beta = {"linear": 0.4 + 0.6 * 0.2, "reference": 0.4 + 0.6 * 0.7 * 0.2, "constant": 0.4}[schedule]
    indices, weights = ops.sample_segments(
        ops.row_priorities(advantages(), 0.7),
        SEGMENTS,
        ROWS,
        law=law,
        seed=3,
        epoch=20,
        minibatch=1,
        beta=beta,
    )
    assert shared["indices"][:, 0].equal(indices)
    torch.testing.assert_close(shared["prio_weights"][:, 0], weights)


def test_a_config_that_knows_neither_law_nor_schedule_gets_those_of_the_reference() -> None:
    class Foreign:
        method, prio_alpha, prio_beta0 = "prioritized", 0.8, 0.6

    expected = sample(make(sampling_config=CONFIGS["prioritized"]), epoch=9)
    shared = sample(make(sampling_config=Foreign()), epoch=9)
    assert shared["indices"].equal(expected["indices"])
    assert shared["prio_weights"].equal(expected["prio_weights"])


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_both_roads_take_the_same_rows(name: str, reuse: bool) -> None:
    native, other = make(sampling_config=CONFIGS[name]), make(sampling_config=CONFIGS[name])
    other._sampler._native = False
    for mb_idx in range(3):
        ours, theirs = (sample(each, mb_idx, reuse=reuse) for each in (native, other))
        check_rows(other, theirs)
        for key in ("prio_weights", "indices", "advantages"):
            assert ours[key].equal(theirs[key]), key


def test_memory_follows_entries_that_change() -> None:
    experience = make(sampling_config=CONFIGS["permutation"])
    check_rows(experience, sample(experience, 0, reuse=True))
    experience.buffer["values"] = experience.buffer["values"].double()
    shared = sample(experience, 1, reuse=True)
    assert shared["sampled_mb", "values"].dtype == torch.float64
    check_rows(experience, shared)
    experience.buffer["extra"] = torch.rand(SEGMENTS, HORIZON, 5)
    shared = sample(experience, 2, reuse=True)
    assert shared["sampled_mb", "extra"].equal(experience.buffer["extra"][check_rows(experience, shared)])
    del experience.buffer["extra"]
    assert "extra" not in sample(experience, 0, reuse=True)["sampled_mb"]


def test_kept_indices_and_weights_outlive_the_next_minibatch() -> None:
    experience = make(sampling_config=CONFIGS["prioritized"])
    first = sample(experience, 0, reuse=True)
    kept = first["indices"].clone(), first["prio_weights"].clone()
    sample(experience, 1, reuse=True)
    assert first["indices"].equal(kept[0])
    assert first["prio_weights"].equal(kept[1])
