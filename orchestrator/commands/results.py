"""Commands about what runs came to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.options import AsJson, RunDir, RunDirs, TrackingUri, print_json


def show(
    run_dir: RunDir,
    every_lane: Annotated[bool, typer.Option("--lanes", help="Each seed's matrix.")] = False,
    as_json: AsJson = False,
) -> None:
    """What a run did: stages, edits, accuracy matrix, metrics."""
    from orchestrator import session
    from orchestrator.report import results

    result = session.report_of(run_dir)
    if as_json:
        print_json(result)
    else:
        results.print_report(result, every_lane)


def lineage(
    name: Annotated[str, typer.Argument(help="Model or stage: its id, name or digest.")],
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Where a model came from, read from MLflow alone."""
    from orchestrator import session

    session.print_lineage(name, tracking_uri, as_json)


def report(
    run_dirs: RunDirs,
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
) -> None:
    """Write one HTML page on runs or sweeps: results, curves, edits, lineage; needs no network."""
    from orchestrator.report import outputs

    outputs.write_page(run_dirs, out)
    typer.echo(f"report of {', '.join(run_dirs)}: {out}")


def compare(
    run_dirs: RunDirs,
    metrics: Annotated[
        str | None, typer.Option(help="Metrics, with commas; default: the headlines.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Variant to show differences to, seed by seed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Variants x metrics over seeds, and which differences are within noise."""
    from orchestrator.report import comparing

    table = comparing.table(run_dirs)
    if as_json:
        from orchestrator.report.summary import as_json as plain

        print_json({"variants": plain(table)})
    else:
        comparing.show(table, metrics.split(",") if metrics else None, against)


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that holds run folders.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """The runs in a folder, with their state and how to go on with them."""
    from dataclasses import asdict

    from orchestrator.report import comparing
    from orchestrator.report.runs import listed

    rows = listed(folder)
    if as_json:
        print_json([{**asdict(row), "advice": row.advice} for row in rows])
    else:
        comparing.show_runs(folder, rows)


def openlineage(
    run_dir: RunDir,
    out: Annotated[
        Path | None, typer.Option(help="File to write, an event a line; default: standard output.")
    ] = None,
) -> None:
    """A run as OpenLineage events for data catalogues: run, stages, data, models."""
    from orchestrator.commands.files import write
    from orchestrator.report.openlineage import as_lines
    from orchestrator.report.runs import open_run

    text = as_lines(open_run(run_dir))
    if out is None:
        print(text, end="")
    else:
        write(out, text)
        typer.echo(f"{len(text.splitlines())} events in {out}")


COMMANDS = (show, report, compare, runs, lineage, openlineage)
