"""checkpoint.pt: everything a run needs to go on as if it had never stopped.

The file holds tensors and plain Python values only, so `torch.load(path, weights_only=True)` opens it.
NumPy arrays, which that mode refuses, travel as tensors under a marker and come back as arrays.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hotloop.trainer.files import write_atomically

#: Raised when the layout changes so that older files can no longer be read.
FORMAT = 2

_ARRAY = "__ndarray__"
_PLAIN = (str, bytes, bool, int, float, type(None))


def encode(value: Any, where: str = "state") -> Any:
    """Turns NumPy arrays and scalars inside nested dicts, lists and tuples into what a checkpoint may hold.

    Raises:
        TypeError: a value is of another type; the message gives its place, such as `environment.rng.state`.
    """
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, np.ndarray):
        try:
            # A copy: the array may be the environment's own buffer, and from_numpy wants it writable.
            return {_ARRAY: torch.from_numpy(np.array(value, order="C"))}
        except TypeError as error:
            raise TypeError(
                f"checkpoint: {where} is an array of {value.dtype}, which has no torch dtype"
            ) from error
    if isinstance(value, np.generic):
        return encode(value.item(), where)
    if isinstance(value, Mapping):
        return {encode(key, where): encode(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, _PLAIN):
        # A subclass, an IntEnum for one, would be pickled by its class and refused on reading.
        plain: Any = next((kind for kind in (bool, int, float, str, bytes) if isinstance(value, kind)), None)
        return None if plain is None else plain(value)
    raise TypeError(
        f"checkpoint: {where} must be tensors, arrays, numbers, strings or nested dicts and lists of them, "
        f"got {type(value).__name__}"
    )


def decode(value: Any) -> Any:
    """Undoes `encode`: arrays come back as arrays, NumPy scalars as Python numbers."""
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return value[_ARRAY].numpy()
        return {key: decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decode(item) for item in value]
    if isinstance(value, tuple):
        return tuple(decode(item) for item in value)
    return value


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes `state` to `path` atomically: a failure at any point leaves the file that was there.

    Raises:
        TypeError: `state` holds something that `encode` refuses.
        OSError: the disk is full, say.
    """
    content = encode({"format": FORMAT, **state}, "checkpoint")
    try:
        # Through Python's file: torch's own would not say why it could not be written.
        with write_atomically(path) as temporary, temporary.open("wb") as stream:
            torch.save(content, stream)
    except (OSError, RuntimeError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__  # torch turns it into an error of its own
        if cause is None:
            raise
        kept = "; the one that was there is kept" if path.exists() else ""
        reason = cause.strerror or str(cause)
        raise OSError(cause.errno, f"{path} could not be written ({reason}){kept}") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads what `save_checkpoint` wrote, tensors on the CPU.

    Nothing in the file is executed (`weights_only`), and its checksums are compared first: torch writes them
    and does not read them, so that a flipped bit would come back as a number like any other.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or is of another format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"load_checkpoint: no checkpoint at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"the checksum of {damaged!r} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # what damaged bytes lead to, zipfile and torch do not narrow down
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"load_checkpoint: {path} is not a readable checkpoint: {reason}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ValueError(f"load_checkpoint: {path} has format {found!r}, this version reads format {FORMAT}")
    state: dict[str, Any] = decode(content)
    return state
