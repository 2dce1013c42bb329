"""checkpoint.pt: what it may hold, and that it survives."""

from __future__ import annotations

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

    def disk_full(content: object, file: Path) -> None:
        Path(file).write_bytes(b"half a checkpoint")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, {"epoch": 2})
    monkeypatch.undo()
    assert load_checkpoint(path)["epoch"] == 1
    assert list(tmp_path.iterdir()) == [path]


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
