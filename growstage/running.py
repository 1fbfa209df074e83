"""Running a stream from Python, as ``growstage run`` and ``growstage resume`` do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from growstage.results import Run, load


def run(
    config: str | Path | Mapping[str, Any],
    run_dir: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    tracking_uri: str | None = None,
    address: str | None = None,
    quiet: bool = False,
) -> Run:
    """Run a stream to its end, with progress shown meanwhile, and return the run.

    ``config``: a stream file, or a dictionary with the keys of one. ``run_dir``: folder of the run
    (default: ``runs/NAME-TIME``); one whose journal holds this config is gone on with.
    ``overrides``: ``a.b=value`` laid over it. ``tracking_uri``, ``address``: MLflow store and Ray
    cluster (default: a file beside the run folder, a local Ray). ``quiet``: progress goes to
    stderr, and no results are printed.

    An interrupt stops the run and keeps its state: ``state`` says ``interrupted``, and calling this
    again with the same folder goes on. Raises InputError where the config is wrong; a run that
    failed is returned, its ``state`` and lanes say so.
    """
    from orchestrator import session

    checked, text = _checked(config, overrides, tracking_uri)
    folder = session.default_run_dir(checked) if run_dir is None else str(run_dir)
    session.run(checked, folder, tracking_uri, address, quiet, text=text)
    return load(folder)


def _checked(
    config: str | Path | Mapping[str, Any], overrides: Sequence[str], tracking_uri: str | None
) -> tuple[Any, str]:
    """The checked config, and its text as it is run."""
    from orchestrator import session
    from orchestrator.config.toml import to_toml

    if isinstance(config, Mapping):
        raw = session.overridden(config, overrides)
        return session.checked(raw, "config", tracking_uri), to_toml(raw)
    path = Path(config)
    return session.load(path, overrides, tracking_uri), session.as_run(path, overrides)
