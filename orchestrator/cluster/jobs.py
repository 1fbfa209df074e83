"""Submission of a run as a job: a thin helper over Ray's job client that shows the plain command.

Knows no run: the job does the same as ``growstage run`` with the same folder, so that the same
submission made again goes on where a stopped one was.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from workers.contract import InputError, RunError
from workers.storage import is_remote

ADDRESS = "http://127.0.0.1:8265"
LOCAL = ("127.0.0.1", "localhost", "::1")
FINAL = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One job: where it goes and what it runs."""

    address: str
    """Of the cluster's dashboard: http://HOST:PORT."""
    working_dir: str
    entrypoint: tuple[str, ...]

    def command(self) -> str:
        """The plain command this stands for."""
        head = ["ray", "job", "submit", "--address", self.address]
        return shlex.join([*head, "--working-dir", self.working_dir, "--", *self.entrypoint])


def submission(
    config: Path,
    settings: Sequence[str],
    run_dir: str | None,
    tracking_uri: str | None,
    address: str | None,
    wait_for_nodes: float,
) -> Submission:
    """The job for a stream file inside the present folder, which travels to the cluster.

    Raises InputError where the file would not travel, or the run folder would be lost with the
    job.
    """
    here = Path.cwd()
    target = (here / config).resolve()
    if not target.is_relative_to(here):
        raise InputError(
            f"{config}: lies outside {here}; submit from the folder that holds it, the job only "
            "sees that one"
        )
    where = address or os.environ.get("RAY_API_SERVER_ADDRESS") or ADDRESS
    place = run_dir or _default_run_dir(target, where)
    if not is_remote(place) and not Path(place).is_absolute():
        raise InputError(
            f"--run-dir {place}: a relative path would lie in the job's own copy of this folder; "
            "give an absolute path that every node reaches, or a URI"
        )
    line = ["python", "-m", "orchestrator", "run", str(target.relative_to(here))]
    line += ["--run-dir", place]
    line += [part for item in settings for part in ("--set", item)]
    line += ["--tracking-uri", tracking_uri] if tracking_uri else []
    line += ["--wait-for-nodes", f"{wait_for_nodes:g}"] if wait_for_nodes else []
    return Submission(address=where, working_dir=".", entrypoint=tuple(line))


def submit(job: Submission) -> tuple[Any, str]:
    """Hand the job over; returns the client and the job's id.

    Raises InputError where the cluster does not answer or wants another token.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(job.address)
        line = shlex.join(job.entrypoint)
        job_id = client.submit_job(entrypoint=line, runtime_env={"working_dir": job.working_dir})
    except (ConnectionError, AuthenticationError, RuntimeError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise InputError(
            f"--address {job.address}: the job was not taken ({first})\n  start a head with "
            "`ray start --head`, give its dashboard's http://HOST:PORT, and where it asks for a "
            "token set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a copy of it"
        ) from error
    return client, str(job_id)


def follow(client: Any, job_id: str) -> str:
    """Print the job's output as it comes; returns its final status.

    Raises RunError where the head is gone before the job has ended.
    """
    import asyncio

    from aiohttp import ClientError

    async def tail() -> None:
        async for text in client.tail_job_logs(job_id):
            print(text, end="", flush=True)

    try:
        asyncio.run(tail())
    except (OSError, RuntimeError, ClientError) as error:
        print(f"the log broke off ({error}); waiting for the job's end", file=sys.stderr)
    try:
        while (status := str(client.get_job_status(job_id))) not in FINAL:
            time.sleep(1.0)
    except (OSError, RuntimeError) as error:
        raise RunError(
            f"job {job_id}: the head does not answer any more ({error}); the job may go on "
            f"without this command: once the head answers, `ray job logs -f {job_id}` shows it"
        ) from error
    return status


def check_succeeded(job_id: str, status: str) -> None:
    """Raise RunError unless the job ended well."""
    if status == "FAILED":
        raise RunError(f"job {job_id} {status}; its output says why")


def _default_run_dir(config: Path, address: str) -> str:
    """``runs/<file's name>`` here, for a cluster on this machine: the same at every submission."""
    if urlsplit(address).hostname not in LOCAL:
        raise InputError(
            f"--run-dir is missing: the cluster at {address} cannot write into this machine's "
            "folders; give a path that all its nodes reach, or a URI such as s3://bucket/runs/one"
        )
    return str(Path.cwd() / "runs" / config.stem)
