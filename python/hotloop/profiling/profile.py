"""`hotloop.profile()`: where the time of a training loop goes, whatever loop it is."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from hotloop.profiling.clock import PhaseClock
from hotloop.profiling.hooks import Hooks
from hotloop.profiling.report import make_report, text
from hotloop.profiling.sampler import LineSampler

_current: Profile | None = None


class Profile:
    """A profile that is being taken, or was; see `profile`."""

    def __init__(
        self,
        environments: Iterable[tuple[Any, str]] = (),
        nvtx: bool = False,
        trace: str | os.PathLike[str] | None = None,
    ) -> None:
        if nvtx and not torch.cuda.is_available():
            raise ValueError("hotloop.profile: nvtx must be False without CUDA, got True")
        self._environments = tuple(environments)
        self._nvtx = nvtx
        self._trace = None if trace is None else Path(trace)
        self._torch: Any = None
        self._report: dict[str, Any] | None = None

    def __enter__(self) -> Profile:
        global _current
        if _current is not None:
            raise RuntimeError("hotloop.profile: another profile is being taken")
        if self._trace is not None:
            self._torch = torch.profiler.profile()
            self._torch.__enter__()
        self._usage = _usage()
        self._clock = PhaseClock(self._listener())
        self._hooks = Hooks(self._clock, self._environments)
        self._sampler = LineSampler(self._clock)
        try:
            self._hooks.install()
        except BaseException:
            self._hooks.remove()
            raise
        self._sampler.start()
        _current = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current
        _current = None
        self._clock.stop()
        self._sampler.stop()
        self._hooks.remove()
        after = _usage()
        usage = {name: after[name] - value for name, value in self._usage.items()}
        if self._torch is not None:
            self._torch.__exit__(None, None, None)
            self._torch.export_chrome_trace(str(self._trace))
        self._report = make_report(self._clock, self._hooks, self._sampler, usage)

    def phase(self, name: str) -> AbstractContextManager[None]:
        """A phase of one's own, for the time of a `with` block: ``with p.phase("environment"): ...``"""
        return self._clock.phase(name)

    def report(self) -> dict[str, Any]:
        """What was found, as plain values; see `hotloop.profiling.report.make_report`.

        Raises:
            RuntimeError: the profile is still being taken.
        """
        if self._report is None:
            raise RuntimeError("Profile.report: the profile must be over, got one that is being taken")
        return self._report

    def text(self) -> str:
        """The report as tables."""
        return text(self.report())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the report, as JSON or HTML by the name's ending. ValueError for another ending."""
        target = Path(path)
        if target.suffix == ".json":
            target.write_text(json.dumps(self.report(), indent=1) + "\n")
        elif target.suffix == ".html":
            from hotloop.profiling.html import render

            target.write_text(render(self.report()))
        else:
            raise ValueError(f"Profile.save: path must end in .json or .html, got {target.name}")

    def _listener(self) -> Callable[[str | None], None] | None:
        """What marks phases for others: NVTX ranges, and ranges of torch.profiler's trace."""
        listeners: list[Callable[[str | None], None]] = []
        if self._nvtx:
            listeners.append(_mark_nvtx)
        if self._trace is not None:
            listeners.append(_Ranges().mark)
        if not listeners:
            return None

        def mark_all(name: str | None) -> None:
            for mark in listeners:
                mark(name)

        return mark_all


class _Ranges:
    """Phases as ranges of torch.profiler."""

    def __init__(self) -> None:
        self._open: list[Any] = []

    def mark(self, name: str | None) -> None:
        if name is None:
            self._open.pop().__exit__(None, None, None)
        else:
            self._open.append(torch.profiler.record_function(f"hotloop.profile: {name}"))
            self._open[-1].__enter__()


def _mark_nvtx(name: str | None) -> None:
    if name is None:
        torch.cuda.nvtx.range_pop()
    else:
        torch.cuda.nvtx.range_push(name)


def profile(
    *,
    environments: Iterable[tuple[Any, str]] = (),
    trace: str | os.PathLike[str] | None = None,
    nvtx: bool = False,
) -> Profile:
    """Takes the profile of what runs in a `with` block::

        with hotloop.profile() as p:
            train()
        print(p.text())
        p.save("profile.html")

    Every moment of the block belongs to one phase (environment, policy, loss, backward, optimizer,
    hotloop's own parts,
    Python glue ...), so that the phases add up to the wall time. Recognised are environments of
    Gymnasium, EnvPool,
    PufferLib, PettingZoo, Stable-Baselines3, rsl_rl and TorchRL, the outermost `torch.nn.Module` that
    is called,
    `backward`, `torch.optim` optimizers, gradient clipping, `torch.distributions` and hotloop's ops and
    loop. It is the
    thread that enters the block whose time is taken, on the host: what a GPU does meanwhile shows in a
    `trace`.

    Args:
        environments: functions that step environments besides, as `(class or module, name)`.
        trace: where to write a trace of torch.profiler for chrome://tracing or Perfetto, phases
        included. This costs much
            more than the profile itself: for runs of some seconds.
        nvtx: mark the phases as NVTX ranges, for Nsight. It has never been run.

    Raises:
        ValueError: `nvtx` without CUDA.
        RuntimeError: when entered while another profile is being taken.
    """
    return Profile(environments, nvtx, trace)


def _usage() -> dict[str, float]:
    """Page faults and seconds in the kernel of this process; nothing where the system does not tell."""
    if sys.platform == "win32":
        return {}
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"page_faults": usage.ru_minflt, "system_seconds": usage.ru_stime, "user_seconds": usage.ru_utime}
