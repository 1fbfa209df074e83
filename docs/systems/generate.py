"""Writes the table of systems into docs/papers.md from the records beside this file: `make docs`.

A record (``NN_name.toml``) is one system of the literature: its mechanisms, where each is, what was
unknown, what was chosen, which tests hold it. ``tests/unit/test_systems.py`` checks all of it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAPERS = ROOT / "docs" / "papers.md"
BEGIN, END = "<!-- systems: begin, written by `make docs` -->", "<!-- systems: end -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """One mechanism of a system, as built here; ``not_built`` says why it is not."""

    name: str
    files: tuple[str, ...] = ()
    equation: str = "-"
    unknown: str = "-"
    chosen: str = "-"
    tests: tuple[str, ...] = ()
    use: str = "-"
    outside: tuple[str, ...] = ()
    """Files that had to change for it besides its own and the line of a table: ``path: why``."""
    not_built: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One system and its mechanisms."""

    number: int
    system: str
    source: str
    mechanisms: tuple[Mechanism, ...]


def records() -> list[System]:
    """All of them by number; records of one system are put together."""
    found = [_read(path) for path in sorted(HERE.glob("*.toml"))]
    merged = []
    for _, parts in groupby(sorted(found, key=lambda one: one.number), lambda one: one.number):
        first, *others = parts
        mechanisms = sum((other.mechanisms for other in others), first.mechanisms)
        heads = {(one.system, one.source) for one in (first, *others)}
        assert len(heads) == 1, f"records of one number with different heads: {heads}"
        merged.append(
            System(
                number=first.number,
                system=first.system,
                source=first.source,
                mechanisms=mechanisms,
            )
        )
    return merged


def _read(path: Path) -> System:
    record = tomllib.loads(path.read_text())
    mechanisms = tuple(
        Mechanism(**{key: tuple(v) if isinstance(v, list) else v for key, v in one.items()})
        for one in record.pop("mechanisms")
    )
    return System(**record, mechanisms=mechanisms)


def table(systems: Iterable[System]) -> str:
    """The generated part of docs/papers.md."""
    systems = list(systems)
    return "\n".join([*_mechanisms(systems), "", *_tests(systems), "", *_figures(systems)])


def _mechanisms(systems: list[System]) -> list[str]:
    lines = [
        "| | system | mechanism | file | equation | unknown | chosen | use |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for system in systems:
        for one in system.mechanisms:
            head = f"| {system.number} | {system.system} ({system.source}) | {_cell(one.name)} "
            if one.not_built:
                lines.append(f"{head}| - | - | - | not built: {_cell(one.not_built)} | - |")
                continue
            files = ", ".join(f"`{path}`" for path in one.files)
            rest = " | ".join(map(_cell, (one.equation, one.unknown, one.chosen, one.use)))
            lines.append(f"{head}| {files} | {rest} |")
    return lines


def _tests(systems: list[System]) -> list[str]:
    lines = ["| | mechanism | held by |", "|---|---|---|"]
    for system in systems:
        for one in system.mechanisms:
            if one.tests:
                held = ", ".join(f"`{_short(test)}`" for test in one.tests)
                lines.append(f"| {system.number} | {_cell(one.name)} | {held} |")
    return lines


def _figures(systems: list[System]) -> list[str]:
    """How much a mechanism took: lines of its files, files outside them."""
    built = [one for system in systems for one in system.mechanisms if one.files]
    lines = [
        sum(len((ROOT / path).read_text().splitlines()) for path in one.files) for one in built
    ]
    alone = sum(not one.outside for one in built)
    found = [
        f"{len(built)} mechanisms; lines of a mechanism's files: median {median(lines):.0f}. "
        f"{alone} needed nothing outside their files and a line of a table; the others:",
        "",
        "| mechanism | outside its files |",
        "|---|---|",
    ]
    others = [one for one in built if one.outside]
    return found + [f"| {_cell(one.name)} | {_cell('; '.join(one.outside))} |" for one in others]


def _short(test: str) -> str:
    return test.removeprefix("tests/").removeprefix("unit/")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def written(page: str) -> str:
    """The page with its generated part made anew."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    assert found, f"{PAPERS} lacks the lines {BEGIN!r} and {END!r}"
    return f"{before}{BEGIN}\n{table(records())}\n{END}{after}"


if __name__ == "__main__":
    PAPERS.write_text(written(PAPERS.read_text()))
