"""Submission of a run as a job: a thin helper over Ray's job client that shows the plain command.

Knows no run: the job does the same as ``growstage run`` with the same folder, so that the same
submission made again goes on where a stopped one was.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orchestrator.beginning import CODE_VERSION, code_version
from orchestrator.config.modules import own_modules
from orchestrator.config.run import RunConfig
from workers.contract import InputError, Json, RunError
from workers.storage import is_remote

ADDRESS = "http://127.0.0.1:8265"
LOCAL = ("127.0.0.1", "localhost", "::1")
FINAL = ("SUCCEEDED", "FAILED", "STOPPED")
KEPT = "give an absolute path that every node reaches, or a URI such as s3://bucket/runs/one"


def in_job() -> bool:
    """Whether this process is a job's driver: Ray tells it what it was submitted with."""
    return bool(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"))


def check_kept(run_dir: str | Path) -> None:
    """Raise InputError where a job's run folder would be lost with the job."""
    if not is_remote(str(run_dir)) and not Path(run_dir).is_absolute():
        raise InputError(
            f"--run-dir {run_dir}: a relative path would lie in the job's own copy of a folder; "
            f"{KEPT}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One job: where it goes and what it runs."""

    address: str
    """Of the cluster's dashboard: http://HOST:PORT."""
    working_dir: str
    entrypoint: tuple[str, ...]
    modules: tuple[str, ...] = ()
    """The user's own packages that lie outside the working folder."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that the job sees."""
    client: Mapping[str, str] = field(default_factory=dict)
    """Variables that Ray's commands need here."""

    @property
    def runtime_env(self) -> Json:
        """What travels with the job beside its working folder."""
        travels = {"py_modules": list(self.modules)} if self.modules else {}
        return {"env_vars": dict(self.environment), **travels}

    def command(self) -> str:
        """The plain command this stands for."""
        where = ["--working-dir", self.working_dir]
        where += ["--runtime-env-json", json.dumps(self.runtime_env)]
        return self._ray("submit", *where, "--", *self.entrypoint)

    def hints(self, job_id: str) -> str:
        """How to follow and to stop the job."""
        return f"follow: {self._ray('logs', '-f', job_id)}\nstop: {self._ray('stop', job_id)}"

    def _ray(self, verb: str, *words: str) -> str:
        spoken = [f"{name}={value}" for name, value in self.client.items()]
        return shlex.join([*spoken, "ray", "job", verb, "--address", self.address, *words])


def token() -> str | None:
    """The token that a head may ask for, where there is one and its use is not ruled out.

    Ray writes one at the first local run; from then on a head asks for it, and Ray's own clients
    send it only where they are told to.
    """
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return None
    if given := os.environ.get("RAY_AUTH_TOKEN"):
        return given
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else Path.home() / ".ray" / "auth_token"
    return file.read_text().strip() if file.is_file() else None


def token_mode() -> dict[str, str]:
    """Variables with which Ray's own clients send the token, where they do not do so already."""
    return {"RAY_AUTH_MODE": "token"} if token() and "RAY_AUTH_MODE" not in os.environ else {}


def travelling(modules: Iterable[Path], folder: Path) -> tuple[str, ...]:
    """Of the user's own modules those that lie outside ``folder``: the outermost packages' folders.

    Raises InputError on a module of a single file there, which Ray does not take along.
    """
    outside = [_outermost(file) for file in modules if not file.is_relative_to(folder)]
    for place in outside:
        if place.is_file():
            raise InputError(
                f"{place}: a module outside {folder} that is no package does not travel with the "
                f"job; put it into {folder}, or make it a package ({place.stem}/__init__.py)"
            )
    return tuple(dict.fromkeys(map(str, outside)))


def _outermost(file: Path) -> Path:
    place = file
    while (place.parent / "__init__.py").is_file():
        place = place.parent
    return place


def submission(
    config: Path,
    checked: RunConfig,
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
    check_kept(place)
    line = ["python", "-m", "orchestrator", "run", str(target.relative_to(here))]
    line += ["--run-dir", place]
    line += [part for item in settings for part in ("--set", item)]
    line += ["--tracking-uri", tracking_uri] if tracking_uri else []
    line += ["--wait-for-nodes", f"{wait_for_nodes:g}"] if wait_for_nodes else []
    return Submission(
        address=where,
        working_dir=".",
        entrypoint=tuple(line),
        modules=travelling(own_modules(checked.plain()).values(), here),
        environment={CODE_VERSION: code_version()},
        client=token_mode(),
    )


def submit(job: Submission) -> tuple[Any, str]:
    """Hand the job over; returns the client and the job's id.

    Raises InputError where the cluster does not answer or wants another token.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    sent = token()
    try:
        client = JobSubmissionClient(
            job.address, headers={"Authorization": f"Bearer {sent}"} if sent else None
        )
        line = shlex.join(job.entrypoint)
        job_id = client.submit_job(
            entrypoint=line, runtime_env={"working_dir": job.working_dir, **job.runtime_env}
        )
    except (ConnectionError, AuthenticationError, RuntimeError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise InputError(
            f"--address {job.address}: the job was not taken ({first})\n  start a head with "
            "`ray start --head`, give its dashboard's http://HOST:PORT, and where it asks for "
            "another token than ~/.ray/auth_token set RAY_AUTH_TOKEN_PATH to a copy of it"
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
