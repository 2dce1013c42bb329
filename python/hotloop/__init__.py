"""Compiled kernels for the core training loop of on-policy reinforcement learning."""

# torch comes first: the native module then finds torch's OpenMP runtime already mapped and shares it.
import torch as _torch  # noqa: F401

__version__ = "0.1.0"
