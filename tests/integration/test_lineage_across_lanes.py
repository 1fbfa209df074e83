"""Lineage where a stage is another lane's, or a lane began with another run's model."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient

from orchestrator.tracking.lineage import as_json, lineage, matrix, tree
from orchestrator.tracking.tracker import Tracker, default_uri
from tests.doors.lane import run_lane, run_lanes
from workers.contract import Json

RAW: Json = {
    "stream": {
        "kind": "domains",
        "order": "sequential",
        "train_samples": 64,
        "test_samples": 20,
        "domains": [{"name": "turned", "rotate": 90.0}],
    },
    "model": {"head": {"kind": "moe", "hidden": [8]}},
    "training": {"steps": 4, "intervals": 2, "diagnostics": []},
}


def test_one_stage_has_several_children_and_a_start_leads_on_into_the_other_run(
    runs: Path,
) -> None:
    lanes = [{"name": "finetune"}, {"name": "replay", "method": "replay"}]
    first = run_lanes(runs / "one", {**RAW, "name": "one", "lanes": lanes})
    Tracker(runs / "one", None).project()
    start = {"run": str(runs / "one"), "lane": "replay-s0", "stage": 1}
    second = run_lane(
        runs / "two", {**RAW, "name": "two", "start": start, "lanes": [{"name": "later"}]}
    )
    Tracker(runs / "two", None).project()
    client = MlflowClient(default_uri(runs / "one"))
    experiments = [item.experiment_id for item in client.search_experiments()]

    chains = {
        lane: as_json(lineage(client, f"{lane}-s0-stage01")) for lane in ("finetune", "replay")
    }
    shared = {chain[1]["model"]["id"] for chain in chains.values()}
    assert len(shared) == 1, "both go on from one model"
    for lane, chain in chains.items():
        assert [step["stage"] and step["stage"]["lane"] for step in chain] == [
            f"{lane}-s0",
            "finetune-s0",
            None,
        ]
    made = client.search_runs(experiments, "tags.level = 'stage' AND tags.lane = 'replay-s0'")
    assert [run.data.tags["stage.index"] for run in made] == ["01"]
    (run,) = client.search_runs(experiments, "tags.level = 'lane' AND tags.lane = 'replay-s0'")
    shown = matrix(client, run.info.run_id)
    assert shown["matrix"] == first["replay-s0"].lane["matrix"]
    assert shown["initial"] == first["replay-s0"].lane["initial"]

    chain = lineage(client, "later-s0-stage01")
    names = [step.model["name"] for step in chain]
    assert names == [
        "later-s0-stage01",
        "later-s0-stage00",
        "later-s0-start",
        "replay-s0-stage01",
        "finetune-s0-stage00",
        "finetune-s0-untrained",
    ]
    donor = first["replay-s0"].lane["stages"][1]
    assert chain[2].model["started_from"] == donor["checkpoint"]["digest"]
    assert second.lane["stages"][0]["parent"] == donor["id"]
    assert "began with a trained model" in str(
        [str(node.label) for c in tree(chain).children for node in c.children]
    )
