"""NatureCNNPolicy: its shapes are those of Mnih et al. (2015), and it reads bytes."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from hotloop.policies import ActionSpec, NatureCNNPolicy
from hotloop.policies.nature_cnn import reads_images


def test_has_the_layers_of_the_paper() -> None:
    policy = NatureCNNPolicy((4, 84, 84), 6)
    shapes = [tuple(p.shape) for name, p in policy.trunk.named_parameters() if name.endswith("weight")]
    assert shapes == [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 64 * 7 * 7)]
    assert (tuple(policy.actor.weight.shape), tuple(policy.critic.weight.shape)) == ((6, 512), (1, 512))
    assert policy.get_agent_experience_spec()["env_obs"] == (torch.Size([4, 84, 84]), torch.uint8)


def test_initialisation_is_orthogonal() -> None:
    policy = NatureCNNPolicy((1, 36, 36), 3, width=16)
    weight = policy.trunk[0].weight.flatten(1)
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(32), rtol=1e-4, atol=1e-4)
    weight = policy.actor.weight
    torch.testing.assert_close(weight @ weight.T, 1e-4 * torch.eye(3), rtol=1e-3, atol=1e-8)
    assert not policy.trunk[0].bias.any()


def test_bytes_are_scaled_to_one() -> None:
    torch.manual_seed(0)
    policy = NatureCNNPolicy((2, 40, 36), 3, width=16)
    obs = torch.randint(256, (3, 2, 40, 36), dtype=torch.uint8)
    x = policy.trunk(obs.to(torch.float32) / 255)
    torch.testing.assert_close(policy.logits_and_value(obs)[0], policy.actor(x))
    torch.testing.assert_close(policy.logits_and_value(obs)[1], policy.critic(x).squeeze(-1))


@pytest.mark.parametrize("action", [ActionSpec.discrete(4), ActionSpec.continuous(2)])
def test_acts_and_evaluates(action: ActionSpec) -> None:
    torch.manual_seed(0)
    policy = NatureCNNPolicy((1, 36, 36), action, width=16, log_std_init=-0.5)
    obs = torch.randint(256, (5, 1, 36, 36), dtype=torch.uint8)
    td = policy(TensorDict({"env_obs": obs}, batch_size=[5]))
    again = policy(TensorDict({"env_obs": obs}, batch_size=[5]), td["actions"])
    torch.testing.assert_close(again["act_log_prob"], td["act_log_prob"], rtol=1e-4, atol=1e-5)
    if action.kind == "continuous":
        entropy = 2 * (0.5 * math.log(2 * math.pi * math.e) - 0.5)
        torch.testing.assert_close(again["entropy"], torch.full((5,), entropy))


@pytest.mark.parametrize("shape", [(4, 35, 84), (84, 84), (4, 84, 35)])
def test_images_that_are_too_small(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"obs_shape must be .* of at least 36 x 36 pixels, got"):
        NatureCNNPolicy(shape, 4)


def space(shape: tuple[int, ...], dtype: str) -> Any:
    return SimpleNamespace(shape=shape, dtype=np.dtype(dtype))


def test_spaces_are_recognised_by_behaviour() -> None:
    assert reads_images(space((4, 84, 84), "uint8"))
    policy = NatureCNNPolicy.from_spaces(space((1, 36, 48), "uint8"), 4, width=8)
    assert policy.obs_shape == (1, 36, 48)
    for other in (
        space((4, 84, 84), "float32"),
        space((210, 160, 3), "uint8"),  # rows, columns, colours
        space((84, 84), "uint8"),
        object(),
    ):
        assert not reads_images(other)
        with pytest.raises(TypeError, match="observation_space must be a Box of uint8"):
            NatureCNNPolicy.from_spaces(other, 4)
