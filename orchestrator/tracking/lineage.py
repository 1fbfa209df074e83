"""Where a model came from, read from MLflow alone: model <- stage <- edits <- parents <- ... data.

Works on any client that is passed in; imports no MLflow and reads no journal.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workers.contract import InputError, Json

TASKS_FILE = "tasks.json"
"""Artifact of a lane: metric name of each task -> the task, in the stream's order."""
SHORTEST = 6
"""Characters a digest or stage id must be given by at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One link of the chain: a model and the stage that made it out of the one before."""

    model: Json
    """``id, name, digest, uri, experts, parameters, started_from, merged_by``; None while the stage
    has no model yet."""
    stage: Json
    """``id, index, task, domain, lane, run, status``; None for the model that a lane begins with:
    an untrained one, or (``model["started_from"]``) one that another run has trained."""
    data: tuple[Json, ...]
    """``name, digest, source`` of what the stage was trained on."""
    edits: tuple[Json, ...]
    parents: tuple[str, ...]
    """Ids of the models that it goes on from; several where it is made of them."""
    config_digest: str
    code_version: str
    modules: str
    """The user's own modules with digests of their code, ``name=digest ...``; ``none``."""
    ops_backend: str


def lineage(client: Any, name: str) -> list[Step]:
    """The chain from a model back to the untrained ones; behind a model that is made of several
    come the chains of each, in their order.

    ``name``: a model's id, name or digest prefix, a stage's id prefix, or the id of a stage's
    MLflow run. Raises InputError where nothing or more than one thing answers to it.
    """
    chain: list[Step] = []
    left, seen = [_resolve(client, name)], set()
    while left:
        model, run = left.pop()
        step = _step(client, model, run)
        chain.append(step)
        for parent in reversed([one for one in step.parents if one not in seen]):
            seen.add(parent)
            found = client.get_logged_model(parent)
            left.append((found, client.get_run(found.source_run_id)))
    return chain


def matrix(client: Any, lane_run: str) -> Json:
    """``tasks``, ``matrix`` and ``initial`` of a lane's run, as the run report has them."""
    keys = json.loads(_artifact(client, lane_run, TASKS_FILE) or "{}")
    points = {
        (point.step, column): point.value
        for column, key in enumerate(keys)
        for point in client.get_metric_history(lane_run, f"task/{key}")
    }
    steps = max((step for step, _ in points), default=0)
    rows = [[points.get((step, j)) for j in range(len(keys))] for step in range(steps + 1)]
    initial = [] if not rows or None in rows[0] else rows[0]
    return {"tasks": list(keys.values()), "matrix": rows[1:], "initial": initial}


def as_json(chain: list[Step]) -> Json:
    """The chain as plain JSON, newest first."""
    return [asdict(step) for step in chain]


def show(chain: list[Step], as_json_text: bool) -> None:
    """Print the chain as a tree, or as JSON."""
    if as_json_text:
        print(json.dumps(as_json(chain)), flush=True)
        return
    from rich.console import Console

    Console().print(tree(chain))


def tree(chain: list[Step]) -> Any:
    """A rich tree: newest model first, each followed by what its stage started from."""
    from rich.tree import Tree

    root = Tree(f"lineage, {len(chain)} models, newest first", highlight=False)
    for step in chain:
        node = root.add(_title(step))
        for line in _details(step):
            node.add(line)
    return root


def _title(step: Step) -> str:
    from rich.markup import escape

    if step.model is None:
        return f"[bold]stage {step.stage['index']} {escape(step.stage['task'])}[/] (no model yet)"
    model = step.model
    size = f"{model['experts']} experts, {model['parameters']} parameters"
    return f"[bold]{escape(model['name'])}[/] {model['digest'][:16]} ({size}) {model['id']}"


def _details(step: Step) -> list[str]:
    from rich.markup import escape

    lines = []
    if step.stage is not None:
        stage = step.stage
        lines.append(
            f"stage {stage['index']} [bold]{escape(stage['task'])}[/] "
            f"(domain {escape(stage['domain'])}) of lane {escape(stage['lane'])}, id {stage['id']}"
        )
    lines += [
        f"edit {escape(edit['text'])} after interval "
        f"{edit['after_interval']}: {escape(edit['cause']['policy'])} "
        f"({escape(edit['cause']['trigger'])}), fingerprint {edit['fingerprint']}"
        for edit in step.edits
    ]
    lines += [f"data {item['digest']} {escape(item['source'])}" for item in step.data]
    if step.stage is None and len(step.parents) > 1:
        made = f"made by {step.model['merged_by']}" if step.model is not None else "made"
        lines.append(f"{made} of {', '.join(step.parents)}")
    elif step.stage is None:
        start = "none" if step.model is None else step.model["started_from"]
        lines.append(
            "untrained: built from the lane's config and seed"
            if start == "none"
            else f"began with a trained model: {start[:16]}"
        )
    lines.append(
        f"config {step.config_digest}, code {escape(step.code_version)}, own modules "
        f"{escape(step.modules)}, ops {step.ops_backend}"
    )
    return lines


