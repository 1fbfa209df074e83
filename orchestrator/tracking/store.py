"""The one file that talks to MLflow: executes writes exactly once and opens clients to read with.

Knows no journal and no projection; whose writes they are is told by their keys.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.core.addresses import without_password
from orchestrator.core.append_only import DISK, Disk
from orchestrator.tracking import pages, views
from orchestrator.tracking.background import TrackingAway
from orchestrator.tracking.files import unreadable
from orchestrator.tracking.ledger import LEDGER_FILE, Ledger
from orchestrator.tracking.writes import (
    CloseRun,
    CountOnce,
    LogDataset,
    LogModel,
    LogPoints,
    OpenRun,
    Point,
    ReopenRun,
    Setting,
    Write,
    place,
)
from workers.contract import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

KEY = "growstage.key"
"""Tag under which a run or model is found again."""
POINTS = 1000
"""Metrics MLflow takes in one request."""
PARAMS = 100
"""Params MLflow takes in one request."""
TIMEOUT_S = 10
RETRIES = 0
"""By MLflow's client, which does not ask first whether what it asked for was done: who sets more by
MLFLOW_HTTP_REQUEST_MAX_RETRIES may have a run twice, and nobody knows."""


def default_uri(run_dir: Path) -> str:
    """A SQLite file in the folder that holds the run folders."""
    return f"sqlite:///{run_dir.resolve().parent / 'mlflow.db'}"


def open_client(uri: str) -> MlflowClient:
    """A client that gives up on a dead server in seconds.

    Raises InputError, with the cure, where the store does not answer.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(RETRIES))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(TIMEOUT_S))
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if why := unreadable(uri):
        raise InputError(
            f"tracking store {without_password(uri)}: {why}\n"
            "  move the file away, `growstage resume` of its runs writes a new one from their "
            "journals; or give another with --tracking-uri (http://HOST:PORT or "
            "sqlite:////ABSOLUTE/FILE.db)"
        )
    for chatty in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        with answering():
            from mlflow import MlflowClient

            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
    except TrackingAway as error:
        raise InputError(
            f"tracking store {without_password(uri)} does not answer: {error}\n"
            "  start the server, or give another with --tracking-uri (http://HOST:PORT or "
            "sqlite:////ABSOLUTE/FILE.db; without it a file beside the run folder is used)"
        ) from error
    return client


