"""Parents of a merge that a file names as MLflow knows them, found before the file is checked.

``{ model = "one-s0-stage02" }``: a model's name, id, or the start of its digest or of its stage's
id, as for ``growstage lineage``; ``{ model = "models:/NAME/3" }`` or ``"models:/NAME@alias"``: a
version in the model registry. Both become the run folder, lane and stage that made it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.config.start import SEED, Starts
from orchestrator.core.folder import CHECKPOINTS
from orchestrator.tracking import lineage
from orchestrator.tracking.background import TrackingAway
from orchestrator.tracking.store import answering, open_client
from orchestrator.tracking.tracker import lineage_uri
from workers.contract import InputError, Json

REGISTRY = "models:/"
_MODEL_ID = re.compile(r"\bm-[0-9a-f]{32}\b")


def settled(raw: Json, tracking_uri: str | None) -> Json:
    """The file with those parents as tables of ``run``, ``lane`` and ``stage``.

    Raises InputError where a store has no such model, several, or its run is gone or another one.
    The store is asked only where the file names models.
    """
    starts = Starts()
    clients: list[Any] = []

    def find(name: str) -> Json:
        if not clients:
            clients.append(open_client(tracking_uri or lineage_uri()))
        with answering():
            model = _model(clients[0], name)
        return _place(model, starts)

    lanes = raw.get("lanes")
    if not isinstance(lanes, list):
        return raw
    return {**raw, "lanes": [_lane(lane, f"lanes.{n}", find) for n, lane in enumerate(lanes)]}


def _lane(lane: Any, path: str, find: Callable[[str], Json]) -> Any:
    merge = lane.get("merge") if isinstance(lane, Mapping) else None
    if not isinstance(merge, Mapping) or not isinstance(merge.get("parents"), list):
        return lane
    parents = merge["parents"]
    found = [_parent(one, f"{path}.merge.parents.{n}", find) for n, one in enumerate(parents)]
    return {**lane, "merge": {**merge, "parents": found}}


def _parent(parent: Any, path: str, find: Callable[[str], Json]) -> Any:
    if not isinstance(parent, Mapping) or "model" not in parent:
        return parent
    name = parent["model"]
    if len(parent) > 1 or not isinstance(name, str):
        raise InputError(f"{path}: got {dict(parent)}; a parent has model alone, as text")
    if SEED in name:
        raise InputError(f"{path}: {name!r}; models have fixed names: give a lane for each seed")
    try:
        return find(name)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _model(client: Any, name: str) -> Any:
    """The one logged model of that name."""
    if name.startswith(REGISTRY):
        return client.get_logged_model(_registered(client, name))
    experiments = [item.experiment_id for item in client.search_experiments()]
    found = lineage.models(client, experiments, name)
    if len(found) != 1:
        ids = ", ".join(model.model_id for model in found) or "none"
        raise InputError(
            f"{name!r} names {len(found)} models ({ids}); give the name, id or digest of one, and "
            "the right --tracking-uri"
        )
    return found[0]


def _registered(client: Any, name: str) -> str:
    """Id of the logged model behind a version in the registry."""
    rest = name.removeprefix(REGISTRY)
    by_alias = "@" in rest
    title, _, which = rest.rpartition("@" if by_alias else "/")
    ask = client.get_model_version_by_alias if by_alias else client.get_model_version
    try:
        with answering():
            version = ask(title, which)
    except TrackingAway as error:
        raise InputError(
            f"{name!r}: {error}; give models:/NAME/VERSION or models:/NAME@ALIAS"
        ) from error
    # A registry in a database keeps no id of the model, only where its artifacts would be.
    held = version.model_id or next(iter(_MODEL_ID.findall(version.source or "")), None)
    if not held:
        raise InputError(f"{name!r} was registered without a logged model; register one of a run")
    return str(held)


def _place(model: Any, starts: Starts) -> Json:
    """Where a model's checkpoint is told of: a run's folder, lane and stage."""
    uri, digest = model.params.get("uri", ""), model.params.get("sha256")
    run, _, inside = uri.rpartition(f"/{CHECKPOINTS}/")
    if not inside:
        raise InputError(f"model {model.name}: made by no run of growstage; give one that is")
    stage = model.params["stage"]
    place = {
        "run": run,
        "lane": model.tags["lane"],
        "stage": int(stage) if stage.isdigit() else -1,
    }
    _, end = starts.end_of(**{"name" if key == "lane" else key: v for key, v in place.items()})
    if end.checkpoint.digest != digest:
        raise InputError(
            f"model {model.name} {str(digest)[:16]}: {run} holds {end.checkpoint.digest[:16]} in "
            "its place, so the folder is another run's by now; give one of that run's models"
        )
    return place
