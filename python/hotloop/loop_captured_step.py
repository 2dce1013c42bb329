"""The optimizer's step as one CUDA graph.

Clipping and stepping launch a dozen kernels or hundreds, each of which takes the host longer to launch than
the device to run. A CUDA graph launches them all at once, as they were recorded: with the same addresses and
the same numbers. So what is recorded must not depend on anything that the host decides, and where an address
or a number has changed the step is recorded anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from hotloop.devices import DeviceCalls, Graph

_WHERE = "CoreTrainingLoop: capture_optimizer_step=True"


class CapturedStep:
    """Carries out the optimizer step of a loop, by a graph as soon as it can.

    The first step is an ordinary one, on a side stream: it makes the optimizer's states and loads the
    kernels, neither of which can be recorded. The second is recorded and replayed. A learning rate that is a
    number is put into a tensor for the recording, so that a schedule costs no new one.

    Raises ValueError for an optimizer whose groups are not all ``capturable``, or that has hooks: they would
    run once, while the step is recorded, and never again.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device, calls: DeviceCalls) -> None:
        self.optimizer = optimizer
        self._device = device
        self._calls = calls
        self._graph: Graph | None = None
        self._key: Any = None
        self._warm = False
        self._rates: list[tuple[float, Tensor]] = []  # of groups whose rate is a number: that, and its tensor
        self.captures = 0
        self._check()

    def for_another(self, optimizer: torch.optim.Optimizer) -> CapturedStep:
        """The same for an optimizer that was put in this one's place."""
        return CapturedStep(optimizer, self._device, self._calls)

    def _check(self) -> None:
        optimizer = self.optimizer
        kind = type(optimizer).__name__
        if not all(group.get("capturable", False) for group in optimizer.param_groups):
            raise ValueError(
                f"{_WHERE} needs an optimizer made with capturable=True (torch.optim.Adam and AdamW, "
                f"hotloop.optim.Adam and AdamW, RMSprop, ...), got {kind} without: its step depends on "
                "numbers that the host keeps"
            )
        hooks = (
            optimizer._optimizer_step_pre_hooks,
            optimizer._optimizer_step_post_hooks,
            _global_optimizer_pre_hooks,
            _global_optimizer_post_hooks,
        )
        if any(hooks):
            raise ValueError(
                f"{_WHERE} cannot be with hooks of the optimizer's step, which a replay does not run: got "
                f"some of {kind}"
            )

    def __call__(self, parameters: Sequence[Tensor], work: Callable[[], None], limit: float) -> None:
        """Do `work`, which clips the gradients of `parameters` to `limit` and steps the optimizer with
        them."""
        self._set_rates()
        if not self._warm:
            self._calls.on_side_stream(work)
            self._warm = True
            return
        key = self._present(parameters, limit)
        if self._graph is None or key != self._key:
            self._check()
            self._graph = None  # its memory goes back first
            with self._rates_as_tensors():
                self._graph = self._calls.capture(work)
            self._key = key
            self.captures += 1
        self._graph.replay()

    def _present(self, parameters: Sequence[Tensor], limit: float) -> Any:
        """Every address and number that a recording holds."""
        optimizer = self.optimizer
        tensors: list[Tensor] = [*parameters]
        numbers: list[Any] = [limit]
        for group in optimizer.param_groups:
            for name, value in group.items():
                if name == "params":
                    tensors += value
                elif isinstance(value, Tensor):
                    tensors.append(value)
                elif name != "lr":
                    numbers.append(value)
            numbers += [-1 if tensor.grad is None else tensor.grad.data_ptr() for tensor in group["params"]]
            for tensor in group["params"]:
                states = optimizer.state.get(tensor, {}).values()
                numbers += [each.data_ptr() if isinstance(each, Tensor) else each for each in states]
        return [tensor.data_ptr() for tensor in tensors], numbers

    def _set_rates(self) -> None:
        """Bring the tensors of learning rates up to date."""
        groups = self.optimizer.param_groups
        if len(self._rates) != len(groups):
            with torch.inference_mode(False):
                self._rates = [
                    (-1.0, torch.zeros((), dtype=torch.float32, device=self._device)) for _ in groups
                ]
            self._graph = None
        for i, group in enumerate(groups):
            rate, (known, tensor) = group["lr"], self._rates[i]
            if not isinstance(rate, Tensor) and rate != known:
                tensor.fill_(rate)
                self._rates[i] = rate, tensor

    @contextmanager
    def _rates_as_tensors(self) -> Iterator[None]:
        groups = self.optimizer.param_groups
        given = [group["lr"] for group in groups]
        for group, (_, tensor) in zip(groups, self._rates, strict=True):
            if not isinstance(group["lr"], Tensor):
                group["lr"] = tensor
        try:
            yield
        finally:
            for group, rate in zip(groups, given, strict=True):
                group["lr"] = rate

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_graph": None, "_key": None, "_rates": []}


def clear_in_place(optimizer: torch.optim.Optimizer) -> None:
    """Zero the gradients where they are: a recorded step reads them there."""
    gradients = [
        parameter.grad
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    if gradients:
        torch._foreach_zero_(gradients)
