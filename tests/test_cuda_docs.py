"""What the documents say of the CUDA kernels is what the sources do."""

from __future__ import annotations

import re

import pytest

from cuda_host_support import CUDA_SOURCES, host_module

pytestmark = pytest.mark.skipif(
    not CUDA_SOURCES.is_dir(), reason="an installed package carries no C++ sources"
)

DOCS = CUDA_SOURCES.parents[1] / "docs"
PEAK = 3.35e12  # bytes a second


def predictions() -> list[tuple[int, int, str, float, float, float, float]]:
    text = (DOCS / "performance.md").read_text().partition("## CUDA: predictions")[2]
    row = re.compile(
        r"^\| (\d+) x (\d+) \| (\w+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) % \|$", re.MULTILINE
    )
    return [
        (int(rows), int(steps), path, float(moved), float(floor), float(time), float(share))
        for rows, steps, path, moved, floor, time, share in row.findall(text)
    ]


def test_there_are_twenty_shapes_and_the_published_ones_among_them() -> None:
    shapes = {(rows, steps) for rows, steps, *_ in predictions()}
    assert len(shapes) == 20
    assert {(8192, 1024), (32768, 8)} <= shapes


def test_paths_bytes_and_floors_are_right() -> None:
    for rows, steps, path, moved, floor, time, share in predictions():
        assert path == host_module().scan_path(rows, steps, False, False)
        assert moved == pytest.approx(rows * steps * 20 / 1e6, abs=0.006)  # four arrays read, one written
        assert floor == pytest.approx(rows * steps * 20 / PEAK * 1e6, abs=0.06)
        assert share == pytest.approx(100 * (rows * steps * 20 / PEAK * 1e6) / time, abs=100 / time + 1)
        assert time > floor


@pytest.mark.parametrize("name", ["performance.md", "cuda.md"])
def test_a_prediction_is_called_one(name: str) -> None:
    text = (DOCS / name).read_text()
    assert re.search(
        r"no (kernel|line of this) has run on a\s+GPU|No line of this has run on a\s+GPU", text, re.IGNORECASE
    )


def test_the_table_of_kernels_covers_every_kernel_of_the_sources() -> None:
    kernels = set()
    for path in CUDA_SOURCES.glob("*.cuh"):
        kernels |= set(re.findall(r"\b(\w+)_kernel\(", path.read_text()))
    listed = {
        re.split(r"[<`]", line)[1]
        for line in (DOCS / "cuda.md").read_text().splitlines()
        if line.startswith("| `")
    }
    assert kernels - listed == set()


def test_the_table_of_ops_names_every_launcher() -> None:
    text = (DOCS / "cuda.md").read_text().partition("## What there is")[2].partition("##")[0]
    yes = " ".join(line for line in text.splitlines() if "| yes |" in line)
    for path in CUDA_SOURCES.glob("*.cu"):
        stem = path.stem
        named = {
            "statistics": "summary",
            "last_actions": "LastActions",
            "scatter": "scatter_",
            "store": "store_",
        }
        assert named.get(stem, stem) in yes
