"""``merge``: trained models that a lane's first one is made of, found and looked at before anything
is spent.

``merge = { kind = "branch_train_mix", parents = ["one-s{seed}", "two-s{seed}"] }``: a parent is a
lane of the same file (by name, or ``{ lane = "one-s0", stage = 1 }``), or a lane of another run
(``{ run = "runs/x", lane = "base-s0", stage = 0 }``), without a stage its last one. ``{seed}``
in names stands for the lane's seed. The rest of the table are settings of an entry of MERGES.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator.config.run import LaneConfig
from orchestrator.config.start import SEED, Starts, problem_of
from orchestrator.core.transitions import planned_stages
from workers import trainers
from workers.contract import InputError, Json, Merged, Parent
from workers.parsing import choose, parse
from workers.tables import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedParent:
    """A parent as a file names it."""

    lane: str
    """Lane of this file, or of the run."""
    run: str | None = None
    """Folder of another run, path or URI; None = this file."""
    stage: int | None = None
    """Stage of that lane, from 0; None = the last one."""


Raw = Mapping[str, tuple[Any, str]]
"""Lane -> what its ``merge`` says, and where that stands in the file."""


def with_merges(
    lanes: Sequence[LaneConfig], raw: Raw, starts: Starts
) -> tuple[list[LaneConfig], list[Problem]]:
    """The lanes with the parents that ``raw`` names, and what is wrong with those.

    A lane's stages have ids only once its parents have, so lanes are settled in that order.
    """
    if not raw:
        return list(lanes), []
    settled = {lane.name: lane for lane in lanes if lane.name not in raw}
    left = {lane.name: lane for lane in lanes if lane.name in raw}
    problems: list[Problem] = []
    ways = {name: _way(left[name], *raw[name]) for name in left}
    problems += [problem for _, _, found in ways.values() for problem in found]
    while left and not problems:
        ready = [
            name
            for name in left
            if all(parent.run or parent.lane not in left for parent in ways[name][1])
        ]
        if not ready:
            cycle = ", ".join(left)
            allowed = "a lane's parents must come before it: take one of them out"
            return [], [Problem("lanes", f"{cycle} are made of each other", allowed)]
        for name in ready:
            lane, (way, named, _) = left.pop(name), ways[name]
            settled[name], found = _merged(lane, way, named, settled, starts, raw[name][1])
            problems += found
    return [settled.get(lane.name, lane) for lane in lanes], problems


def names_models(raw: Json) -> bool:
    """Whether a file names a parent as a tracking store knows it, by ``model``."""
    lanes = raw.get("lanes")
    for lane in lanes if isinstance(lanes, list) else ():
        merge = lane.get("merge") if isinstance(lane, Mapping) else None
        parents = merge.get("parents") if isinstance(merge, Mapping) else None
        if isinstance(parents, list) and any(
            isinstance(parent, Mapping) and "model" in parent for parent in parents
        ):
            return True
    return False


def _way(lane: LaneConfig, raw: Any, path: str) -> tuple[Any, list[NamedParent], list[Problem]]:
    """The merge's Config, its parents as named, and what is wrong with them by themselves."""
    from workers.merges import MERGES

    if not trainers.TRAINERS[lane.trainer].starts:
        allowed = f"lanes of trainer {lane.trainer} begin with an untrained model: leave it out"
        return None, [], [Problem(path, "given", allowed)]
    if not isinstance(raw, Mapping):
        allowed = "must be a table with kind, parents and the merge's settings"
        return None, [], [Problem(path, f"got {raw!r}", allowed)]
    listed = raw.get("parents")
    if not isinstance(listed, list):
        allowed = "a list of lanes of this file, or of tables with lane, run and stage"
        return None, [], [Problem(f"{path}.parents", f"got {listed!r}", allowed)]
    settings = {key: value for key, value in raw.items() if key != "parents"}
    cls, way, problems = choose(MERGES, settings, path)
    named = []
    for number, entry in enumerate(listed):
        given = entry if isinstance(entry, Mapping) else {"lane": entry}
        parent, found = parse(NamedParent, given, f"{path}.parents.{number}")
        problems += found
        if parent is not None:
            filled = {"lane": parent.lane.replace(SEED, str(lane.seed))}
            if parent.run is not None:
                filled["run"] = parent.run.replace(SEED, str(lane.seed))
            named.append(replace(parent, **filled))
    kind: Any = cls
    if cls is not None and not problems and not _enough(kind, len(named)):
        allowed = f"{raw['kind']} needs {_numbers(kind)}"
        problems = [Problem(f"{path}.parents", f"got {len(named)}", allowed)]
    return way, named, problems


