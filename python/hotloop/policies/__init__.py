"""Policies: the protocol, a network for each kind of observation, and a wrapper around one's own module."""

from hotloop.policies.actions import ActionKind, ActionSpec
from hotloop.policies.actor_critic import ActorCriticPolicy, WrappedActorCritic, wrap_actor_critic
from hotloop.policies.heads import CategoricalHead, GaussianHead, make_head
from hotloop.policies.mlp import MLPPolicy
from hotloop.policies.nature_cnn import NatureCNNPolicy
from hotloop.policies.protocol import Policy
from hotloop.policies.token_policy import TokenPolicy

__all__ = [
    "ActionKind",
    "ActionSpec",
    "ActorCriticPolicy",
    "CategoricalHead",
    "GaussianHead",
    "MLPPolicy",
    "NatureCNNPolicy",
    "Policy",
    "TokenPolicy",
    "WrappedActorCritic",
    "make_head",
    "wrap_actor_critic",
]
