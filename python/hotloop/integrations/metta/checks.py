"""Metta's own code beside ours: what `install(verify=True)` exchanges instead of the bare classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor

from hotloop.integrations.verify import Verifier

# Metta's kernels may contract products into fused multiply-adds, its loop over T rounds gamma * lambda once.
_CLOSE = {"rtol": 1e-5, "atol": 1e-6}
_TRACKERS = ("ep_indices", "ep_lengths", "row_slot_ids", "t_in_row")


class Originals(NamedTuple):
    """Metta's own classes and functions."""

    loop: Any
    experience: Any
    functions: dict[str, Callable[..., Tensor]]


class _Seen(Exception):  # noqa: N818 (no error: it ends a run of Metta's loop where it has shown enough)
    pass


def checked(layout: str, ours: Mapping[str, Any], originals: Originals, verify: bool | int) -> dict[str, Any]:
    """Ours, each with a comparison built in."""
    made = {
        name: _checked_function(name, ours[name], host, verify) for name, host in originals.functions.items()
    }
    made["Experience"] = _checked_experience(ours["Experience"], originals.experience, verify)
    made["CoreTrainingLoop"] = _checked_loop(layout, ours["CoreTrainingLoop"], originals.loop, verify)
    return made


def _checked_function(
    name: str, ours: Callable[..., Tensor], host: Callable[..., Tensor], verify: bool | int
) -> Callable[..., Tensor]:
    verifier = Verifier("metta", verify)

    def function(*args: Any, **kwargs: Any) -> Tensor:
        if not verifier.due():
            return ours(*args, **kwargs)
        copied = [arg.detach().clone() if isinstance(arg, Tensor) else arg for arg in args]
        named = {key: arg.detach().clone() if isinstance(arg, Tensor) else arg for key, arg in kwargs.items()}
        theirs, found = host(*copied, **named), ours(*args, **kwargs)
        verifier.compare(name, {"result": found.detach()}, {"result": theirs}, **_CLOSE)
        return found

    function.__name__ = name
    return function


def _checked_experience(ours: Any, host: Any, verify: bool | int) -> Any:
    class Experience(ours):  # type: ignore[misc]
        """Has a twin of Metta's own, which stores and samples beside it."""

        _twin: Any = None

        @classmethod
        def from_losses(cls, *args: Any, **kwargs: Any) -> Any:
            made = super().from_losses(*args, **kwargs)
            kwargs.pop("copy", None)
            given = inspect.signature(host.from_losses).bind(*args, **kwargs)
            # The twin must not be attached to the losses.
            losses = given.arguments["losses"].items()
            given.arguments["losses"] = {name: _SpecOnly(loss) for name, loss in losses}
            made._twin = host.from_losses(*given.args, **given.kwargs)
            made._store_check, made._sample_check = Verifier("metta", verify), Verifier("metta", verify)
            return made

        def reset_for_rollout(self) -> None:
            super().reset_for_rollout()
            if self._twin is not None:
                self._twin.reset_for_rollout()

        def store(self, data_td: TensorDictBase, env_id: slice) -> None:
            if self._twin is None or not self._store_check.due():
                super().store(data_td, env_id)
                return
            keys = list(self._keys_to_store())
            rows = self._rows[env_id].long()
            column = self._cursors.position(env_id.start)
            if hasattr(self._twin, "set_store_keys"):
                self._twin.set_store_keys(keys)
            self._twin.store(data_td, env_id)  # first: what it stores may be a view of our trackers
            super().store(data_td, env_id)
            both = [
                {
                    **{str(key): one.buffer[key][rows, column] for key in keys},
                    "free_idx": one.free_idx,
                    "full_rows": one.full_rows,
                    **{name: getattr(one, name) for name in _TRACKERS if hasattr(one, name)},
                }
                for one in (self, self._twin)
            ]
            self._store_check.compare(f"Experience.store at column {column}", *both)

        def sample(self, *args: Any, **kwargs: Any) -> Any:
            if self._twin is None or not self._sample_check.due():
                return super().sample(*args, **kwargs)
            own, self._twin.buffer = self._twin.buffer, self.buffer
            try:
                with _drawn_again() as after:
                    theirs = {**_leaves(self._twin.sample(*args, **kwargs)), "generator": after()}
            finally:
                self._twin.buffer = own
            found = super().sample(*args, **kwargs)
            ours_drawn = {**_leaves(found), "generator": torch.get_rng_state()}
            self._sample_check.compare("Experience.sample", ours_drawn, theirs)
            return found

    return Experience


