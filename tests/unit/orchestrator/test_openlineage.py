"""A run's OpenLineage events: what they say, and that OpenLineage's own classes take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.openlineage import as_lines, events
from orchestrator.report.runs import open_run
from tests.journals import TASKS, story, write
from workers.contract import Json

FACETS = {
    "parent": "parent_run.ParentRunFacet",
    "processing_engine": "processing_engine_run.ProcessingEngineRunFacet",
    "tags": "tags_run.TagsRunFacet",
    "errorMessage": "error_message_run.ErrorMessageRunFacet",
    "jobType": "job_type_job.JobTypeJobFacet",
    "version": "dataset_version_dataset.DatasetVersionDatasetFacet",
    "outputStatistics": "output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet",
}
"""Facet -> its class in openlineage.client.generated."""


@pytest.fixture
def told(tmp_path: Path) -> list[Json]:
    write(tmp_path / "run", story())
    return [json.loads(line) for line in as_lines(open_run(tmp_path / "run")).splitlines()]


def test_runs_begin_and_end_in_order(told: list[Json]) -> None:
    assert (told[0]["eventType"], told[-1]["eventType"]) == ("START", "COMPLETE")
    assert told[0]["run"]["runId"] == told[-1]["run"]["runId"]
    assert len(told) == 2 + 2 * 2 * len(TASKS)
    ids = [event["run"]["runId"] for event in told]
    assert all(ids.count(one) == 2 for one in ids)
    assert [event["eventTime"] for event in told] == sorted(event["eventTime"] for event in told)


def test_a_stage_reads_data_and_the_model_before_and_writes_one(told: list[Json]) -> None:
    ended = [event for event in told if event["job"]["name"].startswith("fashion.replay-s0.")]
    ended = [event for event in ended if event["eventType"] == "COMPLETE"]
    wrote = [event["outputs"][0]["name"] for event in ended]
    assert wrote == ["/ckpt/replay-s0/0", "/ckpt/replay-s0/1", "/ckpt/replay-s0/2"]
    assert [len(event["inputs"]) for event in ended] == [1, 2, 2]
    assert [event["inputs"][1]["name"] for event in ended[1:]] == wrote[:2]
    assert ended[1]["inputs"][0]["name"] == "imagined train shoes, boots"
    tags = {tag["key"]: tag["value"] for tag in ended[1]["run"]["facets"]["tags"]["tags"]}
    assert tags["edit 1"].startswith("grown to 2 experts")
    assert ended[1]["outputs"][0]["outputFacets"]["outputStatistics"]["size"] == 4096
    above = ended[0]["run"]["facets"]["parent"]["run"]["runId"]
    assert above == told[0]["run"]["runId"]


@pytest.mark.parametrize("cut", [3, 9, 20])
def test_a_run_without_end_has_begun_only(tmp_path: Path, cut: int) -> None:
    write(tmp_path, story()[:cut])
    history = open_run(tmp_path).history
    names = [event["eventType"] for event in events(history) if not event["inputs"]]
    assert names == ["START"]


def test_openlineage_takes_every_event(told: list[Json]) -> None:
    """Its classes refuse fields that the schema lacks, and miss those that it demands."""
    pytest.importorskip("openlineage.client")
    from openlineage.client.generated import base

    for event in told:
        run, job = event["run"], event["job"]
        made = base.RunEvent(
            eventTime=event["eventTime"],
            eventType=base.EventType(event["eventType"]),
            run=base.Run(runId=run["runId"], facets=facets(run["facets"])),
            job=base.Job(**{**job, "facets": facets(job["facets"])}),
            inputs=[base.InputDataset(**data(one)) for one in event["inputs"]],
            outputs=[base.OutputDataset(**data(one)) for one in event["outputs"]],
            producer=event["producer"],
        )
        assert made.schemaURL == event["schemaURL"]


def data(one: Json) -> dict[str, Any]:
    found = {**one, "facets": facets(one["facets"])}
    if "outputFacets" in one:
        found["outputFacets"] = facets(one["outputFacets"])
    return found


def facets(told: Json) -> dict[str, Any]:
    from importlib import import_module

    made = {}
    for name, facet in told.items():
        module, _, cls = FACETS[name].partition(".")
        known = getattr(import_module(f"openlineage.client.generated.{module}"), cls)
        values = {key: value for key, value in facet.items() if not key.startswith("_")}
        made[name] = known(**values)
        assert made[name]._schemaURL == facet["_schemaURL"]
    return made
