"""``baselines``: what a lane is measured against, planned as lanes of their own.

``baselines = ["scratch", "joint"]`` stands at the top of a file, or in a ``[[lanes]]`` entry for it
alone. A baseline is the lane's model trained on the lane's stream, without its method and policies;
it is named ``LANE/KIND``. A lane that is one already, of the file or of another lane, serves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.config import checks
from orchestrator.config.run import LaneConfig
from orchestrator.config.sections import SECTIONS
from workers.tables import Problem, lookup


def finetune(lane: LaneConfig) -> LaneConfig:
    """Task after task, nothing done against forgetting: the reference of forgetting reduction."""
    return _plain(lane, "finetune")


def joint(lane: LaneConfig) -> LaneConfig:
    """Each stage on the data of all tasks so far: ``a*`` of intransigence (arXiv 1801.10112)."""
    return _plain(lane, "joint")


def scratch(lane: LaneConfig) -> LaneConfig:
    """Each task alone from the lane's first model: the single-task curves of forward transfer."""
    return replace(_plain(lane, "finetune"), course="alone")


def random_init(lane: LaneConfig) -> LaneConfig:
    """The untrained model, scored and never trained: ``b`` of forward transfer (1706.08840)."""
    if lane.start is None and lane.merged is None:
        return lane  # it is scored before its first stage
    return replace(_plain(lane, "finetune"), course="none", start=None, merged=None)


BASELINES: dict[str, Callable[[LaneConfig], LaneConfig]] = {
    "scratch": scratch,
    "joint": joint,
    "finetune": finetune,
    "random_init": random_init,
}
"""Baselines by name: lane -> the lane it is measured against."""

Wanted = Mapping[str, tuple[Sequence[str], str]]
"""Lane -> names of its baselines, and where the file gives them."""


def unknown(raw: Any, path: str) -> list[Problem]:
    """What is wrong with a list of baselines by itself."""
    allowed = f"a list of: {', '.join(BASELINES)}, each once"
    if not isinstance(raw, list) or any(name not in BASELINES for name in raw):
        return [Problem(path, f"got {raw!r}", allowed)]
    return [Problem(path, f"got {raw!r}", allowed)] if len(set(raw)) < len(raw) else []


def with_baselines(
    lanes: Sequence[LaneConfig], wanted: Wanted
) -> tuple[list[LaneConfig], list[Problem]]:
    """The lanes, each with the names of its baselines, and those that no lane of the file is."""
    known, added = list(lanes), []
    named: dict[str, dict[str, str]] = {lane.name: {} for lane in lanes}
    problems: list[Problem] = []
    for lane in lanes:
        kinds, path = wanted.get(lane.name, ((), ""))
        for kind in kinds:
            made = BASELINES[kind](lane)
            found = checks.mismatches(made)
            problems += [_unfit(kind, path, problem) for problem in found]
            if found:
                continue
            serving = next((one for one in known if _same(one, made)), None)
            if serving is None:
                suffix = f"-s{lane.seed}"
                name = f"{lane.name.removesuffix(suffix)}/{kind}{suffix}"
                serving = replace(made, name=name, baseline=kind)
                known.append(serving)
                added.append(serving)
            named[lane.name][kind] = serving.name
    return [*(replace(lane, baselines=named[lane.name]) for lane in lanes), *added], problems


def _plain(lane: LaneConfig, method: str) -> LaneConfig:
    """The lane with a method of no settings, and without policies."""
    cls: Any = lookup(SECTIONS["method"].table(), method, "method.kind")
    return replace(lane, sections={**lane.sections, "method": cls.Config()}, policies={})


def _same(one: LaneConfig, other: LaneConfig) -> bool:
    """Whether two lanes do the same, whatever they are called."""
    return replace(one, name="", baseline=None) == replace(other, name="", baseline=None)


def _unfit(kind: str, path: str, problem: Problem) -> Problem:
    """Why the lane has no such baseline."""
    allowed = f"{problem.allowed}; or leave {kind!r} out of the baselines"
    return Problem(path, f"{kind!r}: {problem.path}: {problem.found}", allowed)
