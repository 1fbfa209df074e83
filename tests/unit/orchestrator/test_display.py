"""What people see in a terminal."""

from __future__ import annotations

import io
import socket

import pytest
from rich.console import Console

from orchestrator.beginning import begin, joined
from orchestrator.core.events import IntervalDone
from orchestrator.core.journal import Journal
from orchestrator.core.records import Record
from orchestrator.driver import Driver
from orchestrator.report import results
from orchestrator.report.history import report
from orchestrator.report.pace import span
from orchestrator.report.progress import (
    Board,
    LineProgress,
    LiveProgress,
    figures,
    line,
    scored,
)
from orchestrator.report.terminal import free_port
from orchestrator.tracking.views import links
from tests import journals
from tests.fakes import FakeExecutor, tiny
from workers.contract import InputError

CONFIG = tiny(policies={"growth": "periodic"})


def story(tmp_path, listener) -> None:  # type: ignore[no-untyped-def]
    with listener:
        journal = Journal(tmp_path / "journal.jsonl")
        driver = Driver(CONFIG, journal, FakeExecutor(), (listener.add,))
        driver.run(begin(CONFIG, "run"), joined(2, 0))
        journal.close()


def test_one_line_for_everything_that_matters(tmp_path) -> None:  # type: ignore[no-untyped-def]
    out = io.StringIO()
    story(tmp_path, LineProgress(CONFIG, Console(file=out, width=200)))
    text = out.getvalue()
    for part in ("worker ready", "stage 0", "interval 1, loss 1", "grown to 5 experts", "run done"):
        assert part in text


def test_live_table_counts_to_the_end(tmp_path) -> None:  # type: ignore[no-untyped-def]
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    story(tmp_path, LiveProgress(CONFIG, console))
    assert "10/10" in out.getvalue()
    assert "lanes: 1 ended" in out.getvalue()
    assert "1.000" in out.getvalue()  # on the tasks seen


class Kept:
    """A listener that keeps the records."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.add = self.records.append

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def test_a_board_tells_what_is_gone_and_left(tmp_path) -> None:  # type: ignore[no-untyped-def]
    kept, board = Kept(), Board(CONFIG)
    story(tmp_path, kept)
    assert board.gone_and_left(0.0) == "0:00 gone"
    first = next(n for n, r in enumerate(kept.records) if isinstance(r.event, IntervalDone))
    start = next(n for n, r in enumerate(kept.records) if r.event.at < 1000.0)
    for record in kept.records[:start]:
        board.add(record, live=False)
    for record in kept.records[start : first + 1]:
        board.add(record, live=True)
    began, now = kept.records[start].event.at, kept.records[first].event.at
    left = 9 * (now - began)  # 9 of 10 intervals to come
    assert board.gone_and_left(now) == f"{span(now - began)} gone, some {span(left)} left"
    for record in kept.records[first + 1 :]:
        board.add(record, live=True)
    assert board.gone_and_left(now).endswith("some 0:00 left")


def test_spans_as_clocks_show_them() -> None:
    assert (span(None), span(7.4), span(605), span(3725)) == ("-", "0:07", "10:05", "1:02:05")


def test_scores_carry_names_where_they_are_few() -> None:
    assert scored([0.5, 1.0], ["a", "b"]) == "mean score 0.750 (a 0.500, b 1.000)"
    assert scored([0.5] * 9 + [1.0], ()) == "mean score 0.550 over 10 tasks (0.500 to 1.000)"


@pytest.mark.parametrize("tasks", [3, 9, 30])
def test_results_fit_80_columns(
    tasks: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "wide", lambda: Console(highlight=False, width=80))
    names = tuple(f"task {number}" for number in range(tasks))
    lanes = (("replay", 0), ("replay", 1), ("finetune", 0))
    results.print_report(report(journals.story(lanes, names)))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "replay (2 seeds)" in out
    assert "acc.final" in out


def test_headlines_come_first() -> None:
    assert figures({"kl": 1.0, "return": 2.0, "loss": 3.0}) == "return 2, loss 3"
    assert figures({"own": 1.0}) == "own 1"


def test_unimportant_events_have_no_line() -> None:
    record = Record(event=begin(tiny(), "run"))
    assert line(record) is None


def test_port_in_use_is_passed_over() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert free_port(port) > port
        with pytest.raises(InputError, match="in use"):
            free_port(port, most=1)
    command = links("sqlite:///x.db", "1", port=5007).command
    assert command is not None
    assert "--port 5007" in command
