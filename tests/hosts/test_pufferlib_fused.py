"""`install(losses="fused")` beside PuffeRL's own losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sameness import assert_same
from torch import Tensor, nn

from hotloop import ops
from hotloop.integrations import pufferlib as ours

pytest.importorskip("pufferlib.pufferl", reason="what it imports is missing: make test-peers")
from pufferl_trainers import run, trainer
from pufferlib import pufferl

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet_pufferl")]
TOLERANCE = 1e-5


def assert_close(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for each, other in zip(found, expected, strict=True):
        assert_same(each, other, TOLERANCE)


@pytest.mark.parametrize("recurrent", [False, True], ids=["mlp", "lstm"])
@pytest.mark.parametrize("kind", ["discrete", "multidiscrete", "continuous"])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"clip_coef": 0.01, "vf_clip_coef": 0.01, "prio_alpha": 0.3, "anneal_lr": False},
        {"minibatch_size": 32, "max_minibatch_size": 16, "ent_coef": 0.3, "vf_coef": 0.2},
        {"batch_size": 128, "max_grad_norm": 100.0, "vtrace_rho_clip": 0.9},
    ],
    ids=str,
)
def test_training_is_the_hosts_to_a_hundred_thousandth(
    kind: str, recurrent: bool, changed: dict[str, Any]
) -> None:
    # Adam divides gradients by their size: with eps 1e-8 it would make noise in the smallest ones large.
    changed = {"use_rnn": recurrent, "adam_eps": 1e-5, **changed}
    expected = run(trainer(kind, **changed))
    ours.install(losses="fused")
    found = run(trainer(kind, **changed))
    assert_close(found, expected)
    assert not torch.equal(found[-1]["values"], expected[-1]["values"])  # it is another arithmetic
    assert expected[0]["old_approx_kl"] != 0.0


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
@pytest.mark.parametrize("truncations", ["ignore", "final"])
def test_steps_that_count_for_nothing_count_for_nothing(kind: str, truncations: str) -> None:
    told = []
    for losses in ("exact", "fused"):
        ours.install(truncations=truncations, masks=True, losses=losses)
        told.append(run(trainer(kind, masked=True, adam_eps=1e-5)))
    for each in (*told[0], *told[1]):
        del each["ratio"]  # of masked steps nobody asks for it
    assert_close(told[1], told[0])


def test_one_call_does_it_and_the_hosts_functions_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    ours.install(losses="fused")
    made, calls = trainer("multidiscrete"), []
    made.evaluate()
    pytorch, differentiate = pufferl.pufferlib.pytorch, ops.CategoricalPPO.differentiate
    sample = pytorch.sample_logits

    def native(*given: Any) -> None:
        calls.append("native")
        differentiate(*given)

    monkeypatch.setattr(ops.CategoricalPPO, "differentiate", native)
    monkeypatch.setattr(pytorch, "sample_logits", lambda *a, **k: calls.append("host") or sample(*a, **k))
    made.train()
    assert calls == 8 * ["native"]


def test_logits_of_other_sizes_are_taken_as_they_come() -> None:
    """Some policies leave out choices that nobody may take now."""

    def narrowed(made: Any) -> Any:
        forward, calls = made.policy.forward, []

        def narrow(observations: Tensor, state: Any = None) -> Any:
            calls.append(None)
            logits, values = forward(observations, state)
            return (nn.functional.pad(logits, (0, len(calls) % 2), value=-5.0), values)

        made.policy.forward = narrow
        return made

    expected = run(narrowed(trainer("discrete", adam_eps=1e-5)))
    ours.install(losses="fused")
    assert_close(run(narrowed(trainer("discrete", adam_eps=1e-5))), expected)


def test_numbers_and_buffers_may_be_replaced_between_epochs() -> None:
    def trained() -> list[dict[str, Any]]:
        made = trainer("discrete", adam_eps=1e-5)
        told = run(made, epochs=1)
        made.config.update(clip_coef=0.05, vf_coef=0.3, ent_coef=0.2, vf_clip_coef=0.03)
        made.ratio, made.values = made.ratio.clone(), made.values.clone()
        return told + run(made, epochs=2)

    expected = trained()
    ours.install(losses="fused")
    assert_close(trained(), expected)


def test_a_frozen_head_is_left_alone() -> None:
    def frozen() -> Any:
        made = trainer("discrete", adam_eps=1e-5)
        forward = made.policy.forward

        def detached(observations: Tensor, state: Any = None) -> Any:
            logits, values = forward(observations, state)
            return logits, values.detach()

        made.policy.forward = detached
        return made

    expected = run(frozen())
    ours.install(losses="fused")
    assert_close(run(frozen()), expected)


def test_bfloat16_is_refused_before_anything_is_trained() -> None:
    ours.install(losses="fused")
    made = trainer(precision="bfloat16")
    with pytest.raises(ValueError, match=r"losses='fused' .* precision must be 'float32', got 'bfloat16'"):
        made.evaluate()
    assert made.global_step == 0


@pytest.mark.parametrize(
    ("told", "error", "message"),
    [
        (lambda logits, values: (logits.double(), values), ValueError, r"logits in float32 .* got float64"),
        (lambda logits, values: (logits, values.double()), ValueError, r"values in float32 .* got float64"),
        (lambda logits, values: (logits[None], values), ValueError, r"\[steps, choices\] .* \[1, 16, 3\]"),
        (lambda logits, values: ({"a": logits}, values), TypeError, "a Normal distribution .* got dict"),
        (lambda logits, values: ([logits, None], values), TypeError, "logits as plain tensors .* NoneType"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_name(told: Any, error: type[Exception], message: str) -> None:
    ours.install(losses="fused")
    made = trainer("discrete")
    made.evaluate()
    forward = made.policy.forward
    made.policy.forward = lambda observations, state=None: told(*forward(observations, state))
    before = {name: p.clone() for name, p in made.policy.state_dict().items()}
    values = made.values.clone()
    with pytest.raises(error, match=message) as caught:
        made.train()
    assert 'install(losses="exact") keeps PufferLib\'s own arithmetic' in str(caught.value)
    assert_same(made.policy.state_dict(), before)
    assert torch.equal(made.values, values)


def test_options_that_there_are_not() -> None:
    with pytest.raises(ValueError, match="losses must be one of exact, fused, got 'fast'"):
        ours.install(losses="fast")
    with pytest.raises(ValueError, match=r"so it must be alone, got .* losses='fused'"):
        ours.install(verify=True, losses="fused")
