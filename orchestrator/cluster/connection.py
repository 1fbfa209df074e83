"""The Ray cluster a run is on: joined or started, looked at, left."""

from __future__ import annotations

import gc
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.cluster import local_ray
from orchestrator.cluster.jobs import in_job, token_mode
from orchestrator.cluster.signals import stoppable
from workers.contract import InputError, RunError

CONNECT_TIMEOUT_S = 10.0
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
        local_ray.start(options | {"include_dashboard": False, "_node_ip_address": "127.0.0.1"})
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


def cluster_size() -> tuple[float, float]:
    """CPUs and GPUs of all live nodes.

    Raises RunError where the head of a local Ray of this process has ended: Ray would wait for it,
    and end the process after a minute without a word to it.
    """
    if local_ray.head_is_gone():
        raise RunError(local_ray.HEAD_GONE)
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
    local_ray.leave()


def _user_path() -> list[str]:
    """Folders the user's own modules are imported from, for the workers' path."""
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
