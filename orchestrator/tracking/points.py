"""Metrics of a run, lane or stage in MLflow: what each is called, and at which step it stands."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.core.events import EvaluationDone
from orchestrator.report import scores
from orchestrator.report.history import RunHistory
from orchestrator.report.lane_history import LaneHistory
from orchestrator.tracking.naming import point, task_keys
from orchestrator.tracking.writes import Point
from workers.contract import IntervalReport, ModelShape


def of_interval(report: IntervalReport, at: float) -> tuple[Point, ...]:
    """Of a stage, over the steps since it began."""
    values = {
        **report.metrics,
        **{f"signal/{name}": value for name, value in report.signals.items()},
        **{
            f"gate/{layer}/expert{number}": value
            for layer, weights in report.gate_weights.items()
            for number, value in enumerate(weights)
        },
        "time/interval_seconds": report.seconds,
    }
    if report.rss_mb:
        values["system/worker_rss_megabytes"] = report.rss_mb
    return tuple(point(name, value, report.steps, at) for name, value in values.items())


def of_row(lane: LaneHistory, event: EvaluationDone) -> tuple[Point, ...]:
    """Of a stage, at the number of stages learnt: all that its evaluation told but the scores."""
    report = event.report
    values = {
        **{
            f"eval/{task}/{name}": value
            for task, figures in report.figures.items()
            for name, value in figures.items()
        },
        **{f"model/{name}": value for name, value in report.model_figures.items()},
        **{
            f"validation/{name}": score
            for name, score in zip(_scored(lane, event.index), report.validation, strict=False)
        },
    }
    told = tuple(point(name, value, event.index + 1, event.at) for name, value in values.items())
    return (*told, *of_routing(lane.routing(event.index), event.index, event.at))


def of_routing(figures: Mapping[str, float], index: int, at: float) -> tuple[Point, ...]:
    """Of a stage, at the number of stages learnt: what became of the experts by its end."""
    return tuple(point(f"routing/{name}", x, index + 1, at) for name, x in figures.items())


def of_scores(lane: LaneHistory, event: EvaluationDone) -> tuple[Point, ...]:
    """Of a stage and its model: the score on each task."""
    return tuple(
        point(f"acc/{name}", score, event.index + 1, event.at)
        for name, score in zip(_scored(lane, event.index), event.report.scores, strict=True)
    )


def _scored(lane: LaneHistory, index: int) -> list[str]:
    """Keys of the tasks that a model was scored on."""
    keys = task_keys(tuple(lane.tasks))
    return [keys[place] for place in lane.plan.scored_after(index)]


def largest(shape: ModelShape | None) -> int:
    """Experts of the largest growable layer; 0 where there is none."""
    return max((layer.experts for layer in shape.layers.values()), default=0) if shape else 0


def of_shape(shape: ModelShape | None, step: int, at: float) -> tuple[Point, ...]:
    """Size of the model: experts of the largest layer, parameters, and those a sample passes."""
    if shape is None:
        return ()
    values = {
        "experts": largest(shape),
        "parameters": shape.parameters,
        "parameters.active": shape.active,
    }
    return tuple(point(name, value, step, at) for name, value in values.items())


def method_means(history: RunHistory, at: float) -> tuple[Point, ...]:
    """Mean over seeds of each method's final metrics; finished lanes only."""
    found: dict[str, list[dict[str, float]]] = {}
    for lane in history.lanes.values():
        if lane.rows and history.lane_status(lane) == "done":
            own = scores.of_lane(history.lanes, lane)
            found.setdefault(lane.label, []).append(own)
    return tuple(
        point(f"method/{label}.{name}", sum(s[name] for s in lanes) / len(lanes), 0, at)
        for label, lanes in found.items()
        for name in ("acc.final", "forgetting.max")
        if all(name in s for s in lanes)
    )
