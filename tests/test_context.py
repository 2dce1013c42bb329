"""Context, configuration, trainer state and stopwatch."""

from __future__ import annotations

import io

import pytest
import torch
from pydantic import ValidationError

from hotloop.context import ComponentContext, LoopConfig, Stopwatch, TrainerState


def test_a_config_is_enough_and_even_that_has_a_default() -> None:
    config = LoopConfig(batch_size=128)
    context = ComponentContext(config=config)
    assert context.config is config
    assert context.losses == {}
    assert context.training_env_id is None
    assert ComponentContext().config.advantage.gamma == 0.99


def test_config_is_mutable_but_refuses_unknown_and_wrong_values() -> None:
    config = LoopConfig()
    config.advantage.gamma = 0.5
    config.sampling.method = "permutation"
    assert (config.advantage.gamma, config.sampling.method) == (0.5, "permutation")
    with pytest.raises(ValidationError, match="gamma"):
        config.advantage.gamma = 1.5
    with pytest.raises(ValidationError, match="method"):
        config.sampling.method = "random"  # type: ignore[assignment]
    with pytest.raises(ValidationError, match="horizon"):
        LoopConfig(horizon=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="batch_size"):
        LoopConfig(batch_size=0)


def test_two_configs_share_nothing() -> None:
    first, second = LoopConfig(), LoopConfig()
    first.advantage.gamma = 0.1
    assert second.advantage.gamma == 0.99


def test_counters_live_in_the_state() -> None:
    context = ComponentContext()
    context.record_rollout(100)
    context.record_rollout(10, world_size=3)
    context.advance_epoch(4)
    context.training_env_id = slice(2, 6)
    assert (context.state.agent_step, context.state.epoch) == (130, 4)
    assert context.training_env_id == slice(2, 6, 1)
    assert context.state.training_env_window is not None
    assert context.state.training_env_window.stop == 6
    context.reset_for_epoch()
    assert context.training_env_id is None
    context.latest_losses_stats = {"a": 1.0}
    context.loss_run_gates = {"ppo": {"train": False}}
    assert context.state.latest_losses_stats == {"a": 1.0}
    assert context.state.loss_run_gates["ppo"]["train"] is False


def test_trainer_state_survives_a_file_and_is_a_copy() -> None:
    context = ComponentContext()
    state = context.state
    state.epoch, state.agent_step, state.avg_reward = 3, 77, torch.tensor([1.0, 2.0])
    context.training_env_id = slice(0, 2)
    state.loss_run_gates = {"ppo": {"train": False}}
    saved = state.state_dict()
    state.avg_reward.zero_()
    state.loss_run_gates["ppo"]["train"] = True
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    restored = TrainerState()
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert (restored.epoch, restored.agent_step) == (3, 77)
    assert restored.avg_reward is not None
    assert restored.avg_reward.tolist() == [1.0, 2.0]
    assert restored.loss_run_gates == {"ppo": {"train": False}}
    assert ComponentContext(state=restored).training_env_id == slice(0, 2, 1)


def test_trainer_state_refuses_other_fields() -> None:
    saved = TrainerState().state_dict()
    del saved["epoch"]
    with pytest.raises(KeyError, match="epoch"):
        TrainerState().load_state_dict(saved)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until a test moves ``clock[0]``."""
    now = [100.0]
    monkeypatch.setattr("hotloop.stopwatch.perf_counter", lambda: now[0])
    return now


def test_stopwatch_accumulates_by_name(clock: list[float]) -> None:
    stopwatch = Stopwatch()
    for _ in range(2):
        with stopwatch("outer"):
            clock[0] += 1
            with stopwatch("inner"):
                clock[0] += 2
    clock[0] += 4
    assert stopwatch.elapsed("outer") == 6
    assert stopwatch.elapsed("inner") == 4
    assert stopwatch.elapsed("never") == 0
    assert stopwatch.shares() == {"outer": 0.6, "inner": 0.4}
    stopwatch.reset()
    assert stopwatch.elapsed("outer") == 0
    assert stopwatch.shares() == {"outer": 0, "inner": 0}


def test_stopwatch_counts_a_nested_block_of_the_same_name_once(clock: list[float]) -> None:
    stopwatch = Stopwatch()
    with stopwatch("x"), stopwatch("x"):
        clock[0] += 3
        assert stopwatch.elapsed("x") == 3
    clock[0] += 5
    assert stopwatch.elapsed("x") == 3


def test_stopwatch_stops_when_the_block_raises(clock: list[float]) -> None:
    stopwatch = Stopwatch()

    def block() -> None:
        with stopwatch("x"):
            clock[0] += 3
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        block()
    clock[0] += 5
    assert stopwatch.elapsed("x") == 3


def test_stopwatch_reset_inside_a_block_starts_again(clock: list[float]) -> None:
    stopwatch = Stopwatch()
    with stopwatch("x"):
        clock[0] += 3
        stopwatch.reset()
        clock[0] += 2
    assert stopwatch.elapsed("x") == 2
    assert stopwatch.wall_time() == 2
