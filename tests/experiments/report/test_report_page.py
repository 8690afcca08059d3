from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from contpeft.errors import UsageError
from contpeft.experiments.report import RunResult, comparison_table, lineage_table, matrix_table, write_report
from contpeft.metrics import DEFINITIONS

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Reads a page: its tables as rows of text, its pictures, all attributes; fails on stray tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data.replace("\u2212", "-")
        if "style" not in self.open:
            self.text += data

    def values(self, tag: str, name: str) -> list[str]:
        return [value or "" for t, n, value in self.attributes if (t, n) == (tag, name)]


@pytest.fixture(scope="module")
def folder(result: RunResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(result, tmp_path_factory.mktemp("reports") / "deep" / "newsgroups").parent


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


@pytest.fixture
def small(result: RunResult) -> RunResult:
    """One way under one protocol: quick to draw."""
    way = result.ways[3]
    only = dataclasses.replace(way, protocols={"task_aware": way.protocols["task_aware"]})
    return dataclasses.replace(result, ways=(only,), lineage=result.lineage[:1])


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts one pixel in the place of every picture, where a test is about something else."""
    for name in ("accuracy_bars", "heat_map", "heat_map_grid", "lineage_picture", "task_curves"):
        monkeypatch.setattr(f"contpeft.experiments.report.page.{name}", lambda *_: PIXEL)


def test_the_folder_holds_page_pictures_and_numbers(folder: Path, result: RunResult) -> None:
    names = {path.name for path in folder.iterdir()}
    singles = {
        f"matrix-{protocol}-{k}-{slug}.png"
        for protocol in ("task_aware", "all_classes")
        for k, slug in enumerate(
            ("frozen-class-means", "frozen-lda", "sequential", "isolated", "joint"), start=1
        )
    }
    grids = {f"{kind}-{p}.png" for kind in ("matrices", "curves") for p in ("task_aware", "all_classes")}
    assert names == {"report.html", "summary.json", "accuracy.png", "lineage.png", *grids, *singles}
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(result.to_json()))


def test_the_page_needs_nothing_but_itself(folder: Path, page: Page) -> None:
    text = (folder / "report.html").read_text()
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert "<script" not in text
    assert "url(" not in text
    sources = page.values("img", "src")
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(link.startswith("#") for link in page.values("a", "href"))
    assert {link[1:] for link in page.values("a", "href")} <= set(page.values("section", "id"))


def test_pictures_in_the_page_are_the_files_beside_it(folder: Path, page: Page) -> None:
    embedded = [base64.b64decode(source.partition(",")[2]) for source in page.values("img", "src")]
    order = [
        "accuracy",
        "matrices-task_aware",
        "matrices-all_classes",
        "curves-task_aware",
        "curves-all_classes",
    ]
    assert embedded == [(folder / f"{name}.png").read_bytes() for name in [*order, "lineage"]]
    assert all(alt for alt in page.values("img", "alt"))


def test_tables_of_the_page_say_what_the_tables_say(page: Page, result: RunResult) -> None:
    want = []
    for protocol in result.protocols:
        header, rows = comparison_table(result, protocol)
        want.append([header, *([row[0].replace(" (bound)", "bound"), *row[1:]] for row in rows)])
    for way in result.ways:
        want += [[t.header, *t.rows] for t in (matrix_table(result, way, p) for p in way.protocols)]
    lineage = lineage_table(result)
    assert page.tables == [*want, [lineage.header, *lineage.rows]]


def test_bounds_and_best_values_are_marked(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    rows = re.findall(r"<tr( class=\"bound\")?>\s*<th scope=\"row\">([a-z: -]+)<", text)
    assert {name for bound, name in rows if bound} == {"frozen: class-means", "frozen: lda"}
    assert {"sequential", "isolated", "joint"} <= {name for bound, name in rows if not bound}
    assert re.findall(r'<td class="first">([^<]+)<', text) == [
        *("93.6", "0.0", "0.0", "+6.1", "93.6", "94.9"),
        *("95.0", "80.5", "\u221211.4", "+11.4", "86.3"),
    ]


def test_facts_configuration_and_definitions_are_there(page: Page, result: RunResult) -> None:
    words = " ".join(page.text.split())
    for fact in (
        "5 tasks learned one after another (graphics-hardware, autos-hockey, ",
        "class-incremental, seed 0, scored by accuracy",
        "all-MiniLM-L6-v2, frozen, with 22,713,216 parameters and fingerprint 6f1c2e9d6f1c",
        f"torch {result.environment['torch']}",
        f"Started {result.started_at[:10]} {result.started_at[11:16]} UTC; finished",
        "crypt-space: sci.crypt, sci.space",
        "Answers at the end with newsgroups-s0.sequential@5",
    ):
        assert fact in words, fact
    assert yaml.safe_dump(dict(result.config), sort_keys=False) in page.text
    for d in DEFINITIONS:
        assert d.formula in page.text
        assert d.source in page.text


def test_cells_are_tinted_by_their_score(page: Page, result: RunResult) -> None:
    want = [
        f"--v:{round(100 * value)}"
        for way in result.ways
        for scored in way.protocols.values()
        for row in scored.matrix.rows
        for value in row
        if value is not None
    ]
    assert page.values("td", "style") == want


def test_an_equal_result_gives_equal_bytes(small: RunResult, tmp_path: Path) -> None:
    write_report(small, tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_report(small, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    assert len(first) == 7


@pytest.mark.usefixtures("undrawn")
def test_names_are_text_and_never_markup(small: RunResult, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    way = dataclasses.replace(small.ways[0], label=evil)
    text = write_report(dataclasses.replace(small, ways=(way,), config={"x": evil}), tmp_path).read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3
    assert (tmp_path / "matrix-task_aware-1-script-alert-1-script.png").exists()


def test_a_run_that_has_only_begun_has_a_report(result: RunResult, tmp_path: Path) -> None:
    begun = dataclasses.replace(
        result, status="running", finished_at=None, ways=(), lineage=(), base_model=None, environment={}
    )
    page = Page(write_report(begun, tmp_path).read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "summary.json"}
    assert page.tables == []
    assert "Nothing was scored yet." in page.text
    assert "The run made no version." in page.text
    assert "running." in " ".join(page.text.split())


@pytest.mark.usefixtures("undrawn")
def test_lower_is_better_is_said(small: RunResult, tmp_path: Path) -> None:
    tasks = tuple(dataclasses.replace(task, lower_is_better=True, metric="loss") for task in small.tasks)
    text = " ".join(
        Page(write_report(dataclasses.replace(small, tasks=tasks), tmp_path).read_text()).text.split()
    )
    assert "scored by loss, where lower is better" in text
    assert "Scores and differences in the unit of the metric" in text
    assert "differences are taken of the negated scores" in text


@pytest.mark.usefixtures("undrawn")
def test_a_full_disk_leaves_the_old_report_whole(
    small: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(small, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "report.html":
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(dataclasses.replace(small, seed=1), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("undrawn")
def test_files_have_the_permissions_of_the_user(small: RunResult, tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        page = write_report(small, tmp_path)
    finally:
        os.umask(mask)
    assert page.stat().st_mode & 0o777 == 0o644


def test_a_file_in_the_place_of_the_folder_is_refused(small: RunResult, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("mine")
    with pytest.raises(UsageError, match="report is a file; name a folder for the report"):
        write_report(small, tmp_path / "report")
    assert (tmp_path / "report").read_text() == "mine"
