"""Masked runs, really trained; workers and drivers lost at every edit: one version, same bits."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.beginning import begin, joined, takeover
from orchestrator.core.actions import ApplyEdit, RunInterval
from orchestrator.core.controller import fold
from orchestrator.core.events import EditApplied, IntervalDone
from orchestrator.core.journal import Journal, read
from orchestrator.driver import Driver
from orchestrator.report.history import report
from orchestrator.report.results import print_report
from tests.fakes import tiny
from tests.local import LocalExecutor
from workers import checkpoint
from workers.contract import DivergedError
from workers.edits import AdaptRouter, RefreshMask, SetPhase
from workers.supervised.trainer import SupervisedTrainer

DOMAINS = {
    "kind": "domains",
    "train_samples": 120,
    "test_samples": 60,
    "domains": [{"name": "turned", "rotate": 90.0}, {"name": "permuted", "permutation": 1}],
}
LAYER = {
    "kind": "moe",
    "router": "adaptive",
    "selector": {"kind": "topk", "k": 2},
    "expert": {"kind": "bottleneck", "width": 6},
}
HEAD = {"kind": "moe", "hidden": [24], "layer": LAYER}
MASKED: dict[str, Any] = {
    "stream": DOMAINS,
    "model": {"experts": 4, "head": HEAD},
    "training": {"epochs": 4, "intervals": 5, "batch": 16},
    "policies": {
        "router": {"kind": "adapt_router", "from_stage": 1},
        "phases": {"kind": "three_phases", "from_stage": 1},
        "masks": {"kind": "usage_masks", "sharing": "copy", "max_copies": 3, "from_stage": 1},
    },
    "checkpoint_every": 2,
}


def config(**changes: Any):  # type: ignore[no-untyped-def]
    return tiny(**{**MASKED, **changes})


def run(folder: Path, lose: Any = lambda action: None, first: str = "begin", **changes: Any):  # type: ignore[no-untyped-def]
    checked = config(**changes)
    executor = LocalExecutor(folder / "checkpoints", lose)
    driver = Driver(checked, Journal(folder / "journal.jsonl"), executor)
    events = (begin(checked, "run"), joined(2, 0)) if first == "begin" else (takeover(2, 0),)
    assert driver.run(*events) == "done"
    driver.journal.close()
    return executor


def records(folder: Path) -> list[Any]:
    return [record for record, _ in read(folder / "journal.jsonl")]


def essence(folder: Path) -> Any:
    """What must not depend on what was lost."""
    state = fold(records(folder))[0].lanes["finetune-s0"]
    prints: dict[str, set[str]] = {}
    for record in records(folder):
        if isinstance(record.event, EditApplied):
            prints.setdefault(record.event.edit.id, set()).add(record.event.report.fingerprint)
    assert all(len(found) == 1 for found in prints.values()), "one result of each edit"
    return state.parent.digest, state.model, state.memory, prints  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


def test_edits_of_an_undisturbed_run(whole: Path) -> None:
    edits = [edit for record in records(whole) for edit in record.edits]
    assert [type(edit) for edit in edits] == [
        AdaptRouter,
        SetPhase,
        SetPhase,
        RefreshMask,
        RefreshMask,
        RefreshMask,
        SetPhase,
    ]
    masks = [edit for edit in edits if isinstance(edit, RefreshMask)]
    assert [mask.version for mask in masks] == [1, 2, 3]
    reports = [r.event.report for r in records(whole) if isinstance(r.event, IntervalDone)]
    assert [report.revision for report in reports] == [0] * 5 + [2, 4, 5, 6, 7]
    learnt: Counter[str] = Counter()
    for done in reports:
        learnt.update(done.tokens)
    assert learnt == {"base": 480, "turned": 480, "permuted": 480}, "four epochs of 120 samples"


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", range(7))
def test_worker_lost_around_any_edit(whole: Path, tmp_path: Path, number: int, moment: str) -> None:
    seen: Counter[str] = Counter()

    def lose(action: Any) -> str | None:
        if not isinstance(action, ApplyEdit):
            return None
        seen[action.edit.id] += 1
        return moment if len(seen) == number + 1 and seen[action.edit.id] == 1 else None

    run(tmp_path, lose)
    assert essence(tmp_path) == essence(whole)


def test_driver_lost_after_any_record_that_decided(whole: Path, tmp_path: Path) -> None:
    """Journal entry written, broadcast not: the edit is in the journal once and applied."""
    lines = (whole / "journal.jsonl").read_bytes().splitlines(keepends=True)
    deciding = [i for i, record in enumerate(records(whole)) if record.edits]
    assert len(deciding) >= 5
    for number in deciding:
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(b"".join(lines[: number + 1]))
        (folder / "checkpoints").symlink_to(whole / "checkpoints")
        run(folder, first="takeover")
        assert essence(folder)[:2] == essence(whole)[:2]
        decided = Counter(edit.id for record in records(folder) for edit in record.edits)
        assert set(decided.values()) == {1}


def test_fold_gives_the_live_state_with_masks_and_asks_no_policy(whole: Path) -> None:
    model = essence(whole)[1]
    assert model.revision == 7
    assert model.latest(RefreshMask).version == 3


def test_step_at_an_old_revision_is_refused(whole: Path) -> None:
    trainer = SupervisedTrainer()
    lane = config().lanes[0]
    state = fold(records(whole))[0].lanes["finetune-s0"]
    opened = trainer.open(lane.spec(), state.parent)
    assert opened.shape.layers
    stages = [r.event.stage for r in records(whole) if type(r.event).__name__ == "StageStarted"]
    trainer.start(stages[-1])
    with pytest.raises(DivergedError, match="at revision 2, the model is at revision 7"):
        trainer.run_interval(1, 2)


def test_report_of_another_revision_stops_the_run(tmp_path: Path) -> None:
    from dataclasses import replace

    class Stale(LocalExecutor):
        def wait(self, timeout: float) -> list[Any]:
            return [
                replace(event, report=replace(event.report, revision=7))
                if isinstance(event, IntervalDone) and event.report.n == 2
                else event
                for event in super().wait(timeout)
            ]

    executor = Stale(tmp_path / "checkpoints")
    driver = Driver(config(), Journal(tmp_path / "journal.jsonl"), executor)
    assert driver.run(begin(config(), "run"), joined(2, 0)) == "failed"
    driver.journal.close()
    (lane,) = report(records(tmp_path))["lanes"]
    assert lane["last_failure"]["kind"] == "diverged"
    assert "at revision 7, it had to be 0" in lane["last_failure"]["message"]


def test_old_experts_keep_their_bits_while_new_ones_learn(tmp_path: Path) -> None:
    """Growth at a new domain, masks claimed: the first domain's experts do not move at all."""
    changes = {
        "stream": {**DOMAINS, "base": [], "order": "sequential"},
        "model": {"experts": 2, "head": {**HEAD, "layer": {**LAYER, "router": "linear"}}},
        "policies": {
            "growth": {"kind": "periodic", "add": 2},
            "masks": {
                "kind": "usage_masks",
                "sharing": "claim",
                "threshold": 0.05,
                "refresh_every": 2,
            },
        },
        "checkpoint_every": 0,
    }
    executor = run(tmp_path, **changes)
    refs = [e.event.checkpoint for e in records(tmp_path) if hasattr(e.event, "checkpoint")]
    before, after = (checkpoint.read(ref).tensors["model"] for ref in refs[1:])
    masks = [a.edit for a in executor.performed if isinstance(a, ApplyEdit)]
    kinds = [edit.kind for edit in masks]
    assert kinds.index("refresh_mask") < kinds.index("grow")
    claimed = {n for n, owner in masks[-1].owners["head.layers.0"].items() if owner == "turned"}
    assert claimed == {"0", "1"}
    for name, tensor in before.items():
        if ".experts." in name:
            assert tensor.equal(after[name]), f"{name} moved"
    assert any(not after[n].equal(before.get(n, 0 * after[n])) for n in after if ".experts." in n)
    intervals = [a for a in executor.performed if isinstance(a, RunInterval)]
    assert intervals[-1].revision == masks[-1].revision


def test_report_of_a_masked_run_fits_a_screen(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = report(records(whole))
    print_report(told)
    shown = capsys.readouterr().out
    versions = [
        edit["version"]
        for stage in told["lanes"][0]["stages"]
        for edit in stage["edits"]
        if edit["kind"] == "refresh_mask"
    ]
    assert re.search(rf"mask version {versions[-1]}\b", shown)
    assert f"the last of {len(versions)}" in shown
    assert len(re.findall(r"│ load_cv( \d+\.\d\d)+ ", shown)) == len(told["lanes"][0]["stages"])
