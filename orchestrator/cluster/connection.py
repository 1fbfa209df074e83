"""The Ray cluster a run is on: joined or started, looked at, left."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from orchestrator.cluster.jobs import in_job, token_mode
from workers.contract import InputError, RunError

CONNECT_TIMEOUT_S = 10.0
HEAD_GONE_S = 20.0
"""How long the head of a local Ray may be gone before the process ends, where it does not by
itself."""
HEAD_GONE = (
    "the head of the local Ray (gcs_server) was killed; everything done is saved, go on with "
    "`growstage resume`"
)
LEAVE_S = 30.0
"""In which a local Ray is left; then its raylet is killed, which ends it at once."""
LOCAL_RAY = "GROWSTAGE_LOCAL_RAY"
"""Environment variable that all processes of a local Ray inherit: the mark of who started it."""
STARTS = 2
"""How often a local Ray is started before the run gives up."""
UNANSWERED = (ConnectionError, TimeoutError, RuntimeError, RayError)
ROOT = Path(__file__).resolve().parents[2]
"""Where the packages lie, for the workers' path."""


def own_address() -> str:
    """The address under which the cluster's other nodes reach this one."""
    return str(ray.util.get_node_ip_address())


def named(address: str | None) -> str | None:
    """The cluster to join: ``address``, else the environment's; None = a Ray of the run's own."""
    return address or os.environ.get("RAY_ADDRESS") or None


def connect(address: str | None) -> tuple[float, float]:
    """Join the cluster at ``address`` (or the one a job runs in), or start a local Ray.

    Returns its CPUs and GPUs. Raises InputError where the cluster does not answer.
    """
    given, address = address, named(address)
    paths = os.pathsep.join(dict.fromkeys([str(ROOT), os.getcwd(), *_user_path()]))
    options: dict[str, Any] = {
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "configure_logging": False,
        "runtime_env": {"env_vars": {"PYTHONPATH": paths}},
    }
    if address is None:
        start(options | {"include_dashboard": False, "_node_ip_address": "127.0.0.1"})
        return cluster_size()
    source = "--address" if given else "RAY_ADDRESS"
    _check_listening(address, source)
    options["address"] = address
    _send_token()
    if in_job():
        del options["runtime_env"]  # the job's own: its working directory is on every node
    try:
        with stoppable():
            ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise _away(address, source, error) from error
    return cluster_size()


def connect_beside(work: Callable[[], None], address: str | None) -> None:
    """``connect``, with ``work`` done in another thread meanwhile: each waits for seconds.

    Raises what either raises, the cluster's error first.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        done = pool.submit(work)
        connect(address)
    done.result()


def start(options: Mapping[str, Any]) -> None:
    """Start a local Ray; once more where the machine was too busy for its processes to answer.

    Raises RunError where they do not come up a second time either.
    """
    mark = os.environ[LOCAL_RAY] = f"{os.getpid()}-{uuid.uuid4().hex}"
    for attempt in range(STARTS):
        try:
            with stoppable():
                ray.init(**options)
            threading.Thread(target=_watch_head, args=(mark,), daemon=True).start()
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


def cluster_size() -> tuple[float, float]:
    """CPUs and GPUs of all live nodes.

    Raises RunError where the head of a local Ray of this process has ended: Ray would wait for it,
    and end the process after a minute without a word to it.
    """
    if _head_is_gone():
        raise RunError(HEAD_GONE)
    total = ray.cluster_resources()
    return float(total.get("CPU", 0.0)), float(total.get("GPU", 0.0))


def nodes() -> list[dict[str, float]]:
    """What each live node has, by resource."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def ask_for_nodes(needs: Iterable[Mapping[str, float]]) -> None:
    """Tell an autoscaler what the lanes will need all at once; without one nothing comes of it."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[dict(need) for need in needs])


def _send_token() -> None:
    """Send the token that a cluster may ask for: Ray does so unasked only where it finds the
    cluster itself."""
    if mode := token_mode():
        from ray._raylet import Config  # type: ignore[attr-defined]

        os.environ.update(mode)
        Config.initialize("")  # read from the environment when Ray was imported


def _check_listening(address: str, source: str) -> None:
    """Ask host:port for a connection first: Ray ends the process where nothing answers."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # "auto" and the like: Ray finds the address and raises where there is none
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise _away(address, source, error) from error


def _away(address: str, source: str, error: Exception) -> InputError:
    """``source``: the option or the variable of the environment that gave the address."""
    without = "leave --address out" if source == "--address" else f"unset {source}"
    return InputError(
        f"{source} {address}: the Ray cluster does not answer ({error}); start one with "
        f"`ray start --head`, or {without} for a local Ray"
    )


def disconnect() -> None:
    """Leave the cluster, or end the local Ray that ``connect`` started.

    What refers to Ray's objects in cycles is collected before: left to a collection in another
    thread, it would reach for a core worker that is gone, and Ray ends the process upon that.
    """
    gc.collect()
    mark = os.environ.pop(LOCAL_RAY, "")  # the head is watched no more
    if _head_is_gone():
        # Ray may end the process in the midst of leaving: first what would stay behind.
        _end_raylet()
        _end_agents(mark)
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
        _end_agents(mark)


def _end_agents(mark: str) -> None:
    """End what is left of the local Ray of this process that has this mark: agents stay for good
    where the head that their raylet belonged to was killed."""
    if not mark.startswith(f"{os.getpid()}-"):  # joined, or inherited from who started this process
        return
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another's, or gone
            ours = f"{LOCAL_RAY}={mark}".encode() in (place / "environ").read_bytes()
            if ours and (place / "cmdline").read_bytes().startswith(b"ray::"):
                os.kill(int(place.name), signal.SIGKILL)  # they take no other


def _end_raylet() -> None:
    """Kill the raylet of a local Ray of this process; one that was joined is not its to end."""
    for process in _own("raylet"):
        process.kill()


def _head_is_gone() -> bool:
    """Whether the head of a local Ray of this process has ended; of one that was joined, False."""
    return any(process.poll() is not None for process in _own("gcs_server"))


def _watch_head(mark: str) -> None:
    """End the process where the head has ended and its calls wait for it: Ray does so after a
    minute, without a word of what to do, and leaves agents behind."""
    gone = 0.0
    while os.environ.get(LOCAL_RAY) == mark:  # until this Ray is left
        time.sleep(1.0)
        gone = gone + 1.0 if _head_is_gone() else 0.0
        if gone >= HEAD_GONE_S:
            print(f"failed: {HEAD_GONE}", file=sys.stderr, flush=True)
            _end_raylet()
            _end_agents(mark)
            os._exit(1)  # the journal is durable record by record


def _own(kind: str) -> list[Any]:
    """Processes of this kind that a local Ray of this process was started with."""
    node = ray._private.worker._global_node
    started: list[Any] = [] if node is None else node.all_processes.get(kind, [])
    return [one.process for one in started]


def _user_path() -> list[str]:
    """Folders the user's own modules are imported from, for the workers' path."""
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
