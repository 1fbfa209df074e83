"""The questions of ``growstage init`` at a terminal; each has an option that answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from orchestrator.config.templates import Wishes

QUESTIONS = {
    "path": "Where it is (a folder of images, or a file)",
    "label": "Column with the label",
}


def ask(given: dict[str, str | None], wishes: Wishes) -> tuple[str, dict[str, str | None], Wishes]:
    """Template, what it needs, and wishes; only what was not given is asked.

    An empty answer takes what stands in brackets; an answer that is none is asked for again.
    """
    from orchestrator.config.templates import TEMPLATES, Wishes

    typer.echo("What is learnt?")
    for name, one in TEMPLATES.items():
        typer.echo(f"  {name:8} {one.text}")
    template = typer.prompt("Begin with", default="digits")
    while template not in TEMPLATES:
        template = typer.prompt(f"One of {', '.join(TEMPLATES)}", default="digits")
    needed = {key: given[key] or typer.prompt(QUESTIONS[key]) for key in TEMPLATES[template].needs}
    grow, seeds = wishes.grow, wishes.seeds
    if grow is None:
        grow = typer.confirm("Add an expert at each stage", default=True)
    if seeds is None:
        known = len(TEMPLATES[template].raw["lanes"][0].get("seeds", [0]))
        seeds = typer.prompt("Seeds (how often each lane is learnt)", default=known, type=int)
        while seeds < 1:
            seeds = typer.prompt("At least 1", default=known, type=int)
    return template, given | needed, Wishes(grow=grow, seeds=seeds)
