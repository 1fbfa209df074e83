"""^C: once stops in order and is told, five times no more than that."""

from __future__ import annotations

import signal
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest
import typer

import orchestrator.__main__
import tune_spaces.__main__
from orchestrator.beginning import begin, joined
from orchestrator.cluster.signals import stoppable
from orchestrator.core.events import Event
from orchestrator.core.journal import Journal
from orchestrator.driver import Driver
from orchestrator.entry import InterruptTold
from tests.fakes import FakeExecutor, tiny


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    known = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hook = sys.unraisablehook
    yield
    for number, handler in known.items():
        signal.signal(number, handler)
    sys.unraisablehook = hook


COMMANDS = (orchestrator.__main__, tune_spaces.__main__)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("times", [1, 5])
def test_in_start_up(
    command: ModuleType,
    times: int,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = typer.Typer()

    @app.command()
    def slow() -> None:
        try:
            signal.raise_signal(number)
        finally:
            for _ in range(times - 1):
                signal.raise_signal(number)

    monkeypatch.setattr(command, "app", app)
    monkeypatch.setattr(sys, "argv", ["growstage"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 130
    assert "interrupted; nothing is lost" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_comes_in_a_callback_counts(
    command: ModuleType,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is raised in a callback of a weak reference is dropped by the interpreter."""
    app = typer.Typer()

    class Thing:
        pass

    @app.command()
    def slow() -> None:
        thing = Thing()
        known = weakref.ref(thing, lambda _: signal.raise_signal(number))
        del thing
        assert known() is None
        time.sleep(20.0)

    monkeypatch.setattr(command, "app", app)
    monkeypatch.setattr(sys, "argv", ["growstage"])
    began = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 130
    assert time.monotonic() - began < 10.0
    err = capsys.readouterr().err
    assert "interrupted; nothing is lost" in err
    assert "Traceback" not in err


def test_a_command_that_says_how_to_go_on_is_not_followed_by_another_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()

    @app.command()
    def search() -> None:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # once more, in the midst of ending in order
        raise InterruptTold

    monkeypatch.setattr(tune_spaces.__main__, "app", app)
    monkeypatch.setattr(sys, "argv", ["tune_spaces"])
    with pytest.raises(SystemExit) as ended:
        tune_spaces.__main__.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("swallowed", [True, False])
def test_a_sigterm_while_ray_starts_counts(swallowed: bool) -> None:
    """Ray's own handler raises SystemExit, at times where its code swallows all that is raised."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    own = signal.getsignal(signal.SIGTERM)

    def start() -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        with suppress(*([SystemExit] if swallowed else [])):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt), stoppable():
        start()
    assert signal.getsignal(signal.SIGTERM) is own


def test_a_sigterm_in_a_finalizer_while_ray_starts_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The interpreter drops what Ray's handler raises there, and would say so with a traceback."""
    signal.signal(signal.SIGINT, signal.default_int_handler)

    class Referred:
        """Something with a finalizer."""

    def start() -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        referred = Referred()
        _kept = weakref.ref(referred, lambda ref: signal.raise_signal(signal.SIGTERM))
        del referred

    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", hook := told.append)
    with pytest.raises(KeyboardInterrupt), stoppable():
        start()
    assert told == []
    assert sys.unraisablehook == hook


def test_without_a_signal_ray_starts_as_ever() -> None:
    own = signal.getsignal(signal.SIGTERM)
    with stoppable():
        pass
    assert signal.getsignal(signal.SIGTERM) is own
    with pytest.raises(OSError, match="no Ray"), stoppable():
        raise OSError("no Ray")


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
