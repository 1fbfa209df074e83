"""What every command line of the project does around its commands: mistakes, failures and ^C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType

import typer

from workers.contract import InputError, RunError

EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED = 1, 2, 130
AGAIN_S = 0.1
"""Until a wish to stop that the interpreter dropped is raised once more."""


class InterruptTold(SystemExit):
    """The command was interrupted, and has said itself how to go on."""

    def __init__(self) -> None:
        super().__init__(EXIT_INTERRUPTED)


class _Stop:
    """Takes the first ^C or SIGTERM as a wish to stop; those after it would only break what ends in
    order.

    Where that comes while a finalizer or a callback of a weak reference runs, the interpreter drops
    what is raised: then it is raised once more a moment later, from where it counts.
    """

    def __init__(self) -> None:
        self.asked = False
        self._dropped = sys.unraisablehook
        sys.unraisablehook = self.dropped

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked = True
            raise KeyboardInterrupt

    def dropped(self, told: sys.UnraisableHookArgs) -> None:
        """Told of every exception that the interpreter drops."""
        if told.exc_type is not KeyboardInterrupt or not self.asked:
            self._dropped(told)
            return
        self.asked = False
        waiting = threading.main_thread().ident
        assert waiting is not None
        again = threading.Timer(AGAIN_S, signal.pthread_kill, (waiting, signal.SIGINT))
        again.daemon = True
        again.start()


def enter(app: typer.Typer, interrupted: str) -> None:
    """Run the command that the arguments name: user mistakes end with one clear message and exit
    code 2. ``interrupted``: what is told of a ^C of which the command says nothing."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # so that a config may name my_module:MyStream
    stop = _Stop()
    with suppress(ValueError):  # in another thread than the main one nobody presses ^C
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
    try:
        app()
    except SystemExit as end:
        if isinstance(end, InterruptTold) or not stop.asked:
            raise
        print(interrupted, file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_INPUT)
    except RunError as error:
        print(f"failed: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
