"""What is wrapped while a profile is taken: torch, environments, hotloop. Everything is put back
afterwards."""

from __future__ import annotations

import functools
import importlib
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from hotloop.exchange import Exchange
from hotloop.profiling.clock import GLUE, LOSS, START, PhaseClock
from hotloop.profiling.traffic import Traffic

ENVIRONMENT = "environment"
ACTING = "policy, acting"
TRAINING = "policy, training"
DISTRIBUTION = "torch.distributions"
BACKWARD = "backward"
OPTIMIZER = "optimizer"
CLIPPING = "gradient clipping"
ZEROING = "zero_grad"
GATHER = "indexing with tensors"
HOTLOOP = "hotloop: "  # what its phases begin with

# Each reads a number or an array on the host: where the tensor is on a GPU, the host waits for it.
HOST_READS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "nonzero")

_ENOUGH = 1000  # calls through super() after which a method is taken to be there for nothing else
_STEP = ("step", "reset", "step_async", "step_wait", "send", "recv", "async_reset", "reset_wait")
# Bases of what steps environments; their subclasses are wrapped as they come to exist.
_ENVIRONMENTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("gymnasium", "Env", _STEP),
    ("gymnasium.vector", "VectorEnv", _STEP),
    ("gym", "Env", _STEP),
    ("envpool.python.envpool", "EnvPoolMixin", _STEP),
    ("pufferlib", "PufferEnv", _STEP),
    ("pufferlib.vector", "Serial", _STEP),
    ("pufferlib.vector", "Multiprocessing", _STEP),
    ("pettingzoo", "ParallelEnv", _STEP),
    ("stable_baselines3.common.vec_env.base_vec_env", "VecEnv", _STEP),
    ("rsl_rl.env", "VecEnv", _STEP),
    ("torchrl.envs", "EnvBase", _STEP),
)
# hotloop's own: what a phase of it is called, by module, class and method.
_OWN: tuple[tuple[str, str, str, str], ...] = (
    ("hotloop.envs.gymnasium", "GymnasiumEnvironment", "get_observations", "environment adapter"),
    ("hotloop.envs.gymnasium", "GymnasiumEnvironment", "send_actions", "environment adapter"),
    ("hotloop.envs.envpool", "EnvPoolEnvironment", "get_observations", "environment adapter"),
    ("hotloop.envs.envpool", "EnvPoolEnvironment", "send_actions", "environment adapter"),
    ("hotloop.envs.pufferlib", "PufferEnvironment", "get_observations", "environment adapter"),
    ("hotloop.envs.pufferlib", "PufferEnvironment", "send_actions", "environment adapter"),
    ("hotloop.envs.mettagrid", "MettaGridEnvironment", "get_observations", "environment adapter"),
    ("hotloop.envs.mettagrid", "MettaGridEnvironment", "send_actions", "environment adapter"),
    ("hotloop.loop", "CoreTrainingLoop", "rollout_phase", "rollout"),
    ("hotloop.loop", "CoreTrainingLoop", "training_phase", "training"),
    ("hotloop.experience", "Experience", "store", "storage"),
    ("hotloop.experience", "Experience", "sample_columns", "sampling and gathering"),
    ("hotloop.experience_epoch", "EpochRows", "take", "sampling and gathering"),
    ("hotloop.ops.categorical_ppo", "CategoricalPPO", "differentiate", "loss"),
    ("hotloop.loop_training", "Arrivals", "compute", "advantages"),
)
_OPS: dict[str, str] = {
    **dict.fromkeys(
        ("gae", "td_lambda", "discounted_return", "vtrace", "retrace", "puff_advantage", "delta_lambda"),
        "advantages",
    ),
    **dict.fromkeys(("gather", "sample_segments", "row_priorities"), "sampling and gathering"),
    **dict.fromkeys(("scatter_", "store_"), "storage"),
    **dict.fromkeys(("categorical_sample", "gaussian_sample"), "drawing actions"),
    **dict.fromkeys(("categorical_evaluate", "gaussian_evaluate"), "evaluating actions"),
    **dict.fromkeys(("ppo_loss", "importance_ratio"), "loss"),
    "clip_grad_norm_": "gradient clipping",
}


