"""Lanes whose first model is made of other lanes' models: bits, order, failures, kills."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from orchestrator.beginning import begin, joined
from orchestrator.config.file import ConfigError, check, restore
from orchestrator.config.plan import as_json, plan
from orchestrator.core.actions import Action, OpenLane, RunInterval, SaveCheckpoint
from orchestrator.core.controller import fold
from orchestrator.core.events import (
    CheckpointSaved,
    LaneOpened,
    RunStarted,
    StageStarted,
    WorkFailed,
)
from orchestrator.core.journal import Journal, read
from orchestrator.core.records import Record
from orchestrator.core.state import RunState
from orchestrator.driver import Driver
from tests.doors.lane import Outcome, run_lanes
from tests.fakes import FakeExecutor, tiny
from workers import checkpoint
from workers.contract import CheckpointRef, Json

DOMAINS: Json = {"turned": {"rotate": 90.0}, "negative": {"invert": True}}
EXPERT: Json = {"kind": "bottleneck", "width": 12}


def stream(*names: str) -> Json:
    return {
        "kind": "domains",
        "base": [],
        "domains": [{"name": name, **DOMAINS[name]} for name in names],
        "train_samples": 96,
        "test_samples": 40,
    }


def mixture(experts: int, width: int = 12, k: int = 2) -> Json:
    layer = {"selector": {"kind": "topk", "k": k}, "expert": {**EXPERT, "width": width}}
    head = {"kind": "moe", "hidden": [8], "layer": {"kind": "moe", **layer}}
    return {"experts": experts, "head": head}


def raw(**changes: Any) -> Json:
    """Two specialists and the lane that is made of them."""
    return {
        "model": {"head": {"kind": "mlp", "hidden": [12, 8]}},
        "training": {"steps": 4, "intervals": 2, "batch": 16},
        "lanes": [
            {
                "name": "mixed",
                "stream": stream("turned", "negative"),
                "model": mixture(2),
                "merge": {"kind": "branch_train_mix", "parents": ["one-s{seed}", "two-s{seed}"]},
            },
            {"name": "one", "stream": stream("turned")},
            {"name": "two", "stream": stream("negative")},
        ],
        **changes,
    }


def sliced() -> Json:
    """A dense lane, and one that cuts it into slices and grows."""
    way = {"kind": "slices", "copies": 2, "k": 2}
    both = {**stream("turned", "negative"), "order": "sequential"}
    return raw(
        lanes=[
            {"name": "dense", "stream": both},
            {
                "name": "cut",
                "stream": both,
                "model": {**mixture(4, width=6), "max_experts": 6},
                "merge": {"kind": "upcycle", "parents": ["dense-s0"], "way": way},
                "policies": {"growth": {"kind": "periodic", "every": 1, "max_experts": 6}},
            },
        ]
    )


def ref_of(found: Outcome, index: int) -> CheckpointRef:
    (event,) = [
        record.event
        for record in found.records
        if isinstance(record.event, CheckpointSaved)
        and record.event.lane == found.lane["lane"]
        and record.event.final
        and record.event.index == index
    ]
    return event.checkpoint


def weights(found: Outcome, index: int) -> dict[str, torch.Tensor]:
    return checkpoint.read(ref_of(found, index)).tensors["model"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return run_lanes(tmp_path_factory.mktemp("whole"), raw())


def test_the_first_model_is_made_of_what_the_parents_came_to(whole: dict[str, Outcome]) -> None:
    mixed = weights(whole["mixed-s0"], -1)
    parents = [weights(whole[name], 0) for name in ("one-s0", "two-s0")]
    for number, parent in enumerate(parents):
        expert = f"head.layers.0.experts.{number}"
        assert torch.equal(mixed[f"{expert}.up.weight"], parent["head.layers.0.weight"])
        assert torch.equal(mixed[f"{expert}.down.bias"], parent["head.layers.1.bias"])
    mean = sum(parent["head.layers.2.weight"].double() for parent in parents) / 2
    torch.testing.assert_close(mixed["head.layers.1.weight"].double(), mean)
    assert whole["mixed-s0"].lane["initial"], "the merged model is scored before it trains"


def test_it_begins_once_its_parents_stand_and_not_before(whole: dict[str, Outcome]) -> None:
    events = [record.event for record in whole["mixed-s0"].records]
    ends = [
        place
        for place, event in enumerate(events)
        if isinstance(event, CheckpointSaved) and event.final and event.lane != "mixed-s0"
    ]
    opened = [
        place
        for place, event in enumerate(events)
        if isinstance(event, LaneOpened) and event.lane == "mixed-s0"
    ]
    assert len(ends) == 4, "each parent's untrained model and its only stage"
    assert len(opened) == 1
    assert max(ends) < opened[0]


def test_a_dense_lane_cut_into_slices_scores_alike_and_grows(tmp_path: Path) -> None:
    found = run_lanes(tmp_path, sliced())
    assert found["cut-s0"].lane["initial"] == found["dense-s0"].lane["matrix"][-1]
    assert [edit["experts"] for edit in found["cut-s0"].edits] == [5]


def losses() -> Callable[[Action], str | None]:
    """The merged lane loses its worker as it is made, before and after, and in training."""
    seen: dict[Any, int] = {}

    def lose(action: Action) -> str | None:
        if not isinstance(action, OpenLane | SaveCheckpoint | RunInterval):
            return None
        name = action.spec.lane if isinstance(action, OpenLane) else action.lane
        key = (type(action), name)
        seen[key] = seen.get(key, 0) + 1
        moments = {OpenLane: {1: "after", 2: "before"}, SaveCheckpoint: {1: "before"}}
        return moments.get(type(action), {1: "after"}).get(seen[key])

    return lose


@pytest.mark.parametrize("file", [raw, sliced])
def test_kills_of_workers_and_drivers_change_nothing(
    tmp_path: Path, file: Callable[[], Json]
) -> None:
    last = "mixed-s0" if file is raw else "cut-s0"

    def parent_saved(record: Record) -> bool:
        return isinstance(record.event, CheckpointSaved) and record.event.index == 0

    def merge_opened(record: Record) -> bool:
        return isinstance(record.event, LaneOpened) and record.event.lane == last

    known = run_lanes(tmp_path / "whole", file())
    found = run_lanes(tmp_path / "killed", file(), losses(), (parent_saved, merge_opened))
    lost = [r for r in found[last].records if isinstance(r.event, WorkFailed)]
    assert len([r for r in lost if r.event.lane == last]) >= 3
    for name, one in found.items():
        assert one.essence == known[name].essence
        assert one.lane["initial"] == known[name].lane["initial"]


def test_plan_journal_and_report_tell_all_parents(
    tmp_path: Path, whole: dict[str, Outcome]
) -> None:
    begun = whole["mixed-s0"].records[0].event
    assert isinstance(begun, RunStarted)
    config = restore(begun.config)
    assert config.digest == begun.config_digest
    told = {lane["lane"]: lane for lane in as_json(config, plan(config))["lanes"]}
    ids = {name: told[name]["stages"][0]["id"] for name in ("one-s0", "two-s0")}
    first = told["mixed-s0"]["stages"][0]
    assert first["waits_for"] == (
        f"branch_train_mix of one-s0 stage 0 ({ids['one-s0']}), two-s0 stage 0 ({ids['two-s0']})"
    )
    assert list(told["mixed-s0"]["merged"]) == ["one-s0 stage 0", "two-s0 stage 0"]
    assert first["parent"] == begun.plan.lanes[0].spec.root
    started = [
        r.event.stage.id
        for r in whole["mixed-s0"].records
        if isinstance(r.event, StageStarted) and r.event.lane == "mixed-s0"
    ]
    assert started == [first["id"]]
    assert whole["mixed-s0"].lane["merged"] == [
        {"from": "one-s0 stage 0", "stage": ids["one-s0"]},
        {"from": "two-s0 stage 0", "stage": ids["two-s0"]},
    ]


def test_parents_of_another_run_are_the_same_parents(
    tmp_path: Path, whole: dict[str, Outcome], tmp_path_factory: pytest.TempPathFactory
) -> None:
    run_lanes(tmp_path / "donor", raw(lanes=raw()["lanes"][1:]))
    mixed = raw()["lanes"][0]
    run = str(tmp_path / "donor")
    parents = [{"run": run, "lane": "one-s{seed}"}, {"run": run, "lane": "two-s0", "stage": 0}]
    found = run_lanes(
        tmp_path / "run", raw(lanes=[{**mixed, "merge": {**mixed["merge"], "parents": parents}}])
    )
    assert found["mixed-s0"].essence == whole["mixed-s0"].essence
    stages = [lane["mixed-s0"].lane["stages"][0]["id"] for lane in (found, whole)]
    assert stages[0] == stages[1]


# ---------------------------------------------------------------- the controller alone


def fake(**changes: Any) -> Any:
    merge = {"kind": "branch_train_mix", "parents": ["a-s0", "b-s0"]}
    lanes = [
        {"name": "m", "model": mixture(2), "merge": merge},
        {"name": "a"},
        {"name": "b", "training": {"epochs": 2}},
        {"name": "n", "merge": {**merge, "parents": ["m-s0", "m-s0"]}, "model": mixture(4)},
    ]
    return tiny(model={"head": {"kind": "mlp", "hidden": [12, 8]}}, lanes=lanes, **changes)


def drive(config: Any, executor: FakeExecutor, cpus: float = 2) -> tuple[RunState, list[Any]]:
    """A run against the scripted cluster, folded again from its journal."""
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.jsonl")
        driver = Driver(config, journal, executor)
        driver.run(begin(config, "run"), joined(cpus, 0))
        journal.close()
        records = [record for record, _ in read(journal.path)]
    assert fold(records)[0] == driver.state
    return driver.state, [record.event for record in records]


def test_a_failed_parent_fails_what_is_made_of_it_with_the_reason() -> None:
    def fail(action: Action, times: int) -> Any:
        return "stage_error" if getattr(action, "lane", "") == "b-s0" else None

    found = drive(fake(), FakeExecutor(fail=fail))
    state, events = found
    assert {name: lane.status for name, lane in state.lanes.items()} == {
        "m-s0": "failed",
        "a-s0": "done",
        "b-s0": "failed",
        "n-s0": "failed",
    }
    told = {e.lane: e.message for e in events if isinstance(e, WorkFailed)}
    assert "is made of b-s0 stage 4, which lane b-s0 did not come to" in told["m-s0"]
    assert "is made of m-s0" in told["n-s0"]
    assert state.status == "failed"


def test_a_parent_that_gave_a_stage_up_is_no_parent_either() -> None:
    def fail(action: Action, times: int) -> Any:
        lane, stage = getattr(action, "lane", ""), getattr(action, "n", 0)
        return "stage_error" if (lane, stage) == ("b-s0", 1) and times == 1 else None

    skip = {"stage_error": {"retries": 0, "then": "skip_stage"}}
    state, _ = drive(fake(failures=skip), FakeExecutor(fail=fail))
    assert state.lanes["b-s0"].status == "done"
    assert state.lanes["m-s0"].status == "failed"


def test_a_chain_of_merges_runs_in_its_order_in_little_room() -> None:
    state, _ = drive(fake(), FakeExecutor(room=1), cpus=1)
    assert {lane.status for lane in state.lanes.values()} == {"done"}
    spec = state.lanes["n-s0"].plan.spec
    assert spec.root is not None
    assert spec.merged is not None
    assert spec.merged.parents[0].stage == state.lanes["m-s0"].ends[4].checkpoint.stage


REFUSED: dict[str, tuple[Json, str]] = {
    "an unknown lane": ({"parents": ["one-s0", "three-s0"]}, "no lane 'three-s0'"),
    "itself": ({"parents": ["one-s0", "mixed-s0"]}, "made of each other"),
    "one alone": ({"parents": ["one-s0"]}, "needs at least 2"),
    "no list": ({"parents": "one-s0"}, "a list of lanes"),
    "an unknown kind": ({"kind": "x"}, "unknown name 'x'"),
    "a stage too many": (
        {"parents": ["one-s0", {"lane": "two-s0", "stage": 3}]},
        "has no stage 3",
    ),
    "an unknown setting": ({"share": 1}, "unknown key"),
    "no such run": ({"parents": ["one-s0", {"run": "/nowhere", "lane": "x"}]}, "no journal there"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_merged_is_refused_before_anything_runs(case: str) -> None:
    changes, message = REFUSED[case]
    file = raw()
    file["lanes"][0]["merge"] |= changes
    with pytest.raises(ConfigError, match=message) as caught:
        check({"name": "x", **file}, "x")
    assert all(problem.allowed for problem in caught.value.problems)


LANES: dict[str, tuple[int, Json, str]] = {
    "another trunk": (1, {"model": {"head": {"kind": "mlp", "hidden": [16, 8]}}}, "-> 16 ->"),
    "another backbone": (
        2,
        {"model": {"backbone": {"kind": "mlp", "hidden": [5]}}},
        "an expert is 64 -> 12 -> 8, relu, with biases, what it is to be made of 5 -> 12",
    ),
    "other inputs": (1, {"stream": {**stream("turned"), "size": 10}}, "its stream has inputs"),
    "more experts": (0, {"model": mixture(3)}, "3 experts, but the 2 trained models bring 2"),
    "a start besides": (0, {"start": "x"}, "set start = 'none'"),
}


@pytest.mark.parametrize("case", LANES)
def test_lanes_that_do_not_fit_are_refused_before_anything_runs(case: str) -> None:
    number, changes, message = LANES[case]
    file = raw()
    file["lanes"][number] |= changes
    with pytest.raises(ConfigError, match=message):
        check({"name": "x", **file}, "x")


def test_parents_that_lose_experts_are_looked_at_when_they_stand() -> None:
    both = {**stream("turned", "negative"), "order": "sequential"}
    less = {"less": {"kind": "prune", "keep": 2, "score": "use", "from_stage": 0}}
    pruned = {"model": mixture(3), "stream": both, "policies": less}
    made = {"kind": "branch_train_mix", "parents": ["one-s0", "two-s0"]}
    check(
        raw(
            name="pruned",
            lanes=[
                {"name": "mixed", "stream": both, "model": mixture(4), "merge": made},
                {"name": "one", **pruned},
                {"name": "two", **pruned},
            ],
        ),
        "pruned",
    )
