"""What people see in a terminal."""

from __future__ import annotations

import io
import socket

import pytest
from rich.console import Console

from orchestrator.beginning import begin, joined
from orchestrator.core.events import Record
from orchestrator.core.journal import Journal
from orchestrator.driver import Driver
from orchestrator.report.terminal import LineProgress, LiveProgress, figures, free_port, line
from orchestrator.tracking.views import links
from tests.fakes import FakeExecutor, tiny
from workers.contract import InputError


def story(tmp_path, listener) -> None:  # type: ignore[no-untyped-def]
    config = tiny(policies={"growth": "periodic"})
    with listener:
        journal = Journal(tmp_path / "journal.jsonl")
        driver = Driver(config, journal, FakeExecutor(), (listener.add,))
        driver.run(begin(config, "run"), joined(2, 0))
        journal.close()


def test_one_line_for_everything_that_matters(tmp_path) -> None:  # type: ignore[no-untyped-def]
    out = io.StringIO()
    story(tmp_path, LineProgress(Console(file=out, width=200)))
    text = out.getvalue()
    for part in ("worker ready", "stage 0", "interval 1, loss 1", "grown to 5 experts", "run done"):
        assert part in text


def test_live_table_counts_to_the_end(tmp_path) -> None:  # type: ignore[no-untyped-def]
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=True)
    story(tmp_path, LiveProgress(tiny(policies={"growth": "periodic"}), console))
    assert "10/10" in out.getvalue()
    assert "5/5" in out.getvalue()


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
