"""`PuffeRL.train`: updates whose minibatches are drawn, gathered and written back by native calls."""

from __future__ import annotations

import importlib
import time
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from hotloop import ops
from hotloop.integrations.pufferlib_fused import FusedLosses
from hotloop.integrations.pufferlib_minibatch import Minibatch, Outcome, evaluated, exact_losses
from hotloop.ops import GatherPlan, PuffDraw, scatter_

_MANY = 1 << 15  # below so many steps computing all advantages costs less than gathering rows


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
        count = trainer.minibatch_segments
        self._returns = torch.zeros_like(self.advantages)
        self._draw = PuffDraw(trainer.segments, trainer.values.shape[1], count)
        self._plan = GatherPlan.allocate(self._leaves(trainer), count)
        found: dict[Any, Tensor] = self._plan.out
        self.fused = FusedLosses(trainer, found, found["returns"]) if fused else None
        observations = found["observations"]
        if not trainer.config["use_rnn"]:
            observations = observations.flatten(0, 1)
        self._minibatch = Minibatch(
            self._draw.rows, torch.empty(count, 1), observations, found["actions"], found["logprobs"],
            found["values"], found["advantages"], found["returns"], None,
        )  # fmt: skip
        # A minibatch changes its own rows alone, which `PuffDraw.renew` computes anew. Where steps may count
        # for nothing, or somebody computes advantages in a way of their own, rows are gathered for it.
        self._rows_plan: GatherPlan | None = None
        if trainer.segments >= 4 * count and trainer.values.numel() >= _MANY:
            self._rows_plan = GatherPlan.allocate(self._inputs(trainer), count)
            self._rows_advantages, self._rows_returns = torch.zeros(2, count, trainer.values.shape[1])
        self._changed = False
        self._state: tuple[Any, ...] = ()

    def begin(self, trainer: Any) -> None:
        """After a rollout: every ratio is 1, every advantage is to be computed."""
        trainer.ratio.fill_(1)
        self.losses = defaultdict(float)
        self._changed = False
        self._draw.prepare()

    def advantages_of(self, trainer: Any) -> Tensor:
        """Advantages `[segments, horizon]` under the values and ratios of now, in memory that is used again;
        by them the next rows are drawn."""
        draw, advantages = self._draw, self.advantages
        if self._changed and self._state == self._state_of(trainer):
            gamma, gae_lambda, rho_clip, c_clip = self._state[:4]
            if (
                self._valid is None
                and self._host.compute_puff_advantage is compute_puff_advantage
                and draw.renew(
                    trainer.values, trainer.rewards, trainer.terminals, trainer.ratio, gamma, gae_lambda,
                    rho_clip, c_clip, advantages, self._returns,
                )
            ):  # fmt: skip
                return advantages
            if self._rows_plan is not None:
                self._rows_plan.gather(self._inputs(trainer), draw.rows)
                found: dict[Any, Tensor] = self._rows_plan.out
                self._compute(trainer, found, self._rows_advantages, self._rows_returns)
                scatter_([advantages, self._returns], draw.rows, [self._rows_advantages, self._rows_returns])
                draw.sum_up(advantages)
                return advantages
        self._compute(trainer, self._inputs(trainer), advantages, self._returns)
        draw.sum_up(advantages)
        return advantages

    def minibatch(self, trainer: Any, alpha: float, beta: float) -> Minibatch:
        """Draws rows by their advantages, with torch's generator as PuffeRL does, and gathers them."""
        draw, minibatch = self._draw, self._minibatch
        rows = draw.draw(alpha)
        self._plan.gather(self._leaves(trainer), rows)
        torch.pow(draw.picked, -beta, out=minibatch.weights)
        if self._valid is None:
            return minibatch
        return minibatch._replace(valid=self._plan.out["valid"].bool())

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
        self._changed, self._state = True, self._state_of(trainer)
        return outcome

    def _compute(self, trainer: Any, inputs: dict[Any, Tensor], out: Tensor, returns: Tensor) -> None:
        ratio = inputs["ratio"]
        if "valid" in inputs:
            # Without weight a step's advantage is 0, and the trace ends there.
            ratio = torch.mul(ratio, inputs["valid"], out=self._ratio[: len(ratio)])
        compute = self._host.compute_puff_advantage
        arguments = inputs["values"], inputs["rewards"], inputs["terminals"], ratio
        if compute is compute_puff_advantage:  # the last column of `out` is 0 anyhow
            ops.puff_advantage(*arguments, *_coefficients(trainer), returns=returns, out=out)
        else:  # somebody has put one of their own there
            compute(*arguments, out, *_coefficients(trainer))
            torch.add(out, inputs["values"], out=returns)

    def _state_of(self, trainer: Any) -> tuple[Any, ...]:
        """The coefficients, and what changes when somebody else writes into what advantages are computed
        from."""
        values, rewards, terminals, ratio = trainer.values, trainer.rewards, trainer.terminals, trainer.ratio
        known = (
            *_coefficients(trainer), id(values), values._version, id(rewards), rewards._version,
            id(terminals), terminals._version, id(ratio), ratio._version,
        )  # fmt: skip
        return known if self._valid is None else (*known, self._valid._version)

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
        leaves = {
            "observations": trainer.observations,
            "actions": trainer.actions,
            "logprobs": trainer.logprobs,
            "values": trainer.values,
            "advantages": self.advantages,
            "returns": self._returns,
        }
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
    config = trainer.config
    return config["gamma"], config["gae_lambda"], config["vtrace_rho_clip"], config["vtrace_c_clip"]


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
