"""What a search maximises, as a function of what a stream has shown so far.

Pure. After stage k only the first k rows and k columns of the matrix count: no scheduler ever
sees a score on a task that is not learnt yet.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.report.metrics import METRICS, summarise
from workers.contract import InputError

ALIASES = {"return": "acc.final"}
"""For environments a score is the return as a share of the largest one."""
_TERM = re.compile(r"\s*([+-]?)\s*(?:(\d+(?:\.\d+)?)\s*\*\s*)?([a-z_]+(?:\.[a-z_]+)?)")


@dataclass(frozen=True, slots=True)
class Objective:
    """A weighted sum of named metrics, to be maximised."""

    terms: tuple[tuple[float, str], ...]

    def __call__(self, matrix: Sequence[Sequence[float]], initial: Sequence[float] = ()) -> float:
        """Value after the last row of ``matrix``; a metric not defined yet counts as 0.

        ``initial``: scores of the untrained model. Columns of tasks not learnt yet are cut off.
        """
        seen = len(matrix)
        block = [list(row[:seen]) for row in matrix]
        scores = summarise(block, list(initial[:seen]))
        return sum(weight * scores.get(name, 0.0) for weight, name in self.terms)


def parse(text: str) -> Objective:
    """``acc.final - 0.5*forgetting.max`` -> Objective; InputError where it is no such sum."""
    terms: list[tuple[float, str]] = []
    place = 0
    while place < len(text.rstrip()):
        found = _TERM.match(text, place)
        if found is None or (terms and not found[1]):
            raise _wrong(text, f"cannot read {text[place:]!r}")
        sign, weight, name = found.groups()
        name = ALIASES.get(name, name)
        if name not in METRICS:
            raise _wrong(text, f"no metric {name!r}")
        terms.append((float(weight or 1) * (-1 if sign == "-" else 1), name))
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
