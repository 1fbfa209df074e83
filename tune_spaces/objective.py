"""What a search maximises, as a function of what a stream has shown so far.

Pure. Metrics are taken of the scores on the validation parts: the test parts are what the search is
reported by. After stage k only the first k rows and k columns of the matrix count: no scheduler
ever sees a score on a task that is not learnt yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.report.lane import LaneHistory
from orchestrator.report.metrics import METRICS, summarise
from workers.contract import InputError

Part = Literal["validation", "test"]

ALIASES: dict[str, tuple[str, Part]] = {"return": ("acc.final", "test")}
"""Names beside the metrics -> (metric, part). ``return``: an environment has no parts, its score is
the return of episodes of its own as a share of the largest one."""
_TERM = re.compile(r"\s*([+-]?)\s*(?:(\d+(?:\.\d+)?)\s*\*\s*)?([a-z_]+(?:\.[a-z_]+)?)")


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of a lane on one part of its tasks' data."""

    rows: Sequence[Sequence[float]]
    """The leading rows of R without a gap; a row is empty where there is no such part."""
    initial: Sequence[float] = ()
    """Of the untrained model."""


def scores_of(lane: LaneHistory) -> dict[Part, Scores]:
    """What a lane has shown so far, by part."""
    return {
        "validation": Scores(lane.validation_matrix(), lane.untrained_validation()),
        "test": Scores(lane.complete(), lane.untrained()),
    }


@dataclass(frozen=True, slots=True)
class Objective:
    """A weighted sum of named metrics, to be maximised."""

    terms: tuple[tuple[float, str, Part], ...]

    def __call__(self, scores: Mapping[Part, Scores], stages: int) -> float:
        """Value after so many stages; a metric not defined yet counts as 0.

        Raises InputError where the stream has no validation part and the objective needs one.
        """
        found = {
            part: _metrics(scores[part], stages) for part in {part for _, _, part in self.terms}
        }
        return sum(weight * found[part].get(name, 0.0) for weight, name, part in self.terms)


def _metrics(scores: Scores, stages: int) -> dict[str, float]:
    block = [list(row[:stages]) for row in scores.rows[:stages]]
    if not all(block):
        raise InputError(
            "the objective is taken of validation scores, and the stream has no validation part: "
            "set stream.validation (a share of the training data, such as 0.1), or for "
            "environments give --objective return"
        )
    return summarise(block, list(scores.initial[:stages]))


def parse(text: str) -> Objective:
    """``acc.final - 0.5*forgetting.max`` -> Objective; InputError where it is no such sum."""
    terms: list[tuple[float, str, Part]] = []
    place = 0
    while place < len(text.rstrip()):
        found = _TERM.match(text, place)
        if found is None or (terms and not found[1]):
            raise _wrong(text, f"cannot read {text[place:]!r}")
        sign, weight, name = found.groups()
        metric, part = ALIASES.get(name, (name, "validation"))
        if metric not in METRICS:
            raise _wrong(text, f"no metric {name!r}")
        terms.append((float(weight or 1) * (-1 if sign == "-" else 1), metric, part))
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
