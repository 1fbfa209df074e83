"""Files that a run's results are put into: the tables and the page, in its folder or elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from orchestrator.core.folder import RunFolder
from orchestrator.report.page import render
from orchestrator.report.runs import open_run, open_runs
from orchestrator.report.tables import as_csv, as_parquet, values
from workers.contract import InputError
from workers.storage import is_remote

FIGURES = "figures"
"""Folder of a run's figures, which the tracker draws."""


def write_results(folder: RunFolder) -> None:
    """Put ``results.csv``, ``results.parquet`` and ``report.html`` into a run's folder.

    Says so on stderr where the folder takes no more files: what the journal holds is not lost.
    """
    run = open_run(folder.place)
    rows = list(values([run.history]))
    files = {
        "results.csv": as_csv(rows).encode(),
        "results.parquet": as_parquet(rows),
        "report.html": render([run]).encode(),
    }
    if is_remote(folder.place):
        for path in sorted((folder.path / FIGURES).glob("*.png")):
            files[f"{FIGURES}/{path.name}"] = path.read_bytes()
    try:
        for name, data in files.items():
            folder.put(name, data)
    except (InputError, OSError) as error:
        print(
            f"results were not written ({error}); growstage report {folder.place} makes the page "
            "anew",
            file=sys.stderr,
        )


def write_page(places: Iterable[str | Path], out: Path) -> None:
    """The page of runs or sweeps as a file; InputError where it cannot be written."""
    page = render(open_runs(places))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"--out {out}: cannot be written ({error.strerror}); give an HTML file in a folder "
            "that can be written to"
        ) from error
