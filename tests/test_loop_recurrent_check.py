"""The self-check notices training that does not repeat the rollout, and says where and why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor

from hotloop.loop import CoreTrainingLoop
from hotloop.policies import LSTMPolicy
from loop_support import BOOTSTRAPPED, Setup
from recurrent_support import Counter
from test_loop_policy_state import HORIZON, Env, make


def run(setup: Setup, phases: int = 1, autoreset: str = "same_step") -> CoreTrainingLoop:
    env = Env(autoreset)
    for _ in range(phases):
        setup.loop.rollout_phase(env, setup.context)
        setup.loop.training_phase(setup.context, 1)
    return setup.loop


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize("burn_in", [0, 2])
def test_a_right_policy_passes(autoreset: str, burn_in: int) -> None:
    torch.manual_seed(0)
    run(make(LSTMPolicy((3,), 2, core_size=4), recurrent_check="always", burn_in=burn_in), 3, autoreset)
    run(make(recurrent_check="always"), 3, autoreset)


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize("late", [1, -1], ids=["one step late", "not at all"])
def test_resets_that_training_does_not_repeat(autoreset: str, late: int) -> None:
    setup = make(Counter(late=late))
    before = setup.parameters()
    with pytest.raises(RuntimeError) as error:
        run(setup, autoreset=autoreset)
    message = str(error.value)
    assert "the training forward must repeat the rollout, but 'act_log_prob' of segment " in message
    assert "only steps after a reset differ" in message
    assert torch.equal(before[0], setup.parameters()[0])  # nothing was learnt from it


def test_the_worst_entry_is_named() -> None:
    class Off(Counter):
        def forward(self, td: TensorDictBase, action: Tensor | None = None, **kw: Any) -> TensorDictBase:
            super().forward(td, action, **kw)
            if action is not None:
                hit = (td["env_obs"][:, 0] == 1) & (td["env_obs"][:, 1] == HORIZON + 3)
                td["act_log_prob"] = td["act_log_prob"] + 0.5 * hit
            return td

    setup = make(Off())
    with pytest.raises(RuntimeError, match=r"of segment 5, step 3 was .* a difference of 0.5 .*; 1 of 20"):
        run(setup)


def test_states_of_other_segments_differ_at_the_first_step() -> None:
    setup = make()
    states = setup.loop._states
    right = states.of_segments
    states.of_segments = lambda rows: right(rows.flip(0))
    with pytest.raises(RuntimeError, match="the first step of a segment differs already"):
        run(setup)


def test_a_policy_that_forgets_between_columns() -> None:
    class Forgetful(Counter):
        def _segments(self, obs: Tensor, resets: Tensor, state: TensorDictBase) -> tuple[Tensor, Tensor]:
            rows = state.batch_size[0]
            steps, sums = super()._segments(obs, resets, state)
            steps = steps.reshape(rows, -1).clone()
            steps[:, 1:] = steps[:, :1]
            return steps.flatten(), sums

    with pytest.raises(
        RuntimeError, match="the steps of a segment do not follow each other as in the rollout"
    ):
        run(make(Forgetful()))


def test_not_a_number_is_a_difference() -> None:
    class Broken(Counter):
        def forward(self, td: TensorDictBase, action: Tensor | None = None, **kw: Any) -> TensorDictBase:
            super().forward(td, action, **kw)
            if action is not None:
                td["act_log_prob"] = td["act_log_prob"] * torch.nan
            return td

    with pytest.raises(RuntimeError, match="is now nan"):
        run(make(Broken()))


def test_invalid_entries_may_differ() -> None:
    class Careless(Counter):
        def forward(self, td: TensorDictBase, action: Tensor | None = None, **kw: Any) -> TensorDictBase:
            super().forward(td, action, **kw)
            if action is not None:
                t = td["env_obs"][:, 1]
                final = ((td["env_obs"][:, 0] == 2) & (t == 2)) | ((td["env_obs"][:, 0] == 1) & (t == 4))
                td["act_log_prob"] = td["act_log_prob"] + 1.0 * final
            return td

    run(make(Careless()), autoreset="next_step")
    with pytest.raises(RuntimeError):
        run(make(Careless()), autoreset="same_step")


@pytest.mark.parametrize("stored", [(), ("act_log_prob",)])
def test_values_are_compared(stored: tuple[str, ...]) -> None:
    class Off(Counter):
        def forward(self, td: TensorDictBase, action: Tensor | None = None, **kw: Any) -> TensorDictBase:
            super().forward(td, action, **kw)
            if action is not None:
                td["values"] = td["values"] + 1.0
            return td

    spec = {key: entry for key, entry in BOOTSTRAPPED.items() if key != "act_log_prob" or key in stored}
    setup = Setup(agents=4, segments=8, horizon=HORIZON, policy=Off(), spec=spec)
    with pytest.raises(RuntimeError, match="but 'values' of segment"):
        run(setup)


@pytest.mark.parametrize(
    ("mode", "forwards"), [("off", [0, 0, 0]), ("first", [2, 0, 0]), ("always", [2, 2, 2])]
)
def test_how_often_it_looks(mode: str, forwards: list[int]) -> None:
    class Counting(Counter):
        checks = 0

        def forward(self, td: TensorDictBase, action: Tensor | None = None, **kw: Any) -> TensorDictBase:
            self.checks += action is not None and not torch.is_grad_enabled()
            return super().forward(td, action, **kw)

    setup = make(Counting(), recurrent_check=mode)
    env, seen = Env("same_step"), []
    for _ in range(3):
        setup.policy.checks = 0
        setup.loop.rollout_phase(env, setup.context)
        setup.loop.training_phase(setup.context, 2)
        seen.append(setup.policy.checks)
    assert seen == forwards


def test_off_trains_all_the_same() -> None:
    run(make(Counter(late=1), recurrent_check="off"))
