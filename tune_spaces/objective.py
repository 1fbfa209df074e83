"""What a search maximises, as a function of what a stream has shown so far.

Pure. Metrics are taken of the scores on the validation parts: the test parts are what the search is
reported by. After stage k only the first k rows and k columns of the matrix count: no scheduler
ever sees a score on a task that is not learnt yet.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.config.run import LaneConfig
from orchestrator.report.lane_history import LaneHistory
from orchestrator.report.metrics import METRICS, summarise
from workers.contract import InputError
from workers.tables import lookup
from workers.trainers import trainings

ALIASES = {"return": "acc.final"}
"""Names beside the metrics. ``return``: the score of an environment is the return of an episode as
a share of the largest one."""
_TERM = re.compile(r"\s*([+-]?)\s*(?:(\d+(?:\.\d+)?)\s*\*\s*)?([a-z_]+(?:\.[a-z_]+)?)")


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of a lane on the validation parts of its tasks."""

    rows: Sequence[Sequence[float]]
    """The leading rows of R without a gap; a row is empty where there is no validation part."""
    initial: Sequence[float] = ()
    """Of the untrained model."""


def scores_of(lane: LaneHistory) -> Scores:
    """What a lane has shown so far."""
    return Scores(lane.validation_matrix(), lane.untrained_validation())


@dataclass(frozen=True, slots=True)
class Objective:
    """A weighted sum of named metrics, to be maximised."""

    terms: tuple[tuple[float, str], ...]

    def __call__(self, scores: Scores, stages: int) -> float:
        """Value after so many stages; a metric not defined yet counts as 0.

        Raises InputError where the tasks have no validation part.
        """
        block = [list(row[:stages]) for row in scores.rows[:stages]]
        if not all(block):
            raise InputError(
                "the objective is taken of validation scores, and none came: "
                "stream.validation (supervised) or training.validation_episodes (rl) must be "
                "above 0"
            )
        found = summarise(block, list(scores.initial[:stages]))
        return sum(weight * found.get(name, 0.0) for weight, name in self.terms)


def check_validated(lane: LaneConfig) -> None:
    """Refuse a lane whose tasks have no validation part, or whose models are not scored after each
    stage, before anything is trained."""
    training = lookup(trainings(), lane.sections["training"].kind, "training.kind")
    if not lane.validates():
        raise InputError(
            f"stream {lane.sections['stream'].kind!r}: its tasks have no validation part, which a "
            f"search chooses by; set {training.validation_setting} above 0"  # type: ignore[union-attr]
        )
    if lane.evaluation.kind != "all":
        raise InputError(
            f"evaluation {lane.evaluation.kind!r} leaves models without scores, which a search "
            "reports after each stage; set evaluation to all"
        )


def parse(text: str) -> Objective:
    """``acc.final - 0.5*forgetting.max`` -> Objective; InputError where it is no such sum."""
    terms: list[tuple[float, str]] = []
    place = 0
    while place < len(text.rstrip()):
        found = _TERM.match(text, place)
        if found is None or (terms and not found[1]):
            raise _wrong(text, f"cannot read {text[place:]!r}")
        sign, weight, name = found.groups()
        metric = ALIASES.get(name, name)
        if metric not in METRICS:
            raise _wrong(text, f"no metric {name!r}")
        terms.append((float(weight or 1) * (-1 if sign == "-" else 1), metric))
        place = found.end()
    if not terms:
        raise _wrong(text, "it is empty")
    return Objective(tuple(terms))


def _wrong(text: str, why: str) -> InputError:
    names = ", ".join([*METRICS, *ALIASES])
    return InputError(
        f"--objective {text!r}: {why}; give metrics joined by + or -, each with a weight before it "
        f"if need be (acc.final - 0.5*forgetting.max); allowed: {names}"
    )