class Store:
    """One MLflow store as one run folder knows it: the ledger remembers what it was given."""

    def __init__(
        self,
        run_dir: Path,
        uri: str,
        connect: Callable[[str], Any] = open_client,
        disk: Disk = DISK,
    ) -> None:
        """``connect``: address -> client, raising InputError where nothing answers."""
        self.run_dir, self.uri = run_dir, uri
        self._connect, self._disk = connect, disk
        self._client: Any = None
        self.ledger = Ledger(run_dir / LEDGER_FILE, uri, disk)
        self._checked = False

    def recall(self) -> None:
        """Go back to what is durable, but for doubts: they may be what could not be written."""
        unanswered = self.ledger.unanswered
        self.ledger = Ledger(self.run_dir / LEDGER_FILE, self.uri, self._disk)
        self.ledger.unanswered |= unanswered
        self._checked = False

    def connect(self) -> None:
        """Open the MLflow client. Raises InputError, with the cure, where no store answers."""
        self._client = self._connect(self.uri)

    @property
    def client(self) -> Any:
        if self._client is None:
            self.connect()
        return self._client

    def check(self) -> None:
        """Start over where the store lost what the ledger says it holds (a new or emptied file).

        It is also the cheap question that a store which is away fails at.
        """
        from mlflow.entities import ViewType

        if self._checked:
            return
        known = self.client.search_experiments(view_type=ViewType.ALL, max_results=50000)
        experiment = self.ledger.ids.get("experiment")
        if experiment is not None and experiment not in {item.experiment_id for item in known}:
            self.ledger.forget()
        self._checked = True

    def perform(self, writes: Iterable[Write]) -> None:
        """Execute writes in order, but points together at the end: one request for many.

        Raises what the store fails with; everything may be written again.
        """
        points: dict[tuple[str, str | None], list[Point]] = {}
        for write in writes:
            self._perform(write, points)
        for (key, model), found in points.items():
            self._log_points(key, model, found)

    def settle(self, settings: Mapping[str, Setting]) -> None:
        """Mend what a server that stood still did only once it had been given up: of runs and
        models that were asked for again keep those that are known, and set again, as it was set
        last (``place`` -> what), what it may have set back."""
        self.perform(settings[name] for name in sorted(self.ledger.doubtful & settings.keys()))
        for name in sorted(self.ledger.doubtful & self.ledger.ids.keys()):
            kind, _, key = name.partition(":")
            there, delete = (
                (self._runs(self.ledger.ids["experiment"], key), self.client.delete_run)
                if kind == "run"
                else (self._models(key), self.client.delete_logged_model)
            )
            for identifier in there:
                if identifier != self.ledger.ids[name]:
                    delete(identifier)

    def run(self, key: str) -> str:
        """Id of a run; one that another run folder created (a trial's search) is looked up."""
        name = f"run:{key}"
        if name not in self.ledger.ids:
            found = self._find_run(self.ledger.ids["experiment"], key)
            if found is None:
                raise TrackingAway(f"the store holds no run {key!r}")
            self.ledger.created(name, found)
        return self.ledger.ids[name]

    def show(self, key: str, page: pages.Page) -> None:
        """Write a page's texts, images and tags to a run; the same page gives the same files."""
        run = self.run(key)
        with self._setting(f"page:{key}"):
            self._show(run, page)

    def _show(self, run: str, page: pages.Page) -> None:
        from mlflow.entities import RunTag

        for path, text in page.texts.items():
            self.client.log_text(run, text, path)
        for path, image in page.images.items():
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / Path(path).name
                file.write_bytes(image)
                self.client.log_artifact(run, str(file), str(Path(path).parent))
        if page.tags:
            tags = [RunTag(name, value) for name, value in page.tags.items()]
            self.client.log_batch(run, tags=tags)

    # ------------------------------------------------------------ single writes

    def _perform(self, write: Write, points: dict[tuple[str, str | None], list[Point]]) -> None:
        match write:
            case OpenRun():
                self._open_run(write)
            case CloseRun() | ReopenRun() | CountOnce():
                with self._setting(place(write)):
                    self._set(write)
            case LogPoints():
                if write.points:
                    points.setdefault((write.key, write.model), []).extend(write.points)
            case LogDataset():
                self._log_dataset(write)
            case LogModel():
                self._log_model(write)

    def _set(self, write: Setting) -> None:
        match write:
            case CloseRun():
                run = self.run(write.key)
                self.client.set_terminated(run, status=write.status, end_time=write.at)
            case ReopenRun():
                run = self.run(write.key)
                self.client.update_run(run, status="RUNNING")
                for name, value in write.tags.items():
                    self.client.set_tag(run, name, value)
            case CountOnce():
                self._count_once(write)

    def _runs(self, experiment: str, key: str) -> list[str]:
        found = self.client.search_runs([experiment], f"tags.`{KEY}` = '{_key(key)}'")
        return [run.info.run_id for run in found]

    def _find_run(self, experiment: str, key: str) -> str | None:
        return next(iter(self._runs(experiment, key)), None)

    @contextmanager
    def _setting(self, name: str) -> Iterator[None]:
        """Where no answer comes it may be set all the same, now or later."""
        try:
            yield
        except Exception:
            self.ledger.doubt(name)
            raise

    def _open_run(self, write: OpenRun) -> None:
        """Create the run unless the ledger or the store knows one with its key."""
        from mlflow.entities import Param

        name = f"run:{write.key}"
        if name in self.ledger.ids:
            return
        experiment = self._experiment(write.tags["stream"], write.at)
        run = self._find_run(experiment, write.key)
        if run is None:
            tags = {**write.tags, KEY: _key(write.key)}
            if write.parent is not None:
                tags["mlflow.parentRunId"] = self.run(write.parent)
            self.ledger.ask(name)
            run = self.client.create_run(
                experiment, start_time=write.at, tags=tags, run_name=write.name
            ).info.run_id
        params = [Param(key, value[:6000]) for key, value in write.params.items()]
        for start in range(0, len(params), PARAMS):
            self.client.log_batch(run, params=params[start : start + PARAMS])
        self.ledger.created(name, run)

    def _count_once(self, write: CountOnce) -> None:
        """Of the ended lanes of this name, settings and seed, mark the last as counted."""
        query = (
            f"tags.level = 'lane' AND tags.settings = '{write.settings}' "
            f"AND tags.seed = '{write.seed}' AND attributes.status = 'FINISHED'"
        )
        experiment = self.ledger.ids["experiment"]
        found = self.client.search_runs([experiment], query, max_results=1000)
        ended = [run for run in found if run.data.tags["variant"] == write.variant]
        last = max(ended, key=lambda run: run.info.start_time, default=None)
        for run in ended:
            counted = "yes" if run is last else "no"
            if run.data.tags.get(views.COUNTED) != counted:
                self.client.set_tag(run.info.run_id, views.COUNTED, counted)

    def _experiment(self, name: str, at: int) -> str:
        """Id of the run's experiment: one per stream name, made with its saved views."""
        if "experiment" in self.ledger.ids:
            return self.ledger.ids["experiment"]
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage != "active":
            raise TrackingAway(
                f"experiment {name!r} is deleted; restore it: "
                f"mlflow experiments restore --experiment-id {found.experiment_id}"
            )
        identifier: str = found.experiment_id if found else self._create_experiment(name)
        known = set(found.tags) if found else set()
        for tag, value in views.saved_views(at).items():
            if tag not in known:
                self.client.set_experiment_tag(identifier, tag, value)
        self.ledger.created("experiment", identifier)
        return identifier

    def _create_experiment(self, name: str) -> str:
        """Artifacts lie beside the run folders unless a server keeps them."""
        from mlflow.exceptions import MlflowException

        served = self.uri.startswith(("http://", "https://", "databricks"))
        folder = self.run_dir.parent / "mlartifacts" / views.file_name(name)
        identifier: str
        try:
            identifier = self.client.create_experiment(
                name, artifact_location=None if served else folder.as_uri()
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            identifier = self.client.get_experiment_by_name(name).experiment_id
        return identifier

    def _log_points(self, key: str, model: str | None, points: list[Point]) -> None:
        """Identical points are stored once, however often they are sent."""
        from mlflow.entities import Metric

        run = self.run(key)
        logged_model = None if model is None else self.ledger.ids[f"model:{model}"]
        for start in range(0, len(points), POINTS):
            metrics = [
                Metric(p.name, p.value, p.at, p.step, model_id=logged_model, run_id=run)
                for p in points[start : start + POINTS]
            ]
            self.client.log_batch(run, metrics=metrics)

    def _log_dataset(self, write: LogDataset) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=write.name,
            digest=write.digest[:36],
            source_type="growstage",
            source=json.dumps({"uri": write.source, "digest": write.digest}),
        )
        tags = [InputTag("mlflow.data.context", write.context)]
        entry = DatasetInput(dataset=dataset, tags=tags)
        self.client.log_inputs(self.run(write.key), datasets=[entry])

    def _log_model(self, write: LogModel) -> None:
        """Create the model unless known, and chain it: parents -> stage -> model, each once."""
        from mlflow.entities import LoggedModelInput, LoggedModelOutput

        run, name = self.run(write.run), f"model:{write.key}"
        found = [self.ledger.ids.get(f"model:{key}") for key in write.parents]
        found += [self._model_of_another_run(digest) for digest in write.starts]
        parents = list(dict.fromkeys(parent for parent in found if parent))
        if name not in self.ledger.ids:
            self.ledger.created(name, self._find_model(write) or self._create_model(write, parents))
        model, known = self.ledger.ids[name], self.client.get_run(run)
        chained = {item.model_id for item in known.inputs.model_inputs}
        missing = [LoggedModelInput(parent) for parent in parents if parent not in chained]
        if missing:
            self.client.log_inputs(run, models=missing)
        if model not in {item.model_id for item in known.outputs.model_outputs}:
            self.client.log_outputs(run, [LoggedModelOutput(model, step=write.step)])

    def _models(self, key: str) -> list[str]:
        experiment = self.ledger.ids["experiment"]
        query = f"tags.`{KEY}` = '{_key(key)}'"
        found = self.client.search_logged_models([experiment], filter_string=query)
        return [model.model_id for model in found]

    def _find_model(self, write: LogModel) -> str | None:
        found = next(iter(self._models(write.key)), None)
        if found is not None:
            self.client.finalize_logged_model(found, "READY")
        return found

    def _model_of_another_run(self, digest: str) -> str | None:
        """The first model of these contents in any experiment; None where the store has none."""
        experiments = [item.experiment_id for item in self.client.search_experiments()]
        query = f"params.sha256 = '{digest}'"
        found = self.client.search_logged_models(experiments, filter_string=query)
        return min(found, key=lambda item: item.creation_timestamp).model_id if found else None

    def _create_model(self, write: LogModel, parents: list[str]) -> str:
        """A model whose weights stay at their checkpoint: MLflow holds what they are."""
        experiment = self.ledger.ids["experiment"]
        note = views.model_note(parents, experiment)
        tags = {**write.tags, KEY: _key(write.key), "mlflow.model.isExternal": "true"}
        run = self.run(write.run)
        self.ledger.ask(f"model:{write.key}")
        model: LoggedModel = self.client.create_logged_model(
            experiment,
            name=write.name,
            source_run_id=run,
            tags={**tags, "mlflow.note.content": note},
            params={**write.params, "parent_model": ",".join(parents) or "none"},
        )
        self.client.finalize_logged_model(model.model_id, "READY")
        return model.model_id


@contextmanager
def answering() -> Iterator[None]:
    """Everything a store can fail with becomes TrackingAway with its first line."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        first = str(error).strip().split("\n")[0]
        raise TrackingAway(f"MLflow raised {type(error).__name__}: {first[:300]}") from error


def _key(key: str) -> str:
    """A key that fits between quotes in a search."""
    return key.replace("'", "_")
