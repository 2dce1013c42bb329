"""`PuffeRL.train`: updates whose minibatches are drawn, gathered and written back by native calls."""

from __future__ import annotations

import functools
import importlib
import math
import time
from collections import defaultdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hotloop import ops
from hotloop.ops import GatherPlan, scatter_

GATHERED = ("observations", "actions", "logprobs", "values")  # attributes of PuffeRL
_MANY = 1 << 15  # below so many steps computing all advantages costs less than picking rows


def compute_puff_advantage(
    values: Tensor,
    rewards: Tensor,
    terminals: Tensor,
    ratio: Tensor,
    advantages: Tensor,
    gamma: float,
    gae_lambda: float,
    vtrace_rho_clip: float,
    vtrace_c_clip: float,
) -> Tensor:
    """`pufferlib.pufferl.compute_puff_advantage`: fills `advantages` but for its last column.

    Args:
        values, rewards, terminals, ratio, advantages: `[segments, horizon]`, on the CPU. Unlike the host's op
            it reads tensors that are not contiguous as they are.
        gamma, gae_lambda, vtrace_rho_clip, vtrace_c_clip: as in `hotloop.ops.puff_advantage`.

    Returns:
        `advantages`.

    Raises:
        TypeError, ValueError: as `hotloop.ops.puff_advantage`.
    """
    last = advantages[:, -1:].clone()
    ops.puff_advantage(
        values.detach(), rewards.detach(), terminals.detach(), ratio.detach(), gamma, gae_lambda,
        vtrace_rho_clip, vtrace_c_clip, out=advantages,
    )  # fmt: skip
    advantages[:, -1:] = last
    return advantages


class Minibatch(NamedTuple):
    """Rows of the rollout. All but `weights` is memory that the next one overwrites.

    Attributes:
        rows: `[k]` int64, which.
        weights: `[k, 1]`, corrections of their probabilities.
        observations: `[k, T, ...]`, or `[k * T, ...]` for a policy without memory.
        actions: `[k, T, ...]`.
        logprobs, values, advantages: `[k, T]`.
        valid: `[k, T]` bool, or None where every step counts.
    """

    rows: Tensor
    weights: Tensor
    observations: Tensor
    actions: Tensor
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    valid: Tensor | None


