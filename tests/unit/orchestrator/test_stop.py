"""^C: once stops in order and is told, five times no more than that."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import orchestrator.__main__ as command
from orchestrator.beginning import begin, joined
from orchestrator.core.events import Event
from orchestrator.core.journal import Journal
from orchestrator.driver import Driver
from tests.fakes import FakeExecutor, tiny


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    known = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, known)


@pytest.mark.parametrize("times", [1, 5])
def test_in_start_up(
    times: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()

    @app.command()
    def slow() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            for _ in range(times - 1):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(command, "app", app)
    monkeypatch.setattr(sys, "argv", ["growstage"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 130
    assert "interrupted; nothing is lost" in capsys.readouterr().err


class Pressed(FakeExecutor):
    """^C at the fifth wait, and twice more while workers are let go."""

    waits, closed = 0, False

    def wait(self, timeout: float) -> list[Event]:
        self.waits += 1
        if self.waits == 5:
            signal.raise_signal(signal.SIGINT)
        return super().wait(timeout)

    def close(self) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        super().close()
        self.closed = True


def test_while_workers_are_let_go(tmp_path: Path) -> None:
    executor, known = Pressed(), signal.getsignal(signal.SIGINT)
    driver = Driver(tiny(), Journal(tmp_path / "journal.jsonl"), executor)
    assert driver.run(begin(tiny(), "run"), joined(2, 0)) == "interrupted"
    assert executor.closed
    assert signal.getsignal(signal.SIGINT) is known
