"""A policy for observations made of tokens: location, feature and value, in any number and order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotloop.policies.actions import ActionSpec
from hotloop.policies.activations import Tanh
from hotloop.policies.actor_critic import ActorCriticPolicy
from hotloop.policies.mlp import hidden_layers, orthogonal_linear

#: The location of a place in the observation that holds no token.
EMPTY = 0xFF
_BYTES = 256


class TokenPolicy(ActorCriticPolicy):
    """Sums one learnt vector per token, then a small network with a head each for actions and value.

    A token is three bytes: location, feature id, value; location 0xFF marks an empty place. Its vector is
    that of the whole triple, looked up in a table under a hash (Weinberger et al. 2009, "Feature Hashing for
    Large Scale Multitask Learning"; the hash is the exclusive or of one random number per byte, Zobrist
    1970), so that "an altar one step to the north" is one feature that a linear layer can act on. Beside it
    the values of each feature are summed on a logarithmic scale, over all locations, which carries over to
    values that were never seen. Only tokens that are there are touched: the cost grows with what an agent
    sees, not with the size of the observation, and no tensor of tokens times width is made.

    Parameters
    ----------
    obs_shape
        ``(tokens, 3)``.
    action
        `ActionSpec`, gymnasium-like action space, or number of discrete actions.
    width
        Numbers in a token's vector.
    rows
        Rows of the table, a power of two. Triples that share one are told apart by the others of a scene.
    hidden
        Widths of the tanh layers after the sum.
    log_std_init
        Start of the log standard deviation of continuous actions.
    """

    _hash: Tensor
    _amount: Tensor

    def __init__(
        self,
        obs_shape: Sequence[int],
        action: Any,
        *,
        width: int = 64,
        rows: int = 8192,
        hidden: Sequence[int] = (64,),
        log_std_init: float = 0.0,
    ) -> None:
        if len(obs_shape) != 2 or obs_shape[1] != 3:
            raise ValueError(f"TokenPolicy: obs_shape must be (tokens, 3), got {tuple(obs_shape)}")
        if rows < 1 or rows & (rows - 1):
            raise ValueError(f"TokenPolicy: rows must be a power of two, got {rows}")
        if width < 1:
            raise ValueError(f"TokenPolicy: width must be at least 1, got {width}")
        super().__init__(action, obs_shape, torch.uint8)
        spec = self.action_spec
        continuous = spec.kind == "continuous"
        # Part of the weights: a table is of no use under another hash.
        numbers = torch.Generator().manual_seed(0x7A0B)
        self.register_buffer("_hash", torch.randint(rows, (3, _BYTES), generator=numbers, dtype=torch.int32))
        amounts = torch.log1p(torch.arange(_BYTES, dtype=torch.float32)) / torch.tensor(_BYTES).log()
        self.register_buffer("_amount", amounts, persistent=False)
        self.table = nn.Parameter(torch.randn(rows, width) * width**-0.5)
        self.amounts = nn.Linear(_BYTES, width)
        nn.init.normal_(self.amounts.weight, std=width**-0.5)
        nn.init.zeros_(self.amounts.bias)
        self.norm = nn.LayerNorm(width)
        self._tanh = Tanh()
        self.trunk = hidden_layers([width, *hidden])
        self.actor = orthogonal_linear(
            ([width, *hidden])[-1], spec.width if continuous else spec.num_logits, 0.01
        )
        self.critic = orthogonal_linear(([width, *hidden])[-1], 1, 1.0)
        self.log_std = nn.Parameter(torch.full((spec.width,), float(log_std_init))) if continuous else None

    @classmethod
    def from_spaces(cls, observation_space: Any, action_space: Any, **options: Any) -> TokenPolicy:
        """Build from gymnasium-like spaces; `options` are the keyword arguments of the constructor.

        Raises TypeError where the observations are not uint8 ``[tokens, 3]``.
        """
        if not reads_tokens(observation_space):
            raise TypeError(
                "TokenPolicy.from_spaces: observation_space must be a Box of uint8 [tokens, 3], got "
                f"{observation_space}"
            )
        return cls(tuple(observation_space.shape), ActionSpec.from_space(action_space), **options)

    def summary(self, obs: Tensor) -> Tensor:
        """Tokens uint8 ``[n, tokens, 3]`` to the sum of their vectors, float ``[n, width]``."""
        n, tokens, _ = obs.shape
        # Rows of tokens that are there, in the order of their agents.
        where = (obs[..., 0] != EMPTY).reshape(-1).nonzero().squeeze(1)
        present = obs.reshape(-1, 3).index_select(0, where).to(torch.int32)
        agent = torch.div(where, tokens, rounding_mode="floor")
        location, feature, value = present.unbind(-1)
        key = self._hash[0].index_select(0, location)
        key ^= self._hash[1].index_select(0, feature)
        key ^= self._hash[2].index_select(0, value)
        starts = torch.searchsorted(agent, torch.arange(n, device=obs.device), out_int32=True)
        table = self.table
        summed = F.embedding_bag(key, table, starts, mode="sum")
        counts = torch.zeros(n * _BYTES, device=obs.device)
        counts.index_add_(0, agent * _BYTES + feature, self._amount.index_select(0, value))
        result: Tensor = summed + self.amounts(counts.view(n, _BYTES).to(table.dtype))
        return result

    def logits_and_value(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``[n, tokens, 3]`` to logits ``[n, num_logits]`` and values ``[n]``."""
        x = self.trunk(self._tanh(self.norm(self.summary(obs))))
        logits: Tensor = self.actor(x)
        if self.log_std is not None:
            logits = torch.cat((logits, self.log_std.expand_as(logits)), dim=-1)
        value: Tensor = self.critic(x)
        return logits, value.squeeze(-1)


def reads_tokens(observation_space: Any) -> bool:
    """Whether a space holds uint8 ``[tokens, 3]``."""
    shape: tuple[int, ...] = tuple(getattr(observation_space, "shape", None) or ())
    return len(shape) == 2 and shape[1] == 3 and str(getattr(observation_space, "dtype", "")) == "uint8"