class Training:
    """What the updates of one trainer keep between minibatches.

    Args:
        trainer: a `PuffeRL`.
        valid: `[segments, horizon]`, 0 for steps that count for nothing; None where all count.

    Attributes:
        advantages: `[segments, horizon]`, those that the last minibatch was drawn by.
        losses: of the last epoch, by name.
    """

    def __init__(self, trainer: Any, valid: Tensor | None) -> None:
        self.advantages = torch.zeros_like(trainer.values)
        self.losses: defaultdict[str, float] = defaultdict(float)
        self._host: Any = importlib.import_module("pufferlib.pufferl")
        self._valid = valid
        self._ratio = torch.empty_like(trainer.ratio)
        self._magnitudes = torch.empty_like(self.advantages)
        # By row: sums of |A|, their powers, probabilities, and a number that decides who is drawn.
        self._sums, self._powers, self._chances, self._race = (
            torch.empty(trainer.segments) for _ in range(4)
        )
        count = trainer.minibatch_segments
        # The probabilities of the rows come with them, times the number of rows.
        scales: dict[Any, float] = {"chances": float(trainer.segments)}
        self._plan = GatherPlan.allocate(self._leaves(trainer), count, scales=scales)
        self._rows, self._best = torch.empty(count, dtype=torch.int64), torch.empty(count)
        self._observations: Tensor = self._plan.out["observations"]
        if not trainer.config["use_rnn"]:
            self._observations = self._observations.flatten(0, 1)
        # A minibatch changes its own rows alone. Where they are few, only they are computed anew.
        self._rows_plan: GatherPlan | None = None
        if trainer.segments >= 4 * count and trainer.values.numel() >= _MANY:
            self._rows_plan = GatherPlan.allocate(self._inputs(trainer), count)
            self._rows_advantages = torch.zeros(count, trainer.values.shape[1])
        self._changed: Tensor | None = None
        self._computed: Tensor | None = (
            None  # of which rows the advantages are newer than the sums; None: all
        )
        self._state: tuple[Any, ...] = ()

    def begin(self, trainer: Any) -> None:
        """After a rollout: every ratio is 1, every advantage is to be computed."""
        trainer.ratio.fill_(1)
        self.losses = defaultdict(float)
        self._changed = None

    def advantages_of(self, trainer: Any) -> Tensor:
        """Advantages `[segments, horizon]` under the values and ratios of now, in memory that is used
        again."""
        known = self._changed is not None and self._state == self._state_of(trainer)
        if self._rows_plan is not None and self._changed is not None and known:
            self._rows_plan.gather(self._inputs(trainer), self._changed)
            self._compute(trainer, self._rows_plan.out, self._rows_advantages)
            scatter_([self.advantages], self._changed, [self._rows_advantages])
            self._computed = self._changed
        else:
            self._compute(trainer, self._inputs(trainer), self.advantages)
            self._computed = None
        return self.advantages

    def minibatch(self, trainer: Any, alpha: float, beta: float) -> Minibatch:
        """Draws rows by their advantages, with torch's generator as PuffeRL does, and gathers them."""
        self._sum_up()
        rows = self._draw(trainer.minibatch_segments, alpha)
        self._plan.gather(self._leaves(trainer), rows)
        found: dict[Any, Tensor] = self._plan.out
        valid = found.get("valid")
        return Minibatch(
            rows, found["chances"].pow(-beta).unsqueeze(1), self._observations, found["actions"],
            found["logprobs"], found["values"], found["advantages"], None if valid is None else valid.bool(),
        )  # fmt: skip

    def _sum_up(self) -> None:
        """|A| by row. The sums are torch's: in another order their last bits would differ, and with them the
        rows drawn."""
        if self._computed is None:
            torch.sum(torch.abs(self.advantages, out=self._magnitudes), dim=1, out=self._sums)
        else:  # torch sums a row in the same order, whatever rows there are beside it
            scatter_([self._sums], self._computed, [self._rows_advantages.abs().sum(dim=1)])

    def _draw(self, count: int, alpha: float) -> Tensor:
        """`count` rows without replacement, as PuffeRL draws them: its operations, in place, where what it
        looks for beside them (NaN, infinities, a distribution of zeros) can be seen by one number."""
        powers = torch.pow(self._sums, alpha, out=self._powers)
        total = powers.sum()
        if count == 1 or not math.isfinite(total.item()):
            powers.nan_to_num_(0, 0, 0)
            total = powers.sum()
            torch.add(powers, 1e-6, out=self._chances).div_(total.add_(1e-6))
            return torch.multinomial(self._chances, count)
        torch.add(powers, 1e-6, out=self._chances).div_(total.add_(1e-6))
        # What torch.multinomial does once it has checked its argument, with its draws and in its memory.
        torch.div(self._chances, self._race.exponential_(1), out=self._race)
        torch.topk(self._race, count, out=(self._best, self._rows))
        return self._rows

    def write_back(self, trainer: Any, rows: Tensor, ratio: Tensor, values: Tensor) -> None:
        """Ratios and values `[k, T]` of a minibatch into the rollout."""
        scatter_([trainer.ratio, trainer.values], rows, [ratio, values])
        self._changed, self._state = rows, self._state_of(trainer)

    def _compute(self, trainer: Any, inputs: dict[Any, Tensor], out: Tensor) -> None:
        ratio = inputs["ratio"]
        if "valid" in inputs:
            # Without weight a step's advantage is 0, and the trace ends there.
            ratio = torch.mul(ratio, inputs["valid"], out=self._ratio[: len(ratio)])
        compute = self._host.compute_puff_advantage
        arguments = inputs["values"], inputs["rewards"], inputs["terminals"], ratio
        if compute is compute_puff_advantage:  # the last column of `out` is 0 anyhow
            ops.puff_advantage(*arguments, *_coefficients(trainer), out=out)
        else:  # somebody has put one of their own there
            compute(*arguments, out, *_coefficients(trainer))

    def _state_of(self, trainer: Any) -> tuple[Any, ...]:
        """Changes when somebody else writes into what advantages are computed from."""
        inputs = self._inputs(trainer).values()
        return (*_coefficients(trainer), *((id(x), x._version) for x in inputs))

    def _inputs(self, trainer: Any) -> dict[Any, Tensor]:
        inputs = {name: getattr(trainer, name) for name in ("values", "rewards", "terminals", "ratio")}
        return inputs if self._valid is None else inputs | {"valid": self._valid}

    def explained_variance(self, values: Tensor) -> float:
        """Of the values after the updates, by the advantages before the last of them; NaN where returns do
        not vary."""
        advantages = self.advantages
        if self._valid is not None:
            kept = self._valid.bool()
            advantages, values = advantages[kept], values[kept]
        predicted = values.flatten()
        returns = advantages.flatten() + predicted
        variance = returns.var()
        return float("nan") if variance == 0 else (1 - (returns - predicted).var() / variance).item()

    def _leaves(self, trainer: Any) -> dict[Any, Tensor]:
        leaves = {name: getattr(trainer, name) for name in GATHERED}
        leaves["advantages"], leaves["chances"] = self.advantages, self._chances
        if self._valid is not None:
            leaves["valid"] = self._valid
        return leaves


