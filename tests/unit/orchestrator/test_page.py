"""The page of runs: what is on it, that it needs nothing else, and what it costs."""

from __future__ import annotations

import math
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from orchestrator.core.folder import STREAM_FILE, open_folder
from orchestrator.report.lifetimes import lifetimes
from orchestrator.report.outputs import write_page, write_results
from orchestrator.report.page import render
from orchestrator.report.page.charts import Series, Whisker, lines, steps, whiskers
from orchestrator.report.runs import Run, open_run
from tests.journals import TASKS, story, write
from workers.contract import InputError

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Checker(HTMLParser):
    """Collects ids, links and text, and refuses tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids |= {found["id"] or ""} if "id" in found else set()
        self.links |= {found["href"] or ""} if "href" in found else set()
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    return checker


@pytest.fixture
def run(tmp_path: Path) -> Run:
    lanes = (("replay", 0), ("replay", 1), ("finetune", 0))
    write(tmp_path / "one", story(lanes))
    (tmp_path / "one" / STREAM_FILE).write_text("name = 'fashion' # <mine>\n")
    return open_run(tmp_path / "one")


def test_all_sections_are_there_and_links_lead_somewhere(run: Run) -> None:
    page = parsed(render([run]))
    assert {link[1:] for link in page.links} <= page.ids
    for words in ("0.790", "± ", "Forgetting and plasticity", "Experts over the stream"):
        assert words in page.text
    for words in ("grown to 2 experts", "plateau (slope)", "abc1234", "# <mine>", *TASKS):
        assert words in page.text


def test_nothing_is_fetched(run: Run) -> None:
    page = render([run])
    assert not re.search(r"https?://|src=|@import|url\(|<script", page)


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    tasks = ("</td><script>alert(1)</script>", 'a"b', "c&d")
    write(tmp_path, story(tasks=tasks))
    page = render([open_run(tmp_path)])
    assert "<script" not in page
    assert all(task in parsed(page).text for task in tasks)


@pytest.mark.parametrize("cut", [1, 2, 4, 9, 20])
def test_a_run_under_way_has_a_page(tmp_path: Path, cut: int) -> None:
    write(tmp_path, story()[:cut])
    assert "killed" in parsed(render([open_run(tmp_path)])).text


def test_results_lie_in_the_run_folder(run: Run, tmp_path: Path) -> None:
    write_results(open_folder(run.place))
    names = {path.name for path in run.path.iterdir()}
    assert {"results.csv", "results.parquet", "report.html", STREAM_FILE} <= names
    write_page([tmp_path], tmp_path / "new" / "all.html")
    assert (tmp_path / "new" / "all.html").stat().st_size > 10_000
    with pytest.raises(InputError, match="--out"):
        write_page([tmp_path], run.path)


def test_twenty_lanes_of_ten_stages_in_seconds(tmp_path: Path) -> None:
    lanes = tuple((method, seed) for method in ("replay", "finetune") for seed in range(10))
    tasks = tuple(f"task {number}" for number in range(10))
    write(tmp_path, story(lanes, tasks))
    began = time.process_time()
    page = render([open_run(tmp_path)])
    assert time.process_time() - began < 10.0
    assert len(page) < 3_000_000


def test_lifetimes_follow_births(run: Run) -> None:
    first, second = lifetimes(run.history.lanes["replay-s0"])["body"]
    assert (first.born, first.cause, first.removed) == (0.0, "", None)
    assert (second.born, second.parent) == (1.5, 0)


def test_gaps_break_lines_and_empty_charts_are_left_out() -> None:
    points = [(1.0, 0.2), (2.0, math.nan), (3.0, 0.4), (4.0, 0.5)]
    drawn = lines([Series(name="a", points=points, colour=0)], x_label="x", title="t")
    (path,) = re.findall(r'class="line" d="([^"]*)"', drawn)
    assert path.count("M") == 2
    assert not lines([], x_label="x", title="t")
    assert not whiskers([], title="t")
    assert "0.500 ± 0.100" in whiskers([Whisker(name="a", mean=0.5, half=0.1)], title="t")


def test_steps_are_round() -> None:
    assert steps(0.0, 1.0, 5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert steps(1.0, 5.0, 8, whole=True) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert steps(2.0, 2.0, 5) == [2.0]


def test_a_page_that_cannot_be_made_is_one_line(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever it is; the tables are written all the same."""
    (run.path / STREAM_FILE).write_bytes(b"name = '\xff'\n")
    write_results(open_folder(run.place))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "the page of this run could not be written: UnicodeDecodeError" in said[0]
    assert said[0].endswith(f" report {run.place}")
    assert (run.path / "results.csv").is_file()
