"""Which first stages lanes of a run have in common, known before anything is trained.

A stage is the same in two lanes where everything that decides its bits is: its task's data, the
model as it is then, training, method, policies that may act by then, and the stages before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from orchestrator.core.plans import LanePlan, Stem
from orchestrator.core.transitions import planned_stages
from orchestrator.evaluations import All
from workers import trainers
from workers.contract import Json, WithChangeable, before_edits, digest, domains_of
from workers.tables import lookup

if TYPE_CHECKING:
    from orchestrator.config.run import LaneConfig


def stage_digests(lane: LaneConfig) -> tuple[str, ...]:
    """For each stage, a digest of what it is trained by beside task, seed and parent.

    Lanes whose reruns differ share nothing; their stages' digests hold the whole stream.
    """
    sections, policies, stream = lane.sections, lane.live_policies(), lane.stream()
    exact, tasks = trainers.TRAINERS[lane.trainer].exact, lane.tasks()
    domains = domains_of(tasks)
    told = len(domains) > 1 or any(policy.by_domain for policy in policies.values())
    start = lane.start
    begun: Json = None if start is None else [start.checkpoint.digest, start.optimizer]
    if lane.merged is not None:
        begun = lane.merged.identity
    stages = len(tasks) if exact and sections["training"].counts_stages else None
    common = [lane.trainer, _plain(sections["training"]), stages, told, begun]
    seen = digest([scored_on(lane), [asdict(task) for task in tasks]])
    plain_policies = {name: _plain(config) for name, config in lane.policies.items()}
    untouched, model = _plain(before_edits(sections["model"])), _plain(sections["model"])
    learnt_by = [_plain(sections["method"]), list(domains)]
    found = []
    for task in tasks:
        acting = [
            [name, config]
            for name, config in plain_policies.items()
            if policies[name].first_stage <= task.index
        ]
        plain = task.index == 0 and not acting and _plain_start(sections["method"])
        method = None if plain else learnt_by
        data = stream.identity(task) if exact else _plain(sections["stream"])
        by = [model, method, [acting, seen]] if acting else [untouched, method, None]
        found.append(digest([*common, data, *by]))
    return tuple(found)


def scored_on(lane: LaneConfig) -> str:
    """Digest of what the lane's models are scored on, and how."""
    stream, tasks = lane.stream(), lane.scored_tasks()
    exact = trainers.TRAINERS[lane.trainer].exact
    stage = [stream.identity(task) for task in tasks] if exact else _plain(lane.sections["stream"])
    told = [stage, [asdict(task) for task in tasks], _plain(lane.sections["training"])]
    evaluation = _plain(lane.evaluation)
    return digest(told if evaluation == _plain(All.Config()) else [*told, evaluation])


def with_stems(lanes: Sequence[LaneConfig], plans: Sequence[LanePlan]) -> tuple[LanePlan, ...]:
    """The plans, each with the longest stem that lanes before it have too."""
    ids = [[stage.id for stage in planned_stages(plan)] for plan in plans]
    found: list[LanePlan] = []
    for number, (lane, plan) in enumerate(zip(lanes, plans, strict=True)):
        common = [
            _common(ids[other], ids[number]) if _alike(lanes[other], lane) else 0
            for other in range(number)
        ]
        longest = max(common, default=0)
        if longest:
            able = (plans[other].spec.lane for other, n in enumerate(common) if n == longest)
            stem = Stem(lanes=tuple(able), stages=longest, stage=ids[number][longest - 1])
            plan = replace(plan, stem=stem)
        found.append(plan)
    return tuple(found)


def trained_by(plans: Sequence[LanePlan]) -> dict[str, list[str]]:
    """Lane -> who trains each of its models where nothing fails: the untrained one, then each
    stage's."""
    found: dict[str, list[str]] = {}
    for plan in plans:
        owners = [plan.spec.lane] * (1 + plan.stages)
        if plan.stem is not None:
            models = 1 + plan.stem.stages
            owners[:models] = found[plan.stem.lanes[0]][:models]
        found[plan.spec.lane] = owners
    return found


def rows_of(plans: Sequence[LanePlan]) -> dict[str, int]:
    """Lane -> rows of R that no lane before it has measured of the same model."""
    trained = trained_by(plans)
    known: set[tuple[str, str, int]] = set()
    found: dict[str, int] = {}
    for plan in plans:
        owners = trained[plan.spec.lane]
        rows = {
            (plan.scored_on, owner, place)
            for place, owner in enumerate(owners)
            if plan.scored_after(place - 1)
        }
        found[plan.spec.lane] = len(rows - known)
        known |= rows
    return found


def _alike(one: LaneConfig, other: LaneConfig) -> bool:
    """Whether equal stages of the lanes give the same bits: on as many workers of the same kind, in
    a trainer whose reruns are exact."""
    exact = trainers.TRAINERS[one.trainer].exact and trainers.TRAINERS[other.trainer].exact
    return exact and (one.resources, one.workers) == (other.resources, other.workers)


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Leading stages that are the same."""
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return length


def _plain_start(method: Any) -> bool:
    from workers.methods import METHODS

    found: Any = lookup(METHODS, method.kind, "method.kind")
    return bool(found.starts_plainly())


def _plain(config: Any) -> Json:
    """What of a config decides the bits of a stage."""
    left_out = config.changeable if isinstance(config, WithChangeable) else ()
    return {key: value for key, value in asdict(config).items() if key not in left_out}
