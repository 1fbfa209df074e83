"""Every named score of a lane: of its own matrix, and against its baselines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.report.comparisons import Outcome, compare
from orchestrator.report.lane_history import LaneHistory
from orchestrator.report.metrics import ALONE, METRICS, summarise, terms_of

Lanes = Mapping[str, LaneHistory]


def of_lane(lanes: Lanes, lane: LaneHistory) -> dict[str, float]:
    """Everything known of the lane."""
    stages = len(lane.complete())
    return {**of_matrix(lanes, lane, stages), **of_baselines(lanes, lane, stages)}


def of_matrix(lanes: Lanes, lane: LaneHistory, stages: int) -> dict[str, float]:
    """What its matrix says after so many stages; forgetting and transfer mean nothing where each
    task is learnt alone."""
    return summarise(*_told(lanes, lane, stages))


def from_part(lanes: Lanes, lane: LaneHistory) -> dict[str, tuple[int, int]]:
    """Metrics of its matrix that rest on a part of their terms, as not every model was scored on
    every task: (terms known, terms in all)."""
    return terms_of(*_told(lanes, lane, len(lane.complete())))


def _told(
    lanes: Lanes, lane: LaneHistory, stages: int
) -> tuple[list[list[float]], Sequence[float], Iterable[str]]:
    """Matrix, untrained scores and names of metrics that they have a meaning for."""
    return lane.complete()[:stages], initial(lanes, lane), meaningful(lane)


def initial(lanes: Lanes, lane: LaneHistory) -> Sequence[float]:
    """Scores of the lane's own untrained model; empty = not known, or it began with another."""
    return () if _elsewhere(lanes, lane) else lane.untrained()


def meaningful(lane: LaneHistory) -> Iterable[str]:
    """Metrics that mean something for the lane's matrix."""
    return ALONE if lane.plan.course == "alone" else METRICS


def of_baselines(lanes: Lanes, lane: LaneHistory, stages: int) -> dict[str, float]:
    """What it comes to against its baselines after so many stages, as far as those are known."""
    own = outcome(lane).upto(stages)
    named = {kind: lanes[name] for kind, name in lane.baselines.items()}
    found = compare(own, {kind: outcome(other) for kind, other in named.items()})
    other = _elsewhere(lanes, lane)
    if other is not None and other.untrained():
        score = METRICS["fwt.gem"](own.matrix, other.untrained()[:stages])
        found |= {} if score is None else {"fwt.gem": score}
    return found


def compared(lanes: Lanes, lane: LaneHistory) -> int:
    """Stages after which the lane and all its baselines are known; 0 where it has none."""
    if not lane.baselines:
        return 0
    others = [lanes[name] for name in lane.baselines.values()]
    trained = [len(other.complete()) for other in others if other.plan.stages]
    scored = all(other.untrained() for other in others)
    return min([len(lane.complete()), *trained]) if scored else 0


def outcome(lane: LaneHistory) -> Outcome:
    """Rows of R and curves of learning so far."""
    rows = lane.complete()
    curves = [
        lane.stages[index].curve if index in lane.stages else () for index in range(len(rows))
    ]
    return Outcome(matrix=rows, curves=curves)


def _elsewhere(lanes: Lanes, lane: LaneHistory) -> LaneHistory | None:
    """The lane whose untrained scores are this one's, where that began with a trained model."""
    name = lane.baselines.get("random_init", lane.name)
    return None if name == lane.name else lanes[name]
