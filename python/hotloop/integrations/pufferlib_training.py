"""`PuffeRL.train`: updates whose minibatches are drawn, gathered and written back by native calls."""

from __future__ import annotations

import importlib
import math
import time
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from hotloop import ops
from hotloop.integrations.pufferlib_fused import FusedLosses
from hotloop.integrations.pufferlib_minibatch import Minibatch, Outcome, evaluated, exact_losses
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


class Training:
    """What the updates of one trainer keep between minibatches.

    Args:
        trainer: a `PuffeRL`.
        valid: `[segments, horizon]`, 0 for steps that count for nothing; None where all count.
        fused: whether losses are native.

    Attributes:
        fused: computes them; None where they are PuffeRL's operations.
        advantages: `[segments, horizon]`, those that the last minibatch was drawn by.
        losses: of the last epoch, by name.
    """

    def __init__(self, trainer: Any, valid: Tensor | None, fused: bool = False) -> None:
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
        self._returns = torch.empty(count, trainer.values.shape[1])
        self.fused = FusedLosses(trainer, self._plan.out, self._returns) if fused else None
        self._observations: Tensor = self._plan.out["observations"]
        if not trainer.config["use_rnn"]:
            self._observations = self._observations.flatten(0, 1)
        # A minibatch changes its own rows alone. Where they are few, only they are computed anew.
        self._rows_plan: GatherPlan | None = None
        if trainer.segments >= 4 * count and trainer.values.numel() >= _MANY:
            self._rows_plan = GatherPlan.allocate(self._inputs(trainer), count)
            self._rows_advantages = torch.zeros(count, trainer.values.shape[1])
        self._changed: Tensor | None = None
        # Of which rows the advantages are newer than the sums; None: of all.
        self._computed: Tensor | None = None
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
        advantages, values, valid = found["advantages"], found["values"], found.get("valid")
        return Minibatch(
            rows, found["chances"].pow(-beta).unsqueeze(1), self._observations, found["actions"],
            found["logprobs"], values, advantages, torch.add(advantages, values, out=self._returns),
            None if valid is None else valid.bool(),
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

    def losses_of(self, trainer: Any, minibatch: Minibatch) -> Outcome:
        """Trains nothing yet: the policy's pass over a minibatch and its losses. Ratios and values are
        written into the rollout."""
        profile, epoch = trainer.profile, trainer.epoch
        context = {"action": minibatch.actions, "lstm_h": None, "lstm_c": None}
        logits, values = trainer.policy(minibatch.observations, context)
        if self.fused is not None:
            profile("train_misc", epoch)
            outcome = self.fused.evaluate(trainer, minibatch, logits, values)
        else:
            found = evaluated(minibatch, logits)
            profile("train_misc", epoch)
            outcome = exact_losses(trainer, minibatch, *found, values)
        self._changed, self._state = minibatch.rows, self._state_of(trainer)
        return outcome

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
        if number == 0:
            trainer.amp_context.__enter__()  # PuffeRL enters it twice a minibatch, and never leaves it
        training.advantages_of(trainer)
        profile("train_copy", epoch)
        minibatch = training.minibatch(trainer, alpha, beta)
        profile("train_forward", epoch)
        outcome = training.losses_of(trainer, minibatch)
        profile("train_misc", epoch)
        for name, value in outcome.told.items():
            losses[name] += value / count
        profile("learn", epoch)
        torch.autograd.backward(outcome.tensors, outcome.gradients)
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


def _coefficients(trainer: Any) -> tuple[float, ...]:
    names = ("gamma", "gae_lambda", "vtrace_rho_clip", "vtrace_c_clip")
    return tuple(trainer.config[name] for name in names)


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
