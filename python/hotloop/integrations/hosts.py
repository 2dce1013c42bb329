"""The trainers that hotloop slips into, and the versions of them that it was tested with."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass


class UntestedHostError(RuntimeError):
    """The installed version of a host was not tested with hotloop; `force=True` goes on all the same."""


@dataclass(frozen=True)
class Host:
    """A trainer, or a family of scripts.

    Attributes:
        name: of the module in `hotloop.integrations`.
        module: what is imported of it; None where nothing is.
        distribution: the package whose version counts; None where there is no package to ask.
        tested: versions that the tests have run with.
        replaces: what becomes hotloop's.
        use: the line that does it.
    """

    name: str
    module: str | None
    distribution: str | None
    tested: tuple[str, ...]
    replaces: str
    use: str

    @property
    def version(self) -> str | None:
        """Of the installed package; None where there is none."""
        if self.distribution is None:
            return None
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    @property
    def installed(self) -> bool:
        """Whether there is something to import (or nothing is needed)."""
        return self.module is None or importlib.util.find_spec(self.module) is not None

    def require(self, force: bool = False) -> None:
        """Refuses a host that is missing or, unless `force`, of a version that was not tested.

        Raises:
            ModuleNotFoundError: it is not installed.
            UntestedHostError: the version was not tested; the message says which were.
        """
        if not self.installed:
            raise ModuleNotFoundError(
                f"hotloop.integrations.{self.name}: {self.distribution or self.module} is not installed"
            )
        if force or self.name in _ALLOWED or self.distribution is None or self.version in self.tested:
            return
        raise UntestedHostError(
            f"hotloop.integrations.{self.name}: tested with {self.distribution} {', '.join(self.tested)}, "
            f"got {self.version}; force=True (or hotloop.integrations.allow_untested({self.name!r})) goes on "
            "with it, verify=True compares with the host's own code"
        )


_ALLOWED: set[str] = set()

HOSTS: tuple[Host, ...] = (
    Host(
        "metta",
        "metta",
        None,
        ("6e370f620b", "a8d1ecee19"),  # commits: it is not on PyPI; its layout is recognised by its interface
        "CoreTrainingLoop, Experience, compute_advantage, compute_delta_lambda",
        "hotloop.integrations.metta.install()",
    ),
    Host(
        "pufferlib",
        "pufferlib",
        "pufferlib-core",
        ("3.0.23",),
        "PuffeRL: storage, advantages, prioritised minibatches",
        "hotloop.integrations.pufferlib.install()",
    ),
    Host(
        "sb3",
        "stable_baselines3",
        "stable-baselines3",
        ("2.9.2",),
        "RolloutBuffer and DictRolloutBuffer: add, compute_returns_and_advantage, get",
        "PPO(..., rollout_buffer_class=hotloop.integrations.sb3.HotRolloutBuffer)",
    ),
    Host(
        "torchrl",
        "torchrl",
        "torchrl",
        ("0.14.1",),
        "GAE and its functions, vec_td_lambda_return_estimate, vtrace_advantage_estimate",
        "hotloop.integrations.torchrl.HotGAE(...), or hotloop.integrations.torchrl.install()",
    ),
    Host(
        "rsl_rl",
        "rsl_rl",
        "rsl-rl-lib",
        ("5.5.1",),
        "storage, returns, minibatch generators",
        "hotloop.integrations.rsl_rl.install()",
    ),
    Host(
        "cleanrl",
        None,
        None,
        (),
        "the loop over time of a CleanRL-style script",
        "hotloop.integrations.cleanrl.gae(...)",
    ),
    Host(
        "tianshou",
        "tianshou",
        "tianshou",
        ("2.0.1",),
        "the recurrence of compute_episodic_return, in long batches",
        "hotloop.integrations.tianshou.install()",
    ),
    Host(
        "rl_games",
        "rl_games",
        "rl-games",
        ("1.6.5",),
        "discount_values, discount_values_masks",
        "hotloop.integrations.rl_games.install()",
    ),
    Host(
        "skrl",
        "skrl",
        "skrl",
        ("2.1.1",),
        "compute_gae of every torch agent",
        "hotloop.integrations.skrl.install()",
    ),
)


def find_host(name: str) -> Host:
    """A host by the name of its module. KeyError for one that there is not."""
    for host in HOSTS:
        if host.name == name:
            return host
    raise KeyError(f"no integration is called {name!r}: there are {', '.join(host.name for host in HOSTS)}")


def allow_untested(name: str) -> None:
    """From now on any version of this host will do, as with `force=True`. KeyError for an unknown host."""
    _ALLOWED.add(find_host(name).name)
