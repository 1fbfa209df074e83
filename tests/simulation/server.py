"""A tracking server as ``tracking.store`` asks one: what MLflow's client answers, held in memory.

Its rules are MLflow's: equal points are stored once, a param never changes, a name is taken once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from orchestrator.tracking.background import TrackingAway
from tests.simulation.chance import must
from tests.simulation.world import World
from workers.contract import InputError

CONDITION = re.compile(r"(?:tags|attributes)\.(`?[\w.]+`?) = '([^']*)'")
TAG = re.compile(r"tags\.`([^`]+)` = '([^']*)'")
PARAM = re.compile(r"params\.(\w+) = '([^']*)'")


class Server:
    """Experiments, runs and models by id."""

    def __init__(self, world: World | None = None) -> None:
        """``world``: None = one in which nothing fails."""
        self.world = world
        self.away_until = 0.0
        self.later: list[Any] = []
        """What was asked for, and is done only once it was given up."""
        self.empty()

    def empty(self) -> None:
        """Forget everything."""
        self.made = 0
        self.later.clear()
        self.experiments: dict[str, Any] = {}
        self.runs: dict[str, Any] = {}
        self.models: dict[str, Any] = {}

    def connect(self, uri: str) -> Client:
        """As ``tracking.store.open_client``."""
        client = Client(self)
        try:
            client.search_experiments()
        except OSError as error:
            raise InputError(f"tracking store {uri} does not answer: {error}") from error
        return client

    def new_id(self, kind: str) -> str:
        self.made += 1
        return f"{kind}{self.made}"

    def request(self, work: Any, late: bool = False) -> Any:
        """Do the work, unless the server is away; or do it and lose the answer; or, what may be
        ``late``, at any time after."""
        world = self.world
        if world is None:
            return work()
        world.step()
        self.catch_up([work for work in self.later if world.chance.often(0.1)])
        if world.chance.fault("store_away"):
            self.away_until = world.passed + world.chance.between(0.1, 60)
        if world.passed < self.away_until:
            raise OSError("connection refused")
        if late and world.chance.fault("store_late"):
            self.later.append(work)
            raise OSError("timed out")
        answer = work()
        if world.chance.fault("store_times_out"):
            raise OSError("timed out")
        return answer

    def catch_up(self, late: Sequence[Any]) -> None:
        """Do some of what is still to be done."""
        for work in late:
            self.later.remove(work)
            with suppress(TrackingAway):  # of a run that is no longer there
                work()

    def shown(self) -> dict[str, Any]:
        """All that it holds, with keys in place of ids."""
        keys = {run: held.tags["growstage.key"] for run, held in self.runs.items()}
        names = {model: held.tags["growstage.key"] for model, held in self.models.items()}
        must(len(set(keys.values())) == len(keys), "a run is shown twice:", sorted(keys.values()))
        must(len(set(names.values())) == len(names), "a model is shown twice:", names)
        return {
            "runs": {keys[run]: _told(held, keys, names) for run, held in self.runs.items()},
            "models": {
                names[model]: {
                    "run": keys[held.run],
                    "params": held.params
                    | {"parent_model": [names[one] for one in held.parents if one in names]},
                }
                for model, held in self.models.items()
            },
        }


def _told(held: Any, keys: dict[str, str], names: dict[str, str]) -> dict[str, Any]:
    tags = {**held.tags}
    if "mlflow.parentRunId" in tags:
        tags["mlflow.parentRunId"] = keys[tags["mlflow.parentRunId"]]
    return {
        "name": held.name,
        "status": held.status,
        "tags": tags,
        "params": held.params,
        "metrics": sorted(held.metrics),
        "datasets": sorted(held.datasets),
        "from": sorted(names[model] for model in held.inputs),
        "made": sorted(names[model] for model in held.outputs),
        "texts": held.texts,
    }


class Client:
    """The calls of MLflow's client that the store makes."""

    def __init__(self, server: Server) -> None:
        self.server = server

    # ------------------------------------------------------------ experiments

    def search_experiments(self, **_: Any) -> list[Any]:
        return list(self.server.request(lambda: list(self.server.experiments.values())))

    def get_experiment_by_name(self, name: str) -> Any:
        def find() -> Any:
            return next((e for e in self.server.experiments.values() if e.name == name), None)

        return self.server.request(find)

    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        def make() -> str:
            must(all(e.name != name for e in self.server.experiments.values()), name, "is there")
            found = SimpleNamespace(
                experiment_id=self.server.new_id("e"), name=name, tags={}, lifecycle_stage="active"
            )
            self.server.experiments[found.experiment_id] = found
            return str(found.experiment_id)

        return str(self.server.request(make))

    def set_experiment_tag(self, experiment: str, tag: str, value: str) -> None:
        self.server.request(lambda: self.server.experiments[experiment].tags.update({tag: value}))

    # ------------------------------------------------------------ runs

    def search_runs(self, experiments: list[str], query: str, max_results: int = 1000) -> list[Any]:
        wanted = [_asked(CONDITION, part) for part in query.split(" AND ")]

        def has(run: Any, name: str) -> Any:
            return run.status if name == "status" else run.tags.get(name.strip("`"))

        def find() -> list[Any]:
            held = self.server.runs.values()
            fitting = [run for run in held if all(has(run, n) == value for n, value in wanted)]
            return fitting[:max_results]

        return list(self.server.request(find))

    def set_tag(self, run: str, tag: str, value: str) -> None:
        self.server.request(lambda: self._run(run).tags.update({tag: value}), late=True)

    def create_run(self, experiment: str, start_time: int, tags: Any, run_name: str) -> Any:
        def make() -> Any:
            run = self.server.new_id("r")
            self.server.runs[run] = SimpleNamespace(
                info=SimpleNamespace(run_id=run, start_time=start_time),
                name=run_name,
                status="RUNNING",
                tags=dict(tags),
                params={},
                metrics=set(),
                datasets=set(),
                texts={},
                inputs=[],
                outputs=[],
            )
            self.server.runs[run].data = self.server.runs[run]  # where MLflow keeps the tags
            return self.server.runs[run]

        return self.server.request(make, late=True)

    def delete_run(self, run: str) -> None:
        self.server.request(lambda: self.server.runs.pop(run, None))

    def get_run(self, run: str) -> Any:
        held = self._run(run)
        models = [SimpleNamespace(model_id=model) for model in held.inputs]
        made = [SimpleNamespace(model_id=model) for model in held.outputs]
        answer = SimpleNamespace(
            inputs=SimpleNamespace(model_inputs=models), outputs=SimpleNamespace(model_outputs=made)
        )
        return self.server.request(lambda: answer)

    def log_batch(self, run: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        def log() -> None:
            held = self._run(run)
            for param in params:
                known = held.params.setdefault(param.key, param.value)
                must(known == param.value, f"param {param.key} changes from", known, param.value)
            held.tags |= {tag.key: tag.value for tag in tags}
            held.metrics |= {
                (one.key, one.value, one.timestamp, one.step, one.model_id is not None)
                for one in metrics
            }

        self.server.request(log, late=True)

    def log_text(self, run: str, text: str, path: str) -> None:
        self.server.request(lambda: self._run(run).texts.update({path: text}), late=True)

    def set_terminated(self, run: str, status: str, end_time: int) -> None:
        self.server.request(lambda: setattr(self._run(run), "status", status), late=True)

    def update_run(self, run: str, status: str) -> None:
        self.server.request(lambda: setattr(self._run(run), "status", status), late=True)

    def log_inputs(self, run: str, datasets: Any = (), models: Any = ()) -> None:
        def log() -> None:
            held = self._run(run)
            held.datasets |= {(one.dataset.name, one.dataset.digest) for one in datasets}
            held.inputs += [one.model_id for one in models]

        self.server.request(log)

    def log_outputs(self, run: str, models: Any) -> None:
        self.server.request(lambda: self._run(run).outputs.extend(m.model_id for m in models))

    # ------------------------------------------------------------ models

    def search_logged_models(self, experiments: list[str], filter_string: str) -> list[Any]:
        held: Iterable[Any] = self.server.models.values()
        if filter_string.startswith("tags"):
            tag, value = _asked(TAG, filter_string)
            found = [model for model in held if model.tags.get(tag) == value]
        else:
            param, value = _asked(PARAM, filter_string)
            found = [model for model in held if model.params.get(param) == value]
        return list(self.server.request(lambda: found))

    def create_logged_model(
        self, experiment: str, name: str, source_run_id: str, tags: Any, params: Any
    ) -> Any:
        def make() -> Any:
            model = self.server.new_id("m")
            parents = [one for one in params["parent_model"].split(",") if one != "none"]
            self.server.models[model] = SimpleNamespace(
                model_id=model,
                name=name,
                run=source_run_id,
                tags=dict(tags),
                params=dict(params),
                parents=parents,
                creation_timestamp=self.server.made,
            )
            return self.server.models[model]

        return self.server.request(make, late=True)

    def delete_logged_model(self, model: str) -> None:
        self.server.request(lambda: self.server.models.pop(model, None))

    def finalize_logged_model(self, model: str, status: str) -> None:
        self.server.request(lambda: None)

    def _run(self, run: str) -> Any:
        if run not in self.server.runs:
            raise TrackingAway(f"no run {run}")
        return self.server.runs[run]


def _asked(pattern: re.Pattern[str], query: str) -> tuple[str, str]:
    found = pattern.fullmatch(query)
    assert found is not None, query
    return found[1], found[2]
