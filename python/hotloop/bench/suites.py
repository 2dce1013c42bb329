"""The suites by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hotloop.bench import suite_advantages, suite_call, suite_sampling, suite_step, suite_store
from hotloop.bench.case import Case
from hotloop.bench.suite import Options

SUITES: dict[str, Callable[[Options], Iterator[Case]]] = {
    "advantages": suite_advantages.cases,
    "sampling": suite_sampling.cases,
    "store": suite_store.cases,
    "step": suite_step.cases,
    "call": suite_call.cases,
}


def absent(name: str, options: Options) -> dict[str, str]:
    """What a suite should measure but cannot, and why."""
    return suite_advantages.absent(options) if name == "advantages" else {}
