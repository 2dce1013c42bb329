"""hotloop inside the trainers that people already have: a module for each.

`HOSTS` holds which there are and the versions that were tested, `status()` says what is installed and
patched; `hotloop integrations` prints it. A module whose host has to be patched has
`install(force=False, verify=False)` and `uninstall()`; the others have classes or functions to be passed or
called instead of the host's.

- `force=True` goes on with a version of the host that was not tested; `allow_untested(host)` does the same
  for modules without `install`.
- `verify=True` (or a number of calls) runs the host's own code beside ours for the first calls and raises
  `VerificationError` where they differ, with the largest difference and its place.
"""

import importlib

from hotloop.integrations.hosts import HOSTS, Host, UntestedHostError, allow_untested, find_host
from hotloop.integrations.patches import status
from hotloop.integrations.verify import VerificationError

__all__ = [
    "HOSTS",
    "Host",
    "UntestedHostError",
    "VerificationError",
    "allow_untested",
    "find_host",
    "status",
]


def __getattr__(name: str) -> object:
    # so that `hotloop.integrations.sb3` needs no import of its own
    if any(name == host.name for host in HOSTS):
        return importlib.import_module(f"hotloop.integrations.{name}")
    raise AttributeError(f"module 'hotloop.integrations' has no attribute {name!r}")
