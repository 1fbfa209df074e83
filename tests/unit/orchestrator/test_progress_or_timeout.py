"""Growth by progress or by time, as a pure function of what is seen."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config.file import ConfigError
from orchestrator.policies.progress_or_timeout import ProgressOrTimeout
from tests.fakes import tiny
from tests.views import policy, report, view
from workers.contract import TaskSpec

TASKS = tuple(TaskSpec(index=i, name=str(i), domain=str(i)) for i in range(4))


def made(**config: Any) -> ProgressOrTimeout:
    settings = {"growths": 2, "max_intervals": 100, "first_intervals": 2, **config}
    found = policy(ProgressOrTimeout.Config(**settings), intervals=4, tasks=TASKS, experts=1)
    assert isinstance(found, ProgressOrTimeout)
    return found


def ask(
    asked: ProgressOrTimeout,
    index: int,
    n: int,
    memory: Any = None,
    row: tuple[float, ...] = (),
    levels: tuple[float, ...] = (),
    signal: str = "train_score",
) -> tuple[str | None, Any]:
    """(trigger or None, memory)."""
    reports = [report(i + 1, signals={signal: level}) for i, level in enumerate(levels)]
    reports += [report(i + 1) for i in range(len(levels), n)]
    seen = view(
        n, index, intervals=4, experts=1, rows={index - 1: row} if row else {},
        reports=tuple(reports),
    )  # fmt: skip
    edits, memory = asked.propose(seen, memory)
    return (edits[0].cause.trigger if edits else None), memory


def test_solved_since_the_last_growth_against_unsolved_by_growths_left() -> None:
    """Of 4 tasks with 2 growths left: 2 solved >= 2 unsolved / 2, while 1 < 3 / 2."""
    assert ask(made(), 1, 0, row=(0.95, 0.2, 0.1, 0.0))[0] is None
    assert ask(made(), 1, 0, row=(0.95, 0.95, 0.1, 0.0))[0] == "progress"
    assert ask(made(growths=3), 1, 0, row=(0.95, 0.2, 0.1, 0.0))[0] == "progress", "1 >= 3 / 3"
    assert ask(made(solved=0.97), 1, 0, row=(0.95, 0.95, 0.1, 0.0))[0] is None


def test_a_task_counts_for_one_growth_and_a_forgotten_one_is_unsolved_again() -> None:
    trigger, memory = ask(made(), 1, 0, row=(0.95, 0.95, 0.1, 0.0))
    assert trigger == "progress"
    assert memory == {"growths": 1, "at": 4, "solved": [0, 1]}
    assert ask(made(), 2, 0, memory, row=(0.95, 0.95, 0.1, 0.0))[0] is None
    assert ask(made(), 2, 0, memory, row=(0.95, 0.1, 0.95, 0.0))[0] is None, "1 < 2 / 1"
    assert ask(made(), 2, 0, memory, row=(0.95, 0.95, 0.95, 0.0))[0] == "progress", "1 >= 1 / 1"
    assert ask(made(), 2, 0, memory, row=(0.95, 0.95, 0.95, 0.95))[0] is None, "none is unsolved"


@pytest.mark.parametrize("signal", ["train_score", "return_share"])
def test_the_present_task_is_solved_by_its_level_in_any_interval_of_the_stage(signal: str) -> None:
    asked = made(growths=3)
    assert ask(asked, 0, 2, levels=(0.95, 0.5), signal=signal)[0] == "progress"
    assert ask(asked, 0, 2, levels=(0.85, 0.5), signal=signal)[0] is None
    assert ask(asked, 0, 2, levels=(0.95, 0.5), signal="loss")[0] is None


def test_the_time_limit_counts_intervals_over_stages_from_the_last_growth() -> None:
    asked = made(max_intervals=5)
    assert ask(asked, 0, 3)[0] is None
    assert ask(asked, 1, 0)[0] is None
    trigger, memory = ask(asked, 1, 1)
    assert trigger == "timeout"
    assert memory["at"] == 5
    assert ask(asked, 1, 1, memory) == (None, memory), "asked again at the same place"
    assert ask(asked, 2, 1, memory)[0] is None
    assert ask(asked, 2, 2, memory)[0] == "timeout"
    spent = {"growths": 2, "at": 0, "solved": []}
    assert ask(asked, 3, 1, spent) == (None, spent)


def test_the_first_portion_comes_after_its_minimum_and_none_in_a_stages_last_interval() -> None:
    row = (0.95, 0.95, 0.0, 0.0)
    asked = made(first_intervals=3)
    assert ask(asked, 0, 2, levels=(0.95, 0.95))[0] is None
    assert made(growths=4).propose(view(3, 0, intervals=4, experts=1), None)[0] == ()
    assert ask(made(growths=4, first_intervals=3), 0, 3, levels=(0.95,))[0] == "progress"
    assert ask(made(growths=4), 0, 4, levels=(0.95,))[0] is None, "the next start asks again"
    assert ask(made(growths=4), 1, 0, row=row)[0] == "progress"
    assert [made(first_intervals=n).first_stage for n in (2, 3, 4, 9)] == [0, 0, 1, 2]


def test_the_edit_says_why_in_figures() -> None:
    seen = view(0, 1, intervals=4, experts=1, rows={0: (0.95, 0.95, 0.1, 0.0)})
    ((edit,), _) = made(add=2).propose(seen, None)
    assert edit.experts == 3  # type: ignore[attr-defined]
    assert edit.cause.figures == {"solved": 2.0, "unsolved": 2.0, "left": 2.0, "intervals": 4.0}


def test_final_count_is_all_growths_where_there_is_time_for_them() -> None:
    assert made(add=2).final_experts(1, 4, None) == 5
    assert made(growths=9, first_intervals=15).final_experts(1, 4, None) == 2, "16 intervals"
    assert made(first_intervals=16).final_experts(1, 4, None) == 1


def test_refused_settings() -> None:
    for wrong in ({"growths": 0}, {"solved": 0.0}, {"max_intervals": 0}, {"first_intervals": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ProgressOrTimeout.Config(**wrong)
    never = {"kind": "progress_or_timeout", "first_intervals": 10_000}
    with pytest.raises(ConfigError, match="first_intervals"):
        tiny(policies={"growth": never})