def _checked_loop(layout: str, ours: Any, host: Any, verify: bool | int) -> Any:
    class CoreTrainingLoop(ours):  # type: ignore[misc]
        """Lets Metta's own loop build the first step of a rollout and the first minibatch of a phase."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._step_check, self._minibatch_check = Verifier("metta", verify), Verifier("metta", verify)
            self._first_step = False
            self._theirs: dict[str, Any] = {}

        def rollout_phase(self, env: Any, context: Any) -> Any:
            self._first_step = True
            return super().rollout_phase(env, context)

        def _built(self, td: TensorDictBase, step: tuple[Any, ...], env: Any, context: Any) -> None:
            first, self._first_step = self._first_step, False
            if not first or not self._step_check.due():
                return
            twin = self._twin()
            last = self.last_action
            twin.last_action = None if last is None else last.clone()
            theirs = _seen(lambda: twin.rollout_phase(_Once(env, step), _Aside(context)), twin)
            self._step_check.compare("the first step's td", _leaves(td), theirs)

        def _total_loss(self, context: Any, mb_idx: int) -> tuple[Tensor, bool]:
            if layout == "head" and mb_idx == 0 and self._minibatch_check.due():
                twin, kept = self._twin(), self._advantages
                with _drawn_again():
                    self._theirs = _seen(lambda: twin.training_phase(_Aside(context), 1), twin)
                self.experience.buffer["advantages_full"] = kept
            result: tuple[Tensor, bool] = super()._total_loss(context, mb_idx)
            return result

        def _prepared(self, shared: TensorDictBase) -> None:
            theirs, self._theirs = self._theirs, {}
            if theirs:
                found = _leaves(shared)
                self._minibatch_check.compare("the first minibatch", found, theirs, **_CLOSE)

        def _twin(self) -> Any:
            losses = {name: _Silent(loss) for name, loss in self.losses.items()}
            return host(
                policy=self.policy, experience=_Beside(self.experience), losses=losses,
                optimizer=_NoOptimizer(), device=self.device, context=_Aside(self.context),
            )  # fmt: skip

    return CoreTrainingLoop


def _seen(run: Callable[[], Any], twin: Any) -> dict[str, Any]:
    """What the first loss of Metta's loop is given, copied."""
    try:
        run()
    except _Seen as seen:
        found: dict[str, Any] = seen.args[0]
        return found
    raise RuntimeError(f"hotloop.integrations.metta: {type(twin).__name__} called no loss; verify=False")


@contextmanager
def _drawn_again() -> Iterator[Callable[[], Tensor]]:
    """The random numbers that are drawn inside are drawn again after it."""
    before = torch.get_rng_state()
    yield torch.get_rng_state
    torch.set_rng_state(before)


def _leaves(td: TensorDictBase) -> dict[str, Tensor]:
    """Copies of all tensors of a TensorDict, by name."""
    return {
        str(key): leaf.detach().clone()
        for key, leaf in td.items(include_nested=True, leaves_only=True)
        if isinstance(leaf, Tensor)
    }


class _SpecOnly:
    """A loss that is asked what to store, and not told where."""

    def __init__(self, loss: Any) -> None:
        self.get_experience_spec = loss.get_experience_spec

    def attach_replay_buffer(self, experience: Any) -> None:
        return


class _Silent:
    """A loss that only shows what it is given, and lets on what it is configured to do."""

    def __init__(self, loss: Any) -> None:
        self._loss = loss

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loss, name)

    def on_rollout_start(self, context: Any) -> None:
        return

    def zero_loss_tracker(self) -> None:
        return

    def policy_output_keys(self, policy_td: Any = None) -> set[str]:
        return set()

    def rollout(self, td: TensorDictBase, context: Any) -> None:
        raise _Seen(_leaves(td))

    def train(self, shared: TensorDictBase, context: Any, mb_idx: int) -> Any:
        raise _Seen(_leaves(shared))


class _Beside:
    """Our experience, whose cursors Metta's loop must not set back."""

    def __init__(self, experience: Any) -> None:
        self._experience = experience

    def __getattr__(self, name: str) -> Any:
        return getattr(self._experience, name)

    def reset_for_rollout(self) -> None:
        return

    def reset_importance_sampling_ratios(self) -> None:
        return


class _Aside:
    """The context, without its stopwatch; what is set stays here."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def stopwatch(self, name: str) -> Any:
        return nullcontext()


class _Once:
    """The environment, which hands out one step again."""

    def __init__(self, env: Any, step: tuple[Any, ...]) -> None:
        self._env, self._step = env, step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def get_observations(self) -> tuple[Any, ...]:
        return self._step


class _NoOptimizer:
    def zero_grad(self, set_to_none: bool = True) -> None:
        return
