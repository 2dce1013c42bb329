"""Metta's training loop with hotloop in it: `install()` before the trainer is built.

Metta is not on PyPI; the layout of the `metta` that can be imported is recognised by its interface. Two are
known: *oct* (6e370f620b, October 2025), where the losses sample and run the policy, and *head* (a8d1ecee19,
January 2026), where the loop does. `hotloop.integrations.metta.oct` and `.head` have the classes and
functions for those who would rather pass them than have them exchanged; each can replace its namesake
alone.
"""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType
from typing import Any, Literal

from hotloop.integrations.hosts import UntestedHostError, find_host
from hotloop.integrations.metta import head, oct
from hotloop.integrations.metta.advantage import hosts_own
from hotloop.integrations.metta.checks import Originals, checked
from hotloop.integrations.patches import Patches, installed

__all__ = ["find_layout", "head", "install", "oct", "uninstall"]

Layout = Literal["oct", "head"]
_LAYOUTS: dict[str, ModuleType] = {"oct": oct, "head": head}
_MODULES = ("metta.rl.training.core", "metta.rl.training.experience", "metta.rl.advantage")
_SAMPLING = ("sample", "sample_sequential", "sample_prioritized", "store_keys")


def install(force: bool = False, verify: bool | int = False, copy: bool = False) -> Layout:
    """Exchange Metta's `CoreTrainingLoop`, `Experience`, `compute_advantage` and, in the layout *head*,
    `compute_delta_lambda`, wherever they were imported. Build the trainer after it.

    Args:
        force: take a layout that is not recognised for the more similar one.
        verify: run Metta's own code beside ours for the first calls (True: 16) of each function, of `store`
            and `sample`, for the first step of the first rollouts and the first minibatch of the first
            training phases, and raise where they differ.
        copy: every minibatch gets memory of its own, as in Metta. Otherwise rows in order are views of the
            buffer and others lie in memory that the next minibatch overwrites.

    Returns:
        The layout. A second call replaces the first.

    Raises:
        ModuleNotFoundError: there is no `metta` to import.
        UntestedHostError: its layout is not one of those that are known.
        VerificationError (later, where `verify`): with the largest difference and its place.
    """
    find_host("metta").require(force=True)
    uninstall()
    core, storage, advantage = map(importlib.import_module, _MODULES)
    layout = find_layout(core, storage, advantage, force)
    ours = _LAYOUTS[layout]
    names = ["compute_advantage", *(["compute_delta_lambda"] if layout == "head" else [])]
    originals = Originals(
        core.CoreTrainingLoop, storage.Experience, {name: getattr(advantage, name) for name in names}
    )
    new = {name: getattr(ours, name) for name in ("CoreTrainingLoop", "Experience", *names)}
    for name in ("CoreTrainingLoop", "Experience") if copy else ():
        new[name] = type(name, (new[name],), {"copies": True})
    if verify:
        new = checked(layout, new, originals, verify)
    hosts_own.update(originals.functions)
    patches = Patches("metta")
    for module, name in (
        (core, "CoreTrainingLoop"), (storage, "Experience"), *((advantage, name) for name in names)
    ):  # fmt: skip
        patches.replace_everywhere(module, name, new[name])
    return layout


def uninstall() -> None:
    """Put everything back as it was. Does nothing where nothing is installed."""
    patches = installed("metta")
    if patches is not None:
        patches.remove()
    hosts_own.clear()


def find_layout(core: Any, storage: Any, advantage: Any, force: bool = False) -> Layout:
    """Which layout the modules `metta.rl.training.core`, `.experience` and `metta.rl.advantage` have.

    Raises UntestedHostError for another, unless `force`: then the more similar one.
    """
    loop, experience = core.CoreTrainingLoop, storage.Experience
    last_action = getattr(loop, "add_last_action_to_td", None)
    takes = [] if last_action is None else list(inspect.signature(last_action).parameters)
    order = list(inspect.signature(advantage.compute_advantage).parameters)
    samples = [name for name in _SAMPLING if hasattr(experience, name)]
    signs = {
        "head": (
            samples == list(_SAMPLING)
            and takes == ["self", "td"]
            and order[7:] == ["device", "vtrace_rho_clip", "vtrace_c_clip"]
            and hasattr(advantage, "compute_delta_lambda")
        ),
        "oct": (
            not samples
            and takes == ["self", "td", "env"]
            and order[7:] == ["vtrace_rho_clip", "vtrace_c_clip", "device"]
        ),
    }
    if signs["head"]:
        return "head"
    if signs["oct"]:
        return "oct"
    if force:
        return "head" if samples else "oct"
    raise UntestedHostError(
        "hotloop.integrations.metta: tested with the layouts of 6e370f620b (October 2025) and a8d1ecee19 "
        f"(January 2026), got one with add_last_action_to_td({', '.join(takes)}), Experience."
        f"{{{', '.join(samples)}}} and compute_advantage({', '.join(order)}); force=True goes on with the "
        "more similar one, verify=True compares with the host's own code"
    )
