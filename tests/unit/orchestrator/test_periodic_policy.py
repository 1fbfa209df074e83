"""When growth is proposed, to how many, with which seed."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config.plan import plan
from orchestrator.policies import POLICIES
from orchestrator.policies.periodic import Periodic
from tests.fakes import tiny
from tests.views import policy, view


def periodic(intervals: int = 10, **config: Any) -> Periodic:
    made = policy(Periodic.Config(**config), intervals=intervals)
    assert isinstance(made, Periodic)
    return made


def grown(made: Periodic, memory: Any = None, **seen: Any) -> int | None:
    edits, _ = made.propose(view(**{"experts": 1, "n": 0, **seen}), memory)
    return edits[0].experts if edits else None  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_builds_from_its_default_config(name: str) -> None:
    given = {"keep": 2} if name == "prune" else {}  # the one setting without a default
    made = policy(POLICIES[name].Config(**given))  # type: ignore[attr-defined]
    edits, _ = made.propose(view(n=0, index=0), None)
    assert isinstance(edits, tuple)
    assert made.final_experts(3, 1, None) in (3, None)


def test_periodic_by_stages() -> None:
    made = periodic(every=2, add=3, max_experts=6)
    assert grown(made, index=0) is None
    assert grown(made, index=1) is None
    assert grown(made, index=2) == 4
    assert grown(made, index=2, n=1) is None
    assert grown(made, index=4, experts=4) == 6
    assert grown(made, index=6, experts=6) is None
    assert made.final_experts(1, 10, None) == 6


def test_periodic_final_count() -> None:
    assert periodic().final_experts(1, 10, None) == 10
    assert periodic(add=4).final_experts(4, 10, None) == 40
    assert periodic(every=3).final_experts(1, 10, None) == 4
    assert periodic(unit="steps").final_experts(1, 10, None) is None


def growths(
    every: int, stages: int = 5, steps: int = 100, intervals: int = 4, first: int | None = None
) -> list[Any]:
    """(stage, interval, experts) of each growth in a stream of stages of so many steps."""
    made = periodic(intervals, unit="steps", every=every, first=first)
    memory, experts, found = None, 1, []
    for index in range(stages):
        before = index * steps
        for n in range(intervals + 1):
            total = index * steps + steps * n // intervals
            seen = view(
                n=n,
                index=index,
                intervals=intervals,
                experts=experts,
                steps=total,
                steps_before=before,
            )
            edits, memory = made.propose(seen, memory)
            before = total
            for edit in edits:
                experts = edit.experts  # type: ignore[attr-defined]
                found.append((index, n, experts))
    assert made.final_experts(1, stages, steps) == experts
    return found


def test_growth_that_falls_on_a_stages_end_is_made_at_the_next_ones_start() -> None:
    """Nobody would train it before; it used to be lost."""
    assert growths(every=100) == [(1, 0, 2), (2, 0, 3), (3, 0, 4), (4, 0, 5)]
    assert growths(every=90) == [(1, 0, 2), (2, 0, 3), (2, 3, 4), (3, 3, 5), (4, 2, 6)]
    assert growths(every=100, intervals=1) == growths(every=100)


def test_growth_away_from_the_shifts() -> None:
    early = [(0, 3, 2), (1, 3, 3), (2, 3, 4), (3, 3, 5), (4, 3, 6)]
    assert growths(every=100, first=75) == early
    assert growths(every=100, first=125) == [(1, 1, 2), (2, 1, 3), (3, 1, 4), (4, 1, 5)]
    assert growths(every=100, first=100) == growths(every=100)


@pytest.mark.parametrize("wrong", [{"first": 0, "unit": "steps"}, {"first": 5}])
def test_a_first_growth_that_cannot_be_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="must be at least 1, with unit = 'steps'"):
        Periodic.Config(**wrong)


def test_several_multiples_inside_an_interval_grow_several_times() -> None:
    assert growths(every=20, stages=1, intervals=2) == [(0, 1, 3)]
    made = periodic(unit="steps", every=100, max_experts=9)
    assert grown(made, n=1, steps_before=180, steps=420) == 4
    assert grown(made, n=1, steps_before=60, steps=99) is None
    assert grown(made, n=1, steps_before=0, steps=2000) == 9


def test_growth_by_steps_needs_no_bound_where_steps_are_known() -> None:
    """5 stages of 100 steps: planned to grow four times, and the widths follow."""
    config = tiny(
        policies={"growth": {"kind": "periodic", "unit": "steps", "every": 100}},
        training={"steps": 100, "intervals": 4},
    )
    assert config.lanes[0].sections["model"].max_experts == 5
    (lane,) = plan(config)
    assert [stage.experts for stage in lane.stages] == [1, 2, 3, 4, 5]


def planned(**changes: Any) -> list[tuple[int | None, int | None]]:
    (lane,) = plan(tiny(**changes))
    return [(stage.experts, stage.last_experts) for stage in lane.stages]


def test_a_plan_shows_growth_inside_stages_and_what_cannot_be_known() -> None:
    steps = {"kind": "periodic", "unit": "steps", "every": 90}
    known = planned(policies={"growth": steps}, training={"steps": 100, "intervals": 4})
    assert known == [(1, 1), (2, 2), (3, 4), (4, 5), (5, 6)], "as the policy's test above grows"
    bound = {"policies": {"growth": {**steps, "max_experts": 3}}}
    assert planned(**bound) == [(None, None)] * 5, "how many steps the data give, nobody knows"
    two = {"growth": {"kind": "periodic", "every": 2}, "more": {"kind": "periodic", "every": 3}}
    assert planned(policies=two) == [(1, 1), (1, 1), (2, 2), (3, 3), (4, 4)]
    measuring = {"plateau": "tests.doors.test_policy_door:Plateau"}
    assert planned(policies={**two, **measuring}) == [(None, None)] * 5


def test_seed_depends_on_stage_and_edit_number_and_on_nothing_else() -> None:
    made = periodic()
    seeds = {
        made.propose(view(n=0, index=index, edits=edits), None)[0][0].seed
        for index in (1, 2)
        for edits in (0, 1)
    }
    assert len(seeds) == 2, "the stage's own seed stands for its index"


def test_settings_of_the_initialiser_travel_in_the_edit() -> None:
    config = tiny(
        policies={
            "growth": {"kind": "periodic", "initialiser": {"kind": "clone_noise", "scale": 0.5}}
        }
    )
    made = config.lanes[0].live_policies()["growth"]
    ((edit,), _) = made.propose(view(n=0, experts=1), None)
    assert edit.initialiser == {"kind": "clone_noise", "scale": 0.5}  # type: ignore[attr-defined]
