"""Charts as SVG text: lines over stages with marks, means with intervals, bars in time, a graph.

Pure: knows numbers and names, no run. Colours come from the page's style sheet (``--c0`` to
``--c7``, ``--ink``, ``--faint``), so that they follow light and dark. Each chart is as wide as its
place; text is drawn for a place of some 400 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 38, 10, 22, 34
COLOURS = 8
"""Of the page's style sheet; more series than that repeat them."""
SIGNS = {"growth": "▲", "mask": "■", "phase": "◆"}
"""What an edit is marked with, by its noun; any other is a cross."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line: points in order of x; gaps are drawn where y is not a number."""

    name: str
    points: Sequence[Point]
    colour: int
    band: Sequence[tuple[float, float, float]] = ()
    """(x, low, high) of an area around it."""
    dots: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that happened at x."""

    x: float
    noun: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Whisker:
    """A mean with its interval."""

    name: str
    mean: float
    half: float | None
    bound: bool = False
    """Whether it is there as a bound for the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Something that lasts from one moment to another, in stages."""

    name: str
    start: float
    end: float
    colour: int
    text: str = ""


def colour(number: int) -> str:
    """The CSS colour of a series."""
    return f"var(--c{number % COLOURS})"


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where values lie in a chart."""

    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        share = (value - self.x0) / ((self.x1 - self.x0) or 1.0)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y0) / ((self.y1 - self.y0) or 1.0)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def lines(
    series: Sequence[Series], marks: Iterable[Mark] = (), *, x_label: str, title: str
) -> Markup:
    """Lines over stages; empty where no series has a point."""
    points = [p for one in series for p in one.points if math.isfinite(p[1])]
    if not points:
        return Markup("")
    heights = [y for _, y in points] + [y for one in series for _, *ends in one.band for y in ends]
    low, high = min([0.0, *heights]), max([1.0, *heights])
    frame = _Frame(min(x for x, _ in points), max(x for x, _ in points), low, high)
    parts = [_axes(frame, x_label), *(_mark(frame, mark) for mark in marks)]
    parts += [part for one in series for part in _series(frame, one)]
    return _svg(WIDTH, HEIGHT, title, parts, legend=[(one.name, one.colour) for one in series])


def _axes(frame: _Frame, x_label: str) -> str:
    bottom = HEIGHT - BOTTOM
    parts = []
    for value in steps(frame.y0, frame.y1, 5):
        y = frame.y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4}" class="end">{value:g}</text>')
    for value in steps(frame.x0, frame.x1, 8, whole=True):
        x = frame.x(value)
        parts.append(f'<text x="{x}" y="{bottom + 14}" class="mid">{value:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 5}" class="mid">{escape(x_label)}</text>')
    return "".join(parts)


def _mark(frame: _Frame, mark: Mark) -> str:
    x, sign = frame.x(mark.x), SIGNS.get(mark.noun, "✕")
    return (
        f'<g class="mark"><path d="M{x} {TOP}V{HEIGHT - BOTTOM}"/>'
        f'<text x="{x}" y="{TOP - 5}" class="mid">{sign}</text>'
        f"<title>{escape(mark.text)}</title></g>"
    )


def _series(frame: _Frame, one: Series) -> list[str]:
    paint = colour(one.colour)
    parts = []
    if one.band:
        there = [f"{frame.x(x)},{frame.y(high)}" for x, _, high in one.band]
        back = [f"{frame.x(x)},{frame.y(low)}" for x, low, _ in reversed(one.band)]
        shape = " ".join([*there, *back])
        parts.append(f'<polygon points="{shape}" fill="{paint}" opacity=".18"/>')
    path, pen = [], "M"
    for x, y in one.points:
        if not math.isfinite(y):
            pen = "M"
            continue
        path.append(f"{pen}{frame.x(x)} {frame.y(y)}")
        pen = "L"
    drawn = "".join(path)
    parts.append(f'<path class="line" d="{drawn}" stroke="{paint}"><title>{escape(one.name)}')
    parts[-1] += "</title></path>"
    shown = [p for p in one.points if math.isfinite(p[1])]
    if one.dots or len(shown) == 1:
        parts += [
            f'<circle cx="{frame.x(x)}" cy="{frame.y(y)}" r="2.4" fill="{paint}">'
            f"<title>{escape(one.name)}: {y:.3f}</title></circle>"
            for x, y in shown
        ]
    return parts


def whiskers(rows: Sequence[Whisker], *, title: str) -> Markup:
    """Means with their intervals, one under the other; bounds hollow. 0 to 1, or what they need."""
    if not rows:
        return Markup("")
    ends = [row.mean + sign * (row.half or 0.0) for row in rows for sign in (-1, 1)]
    low, high = min([0.0, *ends]), max([1.0, *ends])
    named, step, top = 130, 20, 8
    height = top + step * len(rows) + 24

    def at(value: float) -> float:
        return round(named + (value - low) / (high - low) * (WIDTH - named - 14), 1)

    parts = [
        f'<path class="grid" d="M{at(value)} {top}V{height - 20}"/>'
        f'<text x="{at(value)}" y="{height - 6}" class="mid">{value:g}</text>'
        for value in steps(low, high, 5)
    ]
    for number, row in enumerate(rows):
        y = top + step * number + step / 2
        paint = "var(--faint)" if row.bound else colour(number)
        told = f"{row.name}: {row.mean:.3f}" + ("" if row.half is None else f" ± {row.half:.3f}")
        name = row.name if len(row.name) <= 20 else f"{row.name[:19]}…"
        parts.append(f'<text x="{named - 8}" y="{y + 4}" class="end">{escape(name)}</text>')
        if row.half:
            left, right = at(row.mean - row.half), at(row.mean + row.half)
            parts.append(f'<path class="line" d="M{left} {y}H{right}" stroke="{paint}"/>')
        fill = "var(--paper)" if row.bound else paint
        parts.append(
            f'<circle cx="{at(row.mean)}" cy="{y}" r="4" fill="{fill}" stroke="{paint}" '
            f'stroke-width="2"><title>{escape(told)}</title></circle>'
        )
    return _svg(WIDTH, height, title, parts)


