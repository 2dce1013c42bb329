"""Specs: what is accepted, what normalizes to what, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hotloop.spec import merge_specs, normalize_spec, spec_leaves, zeros_from_spec


class Leaf:
    """Looks like torchrl's Unbounded."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.shape = torch.Size(shape)
        self.dtype = dtype


class Composite:
    """Looks like torchrl's Composite: keys(), items() and indexing, and a shape of its own."""

    shape = torch.Size(())

    def __init__(self, **children: Any) -> None:
        self.children = children

    def keys(self) -> Any:
        return self.children.keys()

    def items(self) -> Any:
        return self.children.items()

    def __getitem__(self, key: str) -> Any:
        return self.children[key]


F32 = torch.float32


def test_dict_nested_dict_and_composite_normalize_alike() -> None:
    expected = {"obs": (torch.Size([3, 2]), torch.uint8), "memory": {"h": (torch.Size([5]), F32)}}
    assert normalize_spec({"obs": ((3, 2), torch.uint8), "memory": {"h": (5, F32)}}) == expected
    assert normalize_spec({"obs": [[3, 2], torch.uint8], ("memory", "h"): ([5], F32)}) == expected
    composite = Composite(obs=Leaf((3, 2), torch.uint8), memory=Composite(h=Leaf((5,), F32)))
    assert normalize_spec(composite) == expected
    assert normalize_spec(normalize_spec(composite)) == expected


def test_order_is_kept_and_leaves_are_addressed_like_tensordict() -> None:
    spec = normalize_spec({"b": ((), F32), "n": {"x": ((2,), F32), "a": ((), F32)}, "a": ((), F32)})
    assert [key for key, _ in spec_leaves(spec)] == ["b", ("n", "x"), ("n", "a"), "a"]


def test_zeros_from_spec() -> None:
    spec = normalize_spec({"a": ((2,), torch.int32), "n": {"x": ((), F32)}})
    td = zeros_from_spec(spec, (4, 3), torch.device("cpu"))
    assert td.batch_size == torch.Size([4, 3])
    assert td["a"].shape == (4, 3, 2)
    assert td["a"].dtype == torch.int32
    assert td["n", "x"].shape == (4, 3)
    assert td["n", "x"].count_nonzero() == 0


def test_merge_later_wins() -> None:
    merged = merge_specs({"a": ((), F32), "b": ((), F32)}, Composite(a=Leaf((3,), torch.int64)))
    assert merged == {"a": (torch.Size([3]), torch.int64), "b": (torch.Size([]), F32)}


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        (7, TypeError, "got int"),
        ({"a": None}, TypeError, "'a'"),
        ({"a": (F32, (3,))}, TypeError, "'a'"),
        ({"a": ((3,), "float32")}, TypeError, "'a'"),
        ({"a": ((3.5,), F32)}, TypeError, "shape of 'a'"),
        ({"n": {"a": ((-1,), F32)}}, ValueError, r"'n\.a'.*-1"),
        ({3: ((), F32)}, TypeError, "got 3"),
        ({(): ((), F32)}, TypeError, "keys must be strings"),
        ({("n", "a"): ((), F32), "n": {"a": ((), F32)}}, ValueError, r"duplicate key 'n\.a'"),
        ({"n": ((), F32), ("n", "a"): ((), F32)}, ValueError, r"'n\.a'"),
        ({("n", "a"): ((), F32), "n": ((), F32)}, ValueError, "duplicate key 'n'"),
    ],
)
def test_refused(spec: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        normalize_spec(spec)
