"""What a time limit cut off: V(final observation), for the steps at which an episode was truncated.

An episode that is truncated did not end: its last TD error must look at the value of the observation at
which it was cut (Pardo et al. 2018, "Time Limits in Reinforcement Learning"). Where that observation is
depends on how the environment restarts episodes (Gymnasium 1.x):

``same_step``
    The observation that arrives with the flag belongs to the next episode already. The environment hands
    out the final ones by ``final_observations()``, and the policy is run on them, before the step itself,
    to get their values. A policy with memory sees the final observation of an agent as one more step of its
    old episode, with the flags of the step itself, which ends it, still to come.
``next_step``
    The observation that arrives with the flag is the final one, so its value is the step's own.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import torch
from tensordict import TensorDictBase
from torch import Tensor

from hotloop.devices import in_host_memory, moved
from hotloop.entries import plain_entries
from hotloop.experience import Experience
from hotloop.loop_rollout import EnvStep, StepBuilder

if TYPE_CHECKING:
    from hotloop.policies import Policy

TruncationMode = Literal["auto", "bootstrap", "legacy"]

_WHERE = "CoreTrainingLoop.rollout_phase"
_logger = logging.getLogger(__name__)


class TruncationValues:
    """Fills `truncation_values` and says whether the advantage pass uses them (`bootstraps`)."""

    def __init__(
        self, experience: Experience, policy: Policy, steps: StepBuilder, mode: TruncationMode
    ) -> None:
        if mode not in ("auto", "bootstrap", "legacy"):
            raise ValueError(
                f"CoreTrainingLoop: truncation must be 'auto', 'bootstrap' or 'legacy', got {mode!r}"
            )
        self._experience = experience
        self._policy = policy
        self._steps = steps
        self._mode = mode
        self._autoreset: str | None = None
        self._stored = "truncation_values" in experience.buffer
        missing = [
            key for key in ("truncation_values", "truncateds", "values") if key not in experience.buffer
        ]
        if missing and (mode == "bootstrap" or (mode == "auto" and self._stored)):
            raise ValueError(
                f"CoreTrainingLoop: to bootstrap truncated episodes the experience must hold {missing}; a "
                "loss asks for them in get_experience_spec(), or pass truncation='legacy'"
            )
        self.bootstraps = self._stored and mode != "legacy"

    def begin_rollout(self, env: Any) -> None:
        """See what this environment can tell."""
        autoreset = getattr(env, "autoreset", None)
        if not self._stored or self._mode == "legacy":
            return
        if autoreset not in ("same_step", "next_step", None):
            raise ValueError(f"{_WHERE}: env.autoreset must be 'same_step' or 'next_step', got {autoreset!r}")
        if autoreset == "same_step" and not callable(getattr(env, "final_observations", None)):
            raise ValueError(
                f"{_WHERE}: an environment with autoreset 'same_step' must have final_observations()"
            )
        if autoreset is None and self._mode == "bootstrap":
            raise ValueError(
                f"{_WHERE}: truncation='bootstrap' needs an environment whose attribute autoreset is "
                "'same_step' or 'next_step', got none"
            )
        if autoreset is None and self.bootstraps:
            _logger.warning(
                "the environment does not say how it restarts episodes (attribute autoreset): truncated "
                "episodes are not bootstrapped"
            )
        self._autoreset = autoreset
        self.bootstraps = autoreset is not None

    def asks_for_values(self, step: EnvStep) -> bool:
        """Whether `add_to` may have something to add to this step."""
        if not self.looks_at_flags:
            return False
        # Looking at flags on a device would wait for it; NumPy looks faster at a few.
        flags = step.flags.truncations
        return not flags.is_cpu or bool(flags.numpy().any())

    @property
    def looks_at_flags(self) -> bool:
        """Whether `asks_for_values` depends on the step."""
        return self.bootstraps and self._autoreset == "same_step"

    @property
    def final_value_is_own(self) -> bool:
        """Whether V of a truncated episode's final observation is the value of the flagged step itself."""
        return self.bootstraps and self._autoreset == "next_step"

    def add_to(self, td: TensorDictBase, step: EnvStep, env: Any) -> None:
        """Before the policy acts: put the values of final observations into ``td["truncation_values"]``."""
        if not self.asks_for_values(step):
            return
        on_device = step.flags.truncations.is_cuda
        finals = env.final_observations()
        if finals is None and on_device:
            return
        local = torch.zeros(0, dtype=torch.int64) if finals is None else finals[0] - step.window.start
        self._check_coverage(step, local)
        if finals is not None and len(local):
            local = moved(local, self._steps.device)
            td["truncation_values"][local] = self._values_of(td, step, local, finals[1])

    @staticmethod
    def _check_coverage(step: EnvStep, local: Tensor) -> None:
        """All final observations are of the step's agents, and all that are needed are there."""
        window = step.window
        if ((local < 0) | (local >= window.agents)).any():
            raise IndexError(
                f"{_WHERE}: final_observations() must be of the agents {window.window}, got "
                f"{(local + window.start).tolist()}"
            )
        missing = step.flags.truncations.bool() & ~step.flags.terminals.bool()
        missing[local.to(missing.device)] = False
        if missing.any():
            agents = missing.nonzero().flatten() + window.start
            raise ValueError(
                f"{_WHERE}: final_observations() must cover every truncated episode, got none for the agents "
                f"{agents.tolist()}"
            )

    def _values_of(self, td: TensorDictBase, step: EnvStep, local: Tensor, observations: Tensor) -> Tensor:
        """V of final observations `[m, ...]` of the step's agents `local`."""
        final = td[local]
        final["env_obs"] = moved(observations, self._steps.device)
        final["dones"] = torch.zeros_like(final["dones"])
        final["truncateds"] = torch.zeros_like(final["truncateds"])
        # Not the step's own: those may show zeros at the end of an episode.
        final["last_actions"] = self._steps.last_actions.read(step.window.start, step.window.stop)[local]
        final["batch"] = torch.full_like(final["batch"], len(local))
        with torch.no_grad():
            result = self._policy.forward(final)
        values: Tensor = (final if result is None else result)["values"]
        return (values if values.dim() == 1 else values.mean(dim=-1)).to(torch.float32)

    def end_rollout(self) -> None:
        """After the last step: under ``next_step`` the values of final observations are in the buffer."""
        if not self.final_value_is_own:
            return
        buffer: Any = plain_entries(self._experience.buffer) or self._experience.buffer
        values, out = buffer["values"], buffer["truncation_values"]
        values = values if values.dim() == 2 else values.mean(dim=-1)
        truncateds = buffer["truncateds"]
        if in_host_memory(out.device) and float(truncateds.amax()) <= 0:  # takes a tenth of choosing
            out.zero_()
            return
        torch.where(truncateds > 0, values.to(out.dtype), out.new_zeros(()), out=out)
