"""Draws the plots of the documentation from the recorded results and from the ops themselves.

`docs/images/advantages.svg` and `loops.svg` show what `benchmarks/results/*.json` holds, `sampling.svg` what
`hotloop.ops.sample_segments` draws. Running it again without new results gives the same pictures.

usage: python tools/draw_results.py [folder]
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hotloop import ops

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
OURS, OTHERS, LIMIT = "#4f46e5", "#94a3b8", "#f59e0b"
SAMPLED_SEGMENTS, SAMPLED_COUNT, SAMPLED_DRAWS = 64, 16, 4000
# Without it two runs differ in the ids of their clip paths, and in the date.
mpl.rcParams["svg.hashsalt"] = "hotloop"
mpl.rcParams["svg.fonttype"] = "none"
mpl.rcParams["font.size"] = 10


def load(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def bare_axes(figure: Figure, rows: int, columns: int) -> list[Axes]:
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return axes


def advantages() -> Figure:
    """Each contestant's time as a multiple of the time to copy the same bytes, [4096, 128], one thread."""
    (run,) = (run for run in load("advantages.json")["runs"] if run["threads"] == 1)
    titles = ("puff_advantage 4096x128 batch-major", "gae 4096x128 batch-major", "gae 4096x128 time-major")
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    for axis, title in zip(bare_axes(figure, 1, 3), titles, strict=True):
        (case,) = (case for case in run["cases"] if case["title"] == title)
        rivals = sorted(
            (c for c in case["contestants"] if c["kind"] != "floor"), key=lambda c: -c["to_floor"]
        )
        names = [c["name"].replace("hotloop.ops.", "hotloop ").split(" (")[0] for c in rivals]
        colours = [OURS if c["kind"] == "ours" else OTHERS for c in rivals]
        bars = axis.barh(range(len(rivals)), [c["to_floor"] for c in rivals], 0.5, color=colours)
        axis.bar_label(bars, [f"{c['to_floor']:.1f}x" for c in rivals], padding=3, fontsize=8)
        axis.set_yticks([])
        for at, name in enumerate(names):
            axis.text(1.05, at + 0.26, name, va="bottom", fontsize=8)
        axis.set(xscale="log", xlim=(1, 1500), ylim=(-0.6, len(rivals) - 0.2))
        axis.set_title(title.replace(" 4096x128", "\n[4096, 128]"), fontsize=10)
        axis.set_xlabel("times the copy of the same bytes")
    return figure


def loops() -> Figure:
    """Agent steps per second of whole loops, one thread, freed memory kept."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    races = load("loops.json")["races"]
    for axis, race in zip(bare_axes(figure, 1, len(races)), races, strict=True):
        kept = [c for c in race["contestants"] if c["memory"] == "kept"]
        kept.sort(key=lambda c: c["steps_per_second"]["median"])
        colours = {"hotloop": OURS, "bare": LIMIT}
        for at, contestant in enumerate(kept):
            rate = {key: value / 1000 for key, value in contestant["steps_per_second"].items()}
            spread = [[rate["median"] - rate["minimum"]], [rate["maximum"] - rate["median"]]]
            axis.barh(
                at, rate["median"], xerr=spread, color=colours.get(contestant["name"], OTHERS),
                error_kw={"elinewidth": 0.8, "capsize": 2, "ecolor": "#334155"},
            )  # fmt: skip
        axis.set_yticks(range(len(kept)), [c["name"] for c in kept], fontsize=9)
        job = race["job"]  # titles as wide as the drawing below them
        axis.set_title("\n".join([job["name"], *textwrap.wrap(job["title"], 36)]), fontsize=8)
        axis.set_xlabel("thousand agent steps a second")
    return figure


def sampling() -> Figure:
    """How often each segment is in a minibatch of 16 of 64, by priority, and its mean weight, beta = 1."""
    priorities = torch.linspace(0.2, 1.0, SAMPLED_SEGMENTS).square()
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    often, weight = bare_axes(figure, 1, 2)
    colours = {"permutation": OTHERS, "successive": "#10b981", "with_replacement": LIMIT, "systematic": OURS}
    for law, colour in colours.items():
        count, total = torch.zeros(SAMPLED_SEGMENTS), torch.zeros(SAMPLED_SEGMENTS)
        for epoch in range(SAMPLED_DRAWS):
            indices, weights = ops.sample_segments(
                priorities, SAMPLED_SEGMENTS, SAMPLED_COUNT, law=law, seed=0, epoch=epoch, minibatch=0
            )
            count.index_add_(0, indices, torch.ones(SAMPLED_COUNT))
            total.index_add_(0, indices, weights)
        often.plot(priorities, count / SAMPLED_DRAWS, ".", color=colour, label=law, markersize=4)
        weight.plot(priorities, total / SAMPLED_DRAWS, ".", color=colour, label=law, markersize=4)
    often.set(xlabel="priority", ylabel="times in a minibatch")
    weight.set(xlabel="priority", ylabel="weight, summed over its draws", ylim=(0, 0.5))
    weight.axhline(SAMPLED_COUNT / SAMPLED_SEGMENTS, color="#334155", linewidth=0.8, linestyle="--")
    often.legend(frameon=False, fontsize=9)
    return figure


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]) if arguments else ROOT / "docs/images"
    for draw in (advantages, loops, sampling):
        path = folder / f"{draw.__name__}.svg"
        draw().savefig(path, metadata={"Date": None}, facecolor="white")
        # matplotlib ends lines with blanks
        path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
