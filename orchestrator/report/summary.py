"""Lanes of one or several runs as variants x metrics over seeds. Knows no files and no tracker.

A variant is a set of lanes with equal settings, told apart by their seed alone. A seed that was run
again counts once: its latest lane that came to its end. Where none did, lanes count as far as they
are.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.report import scores
from orchestrator.report.comparisons import COMPARISONS
from orchestrator.report.history import RunHistory
from orchestrator.report.lane_history import LaneHistory
from orchestrator.report.statistics import Estimate, difference, estimate
from workers.contract import Json, digest

HEADLINES = ("acc.final", "acc.incremental", "forgetting.max", "bwt.gem", "learning_accuracy")
"""Metrics of the matrix that tables of results show."""
MEASURES = (*HEADLINES, *COMPARISONS)
"""Metrics that tables of results show where a lane has them, in this order."""
COSTS = ("parameters", "active", "experts", "seconds", "cpu_hours", "gpu_hours")
"""What a lane took: parameters at the end, those one sample passes through, experts of the largest
layer, seconds of training, and what its workers reserved meanwhile."""
LOWER_IS_BETTER = frozenset(
    {"forgetting.max", "forgetting.first", "forgetting.all", "forgetting.max_prior"}
    | {"intransigence", *COSTS}
)


@dataclass(slots=True)
class Variant:
    """Lanes with equal settings: metric -> seed -> value."""

    name: str
    group: str
    """Digest of the settings."""
    method: str
    baselines: set[str] = field(default_factory=set)
    """What it is of other lanes: ``joint``, ``scratch``, ..."""
    ended: bool = False
    """Whether its lanes came to their end; those that did not are left out beside some that did."""
    lanes: dict[int, str] = field(default_factory=dict)
    """Seed -> ``run_id lane`` whose values count."""
    values: dict[str, dict[int, float]] = field(default_factory=dict)

    def estimate(self, metric: str) -> Estimate | None:
        """Mean over seeds with its interval."""
        return estimate(self.values.get(metric, {}).values())

    def against(self, other: Variant, metric: str) -> Estimate | None:
        """This one's less the other's, by seed where both have it."""
        return difference(self.values.get(metric, {}), other.values.get(metric, {}))


def settings_digest(lane: LaneHistory, run_id: str) -> str:
    """Digest of what a lane is, its name and seed apart: equal lanes are one variant.

    Lanes that begin with models from elsewhere are compared inside their run only: which model it
    is may depend on the seed.
    """
    spec = lane.plan.spec
    begun = run_id if spec.start is not None or spec.merged is not None else ""
    scored = [task.name for task in lane.plan.columns]
    told = [spec.deciding, spec.policies, spec.workers, lane.plan.course, scored, begun]
    own = lane.plan.evaluation
    return digest([spec.trainer, *told, *([] if own["kind"] == "all" else [own])])


def costs(lane: LaneHistory) -> dict[str, float]:
    """COSTS of a lane, as far as they are known; a stage that lanes share counts for each."""
    found: dict[str, float] = {}
    if lane.shape is not None:
        found["parameters"] = lane.shape.parameters
        found["active"] = lane.shape.active
        experts = max((layer.experts for layer in lane.shape.layers.values()), default=0)
        found |= {"experts": experts} if experts else {}
    seconds = sum(stage.seconds for stage in lane.stages.values())
    if lane.stages:
        found["seconds"] = seconds
        found["cpu_hours"] = seconds * lane.plan.cpus / 3600
        if lane.plan.gpus:
            found["gpu_hours"] = seconds * lane.plan.gpus / 3600
    return found


def variants(histories: Iterable[RunHistory]) -> list[Variant]:
    """Variants of all lanes that were measured, in order of appearance; later runs replace seeds.

    Where two of them would have one name, their digests are added to it.
    """
    found: dict[tuple[str, str], Variant] = {}
    by_age = sorted(histories, key=lambda history: history.started.at if history.started else 0.0)
    for history in by_age:
        assert history.started is not None
        serving = _serving(history.lanes)
        for lane in history.lanes.values():
            if not lane.rows:
                continue
            key = lane.label, settings_digest(lane, history.started.run_id)
            variant = found.setdefault(key, Variant(lane.label, key[1], lane.method))
            done = history.lane_status(lane) == "done"
            if variant.ended and not done:
                continue
            if done and not variant.ended:
                variant.ended, variant.lanes, variant.values = True, {}, {}
            variant.baselines |= serving.get(lane.name, set())
            variant.lanes[lane.seed] = f"{history.started.run_id} {lane.name}"
            _replace(variant, lane.seed, scores.of_lane(history.lanes, lane) | costs(lane))
    names = [variant.name for variant in found.values()]
    for variant in found.values():
        if names.count(variant.name) > 1:
            variant.name = f"{variant.name} {variant.group[:6]}"
    return list(found.values())


def _replace(variant: Variant, seed: int, values: Mapping[str, float]) -> None:
    for metric, value in values.items():
        variant.values.setdefault(metric, {})[seed] = value
    for metric in variant.values.keys() - values.keys():
        variant.values[metric].pop(seed, None)


def _serving(lanes: Mapping[str, LaneHistory]) -> dict[str, set[str]]:
    """Lane -> baselines that it is of other lanes."""
    found: dict[str, set[str]] = {}
    for lane in lanes.values():
        for kind, name in lane.baselines.items():
            if name != lane.name:
                found.setdefault(name, set()).add(kind)
    return found


def shown(table: Iterable[Variant], names: Iterable[str]) -> list[str]:
    """Those of the names for which some variant has a value."""
    known = list(table)
    return [name for name in names if any(one.values.get(name) for one in known)]


def standings(table: Iterable[Variant], metric: str) -> dict[str, str]:
    """Variant -> ``best`` where none has a better mean, ``equal`` where it is within noise of that.

    Baselines are bounds: they are not the best where there is something else.
    """
    known = {one.name: one for one in table if one.values.get(metric)}
    own = [one for one in known.values() if not one.baselines] or list(known.values())
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    means = {
        name: sign * statistics.fmean(one.values[metric].values()) for name, one in known.items()
    }
    top = max(own, key=lambda one: means[one.name], default=None)
    found = {}
    for name, one in known.items():
        if one in own and top is not None and means[name] == means[top.name]:
            found[name] = "best"
        elif top is not None and (gap := one.against(top, metric)) is not None and gap.noise:
            found[name] = "equal"
    return found


def as_json(table: Iterable[Variant]) -> list[Json]:
    """The contract of ``growstage compare --json``: each variant's values by metric and seed."""
    return [
        {
            "variant": one.name,
            "settings": one.group,
            "method": one.method,
            "baseline_of_others": sorted(one.baselines),
            "lanes": {str(seed): lane for seed, lane in one.lanes.items()},
            "values": {
                metric: {str(seed): value for seed, value in values.items()}
                for metric, values in one.values.items()
            },
            "mean": {metric: found.mean for metric, found in _estimates(one).items()},
            "half_width": {metric: found.half for metric, found in _estimates(one).items()},
        }
        for one in table
    ]


def _estimates(variant: Variant) -> dict[str, Estimate]:
    found = ((metric, variant.estimate(metric)) for metric in variant.values)
    return {metric: value for metric, value in found if value is not None}
