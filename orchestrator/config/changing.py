"""Settings that a run may change where it is resumed: those that no bit of its results depends on.

Which they are a section's Config says (``changeable``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from orchestrator.config import checks
from orchestrator.config.file import ConfigError, restore
from orchestrator.config.run import LaneConfig, RunConfig
from orchestrator.config.sections import SECTIONS
from orchestrator.core.events import RunResumed, RunStarted
from orchestrator.core.journal import JOURNAL_FILE, read
from workers.contract import InputError, Json
from workers.parsing import choose
from workers.tables import Problem


def before(run_dir: Path) -> dict[str, Json]:
    """What resumes of the run have changed so far: ``section.key`` -> value."""
    found: dict[str, Json] = {}
    for record, _ in read(run_dir / JOURNAL_FILE):
        if isinstance(record.event, RunResumed):
            found |= record.event.settings
    return found


def changed(started: RunStarted, settings: Mapping[str, Json]) -> RunConfig:
    """The config of a run, with these settings in every lane that may change them.

    Raises InputError where no lane may, ConfigError where a lane cannot be with the value.
    """
    config = restore(started.config)
    may = {plan.spec.lane: plan.spec.changeable for plan in started.plan.lanes}
    allowed = {path for paths in may.values() for path in paths}
    refused = sorted(settings.keys() - allowed)
    if refused:
        raise InputError(
            f"--set {refused[0]}: a run that goes on keeps what its results depend on; it may "
            f"change: {', '.join(sorted(allowed)) or 'nothing'}. For other settings begin a new run"
        )
    lanes, problems = [], list[Problem]()
    for lane in config.lanes:
        own = {path: settings[path] for path in may[lane.name] if path in settings}
        made, found = _changed(lane, own) if own else (lane, [])
        lanes.append(made)
        problems += found
    if problems:
        raise ConfigError("--set", dict.fromkeys(problems))
    return replace(config, lanes=tuple(lanes))


def _changed(lane: LaneConfig, settings: Mapping[str, Json]) -> tuple[LaneConfig, list[Problem]]:
    sections, problems = dict(lane.sections), list[Problem]()
    for path, value in settings.items():
        name, key = path.split(".")
        raw = {**asdict(sections[name]), key: value}
        _, config, found = choose(SECTIONS[name].table(), raw, name)
        problems += found
        sections[name] = sections[name] if found else config
    made = replace(lane, sections=sections)
    return made, problems or checks.mismatches(made)