def timeline(groups: Sequence[tuple[str, Sequence[Bar]]], stages: int, *, title: str) -> Markup:
    """Bars over stages, grouped under headings: who was there from when to when."""
    if not any(bars for _, bars in groups):
        return Markup("")
    named, step = 74, 13

    def at(value: float) -> float:
        return round(named + value / max(1, stages) * (WIDTH - named - 8), 1)

    parts, y = [], 4.0
    for heading, bars in groups:
        parts.append(f'<text x="0" y="{y + 11}" class="head">{escape(heading)}</text>')
        y += 16
        for bar in bars:
            width = max(2.0, at(bar.end) - at(bar.start))
            told = f"{bar.name}: {bar.text}"
            parts.append(f'<text x="{named - 6}" y="{y + 9}" class="end">{escape(bar.name)}</text>')
            parts.append(
                f'<rect x="{at(bar.start)}" y="{y + 1}" width="{width:.1f}" height="{step - 3}" '
                f'rx="2" fill="{colour(bar.colour)}"><title>{escape(told)}</title></rect>'
            )
            y += step
        y += 4
    ticks = "".join(
        f'<path class="grid" d="M{at(value)} 4V{y}"/>'
        f'<text x="{at(value)}" y="{y + 12}" class="mid">{value:g}</text>'
        for value in steps(0, stages, 10, whole=True)
    )
    label = f'<text x="{WIDTH / 2}" y="{y + 26}" class="mid">stages learnt</text>'
    return _svg(WIDTH, y + 32, title, [ticks, *parts, label])


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One model of a lineage: column = stages learnt, row = lane."""

    column: int
    row: int
    text: str
    tone: str
    """CSS class: ``done``, ``running``, ``failed``, ..."""
    link: str
    told: str


def graph(
    nodes: Sequence[Node], edges: Iterable[tuple[int, int]], rows: Sequence[str], *, title: str
) -> Markup:
    """Models as boxes in a grid and what each goes on from; ``edges`` = places in ``nodes``."""
    if not nodes:
        return Markup("")
    named, wide, high = 120, 74, 30
    width = named + wide * (1 + max(node.column for node in nodes))
    parts = []

    def centre(node: Node) -> tuple[float, float]:
        return named + wide * node.column + (wide - 14) / 2, high * node.row + high / 2

    for one, other in edges:
        (x0, y0), (x1, y1) = centre(nodes[one]), centre(nodes[other])
        start, end = x0 + (wide - 14) / 2, x1 - (wide - 14) / 2
        bend = (start + end) / 2
        parts.append(f'<path class="edge" d="M{start} {y0}C{bend} {y0} {bend} {y1} {end} {y1}"/>')
    for number, name in enumerate(rows):
        short = name if len(name) <= 18 else f"{name[:17]}…"
        y = high * number + high / 2 + 4
        parts.append(f'<text x="0" y="{y}">{escape(short)}<title>{escape(name)}</title></text>')
    for node in nodes:
        x, y = centre(node)
        parts.append(
            f'<a href="#{escape(node.link)}"><g class="node {node.tone}">'
            f'<rect x="{x - (wide - 14) / 2}" y="{y - 10}" width="{wide - 14}" height="20" rx="4"/>'
            f'<text x="{x}" y="{y + 4}" class="mid">{escape(node.text)}</text>'
            f"<title>{escape(node.told)}</title></g></a>"
        )
    return _svg(width, high * len(rows), title, parts, fixed=True)


def steps(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """Round values from ``low`` to ``high``, at most some ``most`` of them; ``whole``: integers."""
    span = high - low
    if span <= 0:
        return [low]
    size = 10.0 ** math.floor(math.log10(span / most))
    size = next(size * n for n in (1, 2, 5, 10) if span / (size * n) <= most)
    size = max(1.0, size) if whole else size
    first, last = math.ceil(low / size - 1e-9), math.floor(high / size + 1e-9)
    return [round(n * size, 10) for n in range(first, last + 1)]


def _svg(
    width: float,
    height: float,
    title: str,
    parts: Iterable[str],
    legend: Sequence[tuple[str, int]] = (),
    fixed: bool = False,
) -> Markup:
    """``fixed``: as wide as drawn, for a place that scrolls; else as wide as its place."""
    size = f' width="{width:g}" height="{height:g}"' if fixed else ""
    named = "".join(
        f'<span><i style="background:{colour(number)}"></i>{escape(name)}</span>'
        for name, number in legend
    )
    below = f'<div class="legend">{named}</div>' if len(legend) > 1 else ""
    return Markup(
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {width:g} {height:g}"'
        f'{size} role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>{below}</figure>'
    )
