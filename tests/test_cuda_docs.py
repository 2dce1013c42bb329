"""What the documents say of the CUDA kernels is what the sources do."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest

from cuda_host_support import CUDA_SOURCES

pytestmark = pytest.mark.skipif(
    not CUDA_SOURCES.is_dir(), reason="an installed package carries no C++ sources"
)

ROOT = CUDA_SOURCES.parents[1]
DOCS = ROOT / "docs"


def test_the_tables_of_figures_are_those_of_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    spec = importlib.util.spec_from_file_location("gpu_figures", ROOT / "tools/gpu_figures.py")
    assert spec is not None
    assert spec.loader is not None
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    page, report = figures.PAGE.read_text(), json.loads(figures.RESULTS.read_text())
    assert figures.written(page, report) == page
    assert figures.written(page, {**report, "ops": report["ops"][1:]}) != page
    assert report["machine"]["device"] in page


def test_the_record_of_tests_is_of_a_gpu_and_without_a_failure() -> None:
    record = json.loads((ROOT / "benchmarks/results/gpu_tests.json").read_text())
    assert record["devices"]
    assert record["passed"] > 3000
    assert record["failed"] == record["error"] == 0


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
