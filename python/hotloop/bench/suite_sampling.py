"""The suite `sampling`: the draw alone, and a whole prioritised minibatch of a quarter of the segments."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

import hotloop
from hotloop import ops
from hotloop.bench.case import FLOOR, Case, Contestant, DisagreementError, floor
from hotloop.bench.rollout_keys import KEYS, STEP_BYTES, fill
from hotloop.bench.suite import Options
from hotloop.context import SamplingConfig
from hotloop.ops import reference
from hotloop.ops.sample_segments import LAWS

SHAPES = ((64, 64), (1024, 64), (4096, 128), (16384, 64), (64, 2048))
MINIBATCHES = 4
ALPHA, BETA = 0.8, 0.6
_WITH_PRIORITIES = ("successive", "with_replacement", "systematic")


def cases(options: Options) -> Iterator[Case]:
    for shape in options.shapes or SHAPES:
        if shape[0] % MINIBATCHES:
            raise ValueError(
                f"sampling: rows must be a multiple of {MINIBATCHES} (minibatches), got {shape[0]}x{shape[1]}"
            )
        if options.wants("draw"):
            yield draw_case(shape)
        if options.wants("minibatch"):
            yield Minibatch(shape).case()


def draw_bytes(segments: int) -> int:
    """Priorities read once, indices (int64) and weights (float32) written once."""
    return 4 * segments + 12 * (segments // MINIBATCHES)


def draw_case(shape: tuple[int, int]) -> Case:
    """Every law beside torch's generators. Each call draws the next minibatch of an endless training."""
    segments = shape[0]
    count = segments // MINIBATCHES
    g = torch.Generator().manual_seed(0)
    priorities = torch.rand(segments, generator=g) ** 2

    def ours(law: str) -> Contestant:
        out = torch.empty(count, dtype=torch.int64), torch.empty(count)
        number = itertools.count()

        def draw() -> object:
            epoch, minibatch = divmod(next(number), MINIBATCHES)
            return ops.sample_segments(
                priorities if law in _WITH_PRIORITIES else None, segments, count,
                law=law, seed=0, epoch=epoch, minibatch=minibatch, beta=BETA, out=out,
            )  # fmt: skip

        return Contestant(f"hotloop.ops.sample_segments {law}", "ours", [draw])

    contestants = [
        floor(draw_bytes(segments), 1),
        *map(ours, LAWS),
        Contestant(
            "torch.multinomial without replacement",
            "torch",
            [lambda: torch.multinomial(priorities, count)],
            note="no weights; compare with successive",
        ),
        Contestant(
            "torch.multinomial with replacement",
            "torch",
            [lambda: torch.multinomial(priorities, count, replacement=True)],
            note="no weights",
        ),
        Contestant("torch.randperm", "torch", [lambda: torch.randperm(segments)[:count]], note="permutation"),
    ]
    return Case(
        "sampling", "draw", shape, draw_bytes(segments), contestants,
        check=partial(_check_draws, priorities, segments, count),
    )  # fmt: skip


def _check_draws(priorities: Tensor, segments: int, count: int) -> None:
    """Every law against its slow twin."""
    for law in LAWS:
        weighted = priorities if law in _WITH_PRIORITIES else None
        key: dict[str, Any] = {"law": law, "seed": 0, "epoch": 3, "minibatch": 1, "beta": BETA}
        indices, weights = ops.sample_segments(weighted, segments, count, **key)
        expected = reference.sample_segments(weighted, segments, count, **key)
        if not torch.equal(indices, expected[0]):
            raise DisagreementError(f"draw: {law} draws other segments than its reference")
        if not torch.allclose(weights, expected[1], rtol=1e-5, atol=0.0):
            raise DisagreementError(f"draw: the weights of {law} differ from its reference's")


class Drawn(NamedTuple):
    """A minibatch: `indices` [k], `weights` [k], the leaves `[k, T, ...]`."""

    indices: Tensor
    weights: Tensor
    leaves: Any
    advantages: Tensor


