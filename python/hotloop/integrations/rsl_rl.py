"""rsl_rl's PPO with hotloop's returns, storage and minibatches.

    import hotloop.integrations.rsl_rl
    hotloop.integrations.rsl_rl.install()

`PPO.compute_returns` and of `RolloutStorage` `add_transition`, `mini_batch_generator` and
`recurrent_mini_batch_generator` become ours; models, losses, optimizer, runner and logs stay rsl_rl's, and
training gives the same losses and parameters to the last bit. See docs/integrations/rsl_rl.md.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from hotloop import ops
from hotloop.integrations.hosts import find_host
from hotloop.integrations.patches import Patches, installed
from hotloop.integrations.rsl_rl_storage import Storage
from hotloop.integrations.rsl_rl_twin import verified_batches, verified_returns, verified_transition
from hotloop.integrations.verify import Verifier

__all__ = ["install", "uninstall"]

_PATCHES = Patches("rsl_rl")
_WORK: WeakKeyDictionary[Any, Storage] = WeakKeyDictionary()


def install(
    force: bool = False,
    verify: bool | int = False,
    *,
    final_observations: str | None = None,
    copy: bool = False,
) -> None:
    """Every `PPO` of this process, made before or after, goes on with hotloop. A second call changes the
    options.

    Args:
        force: go on with a version of rsl-rl-lib that was not tested.
        verify: run the host's own code beside ours in the first 16 calls (or so many) of each function, and
            compare results to the last bit.
        final_observations: a key of the environment's `extras`. Where it is there, beside `time_outs`, it
            holds the observations before the reset, a TensorDict `[N]` of which the rows with a time-out are
            used: such an episode is bootstrapped with the value of its final observation. Without, as rsl_rl
            does, with the value of the observation before the last action.
        copy: every batch is memory of its own. Without, minibatch i of all epochs of an update, which holds
            the same steps, is the same memory: it must not be written to, nor kept over an update.

    Raises:
        ModuleNotFoundError, UntestedHostError: see `Host.require`.
        TypeError, ValueError: of `verify`, see `Verifier`.
    """
    find_host("rsl_rl").require(force)
    counters = [Verifier("rsl_rl", verify) for _ in range(4)]
    ppo: Any = importlib.import_module("rsl_rl.algorithms").PPO
    storage: Any = importlib.import_module("rsl_rl.storage").RolloutStorage
    uninstall()
    _PATCHES.replace(ppo, "compute_returns", _returns(ppo.compute_returns, counters[0]))
    if final_observations is not None:
        _PATCHES.replace(ppo, "process_env_step", _process(ppo.process_env_step, final_observations))
    _PATCHES.replace(storage, "add_transition", _transition(storage.add_transition, counters[1]))
    for name, counter in zip(
        ("mini_batch_generator", "recurrent_mini_batch_generator"), counters[2:], strict=True
    ):
        _PATCHES.replace(storage, name, _generator(getattr(storage, name), counter, copy))


def uninstall() -> None:
    """Puts rsl_rl's own code back. Does nothing where nothing is installed."""
    if installed("rsl_rl") is _PATCHES:
        _PATCHES.remove()
    _WORK.clear()


def compute_returns(ppo: Any, obs: Any, work: Storage) -> None:
    """Returns and advantages of a full rollout (GAE), the latter normalised unless that is up to each
    minibatch."""
    storage = ppo.storage
    state = ppo.critic.get_hidden_state()
    last_values = ppo.critic(obs).detach()
    ppo.critic.reset(hidden_state=state)  # the forward pass must not be felt by the next rollout
    rewards, values, dones, returns = (
        x.squeeze(-1) for x in (storage.rewards, storage.values, storage.dones, storage.returns)
    )
    advantages = work.advantages
    ops.gae(
        rewards, values, dones, last_values=last_values.squeeze(-1), gamma=ppo.gamma, gae_lambda=ppo.lam,
        time_major=True, out=(advantages.squeeze(-1), returns),
    )  # fmt: skip
    # rsl_rl takes them from the rounded returns
    torch.sub(storage.returns, storage.values, out=advantages)
    if not ppo.normalize_advantage_per_mini_batch:
        mean, deviation = advantages.mean(), advantages.std()
        advantages.sub_(mean).div_(deviation + 1e-8)
    storage.advantages = advantages


def bootstrap(ppo: Any, extras: Any, key: str) -> Tensor | None:
    """What time-outs add to the rewards `[N]`: gamma times the value of the final observation.

    Raises:
        TypeError: `extras[key]` is no TensorDict (nor a mapping that can be indexed by rows).
    """
    time_outs = extras["time_outs"].to(ppo.device)
    if not bool(time_outs.any()):
        return None
    state = ppo.critic.get_hidden_state()
    observations = extras[key].to(ppo.device)
    # A critic with memory is asked about all agents: its state is of all of them.
    rows = torch.arange(len(time_outs)) if state is not None else time_outs.nonzero().flatten()
    with torch.no_grad():
        values = ppo.critic(observations[rows]).squeeze(-1)
    if state is not None:
        ppo.critic.reset(hidden_state=state)
    added = torch.zeros_like(values, dtype=torch.float32).new_zeros(len(time_outs))
    added[rows] = ppo.gamma * values
    return torch.where(time_outs != 0, added, 0.0)


def _work(storage: Any) -> Storage:
    work = _WORK.get(storage)
    if work is None:
        work = _WORK[storage] = Storage(storage)
    return work


def _returns(theirs: Callable[..., None], verifier: Verifier) -> Callable[..., None]:
    @functools.wraps(theirs)
    def method(self: Any, obs: Any) -> None:
        work = _work(self.storage)
        if verifier.due():
            verified_returns(self, obs, lambda: compute_returns(self, obs, work), verifier, theirs)
        else:
            compute_returns(self, obs, work)

    return method


def _process(theirs: Callable[..., None], key: str) -> Callable[..., None]:
    @functools.wraps(theirs)
    def method(self: Any, obs: Any, rewards: Tensor, dones: Tensor, extras: Any) -> None:
        if key in extras and "time_outs" in extras:
            added = bootstrap(self, extras, key)
            rewards = rewards if added is None else rewards + added
            extras = {name: value for name, value in extras.items() if name != "time_outs"}
        theirs(self, obs, rewards, dones, extras)

    return method


def _transition(theirs: Callable[..., None], verifier: Verifier) -> Callable[..., None]:
    @functools.wraps(theirs)
    def method(self: Any, transition: Any) -> None:
        work = _work(self)
        if verifier.due():
            verified_transition(self, transition, work.add_transition, verifier, theirs)
        else:
            work.add_transition(self, transition)

    return method


def _generator(
    theirs: Callable[..., Iterator[Any]], verifier: Verifier, copy: bool
) -> Callable[..., Iterator[Any]]:
    name = theirs.__name__

    @functools.wraps(theirs)
    def method(self: Any, num_mini_batches: int, num_epochs: int = 8) -> Iterator[Any]:
        batches = getattr(_work(self), name)(self, num_mini_batches, num_epochs, copy)
        if verifier.due():
            batches = verified_batches(name, batches, theirs(self, num_mini_batches, num_epochs), verifier)
        return batches  # type: ignore[no-any-return]

    return method
