"""One call draws, stores and remembers what three calls do, or leaves the step alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hotloop import ops

AGENTS, SEGMENTS, HORIZON = 6, 13, 5
SOURCES = {
    "env_obs": "observations",
    "rewards": "rewards",
    "dones": "terminals",
    "truncateds": "truncations",
    "valid": "mask",
    "reward_baseline": "baseline",
    "truncation_values": "zero",
    "present": "one",
    "values": "value",
    "actions": "actions",
    "act_log_prob": "log_prob",
}


def make_buffer(
    nvec: tuple[int, ...] | None, *, one: bool = False, segments: int = SEGMENTS, horizon: int = HORIZON
) -> dict[str, Tensor]:
    shape = segments, horizon
    buffer = {key: torch.full(shape, 7.0) for key in SOURCES}
    buffer["rewards"] = torch.full((horizon, segments), 7.0).T  # its columns lie apart
    buffer["env_obs"] = torch.zeros(*shape, 2, 3)
    buffer["valid"], buffer["present"] = (torch.zeros(shape, dtype=torch.bool) for _ in range(2))
    width = (1,) if nvec is None and one else () if nvec is None else (len(nvec),)
    buffer["actions"] = torch.zeros(*shape, *width, dtype=torch.int64)
    return buffer


class World:
    """A buffer, where its agents write, and their last actions."""

    def __init__(self, nvec: tuple[int, ...] | None, *, agents: int = AGENTS, **kind: Any) -> None:
        self.buffer = make_buffer(nvec, **kind)
        self.cursors = ops.RowCursors(agents, *self.buffer["dones"].shape)
        self.last = ops.LastActions(agents, 1 if nvec is None else len(nvec))
        self.baseline = torch.arange(float(agents))
        self.store = ops.StorePlan(self.buffer, SOURCES, self.cursors)
        size = {"choices": 4} if nvec is None else {"nvec": nvec}
        self.act = ops.ActPlan(self.buffer, SOURCES, self.cursors, **size)
        self.nvec = nvec
        self.acted: dict[int, int] = {}

    def bind(self, **changes: Any) -> bool:
        keys: dict[str, Any] = {"seed": 11, "first_agent": 20, "refuse_truncated": False, "acted": self.acted}
        return self.act.bind(self.last.buffer, self.baseline, **{**keys, **changes})

    def ordinary(self, step: Any, logits: Tensor, value: Tensor) -> Tensor:
        """The same by the three calls."""
        observations, rewards, terminals, truncations, _, window, mask, _ = step
        start, stop, times = window.start, window.stop, self.acted.get(window.start, 0)
        self.acted[start] = times + 1
        actions, log_prob, _ = ops.categorical_sample(
            logits, seed=11, step=256 * times, first_row=20 + start, nvec=self.nvec
        )
        true = torch.ones(stop - start, dtype=torch.bool)
        stored = actions if actions.dim() == self.buffer["actions"].dim() - 1 else actions.unsqueeze(1)
        source = {
            "env_obs": observations,
            "rewards": rewards,
            "dones": terminals,
            "truncateds": truncations,
            "valid": true if mask is None else mask,
            "reward_baseline": self.baseline[start:stop],
            "truncation_values": torch.zeros(stop - start),
            "present": true,
            "values": value.reshape(stop - start),
            "actions": stored,
            "act_log_prob": log_prob,
        }
        self.store.store(source, start, stop, self.last)
        return actions

    def native(self, step: Any, output: Any) -> np.ndarray[Any, Any] | None:
        """None where the plan leaves the step alone."""
        count = len(output[0]) if isinstance(output, (tuple, list)) and len(output) == 2 else AGENTS
        actions = np.zeros(count if self.nvec is None else (count, len(self.nvec)), np.int32)
        return actions if self.act.begin(step) and self.act.finish(output, actions) else None


def make_step(agents: slice, seed: int, **changes: Any) -> tuple[Any, ...]:
    random = torch.Generator().manual_seed(seed)
    n = agents.stop - agents.start

    def flags() -> Tensor:
        return torch.rand(n, generator=random) < 0.3

    names = ("observations", "rewards", "terminals", "truncations", "infos", "window", "mask", "steps")
    step: dict[str, Any] = dict.fromkeys(names)
    observations = torch.rand(n, 3, 2, generator=random, dtype=torch.float64).transpose(1, 2)
    step |= {"observations": observations, "rewards": torch.rand(n, generator=random)}
    step |= {"terminals": flags(), "truncations": flags(), "infos": [], "window": agents, "steps": n}
    step["mask"] = flags() if seed % 2 else None
    return tuple((step | changes).values())


def outputs(n: int, seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1000 + seed)
    logits = torch.randn(n, 8, generator=random).to(dtype)[:, ::2]
    return logits, torch.randn(n, 1, generator=random).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["discrete", "column", "several"])
@pytest.mark.parametrize("edges", [False, True])
def test_a_rollout_equals_the_three_calls(edges: bool, kind: str, dtype: torch.dtype) -> None:
    nvec = (3, 1) if kind == "several" else None
    one, other = (World(nvec, one=kind == "column") for _ in range(2))
    taken = 0
    for number in range(2 * 2 * HORIZON):
        # Two slices by turns, the second one a step behind; each goes through two rows.
        window = (slice(0, 4), slice(4, 6))[number % 2]
        step = make_step(window, number)
        logits, value = outputs(window.stop - window.start, number, dtype)
        expected = other.ordinary(step, logits, value)
        one.acted = {**one.acted}
        assert one.bind(edges=edges)
        actions = one.native(step, (logits, value) if number % 3 else [logits, value.squeeze(1)])
        steps, acted = one.act.release()
        # it was a row's last column, or its first
        if other.cursors.position(window.start) in (0, 1) and not edges:
            assert actions is None
            assert steps == 0
            one.ordinary(step, logits, value)
        else:
            assert actions is not None
            assert steps == 1
            assert acted == other.acted
            one.acted = acted
            assert torch.equal(torch.from_numpy(actions), expected)
            taken += 1
        for key, entry in other.buffer.items():
            assert torch.equal(one.buffer[key], entry), key
        assert torch.equal(one.last.buffer, other.last.buffer)
        assert torch.equal(one.cursors.rows, other.cursors.rows)
        assert torch.equal(one.cursors.positions, other.cursors.positions)
    assert taken == 2 * 2 * (HORIZON if edges else HORIZON - 2)
    assert one.buffer["actions"].any()


@pytest.mark.parametrize("agents", [255, 256, 303, 600])
@pytest.mark.parametrize("by_turns", [False, True])
def test_columns_of_many_agents_are_collected_and_spread(agents: int, by_turns: bool) -> None:
    """Runs of many steps: each column reaches its place before its run ends, and no other."""
    half = agents // 2  # of 600 agents both slices are many
    windows = [slice(0, half), slice(half, agents)] if by_turns else [slice(0, agents)]
    worlds = [World(None, agents=agents, segments=agents + 3, horizon=40) for _ in range(2)]
    one, other = worlds
    for number, window in enumerate(windows):
        for world in worlds:
            world.ordinary(make_step(window, number), *outputs(window.stop - window.start, number))
    for first, last in ((1, 12), (12, 39)):
        assert one.bind()
        for column in range(first, last):
            for turn, window in enumerate(windows):
                seed = 2 * column + turn
                step, output = make_step(window, seed), outputs(window.stop - window.start, seed)
                other.ordinary(step, *output)
                assert one.native(step, output) is not None
        steps, one.acted = one.act.release()
        assert steps == (last - first) * len(windows)
        for key, entry in other.buffer.items():
            assert torch.equal(one.buffer[key], entry), key
    assert torch.equal(one.last.buffer, other.last.buffer)
    assert one.acted == other.acted


@pytest.mark.parametrize("agents", [3, 300])
def test_columns_at_both_ends_of_rows(agents: int) -> None:
    """In one run: what was collected of a row reaches it before its agent goes on in another."""
    window, horizon = slice(0, agents), 5
    one, other = (World(None, agents=agents, segments=3 * agents, horizon=horizon) for _ in range(2))
    assert one.bind(edges=True)
    for number in range(3 * horizon):
        step, (logits, value) = make_step(window, number), outputs(agents, number)
        other.ordinary(step, logits, value)
        at_end = number % horizon in (0, horizon - 1)
        assert one.act.begin(step) == (-agents if at_end else agents)
        assert one.act.finish((logits, value), np.zeros(agents, np.int32))
    steps, one.acted = one.act.release()
    assert steps == 3 * horizon
    for key, entry in other.buffer.items():
        assert torch.equal(one.buffer[key], entry), key
    assert torch.equal(one.cursors.rows, other.cursors.rows)
    assert one.acted == other.acted


@pytest.fixture
def inside() -> World:
    """Its agents stand in the middle of their rows."""
    world = World(None)
    window = slice(0, AGENTS)
    world.ordinary(make_step(window, 0), *outputs(AGENTS, 0))
    return world


def untouched(world: World, step: Any, output: Any = None) -> bool:
    before = {key: entry.clone() for key, entry in world.buffer.items()}
    last, positions = world.last.buffer.clone(), world.cursors.positions.clone()
    left = world.native(step, outputs(AGENTS, 1) if output is None else output) is None
    same = all(torch.equal(entry, before[key]) for key, entry in world.buffer.items())
    return (
        left
        and same
        and torch.equal(last, world.last.buffer)
        and torch.equal(positions, world.cursors.positions)
    )


ALL = slice(0, AGENTS)
no_gradient = torch.zeros(AGENTS)
OTHER_STEPS = {
    "a list": list(make_step(ALL, 2)),
    "nine entries": (*make_step(ALL, 2), None),
    "agents out of range": make_step(slice(0, AGENTS + 1), 2),
    "no slice": make_step(ALL, 2, window=3),
    "a slice with steps": make_step(ALL, 2, window=slice(0, AGENTS, 2)),
    "an open slice": make_step(ALL, 2, window=slice(None, AGENTS)),
    "fewer rows": make_step(ALL, 2, rewards=torch.zeros(AGENTS - 1)),
    "a wide reward": make_step(ALL, 2, rewards=torch.zeros(AGENTS, 2)),
    "another shape of observations": make_step(ALL, 2, observations=torch.zeros(AGENTS, 2, 4)),
    "fewer dimensions": make_step(ALL, 2, observations=torch.zeros(AGENTS, 6)),
    "no tensor": make_step(ALL, 2, terminals=np.zeros(AGENTS, np.bool_)),
    "a subclass": make_step(
        ALL, 2, terminals=torch.nn.Parameter(no_gradient).as_subclass(type("T", (Tensor,), {}))
    ),
    "a meta tensor": make_step(ALL, 2, rewards=torch.zeros(AGENTS, device="meta")),
    "a sparse tensor": make_step(ALL, 2, rewards=torch.zeros(AGENTS).to_sparse()),
    "a gradient": make_step(ALL, 2, rewards=torch.zeros(AGENTS, requires_grad=True)),
}


@pytest.mark.parametrize("name", OTHER_STEPS)
def test_leaves_other_steps_alone(name: str, inside: World) -> None:
    assert inside.bind()
    assert untouched(inside, OTHER_STEPS[name])
    assert not untouched(inside, make_step(ALL, 2))


@pytest.mark.parametrize(
    "output",
    [
        (torch.zeros(AGENTS, 4),),
        (torch.zeros(AGENTS, 5), torch.zeros(AGENTS)),
        (torch.zeros(AGENTS - 1, 4), torch.zeros(AGENTS)),
        (torch.zeros(AGENTS, 4), torch.zeros(1, AGENTS)),
        (torch.zeros(AGENTS, 4), torch.zeros(AGENTS, 2)),
        (torch.zeros(AGENTS, 4, dtype=torch.int64), torch.zeros(AGENTS)),
        (torch.zeros(AGENTS, 4), None),
        {"logits": 0, "value": 0},
    ],
)
def test_leaves_other_outputs_alone(output: Any, inside: World) -> None:
    assert inside.bind()
    assert untouched(inside, make_step(ALL, 2), output)


def test_looks_at_flags_of_truncation_where_asked(inside: World) -> None:
    step = make_step(ALL, 2, truncations=torch.tensor([False] * 5 + [True]))
    assert inside.bind(refuse_truncated=True)
    assert untouched(inside, step)
    assert untouched(inside, make_step(ALL, 2, truncations=torch.zeros(AGENTS)))  # a dtype it does not read
    assert (
        inside.native(make_step(ALL, 2, truncations=torch.zeros(AGENTS).bool()), outputs(AGENTS, 1))
        is not None
    )
    assert inside.bind()
    assert inside.native(step, outputs(AGENTS, 1)) is not None


def test_refuses_memory_that_it_writes(inside: World) -> None:
    assert inside.bind()
    mine = inside.buffer["values"].flatten()
    assert untouched(inside, make_step(ALL, 2, rewards=mine[:AGENTS]))
    assert untouched(inside, make_step(ALL, 2), (torch.zeros(AGENTS, 4), mine[:AGENTS]))


def test_actions_must_be_int32_of_their_size(inside: World) -> None:
    for actions in (
        np.zeros(AGENTS, np.int64),
        np.zeros(AGENTS + 1, np.int32),
        np.zeros(AGENTS, np.float32),
        None,
    ):
        assert inside.bind()
        assert inside.act.begin(make_step(ALL, 2))
        assert not inside.act.finish(outputs(AGENTS, 1), actions)
    frozen = np.zeros(AGENTS, np.int32)
    frozen.flags.writeable = False
    assert not inside.act.finish(outputs(AGENTS, 1), frozen)


def test_nothing_is_done_without_its_call_before(inside: World) -> None:
    step, output, actions = make_step(ALL, 2), outputs(AGENTS, 1), np.zeros(AGENTS, np.int32)
    assert not inside.act.begin(step)
    assert inside.bind()
    assert not inside.act.finish(output, actions)
    assert inside.act.begin(step)
    assert inside.act.finish(output, actions)
    assert not inside.act.finish(output, actions)
    inside.act.release()
    assert not inside.act.begin(step)


def test_a_run_marks_what_it_wrote(inside: World) -> None:
    versions = {key: entry._version for key, entry in inside.buffer.items()}
    assert inside.bind()
    inside.act.release()
    assert all(entry._version == versions[key] for key, entry in inside.buffer.items())
    assert inside.bind()
    inside.native(make_step(ALL, 2), outputs(AGENTS, 1))
    last = inside.last.buffer._version
    inside.act.release()
    assert all(entry._version > versions[key] for key, entry in inside.buffer.items())
    assert inside.last.buffer._version > last


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        ("rewards", torch.zeros(SEGMENTS, HORIZON, 2)),
        ("values", torch.zeros(SEGMENTS + 1, HORIZON)),
        ("actions", torch.zeros(SEGMENTS, HORIZON, 3)),
        ("env_obs", torch.zeros(SEGMENTS)),
        ("dones", torch.zeros(()).expand(SEGMENTS, HORIZON)),
    ],
)
def test_is_not_bound_to_other_buffers(key: str, entry: Tensor, inside: World) -> None:
    inside.buffer[key] = entry
    assert not inside.bind()
    assert not inside.act.begin(make_step(ALL, 2))


def test_is_not_bound_to_other_memories(inside: World) -> None:
    keys: dict[str, Any] = {"seed": 0, "first_agent": 0, "refuse_truncated": False, "acted": {}}
    bind, last, baseline = inside.act.bind, inside.last.buffer, inside.baseline
    assert not bind(last, None, **keys)
    assert not bind(last, baseline[:-1], **keys)
    assert not bind(torch.zeros(AGENTS, 2), baseline, **keys)
    assert not bind(torch.zeros(AGENTS - 1, 1), baseline, **keys)
    assert bind(last, baseline, **keys)


def test_arguments() -> None:
    cursors = ops.RowCursors(AGENTS, SEGMENTS, HORIZON)
    buffer = make_buffer(None)
    with pytest.raises(ValueError, match="ActPlan: sources must be among"):
        ops.ActPlan(buffer, {"rewards": "luck"}, cursors, choices=2)
    with pytest.raises(ValueError, match="one of choices and nvec"):
        ops.ActPlan(buffer, {"rewards": "rewards"}, cursors)
    with pytest.raises(ValueError, match="choices must be positive, got 0"):
        ops.ActPlan(buffer, {"rewards": "rewards"}, cursors, nvec=(2, 0))
    with pytest.raises(ValueError, match="one head at least"):
        ops.ActPlan(buffer, {"rewards": "rewards"}, cursors, nvec=())
