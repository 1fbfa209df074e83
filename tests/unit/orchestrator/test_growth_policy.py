"""When growth is proposed, to how many, with which seed."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.policies import GROWTH
from orchestrator.policies.growth import NoGrowth, Periodic, Progress
from workers.contract import StageSpec, TaskSpec


def progress(index: int = 1, n: int = 0, **changes: Any) -> Progress:
    stage = StageSpec(
        index=index,
        task=TaskSpec(index=index, name="t", domain="d"),
        intervals=4,
        seed=1,
        parent=None,
        settings_digest="s",
    )
    values = {"stages": 5, "steps": 0, "steps_before": 0, "experts": 1, "edits": 0, "report": None}
    return Progress(stage=stage, n=n, **{**values, **changes})


@pytest.mark.parametrize("name", GROWTH)
def test_every_policy_builds_from_its_default_config(name: str) -> None:
    cls = GROWTH[name]
    policy = cls(cls.Config())
    assert isinstance(policy.propose(progress()), tuple)


def test_no_growth() -> None:
    policy = NoGrowth(NoGrowth.Config())
    assert policy.propose(progress()) == ()
    assert policy.final_experts(3, 10) == 3


def test_periodic_by_stages() -> None:
    policy = Periodic(Periodic.Config(every=2, add=3, max_experts=6))
    assert policy.propose(progress(index=0)) == ()
    assert policy.propose(progress(index=1)) == ()
    assert policy.propose(progress(index=2))[0].experts == 4
    assert policy.propose(progress(index=2, n=1)) == ()
    assert policy.propose(progress(index=4, experts=4))[0].experts == 6
    assert policy.propose(progress(index=6, experts=6)) == ()
    assert policy.final_experts(1, 10) == 6


def test_periodic_final_count() -> None:
    assert Periodic(Periodic.Config()).final_experts(1, 10) == 10
    assert Periodic(Periodic.Config(add=4)).final_experts(4, 10) == 40
    assert Periodic(Periodic.Config(every=3)).final_experts(1, 10) == 4


def test_periodic_by_steps_grows_once_past_each_multiple() -> None:
    policy = Periodic(Periodic.Config(unit="steps", every=100, max_experts=9))
    grown = [
        bool(policy.propose(progress(n=1, steps_before=before, steps=after)))
        for before, after in [(0, 60), (60, 120), (120, 180), (180, 420)]
    ]
    assert grown == [False, True, False, True]


def test_seed_depends_on_stage_and_edit_number() -> None:
    policy = Periodic(Periodic.Config())
    seeds = {
        policy.propose(progress(index=index, edits=edits))[0].seed
        for index in (1, 2)
        for edits in (0, 1)
    }
    assert len(seeds) == 4
