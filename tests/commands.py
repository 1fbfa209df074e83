"""Commands of the project as processes of their own that start in milliseconds.

They are forked from a server that has imported what every command imports, once for all tests.
Everything else is as on a command line: arguments, environment, exit codes, signals, kill -9.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PRELOADED = (
    "torch",
    "ray.job_submission",
    "ray.tune",
    "mlflow.store.tracking.sqlalchemy_store",
    "matplotlib.backends.backend_agg",
    "orchestrator.__main__",
    "orchestrator.config.catalogue",
    "orchestrator.report.outputs",
    "orchestrator.report.progress",
    "orchestrator.report.results",
    "orchestrator.report.terminal",
    "orchestrator.cluster.on_ray",
    "scipy.special",
    "orchestrator.config.plan",
    "orchestrator.session",
    "orchestrator.tracking.tracker",
    "tune_spaces.__main__",
    "tune_spaces.sweep",
    "tests.preloaded",
)
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(list(PRELOADED))


class Command:
    """A command under way."""

    def __init__(
        self,
        package: str,
        *args: object,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """``python -m PACKAGE ARGS`` in ``cwd``; ``env`` is laid over this process's. Under another
        home, whose token is another, it goes without the mode of authentication that Ray, once
        started in this process, has left in its environment."""
        self._folder = Path(tempfile.mkdtemp(prefix="gs"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        out, err = (str(self._folder / name) for name in ("out", "err"))
        given = env or {}
        known = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **given}
        if "HOME" in given and "RAY_AUTH_MODE" not in given:
            known.pop("RAY_AUTH_MODE", None)
        words = [str(arg) for arg in args]
        self._process = FORKS.Process(target=_main, args=(package, words, cwd, known, out, err))
        self._process.start()

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return self._read("out")

    @property
    def err(self) -> str:
        return self._read("err")

    def poll(self) -> int | None:
        """Its exit code, negative for the signal that killed it; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float = 300.0) -> int:
        """Its exit code once it has ended; killed and an error where it does not in time."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            self.kill()
            raise AssertionError(f"still running after {seconds} s: {self.out}{self.err}"[-4000:])
        return self._process.exitcode

    def succeed(self, seconds: float = 300.0) -> str:
        """Its output once it has ended well."""
        assert self.wait(seconds) == 0, (self.out + self.err)[-4000:]
        return self.out

    def json(self, seconds: float = 300.0) -> Any:
        """The JSON that its output ends with."""
        return json.loads(self.succeed(seconds).strip().splitlines()[-1])

    def until(self, happened: Callable[[], Any], seconds: float = 240.0) -> Any:
        """What ``happened`` says once that is true; an error where the command ends before."""
        deadline = time.monotonic() + seconds
        while not (found := happened()):
            assert self.poll() is None, f"ended too early: {self.out}{self.err}"[-4000:]
            assert time.monotonic() < deadline, f"it never came: {self.out}{self.err}"[-4000:]
            time.sleep(0.01)
        return found

    def kill(self) -> None:
        """kill -9, and its end awaited."""
        self.signal(signal.SIGKILL)
        self._process.join(60)

    def signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def _read(self, name: str) -> str:
        path = self._folder / name
        return path.read_text(errors="replace") if path.exists() else ""


def known_path(env: Mapping[str, str]) -> list[str]:
    """What PYTHONPATH adds that this process has not on its path."""
    return [entry for entry in env["PYTHONPATH"].split(os.pathsep) if entry not in sys.path]


def _read_environment_again() -> None:
    """What these read when they are imported, which was in another environment."""
    import fsspec
    from ray._raylet import Config

    fsspec.process_entries()  # a package on the path may bring a file system
    Config.initialize("")  # whether there is a token, for one


def _main(
    package: str, words: list[str], cwd: Path, env: dict[str, str], out: str, err: str
) -> None:
    """In the forked process: become the command."""
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if "LD_PRELOAD" in env:  # which a program reads where it begins
        os.execve(sys.executable, [sys.executable, "-m", package, *words], env)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs start without it
    sys.argv = [package, *words]
    sys.path[:0] = known_path(env)
    _read_environment_again()
    try:
        import_module(f"{package}.__main__").main()
    finally:
        atexit._run_exitfuncs()
