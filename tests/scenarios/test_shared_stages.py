"""Stories of lanes with first stages in common: trained once, held back, taken over, given up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from orchestrator.beginning import begin, joined, takeover
from orchestrator.config.run import RunConfig
from orchestrator.core.actions import Evaluate, OpenLane, RunInterval, StartStage
from orchestrator.core.controller import fold
from orchestrator.core.events import CheckpointSaved, StageStarted
from orchestrator.core.journal import Journal, read
from orchestrator.core.records import Record
from orchestrator.driver import Driver
from orchestrator.policies import Policy, View
from orchestrator.policies.base import Proposal
from orchestrator.report.history import RunHistory, report
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.writes import LogModel, LogPoints, OpenRun
from tests.fakes import FakeExecutor, tiny
from workers.contract import Json

THREE = [{"method": "finetune"}, {"method": "replay"}, {"method": "joint"}]
GROWING = {"growth": {"kind": "periodic", "every": 2}}


class Waits(Policy):
    """Remembers how many rows of R it saw, from stage 1 on."""

    uses_scores: ClassVar[bool] = True

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """No settings."""

        kind: str = "tests.scenarios.test_shared_stages:Waits"

    @property
    def first_stage(self) -> int:
        return 1

    def propose(self, view: View, memory: Json) -> Proposal:
        return (), [*(memory or ()), sorted(view.rows)]


def run(path: Path, config: RunConfig, executor: FakeExecutor, resumed: bool = False) -> Driver:
    driver = Driver(config, Journal(path), executor)
    driver.run(*([takeover(2, 0)] if resumed else [begin(config, "run"), joined(2, 0)]))
    driver.journal.close()
    return driver


def records(path: Path) -> list[Record]:
    return [record for record, _ in read(path)]


def started(executor: FakeExecutor) -> Counter[tuple[str, int]]:
    """(lane, index) -> how often the stage was started."""
    issued = [action for action in executor.performed if isinstance(action, StartStage)]
    return Counter((action.lane, action.stage.index) for action in issued)


def scored(executor: FakeExecutor) -> Counter[int]:
    """Index -> models scored after that stage."""
    return Counter(a.index for a in executor.performed if isinstance(a, Evaluate))


def lanes_of(path: Path) -> dict[str, Json]:
    return {lane["lane"]: lane for lane in report(records(path))["lanes"]}


def test_a_follower_holds_nothing_until_the_stage_is_durable(tmp_path: Path) -> None:
    executor, path = FakeExecutor(), tmp_path / "journal.jsonl"
    config = tiny(lanes=THREE, policies=GROWING)
    driver = run(path, config, executor)
    assert driver.state.status == "done"
    assert started(executor) == {
        (f"{name}-s0", index): 1
        for name in ("finetune", "replay", "joint")
        for index in range(5)
        if index > 0 or name == "finetune"
    }
    opened = [action for action in executor.performed if isinstance(action, OpenLane)]
    first, *others = opened
    assert (first.spec.lane, first.checkpoint, first.taken) == ("finetune-s0", None, None)
    assert [action.spec.lane for action in others] == ["replay-s0", "joint-s0"]
    for action in others:
        assert action.checkpoint is not None
        assert action.taken is not None
        assert action.checkpoint.uri.startswith("finetune-s0/000-")
        assert action.taken.stage.id == action.checkpoint.stage
        assert not action.taken.same_method
    where = executor.performed.index(others[0])
    saved = [a for a in executor.performed[:where] if getattr(a, "final", False)]
    assert [save.index for save in saved] == [-1, 0], "opened once the stage was saved"
    assert scored(executor)[0] == scored(executor)[-1] == 1
    assert scored(executor)[4] == 3


def test_shared_rows_and_stages_are_in_every_lane_s_report(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    run(path, tiny(lanes=THREE), FakeExecutor())
    lanes = lanes_of(path)
    assert len({lane["stages"][0]["id"] for lane in lanes.values()}) == 1
    assert len({lane["stages"][1]["id"] for lane in lanes.values()}) == 3
    for name, lane in lanes.items():
        own = name == "finetune-s0"
        assert [s["trained_by"] for s in lane["stages"]] == [
            None if own else "finetune-s0",
            *[None] * 4,
        ]
        assert lane["stages"][0]["checkpoint"]["uri"].startswith("finetune-s0/")
        assert len(lane["matrix"]) == 5
        assert lane["matrix"] == lanes["finetune-s0"]["matrix"]
        assert lane["initial"] == [0.1] * 5
        assert [stage["status"] for stage in lane["stages"]] == ["done"] * 5


def test_ids_do_not_depend_on_sharing(tmp_path: Path) -> None:
    for name, share in (("on", True), ("off", False)):
        executor = FakeExecutor()
        run(tmp_path / name, tiny(lanes=THREE, share_stages=share), executor)
        assert sum(started(executor).values()) == (13 if share else 15)
    on, off = lanes_of(tmp_path / "on"), lanes_of(tmp_path / "off")
    for name, lane in on.items():
        assert [s["id"] for s in lane["stages"]] == [s["id"] for s in off[name]["stages"]]
    assert not any(stage["trained_by"] for lane in off.values() for stage in lane["stages"])


@pytest.mark.parametrize("cut", range(1, 60, 2))
def test_killed_after_any_record_a_resumed_run_trains_no_shared_stage_twice(
    tmp_path: Path, cut: int
) -> None:
    config = tiny(lanes=THREE, policies=GROWING, checkpoint_every=1)
    run(tmp_path / "whole", config, FakeExecutor())
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    assert cut < len(lines)
    (tmp_path / "cut").write_bytes(b"".join(lines[:cut]) + lines[cut][:7])
    driver = run(tmp_path / "cut", config, FakeExecutor(), resumed=True)
    assert driver.state.status == "done"
    assert fold(records(tmp_path / "cut"))[0] == driver.state
    seen, known = lanes_of(tmp_path / "cut"), lanes_of(tmp_path / "whole")
    for name, lane in known.items():
        for part in ("matrix", "initial"):
            assert seen[name][part] == lane[part]
        for one, other in zip(seen[name]["stages"], lane["stages"], strict=True):
            told = ("id", "trained_by", "checkpoint", "steps")
            assert [one[key] for key in told] == [other[key] for key in told]
            fields = ("id", "revision", "experts", "after_interval")
            edits = [[[edit[f] for f in fields] for edit in s["edits"]] for s in (one, other)]
            assert edits[0] == edits[1]
    begun = {
        (r.event.lane, r.event.stage.index)
        for r in records(tmp_path / "cut")
        if isinstance(r.event, StageStarted)
    }
    assert {lane for lane, index in begun if index == 0} == {"finetune-s0"}


def test_a_failed_trunk_hands_its_stage_to_the_first_follower(tmp_path: Path) -> None:
    def fail(action: Any, seen: int) -> str | None:
        bad = isinstance(action, RunInterval) and action.lane == "finetune-s0" and action.seq == 4
        return "stage_error" if bad else None

    executor, path = FakeExecutor(fail), tmp_path / "journal.jsonl"
    driver = run(path, tiny(lanes=THREE), executor)
    assert {name: lane.status for name, lane in driver.state.lanes.items()} == {
        "finetune-s0": "failed",
        "replay-s0": "done",
        "joint-s0": "done",
    }
    again = {key: times for key, times in started(executor).items() if key[1] == 0}
    assert again == {("finetune-s0", 0): 1, ("replay-s0", 0): 1}
    lanes = lanes_of(path)
    assert lanes["replay-s0"]["stages"][0]["trained_by"] is None
    assert lanes["joint-s0"]["stages"][0]["trained_by"] == "replay-s0"
    resumed = FakeExecutor()
    driver = run(path, tiny(lanes=THREE), resumed, resumed=True)
    assert driver.state.status == "done"
    assert {lane for lane, _ in started(resumed)} == {"finetune-s0"}, "it goes on with its own"


def test_a_trunk_that_fails_later_leaves_its_followers_alone(tmp_path: Path) -> None:
    def fail(action: Any, seen: int) -> str | None:
        bad = isinstance(action, StartStage) and action.lane == "finetune-s0"
        return "stage_error" if bad and action.stage.index == 1 else None

    executor = FakeExecutor(fail)
    driver = run(tmp_path / "journal.jsonl", tiny(lanes=THREE), executor)
    assert driver.state.lanes["finetune-s0"].status == "failed"
    assert driver.state.lanes["replay-s0"].status == driver.state.lanes["joint-s0"].status == "done"
    assert started(executor)["replay-s0", 0] == started(executor)["joint-s0", 0] == 0


def test_a_trunk_that_gives_the_stage_up_is_not_waited_for(tmp_path: Path) -> None:
    def fail(action: Any, seen: int) -> str | None:
        bad = isinstance(action, StartStage) and action.lane == "finetune-s0"
        return "stage_error" if bad and action.stage.index == 0 else None

    failures = {"stage_error": {"retries": 0, "then": "skip_stage"}}
    executor = FakeExecutor(fail)
    driver = run(tmp_path / "j", tiny(lanes=THREE, failures=failures), executor)
    assert driver.state.status == "done"
    assert started(executor)["replay-s0", 0] == 1
    assert started(executor)["joint-s0", 0] == 0
    assert 0 not in driver.state.lanes["finetune-s0"].ends


def test_a_follower_that_skips_falls_back_to_the_shared_model(tmp_path: Path) -> None:
    def fail(action: Any, seen: int) -> str | None:
        bad = isinstance(action, StartStage) and action.lane == "replay-s0"
        return "stage_error" if bad and action.stage.index == 1 else None

    failures = {"stage_error": {"retries": 0, "then": "skip_stage"}}
    executor = FakeExecutor(fail)
    run(tmp_path / "j", tiny(lanes=THREE, failures=failures), executor)
    opened = [
        a for a in executor.performed if isinstance(a, OpenLane) and a.spec.lane == "replay-s0"
    ]
    assert len(opened) == 2
    assert opened[0].checkpoint == opened[1].checkpoint
    assert opened[0].taken == opened[1].taken
    assert opened[1].taken is not None
    later = [
        a.stage for a in executor.performed if isinstance(a, StartStage) and a.lane == "replay-s0"
    ]
    assert [stage.index for stage in later] == [1, 2, 3, 4]
    assert later[1].parent == opened[0].taken.stage.id


def test_a_worker_lost_in_the_first_own_stage_takes_over_again(tmp_path: Path) -> None:
    def fail(action: Any, seen: int) -> str | None:
        lost = isinstance(action, RunInterval) and action.lane == "replay-s0" and seen == 1
        return "worker_lost" if lost and action.n == 2 else None

    executor = FakeExecutor(fail)
    driver = run(tmp_path / "j", tiny(lanes=THREE), executor)
    assert driver.state.status == "done"
    opened = [
        a for a in executor.performed if isinstance(a, OpenLane) and a.spec.lane == "replay-s0"
    ]
    assert [action.attempt for action in opened] == [1, 2]
    assert opened[0].taken == opened[1].taken
    assert opened[1].taken is not None


def test_a_row_that_cannot_be_measured_fails_every_lane_that_needs_it(tmp_path: Path) -> None:
    def fail(action: Any, seen: int) -> str | None:
        return "evaluation" if isinstance(action, Evaluate) and action.index == 0 else None

    path = tmp_path / "journal.jsonl"
    driver = run(path, tiny(lanes=THREE), FakeExecutor(fail))
    assert {lane.status for lane in driver.state.lanes.values()} == {"failed"}
    executor = FakeExecutor()
    driver = run(path, tiny(lanes=THREE), executor, resumed=True)
    assert driver.state.status == "done"
    assert all(
        len(lane["matrix"]) == 5 and None not in lane["matrix"][0]
        for lane in lanes_of(path).values()
    )


@pytest.mark.parametrize("given_up", [False, True])
def test_a_follower_that_waits_for_scores_is_told_those_of_the_shared_stage(
    tmp_path: Path, given_up: bool
) -> None:
    def fail(action: Any, seen: int) -> str | None:
        bad = given_up and isinstance(action, Evaluate) and action.index == 0
        return "evaluation" if bad else None

    failures = {"evaluation": {"retries": 1, "then": "skip_stage"}}
    policies = {"waits": {"kind": Waits.Config().kind}}
    config = tiny(lanes=THREE, policies=policies, failures=failures)
    executor = FakeExecutor(fail)
    driver = run(tmp_path / "j", config, executor)
    assert driver.state.status == "done"
    assert scored(executor)[0] == (2 if given_up else 1), "once for all, tried as often as allowed"
    starts = [a for a in executor.performed if isinstance(a, StartStage) and a.stage.index == 1]
    last = max(
        place
        for place, action in enumerate(executor.performed)
        if isinstance(action, Evaluate) and action.index == 0
    )
    assert len(starts) == 3
    assert all(executor.performed.index(action) > last for action in starts)
    seen = {name: lane.memory for name, lane in driver.state.lanes.items()}
    assert seen["finetune-s0"] == seen["replay-s0"] == seen["joint-s0"]
    assert seen["replay-s0"]["waits"][0] == [-1, 0], "the first question is asked in stage 1"


def test_the_longest_common_beginning_counts(tmp_path: Path) -> None:
    """Two lanes of one method part at stage 2: they share two stages, the third lane one."""
    late = {"kind": "periodic", "every": 2}
    lanes = [
        {"name": "a", "method": "finetune"},
        {"name": "b", "method": {"kind": "replay", "buffer": 9}, "policies": {"growth": "none"}},
        {"name": "c", "method": {"kind": "replay", "buffer": 9}, "policies": {"growth": late}},
    ]
    model = {"head": {"kind": "moe", "hidden": [16]}, "max_experts": 3}
    config = tiny(model=model, policies={"growth": late}, lanes=lanes)
    stems = {plan.spec.lane: plan.stem for plan in config.plan().lanes}
    assert stems["a-s0"] is None
    assert stems["b-s0"] is not None
    assert stems["c-s0"] is not None
    assert (stems["b-s0"].lanes, stems["b-s0"].stages) == (("a-s0",), 1)
    assert (stems["c-s0"].lanes, stems["c-s0"].stages) == (("b-s0",), 2)
    executor, path = FakeExecutor(), tmp_path / "journal.jsonl"
    run(path, config, executor)
    lanes_now = lanes_of(path)
    owners = [stage["trained_by"] for stage in lanes_now["c-s0"]["stages"]]
    assert owners == ["a-s0", "b-s0", None, None, None]
    opened = {a.spec.lane: a for a in executor.performed if isinstance(a, OpenLane)}
    assert opened["c-s0"].taken is not None
    assert opened["c-s0"].taken.same_method
    assert sum(started(executor).values()) == 5 + 4 + 3


def test_lanes_that_are_the_same_to_the_end_are_trained_once(tmp_path: Path) -> None:
    config = tiny(lanes=[{"name": "a"}, {"name": "b"}])
    executor, path = FakeExecutor(), tmp_path / "journal.jsonl"
    assert run(path, config, executor).state.status == "done"
    assert {lane for lane, _ in started(executor)} == {"a-s0"}
    one, other = lanes_of(path).values()
    assert one["matrix"] == other["matrix"]
    assert [s["id"] for s in one["stages"]] == [s["id"] for s in other["stages"]]


def test_the_view_shows_one_stage_with_several_children(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    run(path, tiny(lanes=THREE), FakeExecutor())
    projection, history = Projection(), RunHistory()
    opened: set[str] = set()
    writes = []
    for record in records(path):
        history.add(record)
        for write in projection.add(record):
            if isinstance(write, OpenRun):
                opened.add(write.key)
            elif not isinstance(write, LogModel):
                assert write.key in opened, "nothing is written to a run that is not there yet"
            writes.append(write)
    models = {write.key: write for write in writes if isinstance(write, LogModel)}
    children = [key for key, model in models.items() if model.parents == ("run/finetune-s0/000",)]
    assert sorted(children) == [f"run/{n}-s0/001" for n in ("finetune", "joint", "replay")]
    assert "run/replay-s0/000" not in models
    for name in ("finetune", "replay", "joint"):
        cells = Counter(
            (point.name, point.step)
            for write in writes
            if isinstance(write, LogPoints) and write.key == f"run/{name}-s0"
            for point in write.points
            if point.name.startswith("task/")
        )
        assert len(cells) == 6 * 5, f"all of the matrix of {name}"
        assert set(cells.values()) == {1}
    assert len(history.lanes["replay-s0"].rows) == 6


def test_what_keeps_lanes_apart() -> None:
    """Whatever decides a stage's bits, or what it runs on, ends the common beginning."""

    def shared(**lane: Any) -> bool:
        config = tiny(lanes=[{"name": "a"}, {"name": "b", **lane}])
        return config.plan().lanes[1].stem is not None

    assert shared()
    assert shared(method={"kind": "replay", "buffer": 7})
    assert shared(policies={"growth": {"kind": "periodic", "every": 5}})
    assert not shared(seeds=[1])
    assert not shared(training={"epochs": 2})
    assert not shared(model={"head": {"kind": "moe", "hidden": [17]}})
    assert not shared(stream={"classes_per_task": 5})
    assert not shared(resources={"cpus": 2})
    assert not shared(workers=2)
    assert not shared(
        policies={"growth": {"kind": "periodic", "every": 50, "unit": "steps", "max_experts": 1}}
    )


def test_saved_checkpoints_are_each_written_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    run(path, tiny(lanes=THREE), FakeExecutor())
    saved = Counter(
        r.event.checkpoint.uri for r in records(path) if isinstance(r.event, CheckpointSaved)
    )
    assert set(saved.values()) == {1}
    assert len(saved) == 6 + 4 + 4