class Hooks:
    """Wraps what a profile listens to.

    Args:
        clock: gets the phases.
        environments: more functions that step environments, as `(owner, name)`.
    """

    def __init__(self, clock: PhaseClock, environments: Iterable[tuple[Any, str]] = ()) -> None:
        self._clock = clock
        self._patches = Exchange("hotloop.profile")
        self._seen: set[tuple[Any, str]] = set()
        self._given = tuple(environments)
        self._handles: list[Any] = []
        self._left_alone: list[tuple[weakref.ref[Any], str]] = []
        self.host_reads: dict[str, int] = {}
        self.updates = 0  # optimizer steps
        self.traffic = Traffic()

    def install(self) -> None:
        """Wraps everything that is loaded; what is loaded later is found by `look`."""
        self._wrap_torch()
        self.look()

    def remove(self) -> None:
        """Puts everything back."""
        self._patches.remove()
        for handle in self._handles:
            handle.remove()
        for reference, name in self._left_alone:
            inner = reference()
            if inner is not None:
                vars(inner).pop(name, None)

    def look(self) -> None:
        """Wraps what has come to exist since the last look."""
        for module, name, methods in _ENVIRONMENTS:
            base = getattr(sys.modules.get(module), name, None)
            for kind in _family(base) if isinstance(base, type) else ():
                for method in methods:
                    self._wrap(kind, method, ENVIRONMENT)
        for owner, name in self._given:
            self._wrap(owner, name, ENVIRONMENT)
        for module, name, method, purpose in _OWN:
            own = getattr(sys.modules.get(module), name, None)
            if isinstance(own, type):
                self._wrap(own, method, HOTLOOP + purpose)
        ops = sys.modules.get("hotloop.ops")
        for name, purpose in _OPS.items() if ops is not None else ():
            self._wrap(ops, name, HOTLOOP + purpose, traffic=True)

    def _wrap_torch(self) -> None:
        exchange = self._patches.replace
        exchange(nn.Module, "__call__", self._module_call(nn.Module.__call__))
        exchange(Tensor, "__getitem__", self._indexing(Tensor.__getitem__))
        for name in HOST_READS:
            exchange(Tensor, name, self._counted(getattr(Tensor, name), name))
        self._wrap(Tensor, "backward", BACKWARD, after=GLUE)
        for name in ("backward", "grad"):
            self._wrap(torch.autograd, name, BACKWARD, after=GLUE)
        for kind in _family(torch.distributions.Distribution):
            for name in ("__init__", "sample", "rsample", "log_prob", "entropy"):
                self._wrap(kind, name, DISTRIBUTION)
        self._wrap(torch.optim.Optimizer, "zero_grad", ZEROING)
        clip = importlib.import_module("torch.nn.utils.clip_grad")
        for name in ("clip_grad_norm_", "clip_grad_value_"):
            self._patches.replace_everywhere(clip, name, self._timed(getattr(clip, name), CLIPPING))
        optimizer: Any = importlib.import_module("torch.optim.optimizer")
        self._handles = [
            optimizer.register_optimizer_step_pre_hook(self._before_step),
            optimizer.register_optimizer_step_post_hook(self._after_step),
        ]

    def _before_step(self, *_: Any) -> None:
        if self._clock.here() and self._clock.top is not OPTIMIZER:
            self._clock.enter(OPTIMIZER)

    def _after_step(self, *_: Any) -> None:
        clock = self._clock
        if not clock.here():
            return
        if clock.top is OPTIMIZER:
            clock.unwind(len(clock.stack) - 1)
        clock.rest(GLUE)
        self.updates += 1
        if self.updates & (self.updates - 1) == 0:  # at the 1st, 2nd, 4th, 8th ...: looking takes a moment
            self.look()

    def _wrap(
        self, owner: Any, name: str, phase: str, *, after: str | None = None, traffic: bool = False
    ) -> None:
        """Times a function in the owner's own namespace, once."""
        function = vars(owner).get(name)
        if callable(function) and (owner, name) not in self._seen:
            self._seen.add((owner, name))
            record = self.traffic if traffic else None
            self._patches.replace(owner, name, self._timed(function, phase, after, record, name, owner))

    def _timed(
        self,
        function: Callable[..., Any],
        phase: str,
        after: str | None = None,
        traffic: Traffic | None = None,
        name: str = "",
        owner: Any = None,
    ) -> Callable[..., Any]:
        """The function, `owner.name`, as a phase. `after`: what is in no phase belongs to from then on."""
        clock, stack = self._clock, self._clock.stack
        leaves_start = phase == ENVIRONMENT
        through_super = 0  # calls of it inside of its own phase; below 0: it has been called in its own right

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal through_super
            # an environment around an environment, a distribution that calls its own methods: one phase
            if stack and stack[-1] is phase:
                if leaves_start and through_super >= 0 and args and clock.here():
                    through_super += not self._leave_alone(args[0], function, call)
                    if through_super == _ENOUGH:  # a base class, for others alone: Gymnasium's Wrapper
                        setattr(owner, name, function)
                return function(*args, **kwargs)
            if torch.compiler.is_compiling() or not clock.here():
                return function(*args, **kwargs)
            if leaves_start and clock.base is START and function.__name__ != "reset":
                clock.rest(GLUE)
            through_super = -1
            depth = len(stack)
            clock.enter(phase)
            try:
                result = function(*args, **kwargs)
            finally:
                seconds = clock.unwind(depth)
                if after is not None and not depth:
                    clock.rest(after)
            if traffic is not None:
                traffic.add(name, seconds, args, kwargs, result)
            return result

        return call

    def _leave_alone(self, inner: Any, function: Callable[..., Any], wrapper: Callable[..., Any]) -> bool:
        """From now on, this environment's method is called without its wrapper: it is one inside of another,
        and a vector of environments calls those of all of its parts in every step.

        Returns:
            Whether that can be for objects of this class.
        """
        name = function.__name__
        # Not where a subclass has come here through super(): its own method would be left out.
        if getattr(type(inner), name, None) is not wrapper:
            return False
        try:
            own, reference = vars(inner), weakref.ref(inner)
        except TypeError:  # it can hold no attribute
            return False
        if name not in own:
            own[name] = MethodType(function, inner)
            self._left_alone.append((reference, name))
        return True

    def _module_call(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The outermost module that is called is the policy."""
        clock, stack = self._clock, self._clock.stack

        @functools.wraps(function)
        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if stack and (stack[-1] is ACTING or stack[-1] is TRAINING):
                return function(module, *args, **kwargs)
            if torch.compiler.is_compiling() or not clock.here():
                return function(module, *args, **kwargs)
            if clock.base is START:
                self.look()
            training = torch.is_grad_enabled()
            depth = len(stack)
            clock.enter(TRAINING if training else ACTING)
            try:
                return function(module, *args, **kwargs)
            finally:
                clock.unwind(depth)
                clock.rest(LOSS if training else GLUE)

        return call

    def _indexing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`x[rows]`: copies; `x[3]` and `x[1:5]` do not."""
        clock, traffic = self._clock, self.traffic

        @functools.wraps(function)
        def getitem(tensor: Tensor, index: Any) -> Any:
            if clock.stack or not _by_tensor(index) or torch.compiler.is_compiling() or not clock.here():
                return function(tensor, index)
            clock.enter(GATHER)
            try:
                result = function(tensor, index)
            finally:
                seconds = clock.unwind(0)
            traffic.add("Tensor[rows]", seconds, (), {}, result)
            return result

        return getitem

    def _counted(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Counts reads by the host, those inside of other phases too."""
        reads = self.host_reads

        @functools.wraps(function)
        def read(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            reads[name] = reads.get(name, 0) + 1
            return function(tensor, *args, **kwargs)

        return read


def _by_tensor(index: Any) -> bool:
    """Whether an index holds a tensor or an array, in which case indexing copies."""
    kind = type(index)
    if kind is int or kind is slice:
        return False
    if kind is tuple:
        return any(_by_tensor(part) for part in index)
    return hasattr(index, "shape") or kind is list


def _family(base: type) -> Iterator[type]:
    """A class and all of its subclasses, each once."""
    waiting, seen = [base], {base}
    while waiting:
        kind = waiting.pop()
        yield kind
        children: list[type] = type.__subclasses__(kind)
        for child in children:
            if child not in seen:
                seen.add(child)
                waiting.append(child)
