"""What the benchmarks print and write: tables, the HTML report, the machine, the workers' environment."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from hotloop.bench import html, machine, table
from hotloop.bench.machine import MALLOC_KEEP, cache_size, processor_name
from hotloop.bench.runner import environment


def contestant(name: str, kind: str, median: float, to_floor: float | None) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "median": median,
        "minimum": 0.9 * median,
        "maximum": 3.0 * median,
        "spread": 0.125,
        "samples": 40,
        "to_floor": to_floor,
        "difference": None,
        "allowed": None,
        "note": "advantages <only>" if kind == "peer" else "",
    }


@pytest.fixture
def case() -> dict[str, Any]:
    return {
        "suite": "advantages",
        "op": "gae",
        "shape": [4096, 128],
        "layout": "time-major",
        "title": "gae 4096x128 time-major",
        "moved_bytes": 8_925_184,
        "input_sets": 8,
        "windows": 3,
        "dropped_windows": 2,
        "other_load": 0.034,
        "quiet": True,
        "absent": {"skrl": "skrl is not installed"},
        "contestants": [
            contestant("copy of the same bytes", "floor", 400.0, 1.0),
            contestant("hotloop.ops.gae", "ours", 500.0, 1.25),
            contestant("a <b> & c", "peer", 6_000.0, 15.0),
            contestant("slow", "loop", 2_500_000.0, 6250.0),
        ],
    }


@pytest.fixture
def report(case: dict[str, Any]) -> dict[str, Any]:
    wrong = [{"suite": "advantages", "title": "x", "message": "gae <i>differs by 1"}]
    absent = [{"suite": "advantages", "op": "vtrace", "why": "hotloop.ops has no vtrace"}]
    run = {
        "threads": 2,
        "malloc": "keep",
        "environment": {},
        "cases": [case],
        "absent": absent,
        "wrong": wrong,
    }
    return {"format": 1, "machine": machine.describe(), "runs": [run]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.50 us"),
        (12.34, "12.3 us"),
        (999.4, "999 us"),
        (1000.0, "1.00 ms"),
        (123_456.0, "123 ms"),
        (2.5e6, "2.50 s"),
    ],
)
def test_times_have_three_digits_and_a_unit(value: float, text: str) -> None:
    assert table.microseconds(value) == text


def test_the_plain_table(case: dict[str, Any]) -> None:
    lines = table.plain_case(case, 2, "default").splitlines()
    assert lines[0] == "gae 4096x128 time-major"
    assert lines[1].split(", ") == [
        "  2 threads",
        "malloc default",
        "8 sets of inputs in turn",
        "8.93 MB must move",
        "other load 3 %",
        "2 loud windows dropped",
    ]
    assert lines[2].split() == ["contestant", "median", "min", "max", "spread", "x", "floor", "x", "ours"]
    assert re.split(r"\s{2,}", lines[3].strip()) == [
        "copy of the same bytes", "400 us", "360 us", "1.20 ms", "12 %", "1.00", "0.80",
    ]  # fmt: skip
    assert re.split(r"\s{2,}", lines[5].strip())[-2:] == ["15.0", "12.0"]
    assert len({len(line) for line in lines[2:7]}) == 1
    assert lines[7:] == ["  skrl: not run: skrl is not installed", "  a <b> & c: advantages <only>"]


def test_a_loud_machine_and_a_cached_input_are_said(case: dict[str, Any]) -> None:
    case.update(input_sets=1, other_load=0.7, quiet=False, dropped_windows=0)
    text = table.circumstances(case, 1, "default")
    assert "1 thread, " in text
    assert "one set of inputs (in the cache)" in text
    assert text.endswith("other load 70 %: NOT QUIET")
    case["other_load"] = None
    assert "load" not in table.circumstances(case, 1, "default")


@pytest.mark.parametrize("plain", [True, False])
def test_the_printer_cuts_nothing_off(
    case: dict[str, Any], plain: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    printer = table.Printer(plain)
    printer.machine(machine.describe())
    printer.case(case, 1, "default")
    printer.absent("vtrace", "hotloop.ops has no vtrace")
    printer.wrong("gae differs")
    out = capsys.readouterr().out
    for row in table.rows(case):
        (line,) = [line for line in out.splitlines() if line.strip().startswith(row[0])][:1]
        assert [cell.strip() for cell in re.split(r"\s{2,}", line.strip())] == list(row)
    assert "…" not in out
    assert "not measured: vtrace: hotloop.ops has no vtrace" in out
    assert "WRONG RESULT: gae differs" in out
    assert "skrl is not installed" in out


def test_plain_text_where_rich_is_missing(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "has_rich", lambda: False)
    monkeypatch.setitem(__import__("sys").modules, "rich.console", None)
    table.Printer(False).case(case, 1, "default")


class Page(HTMLParser):
    """Collects tags and their attributes, and checks that they are nested."""

    VOID = frozenset({"meta", "line", "rect", "br", "link", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_html_report_is_whole_and_fetches_nothing(report: dict[str, Any]) -> None:
    text = html.render(report)
    page = Page(text)
    assert page.open == []
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "use", "image"}
    assert not any(name in ("src", "href", "xlink:href") for _, attrs in page.tags for name in attrs)
    assert not re.search(r"https?:|url\(|@import", text)
    said = " ".join(page.text)
    for row in table.rows(report["runs"][0]["cases"][0]):
        assert all(cell in said for cell in row)
    assert "wrong result: gae <i>differs by 1" in said
    assert "vtrace: hotloop.ops has no vtrace" in said
    assert "2 threads, malloc keep" in said
    assert "skrl: not run: skrl is not installed" in said


def test_bars_are_as_long_as_the_logarithm_says(case: dict[str, Any]) -> None:
    page = Page(html.bars(case))
    widths = [float(attrs["width"] or 0) for tag, attrs in page.tags if tag == "rect"]
    assert len(widths) == 4
    # 360 us to 7.5 s: decades 10^2 to 10^7 on 470 units
    for width, median in zip(widths, (400.0, 500.0, 6_000.0, 2_500_000.0), strict=True):
        decades = [10.0**e for e in range(2, 8)]
        below = max(d for d in decades if d <= median)
        position = decades.index(below) + (len(str(int(median / below))) - 1)
        assert 470 / 5 * position <= width <= 470 / 5 * (position + 1)


@pytest.mark.parametrize(
    ("smallest", "largest", "decades"), [(2.0, 50.0, (0, 2)), (5.0, 5.0, (0, 1)), (10.0, 100.0, (1, 2))]
)
def test_the_axis_holds_both_ends(smallest: float, largest: float, decades: tuple[int, int]) -> None:
    assert html.axis(smallest, largest) == decades


def test_the_machine_is_described() -> None:
    facts = machine.describe()
    assert facts["processor"]
    assert facts["instruction_set"] in facts["instruction_sets_supported"]
    assert 1 <= facts["usable_cores"] <= facts["cores"]
    for line in table.machine_lines(facts):
        assert "None" not in line
    assert processor_name("vendor_id : x\nmodel name\t: Some CPU @ 2\nmodel name : other\n") == "Some CPU @ 2"
    assert processor_name("nothing") != ""
    assert [cache_size(text) for text in ("32K\n", "1M", "512")] == [32768, 1 << 20, 512]


def test_a_commit_is_named_in_a_checkout_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import hotloop

    installed = tmp_path / "site-packages/hotloop/__init__.py"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr(hotloop, "__file__", str(installed))
    assert machine.commit() is None


def test_the_environment_of_a_worker() -> None:
    base = {"PATH": "/bin", "OMP_PROC_BIND": "spread", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": "/mine"}
    base["GLIBC_TUNABLES"] = "glibc.malloc.check=1"
    one, two = environment(1, base=base), environment(2, "keep", base=base)
    assert one["OMP_NUM_THREADS"] == "1"
    assert not {"OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY", "GLIBC_TUNABLES"} & one.keys()
    assert (two["OMP_NUM_THREADS"], two["OMP_PROC_BIND"], two["OMP_PLACES"]) == ("2", "TRUE", "cores")
    assert (two["OMP_WAIT_POLICY"], two["GLIBC_TUNABLES"]) == ("ACTIVE", MALLOC_KEEP)
    assert two["PYTHONPATH"].endswith(":/mine")
    assert base["OMP_PROC_BIND"] == "spread"
