"""Stream files of trials: one lane of a base file with a trial's settings laid over it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from orchestrator.config import file as configuration
from orchestrator.config.run import RunConfig
from orchestrator.config.sections import LANE_KEYS, SECTIONS, merge
from tune_spaces.space import Space
from workers.contract import InputError, Json


def single_lane(path: Path, lane: str | None, space: str) -> Json:
    """The raw stream file at ``path`` reduced to one lane with its first seed.

    The lane's own sections are laid over the file's, so that a dotted key reaches all of it.
    Raises InputError where the lane is not there or not named.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error
    configuration.check(raw, str(path))
    entries = {_name(entry): entry for entry in raw["lanes"]}
    if lane is None and len(entries) > 1:
        raise InputError(
            f"{path}: has lanes {', '.join(entries)}; a trial is one of them: name it with --lane"
        )
    name = lane or next(iter(entries))
    if name not in entries:
        raise InputError(f"{path}: no lane {name!r}; allowed for --lane: {', '.join(entries)}")
    entry = entries[name]
    merged = {
        key: merge(raw.get(key), entry.get(key), _default(key))
        for key in LANE_KEYS
        if key in raw or key in entry or _default(key) is not None
    }
    seeds = entry.get("seeds") or [raw.get("seed", 0)]
    others = (*LANE_KEYS, "lanes", "seed", "baselines")
    rest = {key: value for key, value in raw.items() if key not in others}
    return {
        **rest,
        "name": f"{raw['name']}-{space}",
        "seed": seeds[0],
        **merged,
        **({"start": entry["start"]} if "start" in entry else {}),
        "lanes": [{"name": name}],
    }


def with_settings(raw: Json, settings: Mapping[str, Any]) -> Json:
    """``raw`` with every dotted key set; a section given as a bare name becomes a table."""
    laid: Json = deepcopy(raw)
    for key, value in settings.items():
        node = laid
        *parents, last = key.split(".")
        for part in parents:
            inner = node.get(part, {})
            node[part] = {"kind": inner} if isinstance(inner, str) else inner
            node = node[part]
        if last == "kind" and node.get("kind") not in (None, value):
            node.clear()  # settings of another kind mean nothing to this one
        node[last] = value
    return laid


def trial_config(raw: Json, settings: Mapping[str, Any]) -> RunConfig:
    """The checked config of a trial; raises ConfigError naming what the space made wrong."""
    named = " ".join(f"{key}={value}" for key, value in settings.items())
    return configuration.check(with_settings(raw, settings), f"trial with {named}")


def base_of(space: type[Space], base: Path | None, lane: str | None, name: str) -> Json:
    """The raw one-lane file all trials of a sweep start from."""
    root = Path(__file__).resolve().parent.parent
    path = base or root / space.base
    chosen = lane or (space.lane if base is None else None)
    return with_settings(single_lane(path, chosen, name), space.fixed)


def _default(key: str) -> str | None:
    """Kind of a section where the file names none."""
    return SECTIONS[key].default if key in SECTIONS else None


def _name(entry: Json) -> str:
    """Name of a ``[[lanes]]`` entry: its own, else its method's."""
    method = entry.get("method", _default("method"))
    kind = method if isinstance(method, str) else method.get("kind", _default("method"))
    return str(entry.get("name") or kind)
