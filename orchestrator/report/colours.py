"""Colours of lanes and trials, the same in figures and in the tracker."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence

HUES = (0.58, 0.07, 0.36, 0.97, 0.75, 0.14, 0.50, 0.88)
"""Hues of methods, far apart from their neighbours."""


def lane_colours(lanes: Sequence[tuple[str, str]]) -> dict[str, str]:
    """(method label, lane name) pairs -> lane -> ``#rrggbb``: hue = method, lightness = seed."""
    hues: dict[str, int] = {}
    seeds: dict[str, int] = {}
    colours = {}
    for label, lane in lanes:
        hue = HUES[hues.setdefault(label, len(hues)) % len(HUES)]
        light = 0.38 + 0.09 * (seeds.setdefault(label, 0) % 4)
        seeds[label] += 1
        channels = colorsys.hls_to_rgb(hue, light, 0.65)
        colours[lane] = "#" + "".join(f"{round(255 * value):02x}" for value in channels)
    return colours


def trial_colour(trial: str, attempt: int) -> str:
    """``#rrggbb`` of a trial whose id ends in its number: neighbours far apart, later attempts
    lighter."""
    number = int(re.sub(r"\D", "", trial.rpartition("_")[2]) or 0)
    hue, light = number * 0.618 % 1.0, min(0.38 + 0.07 * attempt, 0.66)
    channels = colorsys.hls_to_rgb(hue, light, 0.65)
    return "#" + "".join(f"{round(255 * value):02x}" for value in channels)
