"""Stories of lanes that learn each task alone, or nothing: what is opened, scored and compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.beginning import begin, joined, takeover
from orchestrator.config.run import RunConfig
from orchestrator.core.actions import Evaluate, OpenLane, RunInterval, StartStage
from orchestrator.core.controller import fold
from orchestrator.core.journal import Journal, read
from orchestrator.core.records import Record
from orchestrator.driver import Driver
from orchestrator.report.history import report
from orchestrator.report.results import print_report
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.writes import LogModel, LogPoints
from tests.fakes import FakeExecutor, tiny
from workers.contract import CheckpointRef, Json, Start

ALONE = "replay/scratch-s0"
ONE = {"lanes": [{"method": "replay"}], "baselines": ["scratch", "joint", "finetune"]}


class Learning(FakeExecutor):
    """Intervals report how well the task is done: 0.4, then 0.8; alone 0.2, then 0.8."""

    def counted(self, action: RunInterval) -> dict[str, Any]:
        first = 0.2 if action.lane == ALONE else 0.4
        return {"signals": {"train_score": first if action.n == 1 else 0.8}}


def run(path: Path, config: RunConfig, executor: FakeExecutor, resumed: bool = False) -> Driver:
    driver = Driver(config, Journal(path), executor)
    driver.run(*([takeover(2, 0)] if resumed else [begin(config, "run"), joined(2, 0)]))
    driver.journal.close()
    return driver


def records(path: Path) -> list[Record]:
    return [record for record, _ in read(path)]


def lanes_of(path: Path) -> dict[str, Json]:
    return {lane["lane"]: lane for lane in report(records(path))["lanes"]}


def opened(executor: FakeExecutor, name: str = ALONE) -> list[OpenLane]:
    found = [action for action in executor.performed if isinstance(action, OpenLane)]
    return [action for action in found if action.spec.lane == name]


def begun(executor: FakeExecutor, name: str = ALONE) -> list[int]:
    found = [action for action in executor.performed if isinstance(action, StartStage)]
    return [action.stage.index for action in found if action.lane == name]


@pytest.mark.parametrize("share", [True, False])
def test_every_stage_alone_is_opened_with_the_first_model(tmp_path: Path, share: bool) -> None:
    executor, path = FakeExecutor(), tmp_path / "j"
    driver = run(path, tiny(**ONE, share_stages=share), executor)
    assert driver.state.status == "done"
    first = "replay-s0/initial" if share else f"{ALONE}/initial"
    refs = [action.checkpoint for action in opened(executor)]
    assert [ref and ref.uri for ref in refs] == [*([] if share else [None]), *[first] * 4]
    assert begun(executor) == ([1, 2, 3, 4] if share else [0, 1, 2, 3, 4])
    taken = [action.taken for action in opened(executor)]
    assert all((one is not None and one.stage is None) == share for one in taken)
    lane = lanes_of(path)[ALONE]
    assert [stage["parent"] for stage in lane["stages"]] == [None] * 5
    assert [stage["status"] for stage in lane["stages"]] == ["done"] * 5
    assert len(lane["matrix"]) == 5
    assert lane["metrics"].keys() == {"learning_accuracy", "plasticity.slope"}


def test_every_lane_is_compared_with_its_own_and_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "j"
    run(path, tiny(**ONE), Learning())
    lanes = lanes_of(path)
    metrics = lanes["replay-s0"]["metrics"]
    assert metrics["intransigence"] == metrics["fwt.scratch"] == 0.0
    # areas 0.6 and 0.5 but in the first stage, which is the same one
    assert metrics["fwt.auc"] == pytest.approx(4 / 5 * 0.1 / 0.5)
    assert "forgetting.reduction" not in metrics, "nothing is forgotten here"
    assert lanes["replay-s0"]["baselines"]["scratch"] == ALONE
    assert "fwt.auc" not in lanes["replay/finetune-s0"]["metrics"]
    print_report(report(records(path)))
    shown = capsys.readouterr().out
    assert "against baselines" in shown
    assert f"scratch: {ALONE}" in shown


def test_the_tracker_shows_a_comparison_once_both_are_known(tmp_path: Path) -> None:
    path = tmp_path / "j"
    run(path, tiny(**ONE), Learning())
    projection = Projection()
    writes = [write for record in records(path) for write in projection.add(record)]
    points = [
        (point.step, point.value)
        for write in writes
        if isinstance(write, LogPoints) and write.key == "run/replay-s0"
        for point in write.points
        if point.name == "fwt.auc"
    ]
    # after n stages the first of them counts with 0
    assert points == [(n, pytest.approx((n - 1) / n * 0.2)) for n in range(1, 6)]
    models = {write.key: write for write in writes if isinstance(write, LogModel)}
    before = {models[f"run/{ALONE}/{index:03d}"].parents for index in range(1, 5)}
    assert before == {(f"run/{ALONE}",)}, "none goes on from the stage before"


@pytest.mark.parametrize("cut", range(1, 110, 4))
def test_killed_after_any_record_a_resumed_run_ends_alike(tmp_path: Path, cut: int) -> None:
    config = tiny(**ONE, checkpoint_every=1)
    run(tmp_path / "whole", config, FakeExecutor())
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    assert cut < len(lines)
    (tmp_path / "cut").write_bytes(b"".join(lines[:cut]) + lines[cut][:7])
    driver = run(tmp_path / "cut", config, FakeExecutor(), resumed=True)
    assert driver.state.status == "done"
    assert fold(records(tmp_path / "cut"))[0] == driver.state
    seen, known = lanes_of(tmp_path / "cut"), lanes_of(tmp_path / "whole")
    for name, lane in known.items():
        assert seen[name]["matrix"] == lane["matrix"]
        assert seen[name]["metrics"] == lane["metrics"]
        told = ("id", "trained_by", "checkpoint", "steps")
        for one, other in zip(seen[name]["stages"], lane["stages"], strict=True):
            assert [one[key] for key in told] == [other[key] for key in told]


def test_a_stage_given_up_leaves_the_first_model_to_the_next(tmp_path: Path) -> None:
    def fail(action: Any, seen: int) -> str | None:
        bad = isinstance(action, RunInterval) and action.lane == ALONE and action.n == 2
        return "stage_error" if bad and seen_stage(executor) == 2 else None

    def seen_stage(executor: FakeExecutor) -> int:
        return begun(executor)[-1]

    failures = {"stage_error": {"retries": 0, "then": "skip_stage"}}
    executor, path = FakeExecutor(fail), tmp_path / "j"
    config = tiny(lanes=ONE["lanes"], baselines=["scratch"], failures=failures)
    driver = run(path, config, executor)
    assert driver.state.status == "done"
    assert begun(executor) == [1, 2, 3, 4]
    assert {action.checkpoint.uri for action in opened(executor) if action.checkpoint} == {
        "replay-s0/initial"
    }
    lane = lanes_of(path)[ALONE]
    assert [stage["status"] for stage in lane["stages"]] == [
        "done", "done", "skipped", "done", "done",
    ]  # fmt: skip
    assert lane["matrix"][2] == lane["initial"], "the row of the model that it was left with"


def test_a_worker_lost_while_it_is_let_go_is_not_missed(tmp_path: Path) -> None:
    def fail(action: Any, seen: int) -> str | None:
        close = type(action).__name__ == "CloseLane" and action.lane == ALONE
        return "worker_lost" if close and seen == 2 else None

    executor = FakeExecutor(fail)
    driver = run(tmp_path / "j", tiny(**ONE), executor)
    assert driver.state.status == "done"
    assert begun(executor) == [1, 2, 3, 4]


def test_a_lane_that_trains_nothing_is_scored_once(tmp_path: Path) -> None:
    """The random model of a lane that begins with another run's."""
    ref = CheckpointRef(uri="other", digest="d", seq=0, stage="elsewhere", bytes=1)
    config = tiny(baselines=["random_init"])
    begun_lane = replace(config.lanes[0], start=Start(checkpoint=ref), baselines={})
    from orchestrator.config.baselines import with_baselines

    lanes, problems = with_baselines([begun_lane], {"finetune-s0": (["random_init"], "baselines")})
    assert not problems
    config = replace(config, lanes=tuple(lanes))
    name = "finetune/random_init-s0"
    executor, path = Scored(), tmp_path / "j"
    driver = run(path, config, executor)
    assert driver.state.status == "done"
    assert begun(executor, name) == []
    scored = [
        a.index for a in executor.performed if isinstance(a, Evaluate) and a.spec.lane == name
    ]
    assert scored == [-1]
    told = lanes_of(path)
    assert (told[name]["matrix"], told[name]["metrics"]) == ([], {})
    # R[j-1, j] = 0.1 of the begun lane against b = 0.05 of the random one
    assert told["finetune-s0"]["metrics"]["fwt.gem"] == pytest.approx(0.1 - 0.05)


class Scored(FakeExecutor):
    """The random model is worse than the one that the lane begins with."""

    def _answer(self, action: Any) -> Any:
        event = super()._answer(action)
        if not isinstance(action, Evaluate) or "random_init" not in action.spec.lane:
            return event
        return replace(event, report=replace(event.report, scores=[0.05] * len(action.tasks)))