def train(trainer: Any, training: Training) -> Any:
    """The updates of one epoch; returns what was logged, or None."""
    profile, epoch, config = trainer.profile, trainer.epoch, trainer.config
    profile("train", epoch)
    count = trainer.total_minibatches
    alpha, beta0 = config["prio_alpha"], config["prio_beta0"]
    beta = beta0 + (1 - beta0) * alpha * trainer.epoch / trainer.total_epochs
    training.begin(trainer)
    losses = training.losses
    for number in range(count):
        profile("train_misc", epoch, nest=True)
        trainer.amp_context.__enter__()  # as PuffeRL does, which never leaves it
        training.advantages_of(trainer)
        profile("train_copy", epoch)
        minibatch = training.minibatch(trainer, alpha, beta)
        returns = minibatch.advantages + minibatch.values
        profile("train_forward", epoch)
        new_logprobs, entropy, new_values = _forward(trainer, minibatch)
        profile("train_misc", epoch)
        log_ratio = new_logprobs - minibatch.logprobs
        ratio = log_ratio.exp()
        new_values = new_values.view(returns.shape)
        training.write_back(trainer, minibatch.rows, ratio.detach(), new_values.detach())
        told, loss = _losses(config, minibatch, returns, log_ratio, ratio, new_values, entropy)
        trainer.amp_context.__enter__()
        profile("train_misc", epoch)
        for name, value in told.items():
            losses[name] += value.item() / count
        profile("learn", epoch)
        loss.backward()
        if (number + 1) % trainer.accumulate_minibatches == 0:
            torch.nn.utils.clip_grad_norm_(trainer.policy.parameters(), config["max_grad_norm"])
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()
    profile("train_misc", epoch)
    if config["anneal_lr"]:
        trainer.scheduler.step()
    losses["explained_variance"] = training.explained_variance(trainer.values)
    profile.end()
    return _finish_epoch(trainer, losses)


def _forward(trainer: Any, minibatch: Minibatch) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities `[k, T]`, entropies and values, as the policy shapes them."""
    sample_logits = importlib.import_module("pufferlib.pytorch").sample_logits
    context = {"action": minibatch.actions, "lstm_h": None, "lstm_c": None}
    logits, values = trainer.policy(minibatch.observations, context)
    _, logprobs, entropy = sample_logits(logits, action=minibatch.actions)
    return logprobs.reshape(minibatch.logprobs.shape), entropy, values


def _losses(
    config: Any,
    minibatch: Minibatch,
    returns: Tensor,
    log_ratio: Tensor,
    ratio: Tensor,
    values: Tensor,
    entropy: Tensor,
) -> tuple[dict[str, Tensor], Tensor]:
    """What is logged, in PuffeRL's order, and the loss: PPO's clipped surrogate (Schulman et al. 2017) of
    normalised advantages, the clipped value loss, and the entropy bonus. Means are of steps that count."""
    clip, value_clip = config["clip_coef"], config["vf_clip_coef"]
    valid = minibatch.valid
    mean = functools.partial(_mean, valid=valid)
    with torch.no_grad():
        old_kl = mean(-log_ratio)
        kl = mean((ratio - 1) - log_ratio)
        clipped = mean(((ratio - 1.0).abs() > clip).float())
        centred = minibatch.advantages - mean(minibatch.advantages)
        deviation = minibatch.advantages.std() if valid is None else _deviation(centred, valid)
        advantages = minibatch.weights * centred / (deviation + 1e-8)
    surrogate = torch.max(-advantages * ratio, -advantages * torch.clamp(ratio, 1 - clip, 1 + clip))
    near = minibatch.values + torch.clamp(values - minibatch.values, -value_clip, value_clip)
    value_loss = 0.5 * mean(torch.max((values - returns) ** 2, (near - returns) ** 2))
    policy_loss = mean(surrogate)
    entropy = entropy.mean() if valid is None else mean(entropy.reshape(returns.shape))
    loss = policy_loss + config["vf_coef"] * value_loss - config["ent_coef"] * entropy
    told = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "old_approx_kl": old_kl,
        "approx_kl": kl,
        "clipfrac": clipped,
        "importance": mean(ratio),
    }
    return told, loss


def _coefficients(trainer: Any) -> tuple[float, ...]:
    names = ("gamma", "gae_lambda", "vtrace_rho_clip", "vtrace_c_clip")
    return tuple(trainer.config[name] for name in names)


def _mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """Of the steps that count; 0 where none does."""
    return x.mean() if valid is None else torch.where(valid, x, 0.0).sum() / valid.sum().clamp(min=1)


def _deviation(centred: Tensor, valid: Tensor) -> Tensor:
    """The standard deviation, as `Tensor.std`, of the steps that count; 0 where there are fewer than two."""
    squares = torch.where(valid, centred, 0.0).square().sum()
    return (squares / (valid.sum() - 1).clamp(min=1)).sqrt()


def _finish_epoch(trainer: Any, losses: defaultdict[str, float]) -> Any:
    """Counts the epoch, logs at most four times a second, and saves a checkpoint when one is due."""
    config, logs = trainer.config, None
    trainer.epoch += 1
    done = trainer.global_step >= config["total_timesteps"]
    if done or trainer.global_step == 0 or time.time() > trainer.last_log_time + 0.25:
        logs = trainer.mean_and_log()
        trainer.losses = losses
        trainer.print_dashboard()
        trainer.stats = defaultdict(list)
        trainer.last_log_time = time.time()
        trainer.last_log_step = trainer.global_step
        trainer.profile.clear()
    if done or trainer.epoch % config["checkpoint_interval"] == 0:
        trainer.save_checkpoint()
        trainer.msg = f"Checkpoint saved at update {trainer.epoch}"
    return logs
