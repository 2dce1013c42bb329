"""`Adam` and `AdamW`: torch's optimizers with a native step on the CPU.

They are subclasses of torch's, with the same arguments, `state_dict` and hooks, and each loads what the
other saved. For a network of a dozen small tensors most of torch's step is the way to the arithmetic; here it
is one call of `hotloop.ops.adam_` for each group. A group is stepped natively where

* every parameter is a plain dense CPU tensor of float32 or float64, and
* it has none of `amsgrad`, `capturable`, `differentiable`, `foreach=True`, `fused=False`;

other groups, steps with a `GradScaler` and steps under `torch.compile` are torch's own, whose implementation
these options choose as ever. So `fused=True` means: native on the CPU, torch's fused kernel on a GPU. A group
that the native step could take but that has more than a million numbers is stepped by torch's fused kernel:
where all comes from memory that is the faster one.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import is_
from typing import Any, NamedTuple, TypeVar, overload

import torch
from torch import Tensor
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from hotloop import ops

__all__ = ["Adam", "AdamW"]

_Closure = Callable[[], Any]
_Step = TypeVar("_Step", bound=Callable[..., Any])

# torch puts a wrapper that runs the hooks around the step of a class when its first optimizer is made. Ours
# run them themselves, so torch's own step must be the one without.
_torch_step: Callable[..., Any] = torch.optim.Adam.step
if getattr(_torch_step, "hooked", False):
    _torch_step = _torch_step.__wrapped__  # type: ignore[attr-defined]


# Numbers of a group from which on torch's fused kernel is not slower: overhead no longer counts.
_LARGE = 1 << 20


class _Group(NamedTuple):
    """What is known of a group whose parameters all have their state. Gradients are new at every step."""

    group: dict[str, Any]
    params: list[Tensor]
    states: list[dict[str, Tensor]]


def _is_plain(parameter: Tensor) -> bool:
    return (
        type(parameter) in (Tensor, torch.nn.Parameter)
        and parameter.device.type == "cpu"
        and parameter.layout is torch.strided
        and parameter.dtype in (torch.float32, torch.float64)
    )


class _Known:
    """Lists of what does not change from step to step. Every step looks whether they are still what the
    optimizer holds: tensors, states and groups may be replaced."""

    def __init__(self) -> None:
        self.groups: list[_Group | None] = []
        self.entries: list[Any] = []

    def refresh(self, optimizer: torch.optim.Adam) -> None:
        """Forgets all groups if the states are other ones than at the last step."""
        entries = list(optimizer.state.values())
        if (
            len(self.entries) != len(entries)
            or len(self.groups) != len(optimizer.param_groups)
            or not all(map(is_, self.entries, entries))
        ):
            self.groups = [None] * len(optimizer.param_groups)
            self.entries = entries

    def states(
        self, index: int, group: dict[str, Any], grads: list[Tensor]
    ) -> list[dict[str, Tensor]] | None:
        """The states of a group whose parameters all have gradients, if they are known."""
        known, params = self.groups[index], group["params"]
        if (
            known is None
            or known.group is not group
            or not len(grads) == len(params) == len(known.params)
            or not all(map(is_, known.params, params))
        ):
            return None
        return known.states


def _native(group: dict[str, Any]) -> bool:
    return not (
        group["foreach"]
        or group["fused"] is False
        or group["amsgrad"]
        or group["capturable"]
        or group["differentiable"]
    )


def _step_group(optimizer: Any, index: int, group: dict[str, Any]) -> dict[str, Any] | None:
    """Steps the group natively, or returns what torch should step instead."""
    if not _native(group):
        return group
    params: list[Tensor] = group["params"]
    if sum(map(torch.numel, params)) > _LARGE:
        return {**group, "fused": True} if all(map(_is_plain, params)) else group
    grads = [grad for each in params if (grad := each.grad) is not None]
    known: _Known = optimizer._known
    states = known.states(index, group, grads)
    if states is None:
        if not all(map(_is_plain, params)):
            return group
        # the first time this makes the states, as torch does, so that each can load what the other saved
        optimizer._init_group(group, [], [], [], [], [], [])
        known.refresh(optimizer)
        params = [each for each in params if each.grad is not None]
        states = [optimizer.state[each] for each in params]
        if len(params) == len(group["params"]):
            known.groups[index] = _Group(group, list(params), states)
    beta1, beta2 = group["betas"]
    ops.adam_(
        params,
        grads,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [state["step"] for state in states],
        lr=group["lr"],
        beta1=beta1,
        beta2=beta2,
        eps=group["eps"],
        weight_decay=group["weight_decay"],
        decoupled=group["decoupled_weight_decay"],
        maximize=group["maximize"],
    )
    return None


def _run(optimizer: Any, closure: _Closure | None) -> Any:
    own = optimizer.__dict__
    scaled = own.get("grad_scale") is not None or own.get("found_inf") is not None
    if scaled or torch.compiler.is_compiling():
        return _torch_step(optimizer, closure)
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    left = []
    recording = torch.is_grad_enabled()
    # torch.no_grad() would take a quarter of the step after a backward pass.
    torch._C._set_grad_enabled(False)
    try:
        optimizer._known.refresh(optimizer)
        for index, group in enumerate(optimizer.param_groups):
            rest = _step_group(optimizer, index, group)
            if rest is not None:
                left.append(rest)
    finally:
        torch._C._set_grad_enabled(recording)
    if left:
        groups, optimizer.param_groups = optimizer.param_groups, left
        try:
            _torch_step(optimizer)
        finally:
            optimizer.param_groups = groups
    return loss


_run_with_hooks = torch.optim.Optimizer.profile_hook_step(_run)


def _hooks_itself(step: _Step) -> _Step:
    """Tells torch not to wrap this step. Its wrapper opens a profiler region at every step, which costs as
    much as the arithmetic of a small network; `_take_step` does so only where someone looks."""
    step.__dict__["hooked"] = True
    return step


def _take_step(optimizer: Any, own: Callable[..., Any], closure: _Closure | None) -> Any:
    # A subclass that has a step of its own was wrapped by torch, which runs the hooks around that one.
    if type(optimizer).step is own and (
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
    ):
        return _run_with_hooks(optimizer, closure)
    return _run(optimizer, closure)


class Adam(torch.optim.Adam):
    """`torch.optim.Adam` (Kingma & Ba 2015) with a native step on the CPU; see the module.

    Args:
        as `torch.optim.Adam`.
    """

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @_hooks_itself
    def step(self, closure: _Closure | None = None) -> Any:
        """One step for every parameter that has a gradient.

        Args:
            closure: computes the loss again, with gradients; called once before the step.

        Returns:
            What `closure` returns, or None.

        Raises:
            TypeError, ValueError: see `hotloop.ops.adam_`; nothing was written to that group.
        """
        return _take_step(self, Adam.step, closure)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._known = _Known()
        super().__init__(*args, **kwargs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._known = _Known()
        super().__setstate__(state)  # type: ignore[no-untyped-call]


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` (Loshchilov & Hutter 2019) with a native step on the CPU; see the module.

    Args:
        as `torch.optim.AdamW`.
    """

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @_hooks_itself
    def step(self, closure: _Closure | None = None) -> Any:
        """See `Adam.step`."""
        return _take_step(self, AdamW.step, closure)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._known = _Known()
        super().__init__(*args, **kwargs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._known = _Known()
        super().__setstate__(state)  # type: ignore[no-untyped-call]
