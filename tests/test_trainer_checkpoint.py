"""checkpoint.pt: what it may hold, and that it survives."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hotloop.trainer import checkpoint
from hotloop.trainer.checkpoint import load_checkpoint, save_checkpoint
from hotloop.trainer.random_state import rng_state, set_rng_state


class Colour(IntEnum):
    RED = 1


def test_round_trip_keeps_values_types_and_dtypes(tmp_path: Path) -> None:
    state: dict[str, Any] = {
        "tensor": torch.arange(6, dtype=torch.int32).reshape(2, 3),
        "array": np.linspace(0, 1, 4).reshape(2, 2).T,
        "flags": np.array([True, False]),
        "scalar": np.float64(0.1),
        "enum": Colour.RED,
        "nested": {"list": [1, 2.5, None, "x", True], "tuple": (1, (2,))},
        "numbered": {0: 1.0, 1: 2.0},
        "big": 2**127 + 1,
    }
    save_checkpoint(tmp_path / "c.pt", state)
    back = load_checkpoint(tmp_path / "c.pt")
    assert torch.equal(back["tensor"], state["tensor"])
    assert back["tensor"].dtype == torch.int32
    for name in ("array", "flags"):
        np.testing.assert_array_equal(back[name], state[name])
        assert back[name].dtype == state[name].dtype
    assert back["nested"] == state["nested"]
    assert back["nested"]["list"][4] is True
    assert (back["scalar"], back["enum"], back["big"]) == (0.1, 1, 2**127 + 1)
    assert back["numbered"] == {0: 1.0, 1: 2.0}


def test_file_opens_with_weights_only(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save_checkpoint(
        tmp_path / "c.pt",
        {"policy": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": rng_state()},
    )
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    torch.testing.assert_close(content["policy"]["weight"], model.weight.detach(), rtol=0, atol=0)


def test_an_array_is_copied_not_aliased(tmp_path: Path) -> None:
    array = np.zeros(3)
    encoded = checkpoint.encode(array)
    array[:] = 1
    np.testing.assert_array_equal(checkpoint.decode(encoded), np.zeros(3))


def test_what_it_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"checkpoint\.environment\.things\[1\].*object"):
        save_checkpoint(tmp_path / "c.pt", {"environment": {"things": [1, object()]}})
    with pytest.raises(TypeError, match="no torch dtype"):
        save_checkpoint(tmp_path / "c.pt", {"names": np.array(["a", "b"])})
    assert list(tmp_path.iterdir()) == []


def test_failed_save_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"epoch": 1})

    def disk_full(content: object, stream: Any) -> None:
        stream.write(b"half a checkpoint")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(
        OSError,
        match=r"c\.pt could not be written \(No space left on device\); the one that was there is kept",
    ):
        save_checkpoint(path, {"epoch": 2})
    monkeypatch.undo()
    assert load_checkpoint(path)["epoch"] == 1
    assert list(tmp_path.iterdir()) == [path]


LIMITED = """
import resource, signal, sys, torch
from pathlib import Path
from hotloop.trainer.checkpoint import load_checkpoint, save_checkpoint

path = Path(sys.argv[1])
save_checkpoint(path, {"epoch": 1, "w": torch.arange(3000.0)})
size = path.stat().st_size
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
told = set()
for limit in [*range(0, size, 499), size - 1]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        save_checkpoint(path, {"epoch": 2, "w": torch.zeros(3000)})
    except OSError as error:
        told.add(str(error))
    else:
        print("written in spite of the limit", limit)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    state = load_checkpoint(path)
    assert state["epoch"] == 1 and torch.equal(state["w"], torch.arange(3000.0))
    assert list(path.parent.iterdir()) == [path]
print(*told)
"""


def test_a_file_that_cannot_grow_at_any_byte_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    """The system refuses to write on at byte k (RLIMIT_FSIZE), for many k."""
    path = tmp_path / "c.pt"
    command = [sys.executable, "-c", LIMITED, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    kept = f"{path} could not be written (File too large); the one that was there is kept\n"
    assert result.stdout == f"[Errno 27] {kept}"


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    state: dict[str, Any] = {"policy": {"w": torch.randn(32, 32)}, "epoch": 7, "rng": torch.get_rng_state()}
    save_checkpoint(path, state)
    content, draw = path.read_bytes(), random.Random(0)
    refused = 0
    for number in range(600):
        damaged = bytearray(content)
        place = draw.randrange(len(content))
        if number % 3 == 0:
            del damaged[place:]
        else:
            damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            back = load_checkpoint(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
        else:  # a bit of the padding between records
            assert back["epoch"] == 7
            assert torch.equal(back["policy"]["w"], state["policy"]["w"])
            assert torch.equal(back["rng"], state["rng"])
    assert refused > 500


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_executes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save({"format": checkpoint.FORMAT, "epoch": Bomb(tmp_path / "bang")}, path)
    with pytest.raises(ValueError, match=r"c\.pt is not a readable checkpoint: Weights only load failed"):
        load_checkpoint(path)
    assert not (tmp_path / "bang").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn zip"])
def test_damaged_file_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.pt"):
        load_checkpoint(path)


def test_missing_file_and_other_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.pt")
    monkeypatch.setattr(checkpoint, "FORMAT", 999)
    save_checkpoint(tmp_path / "c.pt", {})
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format 999"):
        load_checkpoint(tmp_path / "c.pt")


def test_rng_state_continues_the_sequence() -> None:
    torch.manual_seed(3)
    torch.rand(5)
    state = rng_state()
    expected = torch.rand(7)
    set_rng_state(state)
    assert torch.equal(torch.rand(7), expected)
