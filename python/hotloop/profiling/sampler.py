"""Where in the source the time goes that belongs to no phase: a thread looks, a hundred times a second."""

from __future__ import annotations

import linecache
import sys
import threading
from collections import Counter
from typing import Any

from hotloop.profiling.clock import GLUE, LOSS, PhaseClock

INTERVAL = 0.01  # seconds; each look costs some 20 us of the thread that is looked at

Line = tuple[str, int, str, str]  # file, line, function, base phase


class LineSampler:
    """Counts the lines at which a clock's thread is while no phase is under way.

    The line is the innermost one outside of the standard library and of installed packages, where there
    is one: it is the user's who can change it.
    """

    def __init__(self, clock: PhaseClock) -> None:
        self._clock = clock
        self._target = threading.get_ident()
        self._counts: Counter[Line] = Counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hotloop-profile", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Looks no more."""
        self._over.set()
        self._thread.join()

    def lines(self) -> list[dict[str, Any]]:
        """By line, most seen first: `file`, `line`, `function`, `phase`, `text` and `share` of what
        belongs to its phase."""
        totals: Counter[str] = Counter()
        for (_, _, _, phase), count in self._counts.items():
            totals[phase] += count
        return [
            {
                "file": file, "line": line, "function": function, "phase": phase,
                "text": linecache.getline(file, line).strip(), "share": count / totals[phase],
            }
            for (file, line, function, phase), count in self._counts.most_common()
        ]  # fmt: skip

    def _watch(self) -> None:
        while not self._over.wait(INTERVAL):
            clock = self._clock
            phase = clock.base
            if clock.stack or phase not in (GLUE, LOSS):
                continue
            frame = sys._current_frames().get(self._target)
            seen = frame
            while seen is not None and _foreign(seen.f_code.co_filename):
                seen = seen.f_back
            seen = frame if seen is None else seen
            if seen is not None:
                code = seen.f_code
                self._counts[code.co_filename, seen.f_lineno, code.co_name, phase] += 1
            del frame, seen


def _foreign(file: str) -> bool:
    """Whether a file is not the user's own: installed, of Python itself, or no file."""
    return "site-packages" in file or file.startswith((sys.base_prefix, "<"))
