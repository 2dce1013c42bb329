"""Policies: the protocols, networks for each kind of observation, and a wrapper around any module."""

from hotloop.policies.actions import ActionKind, ActionSpec
from hotloop.policies.activations import Pixels, Tanh, native_activations
from hotloop.policies.actor_critic import (
    ActorCriticBase,
    ActorCriticPolicy,
    WrappedActorCritic,
    wrap_actor_critic,
)
from hotloop.policies.gru import GRUPolicy
from hotloop.policies.heads import CategoricalHead, GaussianHead, make_head
from hotloop.policies.lstm import LSTMPolicy
from hotloop.policies.mlp import MLPPolicy
from hotloop.policies.nature_cnn import NatureCNNPolicy
from hotloop.policies.pixel_linear import PixelLinear
from hotloop.policies.protocol import Policy, RecurrentPolicy
from hotloop.policies.recurrent import RecurrentActorCritic
from hotloop.policies.state import has_state, initial_states, state_spec
from hotloop.policies.token_policy import TokenPolicy

__all__ = [
    "ActionKind",
    "ActionSpec",
    "ActorCriticBase",
    "ActorCriticPolicy",
    "CategoricalHead",
    "GRUPolicy",
    "GaussianHead",
    "LSTMPolicy",
    "MLPPolicy",
    "NatureCNNPolicy",
    "PixelLinear",
    "Pixels",
    "Policy",
    "RecurrentActorCritic",
    "RecurrentPolicy",
    "Tanh",
    "TokenPolicy",
    "WrappedActorCritic",
    "has_state",
    "initial_states",
    "make_head",
    "native_activations",
    "state_spec",
    "wrap_actor_critic",
]
