"""The command line. Arguments are read before anything heavy is imported."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from orchestrator.commands import files, models, results
from orchestrator.commands.options import (
    Address,
    AsJson,
    Changed,
    Config,
    RunDir,
    Set,
    TrackingUri,
    WaitForNodes,
    print_json,
)
from orchestrator.entry import EXIT_FAILED, EXIT_INTERRUPTED, InterruptTold, enter

app = typer.Typer(
    name="growstage",
    help="Continual-learning streams on Ray: models that grow, lineage in MLflow.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: what draws boxes takes longer to import than all else
)


def _version(asked: bool) -> None:
    if asked:
        from orchestrator.beginning import code_version, release

        typer.echo(f"growstage {release()} (code {code_version()})")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Continual-learning streams on Ray: models that grow, lineage in MLflow."""


@app.command()
def run(
    config: Config,
    set_: Set = None,
    run_dir: Annotated[
        str | None,
        typer.Option(
            help="Folder of the run (path or URI); one that has a journal is gone on with."
        ),
    ] = None,
    tracking_uri: TrackingUri = None,
    address: Address = None,
    wait_for_nodes: WaitForNodes = 0.0,
    as_json: AsJson = False,
) -> None:
    """Run a stream file to its end."""
    typer.echo(f"growstage: reading {config} ...", err=True)  # before what takes seconds to import
    from orchestrator import session

    checked = session.load(config, set_ or (), tracking_uri)
    folder, text = run_dir or session.default_run_dir(checked), session.as_run(config, set_ or ())
    status = session.run(checked, folder, tracking_uri, address, as_json, wait_for_nodes, text)
    _finish(status, folder, as_json)


@app.command()
def resume(
    run_dir: RunDir,
    set_: Changed = None,
    tracking_uri: TrackingUri = None,
    address: Address = None,
    wait_for_nodes: WaitForNodes = 0.0,
    as_json: AsJson = False,
) -> None:
    """Go on with an interrupted, killed or failed run."""
    from orchestrator import session

    status = session.resume(run_dir, tracking_uri, address, as_json, wait_for_nodes, set_ or ())
    _finish(status, run_dir, as_json)


@app.command()
def submit(
    config: Config,
    set_: Set = None,
    run_dir: Annotated[
        str | None,
        typer.Option(help="Folder of the run (absolute path or URI) that every node reaches."),
    ] = None,
    tracking_uri: TrackingUri = None,
    address: Annotated[
        str | None, typer.Option(help="Dashboard of the cluster; default: http://127.0.0.1:8265.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Show the job's output until it ends.")] = False,
    wait_for_nodes: WaitForNodes = 0.0,
) -> None:
    """Hand a stream file to a Ray cluster as a job; made again, it goes on where it stopped."""
    from orchestrator import session
    from orchestrator.cluster import jobs

    checked = session.load(config, set_ or (), tracking_uri)
    job = jobs.submission(
        config, checked, set_ or (), run_dir, tracking_uri, address, wait_for_nodes
    )
    print(job.command(), file=sys.stderr)
    client, job_id = jobs.submit(job)
    typer.echo(job_id)
    if not wait:
        typer.echo(job.hints(job_id), err=True)
        return
    status = jobs.follow(client, job_id)
    typer.echo(f"job {job_id}: {status}", err=True)
    if status == "STOPPED":
        raise typer.Exit(EXIT_INTERRUPTED)
    jobs.check_succeeded(job_id, status)


@app.command("ops")
def ops_(as_json: AsJson = False) -> None:
    """What computes the routed layers here: compiled kernels or plain torch, and why."""
    import ops

    status = ops.status()
    if as_json:
        print_json(status.as_json())
    else:
        typer.echo(status.line())


for _command in (files.init, files.plan, *results.COMMANDS, *models.COMMANDS, files.schema):
    app.command()(_command)
app.command("list")(files.list_)
app.add_typer(files.data_app, name="data")


def _finish(status: str, run_dir: str, as_json: bool) -> None:
    """Print the result and leave with the exit code of the run's status."""
    from orchestrator import session

    if as_json:
        print_json(session.report_of(run_dir))
    if status == "interrupted":
        from orchestrator.core.hints import resume_command

        print(
            f"interrupted; the state is saved. Go on with:\n  {resume_command(run_dir)}",
            file=sys.stderr,
        )
        raise InterruptTold
    if status != "done":
        raise typer.Exit(EXIT_FAILED)


def main() -> None:
    """Entry point of ``growstage``."""
    enter(
        app,
        "interrupted; nothing is lost: a folder that has a journal is gone on with by "
        "`growstage resume FOLDER`",
    )


if __name__ == "__main__":
    main()
