"""Runs -> the page, through the template beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from orchestrator.report.page.content import content
from orchestrator.report.runs import Run

HERE = Path(__file__).parent


def render(runs: Sequence[Run]) -> str:
    """The page as HTML: style, charts and data inside it. Takes time linear in what it shows."""
    return _template().render(content(runs), style=(HERE / "style.css").read_text("utf-8"))


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    return environment.get_template("page.html")


def _number(value: float | None, digits: int = 3) -> str:
    """A figure as tables show it; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"
