"""A Ray of the run's own: started, watched, and left with nothing of it behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from orchestrator.cluster.signals import stoppable
from workers.contract import RunError

HEAD_GONE_S = 20.0
"""How long the head of a local Ray may be gone before the process ends, where it does not by
itself."""
HEAD_GONE = (
    "the head of the local Ray (gcs_server) was killed; everything done is saved, go on with "
    "`growstage resume`"
)
LEAVE_S = 30.0
"""In which a local Ray is left; then its raylet is killed, which ends it at once."""
STARTS = 2
"""How often a local Ray is started before the run gives up."""
UNANSWERED = (ConnectionError, TimeoutError, RuntimeError, RayError)
PACKAGE = str(Path(ray.__file__).parent).encode()
"""Part of the command line of what Ray starts, until it has a title."""
_left = threading.Event()
"""Of the local Ray of this process: set where its head is watched no more."""


def start(options: Mapping[str, Any]) -> None:
    """Start a local Ray; once more where the machine was too busy for its processes to answer.

    Raises RunError where they do not come up a second time either.
    """
    global _left
    for attempt in range(STARTS):
        try:
            with stoppable():
                ray.init(**options)
            _left = threading.Event()
            threading.Thread(target=_watch_head, args=(_session(), _left), daemon=True).start()
            return
        except Exception as error:
            # Ray raises a bare Exception where its processes are not up within 30 seconds.
            if type(error) is not Exception and not isinstance(error, UNANSWERED):
                raise
            ray.shutdown()
            if attempt + 1 == STARTS:
                raise RunError(
                    f"a local Ray did not come up in {STARTS} attempts ({error}); free some of the "
                    "machine's memory and cores, or give a running cluster with --address"
                ) from error
            print(f"a local Ray did not come up ({error}); trying once more", file=sys.stderr)


def leave() -> None:
    """End the local Ray of this process, or leave the one that was joined."""
    _left.set()
    folder = _session()
    if head_is_gone():
        # Ray may end the process in the midst of leaving: first what would stay behind.
        _end_raylet()
        _end_rest(folder)
    # Ray says goodbye to the raylet and waits for its answer, for ever where that stands still.
    late = threading.Timer(LEAVE_S, _end_raylet)
    late.daemon = True
    late.start()
    # Ray first asks the head to end a subscription (``PythonGcsSubscriber::Close``): where that
    # is not answered in time there is nothing left to leave.
    try:
        with suppress(GetTimeoutError):
            ray.shutdown()
    finally:
        late.cancel()
        _end_rest(folder)


def _session() -> str:
    """Folder that all processes of the local Ray of this process log to; empty where it has none,
    or joined one."""
    node = ray._private.worker._global_node
    return node.get_session_dir_path() if node is not None and _own("gcs_server") else ""


def _end_rest(folder: str) -> None:
    """End what is left of the local Ray that logs to this folder: its agents stay for good where
    the head that their raylet belonged to was killed. By nothing else they can be told for certain:
    they write their titles over their environment, and have lost their parent."""
    for place in Path("/proc").glob("[0-9]*") if folder else ():
        with suppress(OSError):  # another's, or gone
            pid, line = int(place.name), (place / "cmdline").read_bytes()
            rays = pid != os.getpid() and (line.startswith(b"ray::") or PACKAGE in line)
            if rays and _holds(place / "fd", folder):
                os.kill(pid, signal.SIGKILL)  # they take no other


def _holds(files: Path, folder: str) -> bool:
    """Whether one of a process's open files lies in the folder."""
    for file in files.iterdir():
        with suppress(OSError):  # closed meanwhile
            if os.readlink(file).startswith(f"{folder}/"):
                return True
    return False


def _end_raylet() -> None:
    """Kill the raylet of a local Ray of this process; one that was joined is not its to end."""
    for process in _own("raylet"):
        process.kill()


def head_is_gone() -> bool:
    """Whether the head of a local Ray of this process has ended; of one that was joined, False."""
    return any(process.poll() is not None for process in _own("gcs_server"))


def _watch_head(folder: str, left: threading.Event) -> None:
    """End the process where the head has ended and its calls wait for it: Ray does so after a
    minute, without a word of what to do, and leaves agents behind."""
    gone = 0.0
    while not left.wait(1.0):
        gone = gone + 1.0 if head_is_gone() else 0.0
        if gone >= HEAD_GONE_S:
            print(f"failed: {HEAD_GONE}", file=sys.stderr, flush=True)
            _end_raylet()
            _end_rest(folder)
            os._exit(1)  # the journal is durable record by record


def _own(kind: str) -> list[Any]:
    """Processes of this kind that a local Ray of this process was started with."""
    node = ray._private.worker._global_node
    started: list[Any] = [] if node is None else node.all_processes.get(kind, [])
    return [one.process for one in started]
