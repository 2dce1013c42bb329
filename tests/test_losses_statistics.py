"""Statistics accumulate where the tensors are and are read once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hotloop.losses import StatisticTracker


class HostReads(TorchDispatchMode):
    """Counts reads of tensor data by the host: .item(), .tolist(), float(), bool(), copies to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_means_are_weighted_by_what_each_observation_counts() -> None:
    tracker = StatisticTracker()
    tracker.add({"a": torch.tensor(1.0), "b": 2.0}, weight=3.0)
    tracker.add({"a": torch.tensor([5.0]), "b": torch.tensor(6)}, weight=torch.tensor(1))
    assert tracker.means() == {"a": 2.0, "b": 3.0}


def test_unweighted_observations_count_alike() -> None:
    tracker = StatisticTracker()
    for value in (1.0, 2.0, 6.0):
        tracker.add({"a": torch.tensor(value)})
    assert tracker.means() == {"a": 3.0}


@pytest.mark.parametrize("count", [1, 64, 65])
def test_means_that_one_tensor_holds_are_added_up_at_once(count: int) -> None:
    """Few without torch's kernels, many with them; in several phases of one tracker."""
    tracker, held = StatisticTracker(), torch.rand(2, count, 4, dtype=torch.float64) + 0.5
    for phase in held:
        for means in phase:
            tracker.add_means(("a", "b"), means, (1.0, 0.25))
        tracker.totals()
    weights = held[..., 2].sum().item()
    for name, column, scale in (("a", 0, 1.0), ("b", 1, 0.25)):
        total, weight = tracker.totals()[name]
        assert total == pytest.approx(scale * (held[..., column] * held[..., 2]).sum().item(), rel=1e-12)
        assert weight == pytest.approx(weights, rel=1e-12)


def test_a_name_in_several_groups_is_one_mean_in_order_of_first_use() -> None:
    tracker = StatisticTracker()
    tracker.add({"a": 1.0, "b": 10.0})
    tracker.add({"c": 7.0})
    tracker.add({"b": 40.0}, weight=2.0)
    assert list(tracker.means().items()) == [("a", 1.0), ("b", 30.0), ("c", 7.0)]
    assert tracker.total("b").tolist() == [90.0, 3.0]
    assert tracker.total("nothing").tolist() == [0.0, 0.0]


def test_observations_without_weight_change_nothing_and_alone_give_zero() -> None:
    tracker = StatisticTracker()
    tracker.add({"a": 5.0}, weight=0.0)
    assert tracker.means() == {"a": 0.0}
    tracker.add({"a": 3.0}, weight=torch.tensor(2))
    assert tracker.means() == {"a": 3.0}


def test_sums_are_exact_beyond_single_precision() -> None:
    tracker = StatisticTracker()
    tracker.add({"a": 1.0}, weight=float(2**24))
    tracker.add({"a": 0.0}, weight=torch.tensor(1))
    assert tracker.total("a").tolist() == [2**24, 2**24 + 1]


def test_no_number_is_hidden() -> None:
    tracker = StatisticTracker()
    tracker.add({"a": torch.tensor(math.nan), "b": 1.0})
    tracker.add({"a": 1.0, "b": 1.0})
    means = tracker.means()
    assert math.isnan(means["a"])
    assert means["b"] == 1.0


def test_tracked_tensors_are_detached_and_copied() -> None:
    tracker = StatisticTracker()
    value = torch.tensor(2.0, requires_grad=True)
    tracker.add({"a": value * 3})
    total = tracker.total("a")
    assert not total.requires_grad
    with torch.no_grad():
        value.fill_(100.0)
    assert tracker.means() == {"a": 6.0}


def test_adding_never_reads_the_device_and_means_transfer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = StatisticTracker()
    with HostReads() as reads:
        torch.ones(()).item()
    assert reads.count == 1
    with HostReads() as reads:
        for i in range(5):
            tracker.add({"a": torch.tensor(float(i)), "b": 1.0}, weight=torch.tensor(2))
            tracker.add({"c": torch.tensor(1.0)})
        tracker.total("a")
    assert reads.count == 0

    transfers: list[int] = []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: transfers.append(self.numel()) or tolist(self))
    with HostReads() as reads:
        assert tracker.means() == {"a": 2.0, "b": 1.0, "c": 1.0}
    assert transfers == [5]
    assert reads.count == 0


def test_clear_forgets() -> None:
    tracker = StatisticTracker()
    tracker.add({"a": 1.0})
    tracker.clear()
    assert tracker.means() == {}
    tracker.add({})
    assert tracker.means() == {}


def test_only_scalars_are_statistics() -> None:
    tracker = StatisticTracker()
    with pytest.raises(ValueError, match=r"StatisticTracker.add: a must be .* one element, got shape \[2\]"):
        tracker.add({"a": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"weight must be a tensor of one element, got shape \[3\]"):
        tracker.add({"a": 1.0}, weight=torch.zeros(3))
    assert tracker.means() == {}


def test_numbers_keep_their_digits_and_half_precision_tensors_accumulate_in_double() -> None:
    tracker = StatisticTracker()
    tracker.add({"a": 0.1, "b": torch.tensor(1.0, dtype=torch.bfloat16)})
    tracker.add({"a": 0.1, "b": torch.tensor(2.0**-20, dtype=torch.bfloat16)})
    assert tracker.means() == {"a": 0.1, "b": 0.5 + 2.0**-21}
