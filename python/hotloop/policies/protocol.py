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
