"""A lane that grows, loses experts and grows again, through kills."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.policies import Policy, Proposal, View
from orchestrator.report.progress import line
from orchestrator.report.results import print_report
from orchestrator.tracking import pages
from orchestrator.tracking.projection import Projection
from tests.doors.lane import Outcome, run_killed, run_lane
from tests.doors.routed_lane import routed_lane
from workers.contract import Json
from workers.edits import Prune


class DropsLeastUsed(Policy):
    """Removes the expert with the least gate weight of each layer in the middle of a stage."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Nothing to set."""

        kind: str

    def propose(self, view: View, memory: Json) -> Proposal:
        if view.n != 1 or not view.stage.index:
            return (), memory
        assert view.report is not None
        least = {
            layer: (min(view.model.layers[layer].ids, key=lambda e: (weights[e], e)),)
            for layer, weights in view.report.gate_weights.items()
        }
        return (Prune(**view.edit(policy="drops", trigger="use"), experts=least),), memory


LANE = routed_lane({"selector": {"kind": "topk", "k": 2}})
RAW = {
    **LANE,
    "stream": {**LANE["stream"], "order": "sequential"},
    "policies": {
        "growth": "periodic",
        "drops": "tests.doors.test_removal:DropsLeastUsed",
        "masks": {"kind": "usage_masks", "refresh_every": 1, "from_stage": 0},
    },
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_lane(tmp_path_factory.mktemp("whole"), RAW)


def test_experts_come_and_go_through_kills_to_the_same_bits(whole: Outcome, tmp_path: Path) -> None:
    assert run_killed(tmp_path, RAW, edits="prune").essence == whole.essence
    steps = [edit["kind"] for edit in whole.edits if edit["kind"] != "refresh_mask"]
    assert steps == ["grow", "prune"] * 2


def test_it_is_told_by_id_everywhere(whole: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    (layer,) = whole.edits[-1]["after"]["layers"]
    gone = {e["experts"][layer][0] for e in whole.edits if e["kind"] == "prune"}
    weights = list(whole.intervals.values())[-1]["gate_weights"][layer]
    assert [number for number, weight in enumerate(weights) if weight == 0] == sorted(gone)
    assert len(weights) == 4
    ids = [edit["after"]["layers"] for edit in whole.edits if edit["kind"] == "prune"]
    assert all(len(shape["removed"]) == n + 1 for n, s in enumerate(ids) for shape in s.values())
    print_report(whole.report)
    assert "2 removals" in capsys.readouterr().out
    told = [line(record) or "" for record in whole.records]
    assert any("experts removed: " in text for text in told)
    projection = Projection()
    for record in whole.records:
        list(projection.add(record))
    (lane,) = projection.history.lanes.values()
    assert all(len(born) == 4 for born in lane.births.values())
    assert pages.lane_figures(projection.history, lane.name).images
