"""The command line of searches. Arguments are read before anything heavy is imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from orchestrator.entry import EXIT_FAILED, InterruptTold, enter
from tune_spaces import SPACES
from workers.contract import InputError
from workers.tables import first_line

_SPACES = "\n\n".join(f"{name}: {first_line(cls)}" for name, cls in SPACES.items())

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(
    no_args_is_help=True,
    help=f"Search over whole streams: a trial is one lane of a stream file.\n\n{_SPACES}",
)
def main_(
    name: Annotated[str | None, typer.Argument(help="Space to search.", show_default=False)] = None,
    base: Annotated[
        Path | None, typer.Option(help="Stream file trials start from; default: the space's.")
    ] = None,
    lane: Annotated[
        str | None, typer.Option(help="Lane of the file that is a trial, where it has several.")
    ] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="Trials.")] = 8,
    max_concurrent: Annotated[
        int, typer.Option(min=0, help="Trials at once; 0 = as many as there is room for.")
    ] = 0,
    scheduler: Annotated[
        Literal["asha", "pbt", "none"], typer.Option(help="What stops or moves trials.")
    ] = "asha",
    search: Annotated[
        Literal["random", "optuna"], typer.Option(help="What proposes settings.")
    ] = "random",
    objective: Annotated[
        str | None,
        typer.Option(help="What is maximised, e.g. 'acc.final - 0.5*forgetting.max' or 'return'."),
    ] = None,
    grace: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Stages a trial learns before it may be stopped; default: 2, or until all grew.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the search, not of the streams.")] = 0,
    sweep_dir: Annotated[
        Path | None, typer.Option(help="Folder of the sweep; default: runs/NAME-TIME.")
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow store or server; default: sqlite beside the sweep's folder."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join; default: a job's own, or a local Ray.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the sweep in this folder.", metavar="DIR")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object.")] = False,
) -> None:
    """Search over whole streams."""
    from orchestrator.beginning import named_store
    from orchestrator.core.addresses import without_password
    from tune_spaces import sweep
    from tune_spaces.search import load

    if resume is not None:
        folder = resume.resolve()
        plan = load(folder)
    elif name is None:
        raise InputError(f"name a space ({', '.join(SPACES)}) or give --resume DIR")
    else:
        plan = sweep.make_plan(
            name,
            base,
            lane,
            num_samples=num_samples,
            max_concurrent=max_concurrent,
            scheduler=scheduler,
            search=search,
            objective=objective,
            grace=grace,
            seed=seed,
            tracking_uri=None if tracking_uri is None else without_password(tracking_uri),
        )
        folder = sweep.create(plan, sweep_dir)
    store = named_store(plan.tracking_uri, tracking_uri)
    status, summary = sweep.run(plan, folder, store, address, quiet=as_json)
    if as_json:
        print(json.dumps(summary), flush=True)
    if status == "interrupted":
        raise InterruptTold
    if status != "done":
        raise typer.Exit(EXIT_FAILED)


def main() -> None:
    """Entry point of searches."""
    enter(
        app,
        "interrupted; nothing is lost: a folder that has a sweep is gone on with by "
        "`python -m tune_spaces --resume FOLDER`",
    )


if __name__ == "__main__":
    main()
