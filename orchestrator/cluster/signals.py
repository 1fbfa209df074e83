"""Signals that come while Ray starts, whose own handlers lose them."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def stoppable() -> Iterator[None]:
    """A SIGTERM that comes inside the block, while Ray starts, stops as ^C does.

    Ray's own handler raises SystemExit wherever its code happens to be, which may swallow it, or
    the interpreter where a finalizer runs: what came is read from the pipe that the interpreter
    writes signals to. A handler of ours is put back afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    known = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    tell = sys.unraisablehook

    def dropped(told: sys.UnraisableHookArgs) -> None:
        if told.exc_type is not SystemExit:
            tell(told)

    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = tell
        signal.set_wakeup_fd(known)
        if callable(handler):
            signal.signal(signal.SIGTERM, handler)
        came = b""
        with suppress(BlockingIOError):
            came = os.read(reading, 4096)
        os.close(reading)
        os.close(writing)
        if signal.SIGTERM in came:
            signal.raise_signal(signal.SIGINT)
