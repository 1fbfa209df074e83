"""A run's first event and what it says: which config, which code, which store, which trial."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from orchestrator.config.modules import module_digests
from orchestrator.config.run import RunConfig
from orchestrator.core.addresses import HIDDEN, without_password
from orchestrator.core.events import ClusterChanged, RunResumed, RunStarted
from orchestrator.core.journal import JOURNAL_FILE, first_record, read
from orchestrator.core.plans import TrialRef
from workers.contract import InputError, Json

CODE_VERSION = "GROWSTAGE_CODE_VERSION"
"""Environment variable of a job: the version of the code that travelled without its repository."""


def begin(
    config: RunConfig, run_id: str, tracking_uri: str | None = None, trial: TrialRef | None = None
) -> RunStarted:
    """The first event of a new run, or of a trial's attempt; ``tracking_uri``: None = the file
    beside the run folder."""
    return RunStarted(
        at=time.time(),
        run_id=run_id,
        name=config.name,
        config=config.plain(),
        config_digest=config.digest,
        plan=config.plan(),
        code_version=code_version(),
        modules=module_digests(config.plain()),
        tracking_uri=None if tracking_uri is None else without_password(tracking_uri),
        trial=trial,
    )


def joined(cpus: float, gpus: float) -> ClusterChanged:
    """What follows a run's beginning: the cluster and what it has."""
    return ClusterChanged(at=time.time(), cpus=cpus, gpus=gpus)


def takeover(
    cpus: float,
    gpus: float,
    tracking_uri: str | None = None,
    modules: Mapping[str, str] | None = None,
    settings: Mapping[str, Json] | None = None,
) -> RunResumed:
    """The first event of a driver that goes on with a run; ``tracking_uri``: where it is shown;
    ``modules``: digests of the user's own ones; ``settings``: those that are other than before."""
    return RunResumed(
        at=time.time(),
        code_version=code_version(),
        cpus=cpus,
        gpus=gpus,
        modules=modules or {},
        settings=settings or {},
        tracking_uri=None if tracking_uri is None else without_password(tracking_uri),
    )


def check_same_config(run_dir: Path | str, started: RunStarted, config: RunConfig) -> None:
    """Refuse to go on with a journal that another config wrote."""
    if started.config_digest != config.digest:
        raise InputError(
            f"{run_dir}: its journal belongs to config {started.config_digest}, this config is "
            f"{config.digest}; give another --run-dir, or run the config the journal was made "
            "with (growstage resume --set changes what results do not depend on)"
        )


def tracking_store(run_dir: Path, named: str | None) -> str | None:
    """The store that the run in ``run_dir`` is shown in: ``named``, else the journal's last one.

    Says so where that is another than before; None = the file beside the run folder. Raises
    InputError where the journal's needs a password, which it does not hold.
    """
    known: str | None = None
    path = run_dir / JOURNAL_FILE
    for record, _ in read(path) if path.is_file() else ():
        if isinstance(record.event, RunStarted | RunResumed):
            known = record.event.tracking_uri
    if named is not None and first_record(run_dir) and without_password(named) != known:
        print(
            f"this run was shown in {known or 'the store beside its folder'}; from now on it is "
            f"shown, from its beginning, in {without_password(named)}",
            file=sys.stderr,
        )
    return named_store(known, named)


def own_code(run_dir: Path, config: RunConfig) -> dict[str, str]:
    """Digests of the user's own modules; says which are others than when the run was last here."""
    now, before = module_digests(config.plain()), dict[str, str]()
    path = run_dir / JOURNAL_FILE
    for record, _ in read(path) if path.is_file() else ():
        if isinstance(record.event, RunStarted | RunResumed):
            before = dict(record.event.modules)
    changed = [name for name in sorted(now) if before.get(name, now[name]) != now[name]]
    if changed:
        print(
            f"changed since this run was here last: {', '.join(changed)}; it goes on with what "
            "stands there now, and the journal says from where",
            file=sys.stderr,
        )
    return now


def named_store(known: str | None, named: str | None) -> str | None:
    """The store named now, else the one that was written down when the work began.

    Raises InputError where that one's password is missing.
    """
    if named is None and known is not None and HIDDEN in known:
        raise InputError(
            f"this is shown in {known}, whose password is not kept; give it again with "
            "--tracking-uri"
        )
    return named or known


@cache
def code_version() -> str:
    """Of what this process runs: commit of the source tree (``+dirty`` where it differs), else what
    submitted this job said of it, else the distribution's version."""
    root = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(root), "describe", "--always", "--dirty=+dirty", "--abbrev=12"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return os.environ.get(CODE_VERSION) or release()


def release() -> str:
    """Version of the installed distribution."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("growstage")
    except PackageNotFoundError:
        return f"unknown (python {sys.version_info.major}.{sys.version_info.minor})"
