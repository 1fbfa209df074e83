"""Files that a run's results are put into: the tables and the page, in its folder or elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from orchestrator.core.folder import RunFolder
from orchestrator.core.hints import command
from orchestrator.report.page import render
from orchestrator.report.runs import open_run, open_runs
from orchestrator.report.tables import as_csv, as_parquet, values
from workers.contract import InputError
from workers.storage import is_remote

FIGURES = "figures"
"""Folder of a run's figures, which the tracker draws."""


def write_results(folder: RunFolder) -> None:
    """Put ``results.csv``, ``results.parquet`` and ``report.html`` into a run's folder.

    Says so on stderr where one cannot be made or the folder takes no more files: what the journal
    holds is not lost, and a run that ended does not fail by what is drawn of it.
    """
    makers = {"the tables": _tables, "the page": _page}
    for what, maker in makers.items():
        try:
            for name, data in maker(folder).items():
                folder.put(name, data)
        except Exception as error:  # whatever drawing comes upon: all of it can be made anew
            told = str(error) if isinstance(error, InputError | OSError) else repr(error)
            anew = command("report", folder.place)
            print(f"{what} of this run could not be written: {told}; anew: {anew}", file=sys.stderr)


def _tables(folder: RunFolder) -> dict[str, bytes]:
    rows = list(values([open_run(folder.place).history]))
    return {"results.csv": as_csv(rows).encode(), "results.parquet": as_parquet(rows)}


def _page(folder: RunFolder) -> dict[str, bytes]:
    """The page, and the figures beside it where the folder is elsewhere."""
    files = {"report.html": render([open_run(folder.place)]).encode()}
    if is_remote(folder.place):
        for path in sorted((folder.path / FIGURES).glob("*.png")):
            files[f"{FIGURES}/{path.name}"] = path.read_bytes()
    return files


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
