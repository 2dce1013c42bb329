"""Playing episodes with a policy, without training on them."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from hotloop.policies import has_state, initial_states

#: The columns of evaluations.csv.
EVALUATION_COLUMNS = (
    "epoch",
    "agent_steps",
    "episodes",
    "return_mean",
    "return_std",
    "return_min",
    "return_max",
    "length_mean",
)


@dataclass
class EvaluationResult:
    """Undiscounted, unnormalised returns and lengths of the episodes played, in the order of their ends, and
    whether the first agent has ended one yet."""

    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    ended_first: bool = False

    @property
    def return_mean(self) -> float:
        return statistics.fmean(self.returns)

    def row(self, epoch: int, agent_steps: int) -> dict[str, int | float]:
        """The row of evaluations.csv; `return_std` has the divisor n."""
        return {
            "epoch": epoch,
            "agent_steps": agent_steps,
            "episodes": len(self.returns),
            "return_mean": self.return_mean,
            "return_std": statistics.pstdev(self.returns),
            "return_min": min(self.returns),
            "return_max": max(self.returns),
            "length_mean": statistics.fmean(self.lengths),
        }

    def summary(self) -> str:
        """One line for people."""
        row = self.row(0, 0)
        return (
            f"{len(self.returns)} episodes: return {row['return_mean']:.1f} +- {row['return_std']:.1f} "
            f"(from {row['return_min']:.1f} to {row['return_max']:.1f}), length {row['length_mean']:.1f}"
        )


def evaluate(
    policy: Any,
    environment: Any,
    episodes: int,
    *,
    greedy: bool,
    device: torch.device | str = "cpu",
    on_step: Callable[[EvaluationResult], None] | None = None,
) -> EvaluationResult:
    """Plays `episodes` episodes in the agents of an environment that was just reset.

    Every agent plays its share of them, fixed beforehand: taking the first to end would favour short ones.

    Args:
        policy: see `hotloop.policies.Policy`; its memory is reset before.
        environment: a `hotloop.envs.TrainingEnvironment`.
        greedy: take the most likely action, see `greedy_actions`; else what the policy draws.
        on_step: called with what is known so far after each step that arrives.

    Raises:
        ValueError: no episodes are asked for, or the policy does not say which action is the most likely.
    """
    check_episodes(episodes)
    device = torch.device(device)
    agents = int(environment.total_parallel_agents)
    left = [episodes // agents + (agent < episodes % agents) for agent in range(agents)]
    result = EvaluationResult()
    last_actions: dict[tuple[int, int], Tensor] = {}
    memory = _Memory(policy, environment, device)
    policy.reset_memory()
    while True:
        observations, rewards, terminals, truncations, *rest = environment.get_observations()
        infos, window = rest[-4], rest[-3]
        for info in infos:
            if "episode_return" in info and left[info["agent_id"]] > 0:
                left[info["agent_id"]] -= 1
                result.ended_first |= info["agent_id"] == 0
                result.returns.append(float(info["episode_return"]))
                result.lengths.append(int(info["episode_length"]))
        if on_step is not None:
            on_step(result)
        if not any(left):
            return result
        place = (window.start, window.stop)
        td = _step(observations, rewards, terminals, truncations, window, last_actions.get(place), device)
        memory.hand_out(td, place, terminals, truncations)
        with torch.no_grad():
            output = policy.forward(td)
            td = td if output is None else output
            actions = greedy_actions(policy, td) if greedy else td["actions"]
        memory.take_back(td, place)
        last_actions[place] = actions.reshape(len(actions), -1)
        environment.send_actions(actions.cpu().numpy())


def check_episodes(episodes: int) -> None:
    """Raises ValueError for fewer than one."""
    if episodes < 1:
        raise ValueError(f"evaluate: episodes must be at least 1, got {episodes}")


def greedy_actions(policy: Any, td: TensorDictBase) -> Tensor:
    """The most likely actions, of the dtype and shape of those that the policy drew into ``td["actions"]``.

    Read from ``full_log_probs``, which policies with one discrete choice write, or from the logits of a
    policy that has `logits_and_value` and `action_spec`: the largest of each choice, or a Gaussian's mean.

    Raises:
        ValueError: the policy has neither.
    """
    drawn: Tensor = td["actions"]
    full = td.get("full_log_probs", None)
    if full is not None:
        best: Tensor = full.argmax(-1)
        return best.to(drawn.dtype).reshape(drawn.shape)
    spec = getattr(policy, "action_spec", None)
    if spec is None or not callable(getattr(policy, "logits_and_value", None)):
        raise ValueError(
            f"evaluate: {type(policy).__name__} writes no full_log_probs and has no logits_and_value, so its "
            "most likely action is not known: greedy=False (--sample) would work"
        )
    observations = td["env_obs"].to(policy.obs_dtype)
    logits = policy.logits_and_value(observations)[0].detach()
    if spec.kind == "continuous":
        means: Tensor = logits.chunk(2, dim=-1)[0]
        return means.to(drawn.dtype).reshape(drawn.shape)
    choices = [part.argmax(-1) for part in logits.split(spec.nvec, dim=-1)]
    return torch.stack(choices, dim=-1).to(drawn.dtype).reshape(drawn.shape)


def _step(
    observations: Tensor,
    rewards: Tensor,
    terminals: Tensor,
    truncations: Tensor,
    window: slice,
    last_actions: Tensor | None,
    device: torch.device,
) -> TensorDict:
    """The entries of a rollout step that a policy may read."""
    count = len(rewards)
    if last_actions is None:
        last_actions = torch.zeros(count, 1, dtype=torch.int32)
    entries = {
        "env_obs": observations,
        "rewards": rewards,
        "dones": terminals.to(torch.float32),
        "truncateds": truncations.to(torch.float32),
        "training_env_ids": torch.arange(window.start, window.stop).unsqueeze(1),
        "last_actions": last_actions,
        "batch": torch.full((count,), count),
        "bptt": torch.ones(count, dtype=torch.int64),
    }
    moved = {name: entry.to(device) for name, entry in entries.items()}
    return TensorDict(moved, batch_size=[count], device=device)


class _Memory:
    """The states of a recurrent policy's agents, by slice; nothing for a policy that has none."""

    def __init__(self, policy: Any, environment: Any, device: torch.device) -> None:
        self._policy = policy if has_state(policy) else None
        self._device = device
        # Under "next_step" the flagged observation is the last of its episode, else the first of the next.
        self._next_step = getattr(environment, "autoreset", None) == "next_step"
        self._states: dict[tuple[int, int], TensorDictBase] = {}
        self._ended: dict[tuple[int, int], Tensor] = {}

    def hand_out(
        self, td: TensorDictBase, place: tuple[int, int], terminals: Tensor, truncations: Tensor
    ) -> None:
        """Puts ``state`` and ``resets`` into the step, as `hotloop.policies.RecurrentPolicy` reads them."""
        if self._policy is None:
            return
        count = place[1] - place[0]
        initial = initial_states(self._policy, count, self._device)
        ended = (terminals.bool() | truncations.bool()).to(self._device)
        before = self._ended.get(place, torch.zeros_like(ended))
        resets = before if self._next_step else ended
        self._ended[place] = ended
        state = self._states.get(place, initial).clone()
        state[resets] = initial[resets]
        td["state"], td["resets"] = state, resets

    def take_back(self, td: TensorDictBase, place: tuple[int, int]) -> None:
        """Keeps what the policy left in ``td["state"]``."""
        if self._policy is not None:
            self._states[place] = td["state"].clone()
