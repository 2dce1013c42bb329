"""Action distributions: sampling, log probability, entropy.

They are the native ops of `hotloop.ops` (one pass forward, one backward, no second derivatives) on the CPU,
and on CUDA where these ops have kernels; elsewhere, and where torch traces or transforms the policy, plain
tensor formulas. ``torch.distributions``
builds and validates an object per call, which costs more than the arithmetic of a small policy (and reads the
device back when it validates). These modules hold no parameters, only index buffers.

What is drawn depends on torch's CPU generator alone (that of the device on the plain road), one number of
which keys a draw, or all draws of a loop's rollout (`hotloop.policies.draws`): `torch.manual_seed` repeats
it, and a checkpoint that holds the generator's state continues it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hotloop import ops
from hotloop.ops.kernels import runs_on
from hotloop.policies.actions import ActionSpec
from hotloop.policies.draws import DrawKey, agents_key

# Exponential samples are kept above this, so that probability 0 divided by a sample is 0 and never NaN.
_SMALLEST_RACE_TIME = 1e-30
_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
_OPS = ("categorical_sample", "categorical_evaluate", "gaussian_sample", "gaussian_evaluate")


class CategoricalHead(nn.Module):
    """One or several independent categorical choices.

    Logits are float ``[n, sum(nvec)]``, components side by side. A logit of minus infinity forbids a choice:
    it is never drawn and contributes nothing to entropy or gradients. Log probabilities and entropies are
    float ``[n]``, in nats, summed over the components.
    """

    _columns: Tensor
    _padding: Tensor

    def __init__(self, spec: ActionSpec) -> None:
        super().__init__()
        if spec.kind == "continuous":
            raise ValueError("CategoricalHead: spec must be discrete or multidiscrete, got continuous")
        self.spec = spec
        self._nvec = None if spec.kind == "discrete" else spec.nvec
        self._ragged = len(set(spec.nvec)) > 1
        self._widest = widest = max(spec.nvec)
        # Ragged components are padded to the widest with forbidden choices, so that all are one tensor [n, k,
        # widest].
        columns = torch.zeros(len(spec.nvec), widest, dtype=torch.int64)
        padding = torch.ones(len(spec.nvec), widest, dtype=torch.bool)
        offset = 0
        for i, size in enumerate(spec.nvec):
            columns[i, :size] = torch.arange(offset, offset + size)
            padding[i, :size] = False
            offset += size
        self.register_buffer("_columns", columns.flatten(), persistent=False)
        self.register_buffer("_padding", padding.flatten(), persistent=False)

    def _log_probs(self, logits: Tensor) -> Tensor:
        """``[n, sum(nvec)]`` to normalised ``[n, k, widest]``."""
        logits = _full_precision(logits)
        if self._ragged:
            logits = logits.index_select(-1, self._columns).masked_fill(self._padding, -math.inf)
        return torch.log_softmax(logits.reshape(-1, len(self.spec.nvec), self._widest), dim=-1)

    def sample(self, logits: Tensor, *, all_choices: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        """Draw actions.

        Returns actions (int32, ``[n]`` for discrete and ``[n, k]`` for multidiscrete), their log probability
        ``[n]``, and for discrete the log probabilities of all choices ``[n, n_actions]`` (None for
        multidiscrete).
        """
        if takes_native_road(logits):
            return self._sample_natively(logits, all_choices)
        log_probs = self._log_probs(logits)
        probs = log_probs.exp()
        # Exponential race: argmax of p / Exp(1) is distributed as p. Unlike torch.multinomial it never checks
        # its input on the host.
        times = torch.empty_like(probs).exponential_().clamp_min_(_SMALLEST_RACE_TIME)
        choice = (probs / times).argmax(dim=-1)  # [n, k]
        log_prob = log_probs.gather(-1, choice.unsqueeze(-1)).squeeze(-1).sum(-1)
        actions = choice.to(torch.int32)
        if self.spec.kind == "discrete":
            return actions.squeeze(-1), log_prob, log_probs.squeeze(-2)
        return actions, log_prob, None

    def _sample_natively(self, logits: Tensor, all_choices: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        if logits.requires_grad:
            if torch.is_grad_enabled():
                return self._sample_differentiably(logits)
            logits = logits.detach()
        key = _next_key(len(logits))
        outputs = None if key.memory is None else key.memory.get((logits.dtype, logits.shape))
        if outputs is None:
            outputs = self._new_outputs(logits)
            if key.memory is not None:
                key.memory[logits.dtype, logits.shape] = outputs
        log_prob, entropy, full = outputs
        full = full if all_choices else None
        # Actions are always new: an environment may keep them.
        actions = logits.new_empty(self._actions_shape(len(logits)), dtype=torch.int32)
        ops.categorical_sample(
            logits,
            seed=key.seed,
            step=key.step,
            first_row=key.first_row,
            nvec=self._nvec,
            out=(actions, log_prob, entropy),
            log_probs=full,
        )
        return actions, log_prob, full

    def _new_outputs(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log probability and entropy `[n]`, and the log probabilities of a single component's choices."""
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        with torch.inference_mode(False):
            log_prob, entropy = torch.empty(2, len(logits), dtype=wide, device=logits.device).unbind()
            if self._nvec is not None:
                return log_prob, entropy, None
            return log_prob, entropy, torch.empty(logits.shape, dtype=wide, device=logits.device)

    def _sample_differentiably(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        key = _next_key(len(logits))
        actions, _, _ = ops.categorical_sample(
            logits.detach(), seed=key.seed, step=key.step, first_row=key.first_row, nvec=self._nvec
        )  # fmt: skip
        log_prob, _ = ops.categorical_evaluate(logits, actions, nvec=self._nvec)
        full = None if self._nvec is not None else torch.log_softmax(_full_precision(logits), dim=-1)
        return actions, log_prob, full

    def _actions_shape(self, rows: int) -> tuple[int, ...]:
        return (rows,) if self._nvec is None else (rows, len(self._nvec))

    def evaluate(self, logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log probability and entropy, each ``[n]``, of actions given as integers ``[n]`` or ``[n, k]``."""
        if takes_native_road(logits):
            shape = (-1,) if self._nvec is None else (-1, len(self._nvec))
            choices = actions.to(torch.int64) if actions.is_floating_point() else actions
            return ops.categorical_evaluate(logits, choices.reshape(shape), nvec=self._nvec)
        log_probs = self._log_probs(logits)
        choice = actions.reshape(-1, len(self.spec.nvec)).to(torch.int64)
        log_prob = log_probs.gather(-1, choice.unsqueeze(-1)).squeeze(-1).sum(-1)
        # 0 * -inf is NaN; a finite stand-in makes a forbidden choice contribute exactly 0, in the gradient
        # too.
        finite = log_probs.clamp_min(torch.finfo(log_probs.dtype).min)
        return log_prob, -(finite * log_probs.exp()).sum((-1, -2))


class GaussianHead(nn.Module):
    """Diagonal Gaussian over ``k`` numbers.

    Logits are float ``[n, 2 k]``: means, then log standard deviations. Log probabilities (densities) and
    entropies are float ``[n]``, in nats, summed over the components.
    """

    def __init__(self, spec: ActionSpec) -> None:
        super().__init__()
        if spec.kind != "continuous":
            raise ValueError(f"GaussianHead: spec must be continuous, got {spec.kind}")
        self.spec = spec

    def sample(self, logits: Tensor, *, all_choices: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        """Draw float32 actions ``[n, k]``; returns them, their log density ``[n]`` and None."""
        if takes_native_road(logits):
            return self._sample_natively(*logits.chunk(2, dim=-1))
        mean, log_std = _full_precision(logits).chunk(2, dim=-1)
        noise = torch.randn_like(mean)
        actions = (mean + log_std.exp() * noise).detach()
        # The density is evaluated from the noise itself: subtracting the mean again would lose digits.
        log_prob = (-0.5 * noise.square() - log_std - _HALF_LOG_TWO_PI).sum(-1)
        stored = actions.to(torch.float32)
        if logits.requires_grad and torch.is_grad_enabled():
            log_prob, _ = self.evaluate(logits, stored)
        return stored, log_prob, None

    def _sample_natively(self, mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor, None]:
        key = _next_key(len(mean))
        actions, log_prob, _ = ops.gaussian_sample(
            mean.detach(), log_std.detach(), seed=key.seed, step=key.step, first_row=key.first_row
        )  # fmt: skip
        stored = actions.to(torch.float32)
        # The density is that of what is stored, which has fewer digits where the logits are float64.
        if stored.dtype != actions.dtype or (mean.requires_grad and torch.is_grad_enabled()):
            log_prob, _ = ops.gaussian_evaluate(mean, log_std, stored)
        return stored, log_prob, None

    def evaluate(self, logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log density and entropy, each ``[n]``, of actions ``[n, k]``."""
        if takes_native_road(logits):
            mean, log_std = logits.chunk(2, dim=-1)
            return ops.gaussian_evaluate(mean, log_std, actions.reshape(mean.shape))
        mean, log_std = _full_precision(logits).chunk(2, dim=-1)
        deviation = (actions.reshape(mean.shape) - mean) * torch.exp(-log_std)
        log_prob = (-0.5 * deviation.square() - log_std - _HALF_LOG_TWO_PI).sum(-1)
        return log_prob, (log_std + (0.5 + _HALF_LOG_TWO_PI)).sum(-1)


def takes_native_road(logits: Tensor) -> bool:
    """Whether the native ops serve these logits: plain floats on a device that they have kernels for, neither
    traced nor transformed."""
    return (
        type(logits) is Tensor
        and logits.is_floating_point()
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and (logits.is_cpu or all(runs_on(op, logits.device) for op in _OPS))
    )


def draw_key() -> int:
    """63 random bits of torch's CPU generator."""
    return int(torch.empty((), dtype=torch.int64).random_())


def _next_key(rows: int) -> DrawKey:
    """The key of a draw of `rows` rows: the agents' own in a rollout, else a number of torch's generator."""
    return agents_key(rows) or DrawKey(draw_key(), 0, 0)


def _full_precision(logits: Tensor) -> Tensor:
    """Half precisions have too few digits for probabilities of many choices, and too few distinct random
    numbers."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def make_head(spec: ActionSpec) -> CategoricalHead | GaussianHead:
    """The head that belongs to a kind of action."""
    return GaussianHead(spec) if spec.kind == "continuous" else CategoricalHead(spec)
