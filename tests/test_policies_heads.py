"""Action heads against torch.distributions, gradients included, and the law of their samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal

from hotloop.policies import ActionSpec, CategoricalHead, GaussianHead, heads, make_head

N = 37


@pytest.fixture(params=["native", "plain"], autouse=True)
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs on both roads: the native ops, and the formulas that serve other devices."""
    if request.param == "plain":
        monkeypatch.setattr(heads, "takes_native_road", lambda logits: False)
    return str(request.param)


def logits_for(spec: ActionSpec, n: int = N, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(n + spec.num_logits)
    return (2 * torch.randn(n, spec.num_logits, generator=generator, dtype=dtype)).requires_grad_()


CHOICES = [
    ActionSpec.discrete(1),
    ActionSpec.discrete(2),
    ActionSpec.discrete(19),
    ActionSpec.multidiscrete([4]),
    ActionSpec.multidiscrete([3, 3, 3]),
    ActionSpec.multidiscrete([2, 5, 1, 3]),
]


def components(spec: ActionSpec, logits: Tensor) -> list[Categorical]:
    return [Categorical(logits=part) for part in logits.split(spec.nvec, dim=-1)]


@pytest.mark.parametrize("spec", CHOICES, ids=str)
def test_categorical_evaluate_matches_torch_distributions_with_gradients(spec: ActionSpec) -> None:
    logits = logits_for(spec)
    peers = components(spec, logits)
    choices = [peer.sample() for peer in peers]
    actions = torch.stack(choices, -1).to(torch.int32)

    log_prob, entropy = CategoricalHead(spec).evaluate(logits, actions)
    expected_log_prob = sum(peer.log_prob(c) for peer, c in zip(peers, choices, strict=True))
    expected_entropy = sum(peer.entropy() for peer in peers)
    torch.testing.assert_close(log_prob, expected_log_prob)
    torch.testing.assert_close(entropy, expected_entropy)

    weights = torch.linspace(-1, 1, N, dtype=logits.dtype)
    ours = torch.autograd.grad((weights * log_prob + weights.flip(0) * entropy).sum(), logits)[0]
    theirs = torch.autograd.grad(
        (weights * expected_log_prob + weights.flip(0) * expected_entropy).sum(), logits
    )[0]
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("spec", CHOICES, ids=str)
def test_categorical_sample_has_the_stated_layout_and_its_own_log_probability(spec: ActionSpec) -> None:
    torch.manual_seed(0)
    logits, head = logits_for(spec, dtype=torch.float32), CategoricalHead(spec)
    actions, log_prob, full = head.sample(logits)
    assert actions.shape == (N, *spec.shape)
    assert actions.dtype == torch.int32
    rows = actions.reshape(N, -1)
    assert bool(((rows >= 0) & (rows < torch.tensor(spec.nvec))).all())
    torch.testing.assert_close(log_prob, head.evaluate(logits, actions)[0])
    if spec.kind == "discrete":
        assert full is not None
        torch.testing.assert_close(full, torch.log_softmax(logits, -1))
    else:
        assert full is None


def test_categorical_samples_follow_their_probabilities() -> None:
    # Pearson's statistic on 15 cells: 14 degrees of freedom, chance of exceeding 60 below 1e-6.
    spec = ActionSpec.multidiscrete([3, 5])
    logits = torch.tensor([[0.0, 1.0, -1.5, 0.3, -0.4, 2.0, -2.0, 0.0]])
    n = 200_000
    torch.manual_seed(1)
    actions, _, _ = CategoricalHead(spec).sample(logits.expand(n, -1))
    first, second = (torch.softmax(part[0].double(), 0) for part in logits.split([3, 5], -1))
    expected = n * torch.outer(first, second).flatten()
    counts = torch.bincount(actions[:, 0].long() * 5 + actions[:, 1], minlength=15)
    assert float(((counts - expected) ** 2 / expected).sum()) < 60


def test_forbidden_choices_are_never_drawn_and_have_no_gradient() -> None:
    torch.manual_seed(2)
    logits = torch.tensor([[0.5, -math.inf, 1.0, -math.inf]]).repeat(50_000, 1)
    head = CategoricalHead(ActionSpec.discrete(4))
    actions, log_prob, _ = head.sample(logits)
    assert set(actions.tolist()) == {0, 2}
    assert bool(log_prob.isfinite().all())

    few = logits[:3].clone().requires_grad_()
    log_prob, entropy = head.evaluate(few, torch.tensor([0, 2, 0]))
    allowed = Categorical(logits=torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(entropy, allowed.entropy().expand(3))
    torch.testing.assert_close(log_prob[1], allowed.log_prob(torch.tensor(1)))
    (log_prob + entropy).sum().backward()
    assert few.grad is not None
    assert bool(few.grad.isfinite().all())
    assert bool((few.grad[:, [1, 3]] == 0).all())
    assert bool((few.grad[:, [0, 2]] != 0).all())


def test_a_race_time_of_zero_never_draws_a_forbidden_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    # Exponential samples are exactly 0 about once in 2^24 draws; 0 / 0 would be NaN, which argmax prefers.
    monkeypatch.setattr(Tensor, "exponential_", lambda self, *args, **kwargs: self.zero_())
    logits = torch.tensor([[-math.inf, 0.0], [0.0, -math.inf]])
    assert CategoricalHead(ActionSpec.discrete(2)).sample(logits)[0].tolist() == [1, 0]


def test_gaussian_evaluate_matches_torch_distributions_with_gradients() -> None:
    spec = ActionSpec.continuous(3)
    logits = logits_for(spec)
    mean, log_std = logits.chunk(2, -1)
    peer = Normal(mean, log_std.exp())
    actions = peer.sample()
    log_prob, entropy = GaussianHead(spec).evaluate(logits, actions)
    torch.testing.assert_close(log_prob, peer.log_prob(actions).sum(-1))
    torch.testing.assert_close(entropy, peer.entropy().sum(-1))
    ours = torch.autograd.grad((2 * log_prob + entropy).sum(), logits, retain_graph=True)[0]
    theirs = torch.autograd.grad((2 * peer.log_prob(actions) + peer.entropy()).sum(), logits)[0]
    torch.testing.assert_close(ours, theirs)


def test_gaussian_samples_have_the_stated_moments_and_their_own_log_probability() -> None:
    spec = ActionSpec.continuous(2)
    head = GaussianHead(spec)
    n = 100_000
    logits = torch.tensor([[1.0, -3.0, math.log(0.5), math.log(2.0)]]).expand(n, -1)
    torch.manual_seed(3)
    actions, log_prob, full = head.sample(logits)
    assert (actions.shape, actions.dtype, full) == ((n, 2), torch.float32, None)
    # Six standard errors each: together a chance below 1e-8 of a false alarm.
    assert (actions.mean(0) - torch.tensor([1.0, -3.0])).abs().le(6 * torch.tensor([0.5, 2.0]) / n**0.5).all()
    assert (actions.std(0) / torch.tensor([0.5, 2.0]) - 1).abs().le(6 / (2 * n) ** 0.5).all()
    torch.testing.assert_close(log_prob, head.evaluate(logits, actions)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", [ActionSpec.discrete(3), ActionSpec.continuous(2)], ids=["choices", "real"])
def test_half_precision_logits_are_evaluated_in_single(spec: ActionSpec) -> None:
    logits = logits_for(spec, dtype=torch.float32).detach().to(torch.bfloat16)
    actions = make_head(spec).sample(logits)[0]
    log_prob, entropy = make_head(spec).evaluate(logits, actions)
    expected = make_head(spec).evaluate(logits.float(), actions)
    assert log_prob.dtype == entropy.dtype == torch.float32
    assert torch.equal(log_prob, expected[0])
    assert torch.equal(entropy, expected[1])


@pytest.mark.parametrize("spec", [*CHOICES, ActionSpec.continuous(2)], ids=str)
def test_no_rows_give_no_actions(spec: ActionSpec) -> None:
    actions, log_prob, _ = make_head(spec).sample(torch.zeros(0, spec.num_logits))
    assert actions.shape == (0, *spec.shape)
    assert log_prob.shape == (0,)


def test_the_same_seed_draws_the_same_actions() -> None:
    spec = ActionSpec.multidiscrete([3, 7])
    logits, head = logits_for(spec).detach(), make_head(spec)
    torch.manual_seed(5)
    first = head.sample(logits)[0]
    other = head.sample(logits)[0]
    torch.manual_seed(5)
    assert torch.equal(first, head.sample(logits)[0])
    assert not torch.equal(first, other)


@pytest.mark.parametrize("spec", [*CHOICES, ActionSpec.continuous(2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sampling_with_gradients_gives_a_differentiable_log_probability(
    spec: ActionSpec, dtype: torch.dtype
) -> None:
    logits, head = logits_for(spec, dtype=dtype), make_head(spec)
    torch.manual_seed(1)
    actions, log_prob, _ = head.sample(logits)
    (sampled,) = torch.autograd.grad(log_prob.sum(), logits)
    evaluated, _ = head.evaluate(logits, actions)
    torch.testing.assert_close(sampled, torch.autograd.grad(evaluated.sum(), logits)[0])
    with torch.no_grad():
        torch.manual_seed(1)
        again = head.sample(logits)
    assert torch.equal(again[0], actions)
    # the plain sample takes its density from the noise, before the action is rounded
    torch.testing.assert_close(again[1], log_prob.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", [*CHOICES, ActionSpec.continuous(2)], ids=str)
def test_traced_evaluation_agrees(spec: ActionSpec) -> None:
    torch.compiler.reset()
    logits, head = logits_for(spec, dtype=torch.float32), make_head(spec)
    actions = head.sample(logits)[0]
    traced = torch.compile(head.evaluate, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(logits, actions), head.evaluate(logits, actions), rtol=1e-5, atol=1e-5)


def test_the_native_road_is_taken_for_plain_floats_on_the_cpu(road: str) -> None:
    assert heads.takes_native_road(torch.zeros(2, 2)) == (road == "native")
    assert not heads.takes_native_road(torch.zeros(2, 2, device="meta"))


def test_transformed_policies_take_the_plain_road() -> None:
    head, logits = make_head(ActionSpec.discrete(3)), torch.randn(4, 5, 3)
    actions = torch.randint(0, 3, (4, 5))
    log_prob, _ = torch.func.vmap(head.evaluate)(logits, actions)
    torch.testing.assert_close(
        log_prob, torch.stack([head.evaluate(*pair)[0] for pair in zip(logits, actions, strict=True)])
    )


def test_heads_have_no_state_to_save_and_refuse_the_wrong_kind() -> None:
    assert not make_head(ActionSpec.multidiscrete([2, 3])).state_dict()
    assert isinstance(make_head(ActionSpec.continuous(1)), GaussianHead)
    with pytest.raises(ValueError, match="got continuous"):
        CategoricalHead(ActionSpec.continuous(1))
    with pytest.raises(ValueError, match="got discrete"):
        GaussianHead(ActionSpec.discrete(2))
