"""An evaluation under an inference policy as an MLflow run beside the stage it read."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from orchestrator.tracking.naming import flatten, milliseconds, point, task_keys
from orchestrator.tracking.tracker import Tracker, TrackingAway
from orchestrator.tracking.writes import CloseRun, LogPoints, OpenRun, Write
from workers.contract import InputError, Json


def record(run_dir: Path, store: str | None, told: Json) -> None:
    """Write what ``report.inference.evaluate`` told under the run of the stage.

    The same policy on the same stage and tasks is one run, however often it is evaluated. Raises
    InputError where the store does not answer, or does not show the stage.
    """
    tracker = Tracker(run_dir, store)
    tracker.connect()
    try:
        if "experiment" not in tracker.store.ledger.ids:
            tracker.project()  # a run that this store has not been shown
        parent, stream = tracker.stage(told["lane"], told["stage"])
        writes = _writes(parent, stream, told, time.time())
        tracker.publish(writes, {})
    except TrackingAway as error:
        raise InputError(
            f"the evaluation cannot be recorded: {error}; give the store that shows the run with "
            "--tracking-uri, or leave the record out with --no-tracking"
        ) from error


def _writes(parent: str, stream: str, told: Json, at: float) -> list[Write]:
    policy = told["policy"]
    identity = json.dumps([policy, told["tasks"]], sort_keys=True)
    key = f"{parent}/evaluate-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    run = OpenRun(
        key=key,
        parent=parent,
        name=f"evaluate {policy['kind']}",
        at=milliseconds(at),
        tags={"kind": "evaluation", "stream": stream, "growstage.digest": told["digest"]},
        params=flatten({"policy": policy}) | {"lane": told["lane"], "stage": str(told["stage"])},
    )
    values: dict[str, float] = {}
    rows = zip(task_keys(tuple(told["tasks"])), told["plain"], told["scores"], strict=True)
    for name, plain, score in rows:
        values |= {f"plain/{name}": plain, f"score/{name}": score}
        values[f"difference/{name}"] = score - plain
    for name in ("plain", "scores"):
        values[f"mean/{name}"] = sum(told[name]) / len(told[name])
    values["mean/difference"] = values["mean/scores"] - values["mean/plain"]
    values |= {f"told/{name}": value for name, value in told["told"].items()}
    points = [point(name, value, told["stage"], at) for name, value in values.items()]
    points += [
        point("validation", sum(row) / len(row), int(choice), at)
        for choice, row in told["choices"].items()
    ]
    return [
        run,
        LogPoints(key=key, points=tuple(points)),
        CloseRun(key=key, status="FINISHED", at=milliseconds(at)),
    ]
