"""What the loop asks of a policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from tensordict import TensorDictBase
from torch import Tensor, nn


@runtime_checkable
class Policy(Protocol):
    """The policy of Metta's training loop: one `forward` for acting and for training, on TensorDicts.

    `n` is the number of agents served in a rollout step, `B` and `T` the rows and steps of a minibatch. The
    interface is structural: any object with these members is a policy.
    """

    def get_agent_experience_spec(self) -> Any:
        """Buffer entries that the policy reads in training, as ``{key: (shape, dtype)}`` per agent and step
        (nested dicts allowed), or an object that behaves like torchrl's Composite."""
        ...

    def forward(self, td: TensorDictBase, action: Tensor | None = None) -> TensorDictBase:
        """Act (``action is None``) or evaluate given actions; write the results into `td` and return it.

        Acting: td is flat ``[n]``; written are ``actions`` (int32 ``[n]`` or ``[n, k]``, or float32 ``[n,
        k]``), ``act_log_prob`` ``[n]``, ``values`` ``[n]``, and, for one discrete choice, ``full_log_probs``
        ``[n, n_actions]``.

        Training: td is flat ``[B * T]``, ``action`` is ``[B * T, k]`` in the stored dtype; written are
        ``act_log_prob``, ``entropy`` and ``values``, each ``[B * T]`` and differentiable. ``td["bptt"]``
        holds T and ``td["batch"]`` B.
        """
        ...

    def reset_memory(self) -> None:
        """Forget recurrent state. Called at the start of a rollout and before each training forward."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The parameters whose gradients are clipped."""
        ...


@runtime_checkable
class RecurrentPolicy(Protocol):
    """A `Policy` that keeps a state for each agent from step to step. The loop holds the states.

    The loop knows such a policy by its ``get_state_spec()``. The state may be any nested description, of an
    LSTM, a window of observations or a belief, say. It is handed out before every step, taken back after it,
    and begins anew at the first observation of an episode: before observation t where the flags that came
    with it say that the last episode is over, and under Gymnasium's NEXT_STEP autoreset, where the flagged
    observation is the last of the old episode, one step later. Nothing else touches it: it lives on from one
    rollout to the next.

    The spec of `get_agent_experience_spec` must hold ``"resets": ((), torch.bool)``, the entry in which the
    loop notes the steps before which the state began anew.

    A policy may also have ``initial_state()``: the state in which an episode begins, by the keys of
    ``get_state_spec()``, each of the shape for one agent. It is read once, when the loop is built; without it
    the state begins as zeros. And ``repeat_tolerance``, a number: how far training may be from the rollout in
    the loop's self-check, relative above 1, where rounding needs more than 1e-4.
    """

    def get_agent_experience_spec(self) -> Any:
        """As of `Policy`, with ``resets``."""
        ...

    def get_state_spec(self) -> Any:
        """What one agent's state consists of: ``{key: (shape, dtype)}``, nested dicts allowed, or an object
        that behaves like torchrl's Composite."""
        ...

    def forward(
        self, td: TensorDictBase, action: Tensor | None = None, *, state: TensorDictBase | None = None
    ) -> TensorDictBase:
        """As of `Policy`, with the state.

        Acting (``state is None``): ``td["state"]`` is a TensorDict ``[n]`` with the state before this step,
        already reset where an episode began; the policy writes the state after it into ``td["state"]``, in
        the same shapes. The given tensors are the loop's own memory.

        Training: `state` is a TensorDict ``[B]``, the state of each segment before its column 0, and
        ``td["resets"]``, bool ``[B * T]`` like all of td, says before which steps the state begins anew.
        The policy must repeat what it did in the rollout; the loop checks that before the first update.

        A policy that can burn in also takes the keyword ``burn_in``, an int: the first so many columns bring
        the state up to date and no gradient flows through them (Kapturowski et al. 2019, "Recurrent
        Experience Replay in Distributed Reinforcement Learning"). Their outputs are written like all
        others; no loss looks at them.
        """
        ...

    def reset_memory(self) -> None:
        """As of `Policy`. The states are the loop's, so there is usually nothing to forget."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """As of `Policy`."""
        ...
