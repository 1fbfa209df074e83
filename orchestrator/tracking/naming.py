"""Names, values and times as MLflow takes them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache

from orchestrator.tracking.writes import Point
from workers.contract import Json


def flatten(values: Mapping[str, Json], prefix: str = "") -> dict[str, str]:
    """Nested config sections as MLflow params: ``{"a": {"kind": "b", "c": 1}}`` -> ``a``: "b",
    ``a.c``: "1". Values that are no text are JSON."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            inner = dict(value)
            if "kind" in inner:
                flat[f"{prefix}{name}"] = str(inner.pop("kind"))
            flat |= flatten(inner, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


@lru_cache(maxsize=4096)
def metric_name(name: str) -> str:
    """A name MLflow takes: letters, digits, ``_ - . / : space``; other characters become ``_``."""
    return re.sub(r"[^\w\-./: ]", "_", name, flags=re.ASCII).strip("/ ") or "_"


@lru_cache(maxsize=64)
def task_keys(tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Metric names of tasks, in order and all different."""
    keys: dict[str, None] = {}
    for index, task in enumerate(tasks):
        key = metric_name(task).replace("/", "_")
        if key in keys:
            key = f"{key}-{index:02d}"
        while key in keys:
            key += "_"
        keys[key] = None
    return tuple(keys)


def point(name: str, value: float, step: int, at: float) -> Point:
    """A metric's point at the time ``at`` (seconds)."""
    return Point(name=metric_name(name), value=float(value), step=step, at=milliseconds(at))


def milliseconds(at: float) -> int:
    """Time in seconds -> MLflow's."""
    return round(at * 1000)
