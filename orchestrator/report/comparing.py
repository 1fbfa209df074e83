"""``growstage compare`` and ``growstage runs`` in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from orchestrator.report.runs import RunRow, ago, open_runs
from orchestrator.report.statistics import Estimate
from orchestrator.report.summary import COSTS, MEASURES, Variant, shown, standings, variants
from workers.contract import InputError

BEST, EQUAL = "*", "≈"
MARKS = {"best": BEST, "equal": EQUAL}
CELL = 19
"""Characters of a metric's column, its borders included."""


def table(places: Iterable[str | Path]) -> list[Variant]:
    """Variants of all runs in these folders; InputError where none was measured."""
    found = variants(run.history for run in open_runs(places))
    if not found:
        raise InputError("nothing was measured yet in these runs; compare them once a stage ended")
    return found


def show(found: Sequence[Variant], metrics: Sequence[str] | None, against: str | None) -> None:
    """Print the variants, as many metrics beside each other as the terminal has room for.

    Raises InputError where a metric or the variant to compare with is not there.
    """
    names = _chosen(found, metrics)
    console = Console(highlight=False)
    base = None if against is None else _named(found, against)
    room = max(1, (console.width - 2 - max(len(one.name) for one in found) - 9) // CELL)
    for start in range(0, len(names), room):
        part = names[start : start + room]
        console.print(_values(found, part) if base is None else _differences(found, base, part))
    if base is None:
        console.print(
            f"mean ± half width of the 95 % interval over seeds; {BEST} best mean, bounds apart; "
            f"{EQUAL} within noise of it",
            markup=False,
        )
    else:
        console.print(
            f"less {base.name}, by seed where both have it, with the 95 % interval; {EQUAL} within "
            "noise",
            markup=False,
        )


def _chosen(found: Sequence[Variant], metrics: Sequence[str] | None) -> list[str]:
    """Names of metrics that some variant has."""
    if metrics is None:
        return [*shown(found, MEASURES), *shown(found, COSTS)[:1]]
    known = sorted({name for one in found for name in one.values})
    for name in metrics:
        if name not in known:
            raise InputError(f"--metrics: no metric {name!r}; there are: {', '.join(known)}")
    return list(metrics)


def _named(found: Sequence[Variant], name: str) -> Variant:
    known = {one.name: one for one in found}
    if name not in known:
        raise InputError(f"--against: no variant {name!r}; there are: {', '.join(known)}")
    return known[name]


def _values(found: Sequence[Variant], names: Sequence[str]) -> Table:
    standing = {name: standings(found, name) for name in names}
    made = Table()
    made.add_column("variant", overflow="fold")
    made.add_column("seeds", justify="right")
    for name in names:
        made.add_column(name, justify="right")
    for one in found:
        cells = []
        for name in names:
            own = one.estimate(name)
            mark = MARKS.get(standing[name].get(one.name, ""), "")
            cells.append("-" if own is None else f"{_told(name, own)} {mark}".strip())
        name = f"{one.name} (bound)" if one.baselines else one.name
        made.add_row(name, str(len(one.lanes)), *cells)
    return made


def _differences(found: Sequence[Variant], base: Variant, names: Sequence[str]) -> Table:
    made = Table()
    made.add_column("variant", overflow="fold")
    for name in names:
        made.add_column(name, justify="right")
    for one in found:
        if one is base:
            continue
        gaps = [one.against(base, name) for name in names]
        cells = [
            "-" if gap is None else f"{_signed(name, gap)} {EQUAL if gap.noise else ''}".strip()
            for name, gap in zip(names, gaps, strict=True)
        ]
        made.add_row(one.name, *cells)
    return made


def _told(name: str, value: Estimate) -> str:
    """An estimate as the table shows it: costs as whole numbers, scores to three digits."""
    return value.text(0 if name in COSTS else 3)


def _signed(name: str, value: Estimate) -> str:
    text = _told(name, value)
    return text if text.startswith("-") else f"+{text}"


def show_runs(folder: Path, rows: Sequence[RunRow]) -> None:
    """Print the runs of a folder, and under them what to do about those that stopped."""
    console = Console(highlight=False)
    if not rows:
        raise InputError(f"{folder}: no runs there; give the folder that holds run folders")
    made = Table()
    for name in ("run", "state", "stages", "lanes", "changed"):
        right = name in ("stages", "lanes", "changed")
        made.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        stages = f"{row.stages}/{row.planned}"
        made.add_row(row.run_id, row.state, stages, str(row.lanes), ago(row.changed))
    console.print(made)
    for row in rows:
        if row.advice:
            console.print(f"{row.run_id}: {row.advice}", markup=False, soft_wrap=True)
