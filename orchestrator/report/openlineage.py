"""A run as OpenLineage events (openlineage.io, spec 2-0-2): run, stages, data and models.

A run and each stage trained in it are runs of jobs; data and checkpoints are data sets, so that a
catalogue draws data -> stage -> model -> stage -> model. Pure: journal in, plain values out.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

from orchestrator.beginning import release
from orchestrator.report.history import RunHistory
from orchestrator.report.lane_history import LaneHistory, StageHistory
from orchestrator.report.runs import Run
from workers.contract import CheckpointRef, Json

SPEC = "https://openlineage.io/spec"
NAMESPACE = "growstage"
"""Of jobs and of data; models are named by where they lie."""
ENDS = {"done": "COMPLETE", "failed": "FAIL", "interrupted": "ABORT"}
"""Status of a run -> how it ended; one that was killed has no end."""


def as_lines(run: Run) -> str:
    """The events of a run, one JSON object a line, in the order in which they happened."""
    found = sorted(events(run.history), key=lambda event: str(event["eventTime"]))
    return "".join(f"{json.dumps(event)}\n" for event in found)


def events(history: RunHistory) -> Iterator[Json]:
    """START and, where it ended, the end of the run and of every stage that it trained."""
    started = history.started
    assert started is not None, "a journal starts with RunStarted"
    own = _id(started.run_id)
    job = _job(started.name, "RUN")
    tags = {"config": started.config_digest, "code": started.code_version, **started.modules}
    run = {"runId": own, "facets": {**_engine(), **_tags(tags)}}
    yield _event("START", started.at, run, job)
    for lane in history.lanes.values():
        parent = {"run": {"runId": own}, "job": {"namespace": NAMESPACE, "name": started.name}}
        above = {"parent": _facet("1-2-0/ParentRunFacet", **parent)}
        for index, stage in lane.stages.items():
            if stage.trained_by is None and stage.adopted_from is None:
                yield from _stage(history, lane, index, stage, above)
    if history.ended is not None and history.status in ENDS:
        yield _event(ENDS[history.status], history.ended, run, job)


def _stage(
    history: RunHistory, lane: LaneHistory, index: int, stage: StageHistory, above: Json
) -> Iterator[Json]:
    """A stage: what it read (data, and the model that it went on from) and the model it wrote."""
    assert history.started is not None
    task = stage.spec.task
    job = _job(f"{history.started.name}.{lane.name}.{task.name}", "STAGE")
    edits = [edit.text() for edit, _ in lane.stage_edits(stage.id)]
    tags = {
        "stage": stage.id,
        "task": task.name,
        "domain": task.domain,
        "method": lane.method,
        "seed": str(lane.seed),
        **{f"edit {number}": text for number, text in enumerate(edits, start=1)},
    }
    run: Json = {
        "runId": _id(f"{history.started.run_id}/{lane.name}/{index}"),
        "facets": {**above, **_engine(), **_tags(tags)},
    }
    before = _before(lane, stage)
    inputs = [_data(stage), *([] if before is None else [_model(before)])]
    yield _event("START", stage.started, run, job, inputs)
    status = history.stage_status(lane, index)
    if stage.checkpoint is not None and stage.saved is not None:
        yield _event("COMPLETE", stage.saved, run, job, inputs, [_model(stage.checkpoint, True)])
    elif history.ended is not None or status == "skipped":
        told = lane.failure
        at = history.ended if told is None else told.at
        if told is not None:
            why = {"message": told.message, "programmingLanguage": "PYTHON"}
            run["facets"]["errorMessage"] = _facet("1-0-1/ErrorMessageRunFacet", **why)
        end = "FAIL" if told is not None or status in ("failed", "skipped") else "ABORT"
        yield _event(end, at if at is not None else stage.started, run, job, inputs)


def _before(lane: LaneHistory, stage: StageHistory) -> CheckpointRef | None:
    """The trained model that a stage went on from."""
    parent = stage.spec.parent
    if parent is None:
        return lane.start
    return next((one.checkpoint for one in lane.stages.values() if one.id == parent), None)


def _event(
    kind: str,
    at: float,
    run: Json,
    job: Json,
    inputs: list[Json] | None = None,
    outputs: list[Json] | None = None,
) -> Json:
    return {
        "eventType": kind,
        "eventTime": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds"),
        "run": run,
        "job": job,
        "inputs": inputs or [],
        "outputs": outputs or [],
        "producer": _producer(),
        "schemaURL": f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent",
    }


def _job(name: str, kind: str) -> Json:
    told = {"processingType": "BATCH", "integration": "GROWSTAGE", "jobType": kind}
    return {
        "namespace": NAMESPACE,
        "name": name,
        "facets": {"jobType": _facet("2-0-4/JobTypeJobFacet", **told)},
    }


def _data(stage: StageHistory) -> Json:
    """What a stage was trained on: named by its source, its version the digest of its samples."""
    return {
        "namespace": NAMESPACE,
        "name": stage.data.source or stage.spec.task.name,
        "facets": _version(stage.data.data_digest),
    }


def _model(ref: CheckpointRef, written: bool = False) -> Json:
    """A checkpoint by where it lies, as OpenLineage names files and buckets."""
    place = urlsplit(ref.uri)
    inside = place.path if place.scheme in ("", "file") else place.path.lstrip("/")
    base = f"{place.scheme}://{place.netloc}" if place.netloc else place.scheme or "file"
    told: Json = {"namespace": base, "name": inside, "facets": _version(ref.digest)}
    if written:
        size = _facet("1-0-2/OutputStatisticsOutputDatasetFacet", size=ref.bytes)
        told["outputFacets"] = {"outputStatistics": size}
    return told


def _version(digest: str) -> Json:
    return {"version": _facet("1-0-1/DatasetVersionDatasetFacet", datasetVersion=digest)}


def _engine() -> Json:
    told = {"name": "growstage", "version": release()}
    return {"processing_engine": _facet("1-1-1/ProcessingEngineRunFacet", **told)}


def _tags(tags: Json) -> Json:
    fields = [{"key": key, "value": value, "source": "GROWSTAGE"} for key, value in tags.items()]
    return {"tags": _facet("1-0-0/TagsRunFacet", tags=fields)}


def _facet(kind: str, **told: object) -> Json:
    name = kind.rpartition("/")[2]
    url = f"{SPEC}/facets/{kind}.json#/$defs/{name}"
    return {"_producer": _producer(), "_schemaURL": url, **told}


def _producer() -> str:
    return f"urn:growstage:{release().replace(' ', '-')}"


def _id(name: str) -> str:
    """The same for the same run or stage, however often it is exported."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"growstage:{name}"))
