"""What a stream file is made of: its sections, what each can be, and how a lane's lies over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.config.names import misnamed
from orchestrator.policies import POLICIES
from workers import trainers
from workers.contract import WithChangeable
from workers.parsing import choose
from workers.tables import Problem


def _models() -> Mapping[str, type]:
    from workers.models import MODELS

    return MODELS


def _methods() -> Mapping[str, type]:
    from workers.methods import METHODS

    return METHODS


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a lane that a worker reads."""

    table: Callable[[], Mapping[str, type]]
    """Imports what its ``kind`` may name."""
    default: str | None = None
    """Its kind where the file names none; None = it must be given."""


SECTIONS: dict[str, Section] = {
    "stream": Section(trainers.streams),
    "model": Section(_models, "classifier"),
    "training": Section(trainers.trainings, "supervised"),
    "method": Section(_methods, "finetune"),
}
"""Sections by name, beside ``policies`` and ``resources``."""

LANE_KEYS = (*SECTIONS, "policies", "evaluation", "resources")
"""Keys that a file and a ``[[lanes]]`` entry may both have: the lane's lie over the file's."""

ABSENT = "none"
"""A policy of this name is taken out."""


def choose_sections(
    file: Mapping[str, Any], lane: Mapping[str, Any], path: str
) -> tuple[dict[str, Any], list[Problem]]:
    """The Config of each section, and what is wrong; ``path`` names the lane in messages."""
    configs: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, section in SECTIONS.items():
        raw = merge(file.get(name), lane.get(name), section.default)
        where = f"{path}.{name}" if lane.get(name) is not None else name
        _, configs[name], found = choose(section.table(), raw, where)
        problems += found
    return configs, problems


def choose_policies(
    file: Mapping[str, Any], lane: Mapping[str, Any], path: str
) -> tuple[dict[str, Any], list[Problem]]:
    """The Config of each policy by name, in order of appearance, and what is wrong."""
    configs: dict[str, Any] = {}
    problems: list[Problem] = []
    own, below = lane.get("policies"), file.get("policies")
    for raw, where in ((below, "policies"), (own, f"{path}.policies")):
        if raw is not None and not isinstance(raw, Mapping):
            allowed = "must be tables: [policies.NAME]"
            problems.append(Problem(where, f"got {raw!r}", allowed))
    if problems:
        return {}, problems
    below, own = below or {}, own or {}
    for name in {**below, **own}:
        raw = merge(below.get(name), own.get(name), None)
        if raw in (ABSENT, {"kind": ABSENT}):
            continue
        where = f"{path}.policies.{name}" if name in own else f"policies.{name}"
        _, configs[name], found = choose(POLICIES, raw, where)
        problems += [*misnamed(name, f"{where} (its name)"), *found]
    return configs, problems


def changeable(sections: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings as ``section.key`` that no bit of the results depends on."""
    return tuple(
        f"{name}.{key}"
        for name, config in sections.items()
        if isinstance(config, WithChangeable)
        for key in config.changeable
    )


def merge(default: Any, own: Any, kind: str | None) -> Any:
    """A lane's section over the file's: key by key, or instead of it where the kinds differ."""
    default = {"kind": default} if isinstance(default, str) else default
    own = {"kind": own} if isinstance(own, str) else own
    if own is not None and not isinstance(own, Mapping):
        return own
    if default is not None and not isinstance(default, Mapping):
        return default
    base, over = dict(default or {}), dict(own or {})
    if kind is not None:
        base.setdefault("kind", kind)
    if "kind" in over and over["kind"] != base.get("kind"):
        return over
    return {
        key: merge(base.get(key), over[key], None)
        if isinstance(base.get(key), Mapping) and isinstance(over.get(key), Mapping)
        else over.get(key, base.get(key))
        for key in {**base, **over}
    }
