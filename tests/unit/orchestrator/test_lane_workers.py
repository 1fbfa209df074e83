"""Lanes of several workers: what the config says of them, where they fit, and how they agree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.beginning import begin
from orchestrator.cluster.agreement import agreed
from orchestrator.cluster.placement import check_resources, unplaceable
from orchestrator.config.file import ConfigError, restore
from orchestrator.config.plan import as_json, plan
from orchestrator.core.actions import ApplyEdit, OpenLane, RunInterval, SaveCheckpoint
from orchestrator.core.controller import fold
from orchestrator.core.records import Record
from orchestrator.core.settling import schedule
from tests.fakes import shape, tiny
from tune_spaces.trial import bundles
from workers.contract import (
    CheckpointRef,
    DivergedError,
    EditReport,
    InputError,
    IntervalReport,
    OpenReport,
    Replica,
)
from workers.edits import Cause, Grow

TOY = {"kind": "tests.unit.workers.rl.toy:ToyStream"}
PPO = {"kind": "ppo", "num_envs": 8, "rollout": 16, "steps_per_stage": 256, "intervals": 2}


def test_workers_of_the_file_and_of_a_lane() -> None:
    lanes = [{"name": "a"}, {"name": "b", "workers": 4}, {"name": "c", "workers": 1}]
    config = tiny(workers=2, lanes=lanes)
    assert [lane.workers for lane in config.lanes] == [2, 4, 1]
    assert [lane.spec().workers for lane in config.lanes] == [2, 4, 1]
    assert restore(config.plain()) == config
    planned = as_json(config, plan(config))["lanes"]
    assert [lane["workers"] for lane in planned] == [2, 4, 1]


def test_journals_of_before_have_one_worker() -> None:
    plain = tiny().plain()
    del plain["lanes"][0]["workers"]
    assert restore(plain).lanes[0].workers == 1


def test_same_stages_and_edits_but_other_bits() -> None:
    one, two = (tiny(workers=workers) for workers in (1, 2))
    assert [s.id for s in plan(one)[0].stages] == [s.id for s in plan(two)[0].stages]
    assert one.lanes[0].spec().built_from != two.lanes[0].spec().built_from


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"workers": 0}, "lanes.0.workers", "got 0; must be at least 1"),
        ({"workers": 3}, "lanes.0.training.batch", "got 64 with workers = 3; every worker takes"),
        (
            {"workers": 2, "resources": {"gpus": 0.5}},
            "lanes.0.resources.gpus",
            "got 0.5 with workers = 2; workers that train together cannot share a GPU",
        ),
        (
            {"workers": 2, "stream": TOY, "training": PPO, "model": "actor_critic"},
            "lanes.0.workers",
            "got 2; lanes of trainer rl train in several processes by training.num_learners",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_error(changes: Any, path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny(**changes)
    (problem,) = caught.value.problems
    assert problem.path == path
    assert message in str(problem)


def test_all_workers_count_for_the_room() -> None:
    lanes = [{"name": "a", "seeds": [0]}, {"name": "b", "seeds": [1]}]
    config = tiny(workers=2, lanes=lanes, resources={"cpus": 1.5})
    begun, _ = fold([Record(event=begin(config, "run"))])
    state = replace(begun, cpus=4.0)
    assert schedule(state) == ("a-s0",)
    assert schedule(replace(state, cpus=6.0)) == ("a-s0", "b-s1")


def test_workers_may_be_on_several_nodes() -> None:
    config = tiny(workers=4, resources={"cpus": 0.1, "custom": {"slot": 1}})
    small, large = {"CPU": 1.0, "slot": 2.0}, {"CPU": 0.3, "slot": 9.0}
    assert unplaceable(config, [small, {"CPU": 8.0}]) == list(config.lanes)
    assert unplaceable(config, [small, large]) == []
    with pytest.raises(InputError, match=r"CPU = 0\.1, slot = 1 for each of 4 workers"):
        check_resources(config, [small])


def test_trial_reserves_for_each_worker() -> None:
    assert bundles(tiny(workers=2, resources={"cpus": 2})) == [{}, {"CPU": 2.0}, {"CPU": 2.0}]


CAUSE = Cause(policy="p", trigger="t")
EDIT = ApplyEdit(
    lane="a",
    attempt=1,
    seq=3,
    edit=Grow(id="g", stage="s", after_interval=0, revision=1, experts=2, seed=1, cause=CAUSE),
)
EDITED = EditReport(
    edit="g", fingerprint="f", before=shape(1), after=shape(2), probe_change=0.1, seconds=1.0
)
RUN = RunInterval(lane="a", attempt=1, seq=4, n=1)
TRAINED = IntervalReport(stage="s", n=1, steps=5, metrics={"loss": 1.0}, seconds=1.0, rss_mb=9.0)
SAVE = SaveCheckpoint(lane="a", attempt=1, seq=5, index=0, final=True, name="n")
SAVED = CheckpointRef(uri="u", digest="d", seq=5, stage="s", bytes=10)


@pytest.mark.parametrize(
    ("action", "answer", "alike", "other", "name"),
    [
        (EDIT, EDITED, {"seconds": 2.0, "probe_change": 0.2}, {"fingerprint": "g"}, "fingerprint"),
        (RUN, TRAINED, {"seconds": 2.0, "rss_mb": 1.0}, {"metrics": {"loss": 1.1}}, "metrics"),
        (SAVE, SAVED, {}, {"digest": "e"}, "digest"),
    ],
)
def test_workers_agree_or_the_lane_stops(
    action: Any, answer: Any, alike: Any, other: Any, name: str
) -> None:
    assert agreed(action, [answer, replace(answer, **alike)]) is answer
    with pytest.raises(DivergedError, match=rf"workers 0 and 2 .* {type(action).__name__}: {name}"):
        agreed(action, [answer, answer, replace(answer, **other)])


def test_opened_lane_names_all_processes() -> None:
    open_ = OpenLane(spec=tiny(workers=2).lanes[0].spec(), attempt=1, checkpoint=None)
    reports = [
        OpenReport(shape=shape(), seq=0, backend="compiled", host=host, pid=pid)
        for host, pid in (("h", 1), ("i", 2))
    ]
    assert agreed(open_, reports).replicas == (Replica("h", 1), Replica("i", 2))
    assert agreed(open_, reports[:1]).replicas == ()
    assert agreed(open_, [None, None]) is None
