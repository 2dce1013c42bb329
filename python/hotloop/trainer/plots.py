"""curve.png: the learning curve of a run, return against agent steps."""

from __future__ import annotations

import math
from pathlib import Path

from hotloop.trainer.files import write_atomically
from hotloop.trainer.metrics import read_metrics


def plot_learning_curve(metrics: Path, out: Path, *, title: str, goal: float | None = None) -> bool:
    """Draws `episode_return_mean` of a metrics.csv over `agent_steps` and writes a PNG.

    Args:
        metrics: the CSV file.
        out: the picture, replaced atomically.
        title: heading.
        goal: a return to mark by a dashed line.

    Returns:
        False, and writes nothing, when no episode has ended yet.
    """
    columns = read_metrics(metrics)
    points = [
        (steps, value, wall)
        for steps, value, wall in zip(
            columns["agent_steps"], columns["episode_return_mean"], columns["wall_time"], strict=True
        )
        if not math.isnan(value)
    ]
    if not points:
        return False

    # Figure and Agg canvas directly: pyplot would pick a backend and keep global state in the user's process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(7.0, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps, returns, walls = zip(*points, strict=True)
    axes.plot(steps, returns, color="#1f6feb", linewidth=1.8)
    if goal is not None:
        axes.axhline(goal, color="#57606a", linewidth=1.0, linestyle="--")
        axes.annotate(
            f"goal {goal:g}", (0.01, goal), xycoords=("axes fraction", "data"), va="bottom", color="#57606a"
        )
    axes.set_title(title)
    axes.set_xlabel(f"agent steps ({walls[-1]:.1f} s of training)")
    axes.set_ylabel("mean return, last 100 episodes")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    with write_atomically(out) as temporary:
        figure.savefig(temporary, format="png")
    return True