class Minibatch:
    """Priorities from advantages, the draw, its weights, and a copy of the drawn rows of every key."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = segments, horizon = shape
        self.count = segments // MINIBATCHES
        self.experience = hotloop.Experience(
            total_agents=segments,
            batch_size=segments * horizon,
            bptt_horizon=horizon,
            minibatch_size=self.count * horizon,
            experience_spec=KEYS,
            sampling_config=SamplingConfig(method="prioritized", prio_alpha=ALPHA, prio_beta0=BETA),
        )
        self.buffer: TensorDict = self.experience.buffer
        fill(self.buffer)
        self.leaves = [self.buffer[key] for key in KEYS]
        self.advantages = torch.randn(segments, horizon, generator=torch.Generator().manual_seed(0))
        self.everything = [*self.leaves, self.advantages]
        self.out = [torch.empty(self.count, *leaf.shape[1:], dtype=leaf.dtype) for leaf in self.everything]
        kept = zip((*KEYS, "advantages"), self.out, strict=True)
        self.plan = ops.GatherPlan(dict(kept))
        self.number = itertools.count()
        self.drawn = torch.empty(self.count, dtype=torch.int64), torch.empty(self.count)
        self.priorities = torch.empty(segments)
        self.scratch = torch.empty(self.advantages.numel() // 2)

    @staticmethod
    def moved(segments: int, horizon: int) -> int:
        """The advantages are read for the priorities; the rows of the minibatch, their advantages too, are
        read and written."""
        copied = segments // MINIBATCHES * horizon * (STEP_BYTES + 4)
        return 4 * segments * horizon + 2 * copied

    def case(self) -> Case:
        contestants = [
            Contestant(FLOOR, "floor", [self.copy]),
            Contestant("hotloop.ops (priorities, draw, gather)", "ours", [self.ours]),
            Contestant("the same with GatherPlan", "ours", [self.by_plan]),
            Contestant(
                "hotloop.Experience.sample",
                "ours",
                [self.sample],
                note="priorities once an epoch, as it does",
            ),
            Contestant("priorities, multinomial, buffer[idx].clone()", "loop", [self.reference]),
            Contestant("priorities, multinomial, index_select(out=)", "torch", [self.index_select]),
        ]
        return Case(
            "sampling", "minibatch", self.shape, self.moved(*self.shape), contestants, check=self.check,
            sets=MINIBATCHES,
        )  # fmt: skip

    def copy(self) -> None:
        first = next(self.number) % MINIBATCHES * self.count
        self.scratch.copy_(self.advantages.view(-1)[: len(self.scratch)])
        for leaf, out in zip(self.everything, self.out, strict=True):
            out.copy_(leaf[first : first + self.count])

    def _draw_natively(self) -> tuple[Tensor, Tensor]:
        epoch, minibatch = divmod(next(self.number), MINIBATCHES)
        priorities = ops.row_priorities(self.advantages, ALPHA, out=self.priorities)
        return ops.sample_segments(
            priorities, self.shape[0], self.count,
            law="successive", seed=0, epoch=epoch, minibatch=minibatch, beta=BETA, out=self.drawn,
        )  # fmt: skip

    def ours(self) -> Drawn:
        indices, weights = self._draw_natively()
        leaves = ops.gather(self.everything, indices, out=self.out)
        return Drawn(indices, weights, dict(zip(KEYS, leaves, strict=False)), leaves[-1])

    def by_plan(self) -> Drawn:
        indices, weights = self._draw_natively()
        self.plan.gather(self.everything, indices)
        return Drawn(indices, weights, self.plan.out, self.plan.out["advantages"])

    def sample(self) -> Drawn:
        epoch, minibatch = divmod(next(self.number), MINIBATCHES)
        td = self.experience.sample(
            minibatch, 0, self.experience.batch_size, self.experience.batch_size, self.advantages,
            draw=epoch, reuse=True,
        )  # fmt: skip
        return Drawn(td["indices"][:, 0], td["prio_weights"][:, 0], td["sampled_mb"], td["advantages"])

    def _draw(self) -> tuple[Tensor, Tensor]:
        weight = torch.nan_to_num(self.advantages.abs().sum(dim=1) ** ALPHA, 0.0, 0.0, 0.0)
        p = (weight + 1e-6) / (weight.sum() + 1e-6)
        indices = torch.multinomial(p, self.count)
        return indices, (self.shape[0] * p[indices]) ** -BETA

    def reference(self) -> Drawn:
        indices, weights = self._draw()
        return Drawn(indices, weights, self.buffer[indices].clone(), self.advantages[indices])

    def index_select(self) -> Drawn:
        indices, weights = self._draw()
        for leaf, out in zip(self.everything, self.out, strict=True):
            torch.index_select(leaf, 0, indices, out=out)
        return Drawn(indices, weights, dict(zip(KEYS, self.out, strict=False)), self.out[-1])

    def check(self) -> None:
        """Everybody's leaves are the buffer's rows, everybody's weights those of the same formula."""
        weight = self.advantages.double().abs().sum(dim=1) ** ALPHA
        p = (weight + 1e-6) / (weight.sum() + 1e-6)
        draws: dict[str, Callable[[], Drawn]] = {
            "hotloop.ops": self.ours,
            "GatherPlan": self.by_plan,
            "Experience.sample": self.sample,
            "buffer[idx].clone()": self.reference,
            "index_select(out=)": self.index_select,
        }
        for name, draw in draws.items():
            got = draw()
            if len(set(got.indices.tolist())) != self.count:
                raise DisagreementError(f"minibatch: {name} drew a segment twice")
            exact = (self.shape[0] * p[got.indices]) ** -BETA
            if not torch.allclose(got.weights.double(), exact, rtol=1e-4, atol=0.0):
                raise DisagreementError(f"minibatch: the weights of {name} are wrong")
            if not torch.equal(got.advantages, self.advantages[got.indices]):
                raise DisagreementError(f"minibatch: the advantages of {name} are not those of its rows")
            for key in KEYS:
                for i, row in enumerate(got.indices.tolist()):
                    if not torch.equal(got.leaves[key][i], self.buffer[key][row]):
                        raise DisagreementError(f"minibatch: row {i} of {key} of {name} is not {row}")
