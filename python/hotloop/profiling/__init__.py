"""Where the time of a training loop goes: `hotloop.profile()`, and `hotloop profile -- COMMAND`."""

from hotloop.profiling.profile import Profile, profile

__all__ = ["Profile", "profile"]