def _merged(
    lane: LaneConfig,
    way: Any,
    named: Sequence[NamedParent],
    settled: Mapping[str, LaneConfig],
    starts: Starts,
    path: str,
) -> tuple[LaneConfig, list[Problem]]:
    """The lane with its parents, and why it cannot be made of them."""
    from workers.supervised import merging

    parents, problems = [], []
    for number, one in enumerate(named):
        try:
            parents.append(_parent(one, lane, settled, starts))
        except InputError as error:
            problems.append(problem_of(f"{path}.parents.{number}", error))
    if problems:
        return lane, problems
    merged = Merged(way=asdict(way), parents=tuple(parents))
    stream = lane.stream()

    def made(parent: Parent) -> Any:
        if parent.checkpoint is not None:
            return merging.shaped(parent, stream)
        return merging.untrained(parent, stream)

    changing = any(parent.lane and _changes(settled[parent.lane]) for parent in parents)
    if not changing:  # a model of another shape by then is looked at when it is there
        try:
            merging.check(lane.sections["model"], merged, stream, made)
        except InputError as error:
            return lane, [problem_of(path, error)]
    return replace(lane, merged=merged), []


def _parent(
    named: NamedParent, lane: LaneConfig, settled: Mapping[str, LaneConfig], starts: Starts
) -> Parent:
    if named.run is not None:
        other, end = starts.end_of(named.run, named.lane, named.stage)
        return Parent(
            name=f"{named.run} {named.lane} stage {end.stage.index if end.stage else -1}",
            stage=end.checkpoint.stage,
            model=other.spec.settings["model"],
            domains=_learnt([task.domains for task in other.tasks], end.stage),
            checkpoint=end.checkpoint,
        )
    if named.lane not in settled:
        raise InputError(
            f"no lane {named.lane!r} in this file; allowed: {', '.join(settled) or 'none'}"
        )
    other_lane = settled[named.lane]
    if other_lane.trainer != lane.trainer:
        raise InputError(
            f"lane {named.lane}: trained by {other_lane.trainer}, this one by {lane.trainer}; "
            "merge lanes of one trainer"
        )
    ours, theirs = lane.stream(), other_lane.stream()
    if (ours.input_shape, ours.outputs) != (theirs.input_shape, theirs.outputs):
        raise InputError(
            f"lane {named.lane}: its stream has inputs {tuple(theirs.input_shape)} and "
            f"{theirs.outputs} outputs, this lane's {tuple(ours.input_shape)} and {ours.outputs}; "
            "give both streams the same ones"
        )
    plan = other_lane.plan()
    stages = planned_stages(plan)
    index = len(stages) - 1 if named.stage is None else named.stage
    if not 0 <= index < len(stages):
        raise InputError(
            f"lane {named.lane}: has no stage {index}; give one from 0 to {len(stages) - 1}"
        )
    return Parent(
        name=f"{named.lane} stage {index}",
        stage=stages[index].id,
        model=plan.spec.settings["model"],
        domains=_learnt([task.domains for task in plan.tasks], stages[index]),
        lane=named.lane,
        index=index,
    )


def _learnt(domains: Sequence[tuple[str, ...]], stage: Any) -> tuple[str, ...]:
    """Domains of the tasks up to a stage's, each once, in order."""
    upto = -1 if stage is None else stage.index
    return tuple(dict.fromkeys(name for names in domains[: upto + 1] for name in names))


def _changes(lane: LaneConfig) -> bool:
    """Whether policies give the lane's model other experts than it is built with."""
    return any(
        {"grow", "prune"}.intersection(policy.proposes) for policy in lane.live_policies().values()
    )


def _enough(merge: Any, parents: int) -> bool:
    return bool(merge.least <= parents and (merge.most is None or parents <= merge.most))


def _numbers(merge: Any) -> str:
    if merge.least == merge.most:
        return f"exactly {merge.least}"
    return f"at least {merge.least}"