# ---------------------------------------------------------------- finding


def _resolve(client: Any, name: str) -> tuple[Any, Any]:
    """The (model or None, run) that ``name`` means."""
    experiments = [item.experiment_id for item in client.search_experiments()]
    named = models(client, experiments, name)
    if len(named) > 1:
        found = "\n".join(
            f"  {model.model_id}  {model.name}  {model.params.get('sha256', '')[:16]}  "
            f"run {model.tags.get('growstage.run', '?')}"
            for model in named
        )
        raise InputError(f"lineage: {name!r} names {len(named)} models; give an id of\n{found}")
    if named:
        return named[0], client.get_run(named[0].source_run_id)
    runs = _stage_runs(client, experiments, name)
    if len(runs) != 1:
        raise InputError(
            f"lineage: {name!r} names no model or stage here; give a model's id, name or digest "
            f"(at least {SHORTEST} characters) or a stage id from `growstage show`, and the right "
            "--tracking-uri"
        )
    run = client.get_run(runs[0].info.run_id)  # a search leaves out what went in and out
    made = run.outputs.model_outputs
    return (client.get_logged_model(made[0].model_id) if made else None), run


def models(client: Any, experiments: list[str], name: str) -> list[Any]:
    """Models by id, else by name, else by the start of their digest or of their stage's id."""
    if "'" in name:
        return []
    queries = [f"model_id = '{name}'", f"name = '{name}'"]
    if len(name) >= SHORTEST and name.isalnum():
        queries += [f"params.sha256 LIKE '{name}%'", f"params.stage_id LIKE '{name}%'"]
    for query in queries:
        if found := list(client.search_logged_models(experiments, filter_string=query)):
            return found
    return []


def _stage_runs(client: Any, experiments: list[str], name: str) -> list[Any]:
    """Stages that have no model of that name: by the start of their id, or by MLflow's run id."""
    if not name.isalnum() or len(name) < SHORTEST:
        return []
    for query in (f"tags.`stage.id` LIKE '{name}%'", f"attributes.run_id = '{name}'"):
        if found := client.search_runs(experiments, f"{query} AND tags.level = 'stage'"):
            return list(found)
    return []


def _step(client: Any, model: Any, run: Any) -> Step:
    tags = run.data.tags
    stage = None
    edits: tuple[Json, ...] = ()
    if tags.get("level") == "stage":
        stage = {
            "id": tags["stage.id"],
            "index": int(tags["stage.index"]),
            "task": tags["task"],
            "domain": tags["domain"],
            "lane": tags["lane"],
            "run": run.info.run_id,
            "status": run.info.status,
        }
        edits = tuple(json.loads(_artifact(client, run.info.run_id, "edits.json") or "[]"))
    made = {item.model_id for item in run.outputs.model_outputs}
    inputs = {item.model_id for item in run.inputs.model_inputs} - made
    # A store tells inputs in any order; the model holds the one in which it was made of them.
    order = [] if model is None else model.params.get("parent_model", "").split(",")
    return Step(
        parents=(*(one for one in order if one in inputs), *sorted(inputs - set(order))),
        model=None if model is None else _model(model),
        stage=stage,
        data=tuple(_data(entry.dataset) for entry in run.inputs.dataset_inputs),
        edits=edits,
        config_digest=tags["config.digest"],
        code_version=tags["git"],
        modules=tags.get("modules", "none"),
        ops_backend=tags["ops.backend"],
    )


def _model(model: Any) -> Json:
    params = model.params
    return {
        "id": model.model_id,
        "name": model.name,
        "digest": params["sha256"],
        "uri": params["uri"],
        "experts": int(params["experts"]),
        "parameters": int(params["parameters"]),
        "started_from": params.get("started_from", "none"),
        "merged_by": params.get("merged_by", "none"),
    }


def _data(dataset: Any) -> Json:
    source = json.loads(dataset.source)
    return {"name": dataset.name, "digest": source["digest"], "source": source["uri"]}


def _artifact(client: Any, run: str, path: str) -> str:
    """Text of a run's artifact; empty where it has none."""
    if path not in {item.path for item in client.list_artifacts(run)}:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run, path, folder)).read_text(encoding="utf-8")
