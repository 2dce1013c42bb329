"""A scripted environment, a small policy and a loss that records its calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from hotloop.context import ComponentContext, LoopConfig
from hotloop.experience import Experience
from hotloop.loop import CoreTrainingLoop

F32 = torch.float32
OBS = 3


class ScriptedEnv:
    """Serves slices of agents in turn. What a step brings is given by functions of (agents, step of the
    slice).

    The default observation of agent a at step t is ``[a, t, 1]``, the default reward ``a + 10 t``. The
    tensors of a slice are overwritten by its next step, as in a real environment.
    """

    def __init__(
        self,
        windows: list[slice],
        *,
        reward: Callable[[Tensor, int], Tensor] | None = None,
        terminal: Callable[[Tensor, int], Tensor] | None = None,
        truncation: Callable[[Tensor, int], Tensor] | None = None,
        mask: Callable[[Tensor, int], Tensor] | None = None,
        teacher: bool = False,
        **attributes: Any,
    ) -> None:
        self.windows = windows
        self.reward = reward or (lambda agents, t: agents + 10.0 * t)
        self.terminal = terminal or (lambda agents, t: torch.zeros(len(agents)))
        self.truncation = truncation or (lambda agents, t: torch.zeros(len(agents)))
        self.mask = mask or (lambda agents, t: torch.ones(len(agents)))
        self.teacher = teacher
        self.calls = 0
        self.sent: list[Any] = []
        self.total_parallel_agents = max(window.stop for window in windows)
        self.buffers = [torch.zeros(window.stop - window.start, OBS) for window in windows]
        for name, value in attributes.items():
            setattr(self, name, value)

    def observation(self, agents: Tensor, t: int) -> Tensor:
        return torch.stack(
            (agents.to(F32), torch.full((len(agents),), float(t)), torch.ones(len(agents))), dim=1
        )

    def get_observations(self) -> tuple[Any, ...]:
        number = self.calls % len(self.windows)
        self.t = self.calls // len(self.windows)
        self.calls += 1
        window = self.windows[number]
        self.agents = agents = torch.arange(window.start, window.stop)
        observations = self.buffers[number].copy_(self.observation(agents, self.t))
        rewards = self.reward(agents, self.t).to(F32)
        terminals = self.terminal(agents, self.t).bool()
        truncations = self.truncation(agents, self.t).bool()
        mask = self.mask(agents, self.t).bool()
        infos = [{"call": self.calls}]
        teacher = (agents % 2,) if self.teacher else ()
        return observations, rewards, terminals, truncations, *teacher, infos, window, mask, int(mask.sum())

    def send_actions(self, actions: np.ndarray[Any, Any]) -> None:
        assert isinstance(actions, np.ndarray)
        self.sent.append(actions.copy())


class TinyPolicy(nn.Module):
    """Linear logits and value. `log` gets the name of every call."""

    def __init__(self, log: list[str] | None = None, *, n: int = 2, extra_head: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.actor = nn.Parameter(0.1 * torch.randn(OBS, n, generator=generator))
        self.critic = nn.Parameter(0.1 * torch.randn(OBS, generator=generator))
        self.extra = nn.Parameter(torch.ones(OBS)) if extra_head else None
        self.log = [] if log is None else log
        self.seen: list[dict[str, Any]] = []

    def get_agent_experience_spec(self) -> dict[str, Any]:
        return {"env_obs": ((OBS,), F32), "actions": ((), torch.int32)}

    def reset_memory(self) -> None:
        self.log.append("policy.reset_memory")

    def value(self, obs: Tensor) -> Tensor:
        return obs @ self.critic

    def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
        self.log.append("policy.forward" if action is None else "policy.forward(action)")
        self.seen.append({key: value.clone() for key, value in td.items()})
        obs = td["env_obs"]
        log_probs = (obs @ self.actor).log_softmax(-1)
        td["values"] = self.value(obs)
        if action is None:
            td["actions"] = (obs.sum(-1).long() % log_probs.shape[-1]).int()
            td["act_log_prob"] = log_probs.gather(1, td["actions"].long().unsqueeze(1)).squeeze(1)
            return td
        td["act_log_prob"] = log_probs.gather(1, action.long()).squeeze(1)
        td["entropy"] = -(log_probs.exp() * log_probs).sum(-1)
        if self.extra is not None:
            td["unused"] = obs @ self.extra
        return td


class Config:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class RecordingLoss:
    """Writes every call into a log shared with others. `acts`: runs the policy and stores in the rollout."""

    def __init__(
        self,
        name: str,
        log: list[str],
        policy: Any = None,
        *,
        acts: bool = False,
        spec: dict[str, Any] | None = None,
        cfg: Any = None,
        loss: Callable[[TensorDictBase], Tensor] | None = None,
        stop_at: int | None = None,
        output_keys: set[str] | None = None,
    ) -> None:
        self.name, self.log, self.policy, self.acts = name, log, policy, acts
        self.spec = spec or {}
        self.cfg = self.loss_cfg = cfg or Config()
        self.loss, self.stop_at, self.output_keys = loss, stop_at, output_keys or set()
        self.trained = 0
        self.steps: list[TensorDict] = []
        self.shared: list[TensorDictBase] = []

    def get_experience_spec(self) -> dict[str, Any]:
        return self.spec

    def attach_replay_buffer(self, experience: Experience) -> None:
        self.replay = experience

    def _loss_gate_allows(self, phase: str, context: ComponentContext) -> bool:
        return context.loss_run_gates.get(self.name, {}).get(phase, True)

    def on_epoch_start(self, context: ComponentContext) -> None:
        self.log.append(f"{self.name}.on_epoch_start")

    def on_rollout_start(self, context: ComponentContext) -> None:
        self.log.append(f"{self.name}.on_rollout_start")

    def rollout(self, td: TensorDict, context: ComponentContext) -> None:
        self.log.append(f"{self.name}.rollout")
        if self.acts:
            with torch.no_grad():
                self.policy.forward(td)
            self.steps.append(td)
            self.replay.store(td, context.training_env_id)

    def zero_loss_tracker(self) -> None:
        self.log.append(f"{self.name}.zero_loss_tracker")

    def policy_output_keys(self, policy_td: TensorDictBase) -> set[str]:
        self.log.append(f"{self.name}.policy_output_keys")
        return self.output_keys

    def train(
        self, shared: TensorDictBase, context: ComponentContext, mb_idx: int
    ) -> tuple[Tensor, TensorDictBase, bool]:
        self.log.append(f"{self.name}.train({mb_idx})")
        self.shared.append(shared)
        stop = self.stop_at is not None and self.trained == self.stop_at
        self.trained += 1
        value = torch.zeros(()) if self.loss is None else self.loss(shared)
        return value, shared, stop

    def on_mb_end(self, context: ComponentContext, mb_idx: int) -> None:
        self.log.append(f"{self.name}.on_mb_end({mb_idx})")

    def on_train_phase_end(self, context: ComponentContext) -> None:
        self.log.append(f"{self.name}.on_train_phase_end")

    def stats(self) -> dict[str, float]:
        self.log.append(f"{self.name}.stats")
        return {"shared_name": float(len(self.log)), self.name: 1.0}


SCALARS = ("act_log_prob", "values", "rewards", "dones", "truncateds")
STORED: dict[str, Any] = dict.fromkeys(SCALARS, ((), F32))
BOOTSTRAPPED: dict[str, Any] = {**STORED, "truncation_values": ((), F32), "valid": ((), torch.bool)}


def squared_values(shared: TensorDictBase) -> Tensor:
    """A loss that depends on every row of the minibatch alike."""
    return (shared["policy_td"]["values"] - shared["sampled_mb"]["rewards"]).square().mean()


class Setup:
    """Everything around a loop of `agents` agents, `segments` rows of `horizon` steps."""

    def __init__(
        self,
        *,
        agents: int = 2,
        segments: int = 4,
        horizon: int = 3,
        minibatches: int = 2,
        max_minibatch_size: int | None = None,
        spec: dict[str, Any] | None = None,
        policy: Any = None,
        losses: Callable[[list[str], Any], dict[str, Any]] | None = None,
        learning_rate: float = 0.1,
        config: dict[str, Any] | None = None,
        experience: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.log: list[str] = []
        self.policy = TinyPolicy(self.log) if policy is None else policy
        batch = segments * horizon
        self.config = LoopConfig(
            batch_size=batch, minibatch_size=batch // minibatches, bptt_horizon=horizon, **(config or {})
        )
        if losses is None:
            actor = RecordingLoss(
                "actor",
                self.log,
                self.policy,
                acts=True,
                spec=STORED if spec is None else spec,
                loss=squared_values,
            )
            self.losses: dict[str, Any] = {"actor": actor}
        else:
            self.losses = losses(self.log, self.policy)
        self.experience = Experience.from_losses(
            agents,
            batch,
            horizon,
            batch // minibatches,
            max_minibatch_size,
            self.policy.get_agent_experience_spec(),
            self.losses,
            "cpu",
            **(experience or {}),
        )
        self.optimizer = torch.optim.SGD(self.policy.parameters(), learning_rate)
        self.context = ComponentContext(config=self.config)
        self.loop = CoreTrainingLoop(
            self.policy,
            self.experience,
            self.losses,
            self.optimizer,
            torch.device("cpu"),
            self.context,
            **options,
        )

    def parameters(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.policy.parameters()]
