"""Arguments and options that several commands have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Config = Annotated[Path, typer.Argument(help="Stream file (TOML).", show_default=False)]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a.b=value; repeatable.")]
Changed = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a.b=value from here on, where results do not depend on it; repeatable.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
RunDir = Annotated[str, typer.Argument(help="Folder of a run: path or URI.", show_default=False)]
RunDirs = Annotated[
    list[str],
    typer.Argument(
        help="Folders of runs, or of several runs (a sweep): paths or URIs.", show_default=False
    ),
]
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
Lane = Annotated[str | None, typer.Option(help="Lane; default: the first that has one.")]
Stage = Annotated[int | None, typer.Option(help="Stage, from 0; default: the last.")]
LaneNamed = Annotated[str, typer.Argument(help="Lane.", show_default=False)]
StageNamed = Annotated[int, typer.Argument(help="Stage, from 0.", show_default=False)]
NewFolder = Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)]


def print_json(value: Any) -> None:
    """One JSON object on a line of its own."""
    print(json.dumps(value), flush=True)
