"""Journals projected into a real MLflow store: the right tree, once, whatever happens between.

``GROWSTAGE_CHAOS`` breaks the connection at each single call, not at every fourth.
"""

import csv
import io
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestrator.core.journal import JOURNAL_FILE, read
from orchestrator.report.history import report
from orchestrator.tracking.ledger import LEDGER_FILE, Ledger
from orchestrator.tracking.lineage import matrix
from orchestrator.tracking.tracker import (
    BackgroundTracker,
    Tracker,
    TrackingAway,
    default_uri,
    tracked_offset,
)
from tests.journals import RUN_ID, story, write
from workers.contract import InputError

ROOT = Path(__file__).resolve().parents[2]
LANE = (("replay", 0),)
STRIDE = 1 if "GROWSTAGE_CHAOS" in os.environ else 4
"""Calls between two places at which the connection breaks."""


@pytest.fixture
def run_dir(runs: Path) -> Path:
    return runs / "one"


def client_of(run_dir: Path) -> MlflowClient:
    return MlflowClient(default_uri(run_dir))


def all_runs(client: MlflowClient) -> list[Any]:
    experiments = [item.experiment_id for item in client.search_experiments()]
    found = client.search_runs(experiments, max_results=1000)
    return [client.get_run(run.info.run_id) for run in found]


def snapshot(client: MlflowClient) -> dict[str, Any]:
    """Everything of a store that must not depend on how it was written, by key."""
    found: dict[str, Any] = {}
    runs = all_runs(client)
    keys = {run.info.run_id: run.data.tags["growstage.key"] for run in runs}
    experiments = [item.experiment_id for item in client.search_experiments()]
    models = client.search_logged_models(experiments)
    names = {model.model_id: model.name for model in models}
    for run in runs:
        tags = run.data.tags
        key = tags["growstage.key"]
        assert key not in found, f"two runs for {key}"
        found[key] = {
            "name": run.info.run_name,
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "parent": keys.get(tags.get("mlflow.parentRunId", "")),
            "params": run.data.params,
            "datasets": sorted(item.dataset.digest for item in run.inputs.dataset_inputs),
            "in": sorted(names[item.model_id] for item in run.inputs.model_inputs),
            "out": sorted(names[item.model_id] for item in run.outputs.model_outputs),
            "history": {
                name: sorted(
                    (point.step, point.timestamp, point.value)
                    for point in client.get_metric_history(run.info.run_id, name)
                )
                for name in run.data.metrics
            },
        }
    assert len(set(names.values())) == len(names)
    return {"runs": found, "models": sorted(names.values())}


def dead_uri() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(scope="module")
def undisturbed(
    make_runs: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    run_dir = make_runs(tmp_path_factory.mktemp("undisturbed")) / "one"
    write(run_dir, story())
    Tracker(run_dir, None).project()
    return run_dir, snapshot(client_of(run_dir))


@pytest.fixture(scope="module")
def one_lane(
    make_runs: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What a store shows of the smaller story."""
    run_dir = make_runs(tmp_path_factory.mktemp("one_lane")) / "one"
    write(run_dir, story(lanes=LANE))
    Tracker(run_dir, None).project()
    return snapshot(client_of(run_dir))


def test_the_tree(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    run_dir, shown = undisturbed
    runs = shown["runs"]
    assert len(runs) == 1 + 2 + 6
    assert runs[RUN_ID]["parent"] is None
    lane = runs[f"{RUN_ID}/replay-s0"]
    assert (lane["name"], lane["parent"]) == ("replay · s0 · fashion", RUN_ID)
    assert lane["params"]["method"] == "replay"
    assert lane["params"]["training.lr"] == "0.1"
    stage = runs[f"{RUN_ID}/replay-s0/001"]
    assert stage["name"] == "01 shoes, boots · replay·s0"
    assert stage["parent"] == f"{RUN_ID}/replay-s0"
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    assert all(run["times"][1] > run["times"][0] for run in runs.values())
    assert tracked_offset(run_dir) == (run_dir / JOURNAL_FILE).stat().st_size


def test_models_and_data_are_chained(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    shown = undisturbed[1]
    stage = shown["runs"][f"{RUN_ID}/replay-s0/001"]
    assert "replay-s0-stage00" in stage["in"]
    assert stage["out"] == ["replay-s0-stage01"]
    assert len(stage["datasets"]) == 1
    assert len(shown["models"]) == 2 * 4


def test_curves_lie_on_their_axes(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    runs = undisturbed[1]["runs"]
    lane, stage = runs[f"{RUN_ID}/replay-s0"], runs[f"{RUN_ID}/replay-s0/001"]
    assert [step for step, *_ in lane["history"]["acc.final"]] == [1, 2, 3]
    assert [step for step, *_ in lane["history"]["task/tops"]] == [0, 1, 2, 3]
    assert [step for step, *_ in stage["history"]["loss"]] == [10, 20]
    assert [v for _, _, v in stage["history"]["experts"]] == [1, 2]


def test_the_matrix_from_mlflow_alone(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    run_dir, _ = undisturbed
    client = client_of(run_dir)
    told = report(record for record, _ in read(run_dir / JOURNAL_FILE))
    for lane in told["lanes"]:
        run = next(
            r
            for r in all_runs(client)
            if r.data.tags["growstage.key"] == f"{RUN_ID}/{lane['lane']}"
        )
        assert matrix(client, run.info.run_id) == {
            "tasks": lane["tasks"],
            "matrix": lane["matrix"],
            "initial": lane["initial"],
        }
        last = {name: run.data.metrics[name] for name in lane["metrics"]}
        assert last == lane["metrics"]


def test_pages(undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run_dir, _ = undisturbed
    client = client_of(run_dir)
    runs = {run.data.tags["growstage.key"]: run for run in all_runs(client)}
    lane, top = runs[f"{RUN_ID}/replay-s0"], runs[RUN_ID]
    files = {item.path for item in client.list_artifacts(lane.info.run_id)}
    assert {"edits.json", "matrix.csv", "figures", "tables", "tasks.json"} <= files
    figures = {item.path for item in client.list_artifacts(lane.info.run_id, "figures")}
    assert figures == {
        f"figures/{name}.png" for name in ("accuracy_matrix", "task_curves", "gate_weights")
    }
    note = lane.data.tags["mlflow.note.content"]
    assert note.startswith("acc.final **0.790**")
    assert f"get-artifact?path=figures/accuracy_matrix.png&run_uuid={lane.info.run_id}" in note
    results = Path(client.download_artifacts(top.info.run_id, "lanes.csv", str(tmp_path)))
    rows = list(csv.DictReader(io.StringIO(results.read_text())))
    assert [(row["method"], row["seed"], row["edits"]) for row in rows] == [
        ("replay", "0", "1"),
        ("finetune", "0", "1"),
    ]
    stage = runs[f"{RUN_ID}/replay-s0/001"].info.run_id
    path = client.download_artifacts(stage, "edits.json", str(tmp_path))
    (edit,) = json.loads(Path(path).read_text())
    assert edit["experts"] == 2


def test_projecting_again_from_nothing_changes_nothing(
    undisturbed: tuple[Path, dict[str, Any]],
) -> None:
    run_dir, before = undisturbed
    assert Tracker(run_dir, None).project() == tracked_offset(run_dir)
    assert snapshot(client_of(run_dir)) == before
    ledger = run_dir / LEDGER_FILE
    kept = ledger.read_bytes()
    ledger.unlink()
    Tracker(run_dir, None).project()
    assert snapshot(client_of(run_dir)) == before
    ids = Ledger(ledger, default_uri(run_dir)).ids
    ledger.write_bytes(kept)
    assert ids == Ledger(ledger, default_uri(run_dir)).ids


def test_record_by_record_shows_the_same(
    run_dir: Path, undisturbed: tuple[Path, dict[str, Any]]
) -> None:
    """Also where a new driver takes over after each third of the records, in mid-line."""
    records = story()
    third = len(records) // 3
    for start in range(0, len(records), third):
        path = write(run_dir, records[start : start + third])
        with open(path, "ab") as file:
            file.write(b'{"event": {"type": "Inter')
        Tracker(run_dir, None).project()
    assert snapshot(client_of(run_dir)) == undisturbed[1]


class Stopping:
    """A client that answers ``left`` calls and then is gone, before or after doing the call."""

    def __init__(self, client: Any, left: int, after: bool) -> None:
        self._client, self._left, self._after = client, left, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left < 0 and not self._after:
                raise ConnectionError("gone")
            answer = method(*args, **kwargs)
            if self._left < 0:
                raise ConnectionError("gone")
            return answer

        return call


@pytest.mark.parametrize("after", [False, True])
def test_stopped_at_any_write_it_goes_on_without_a_duplicate(
    run_dir: Path, one_lane: dict[str, Any], after: bool
) -> None:
    """The connection breaks after ever more calls, before the store acts or after it did."""
    write(run_dir, story(lanes=LANE))
    stops = 0
    for left in itertools.count(0, STRIDE):
        tracker = Tracker(run_dir, None)
        tracker.connect()
        tracker.store._client = Stopping(tracker.store.client, left, after)  # type: ignore[assignment]
        try:
            tracker.project()
            break
        except TrackingAway:
            stops += 1
            # all is written before it is looked whether what was asked for twice is there twice
            assert tracked_offset(run_dir) in (0, (run_dir / JOURNAL_FILE).stat().st_size)
    assert stops > 5
    assert snapshot(client_of(run_dir)) == one_lane


def test_a_dead_server_keeps_the_offset_and_the_right_one_catches_up(
    run_dir: Path, undisturbed: tuple[Path, dict[str, Any]]
) -> None:
    records = story()
    write(run_dir, records[:20])
    good = Tracker(run_dir, None)
    offset = good.project()
    write(run_dir, records[20:])
    started = time.monotonic()
    with pytest.raises(InputError, match="does not answer"):
        Tracker(run_dir, dead_uri()).connect()
    assert time.monotonic() - started < 20
    assert tracked_offset(run_dir) == offset
    good.project()
    assert snapshot(client_of(run_dir)) == undisturbed[1]


def test_two_runs_of_one_stream_share_an_experiment(runs: Path) -> None:
    for name in ("one", "two"):
        write(runs / name, story(lanes=(("replay", 0),), run_id=f"fashion-{name}"))
        Tracker(runs / name, None).project()
    client = client_of(runs / "one")
    runs = [run for run in all_runs(client) if run.data.tags["level"] == "run"]
    assert sorted(run.info.run_name for run in runs) == ["fashion-one", "fashion-two"]
    assert len({run.info.experiment_id for run in runs}) == 1


def test_an_emptied_store_is_filled_anew(run_dir: Path, one_lane: dict[str, Any]) -> None:
    """In processes of their own, as MLflow keeps a file open that was deleted."""
    code = (
        "import sys; from pathlib import Path; from orchestrator.tracking.tracker import Tracker;"
        "Tracker(Path(sys.argv[1]), None).project()"
    )
    write(run_dir, story(lanes=LANE))
    for _ in range(2):
        (run_dir.parent / "mlflow.db").unlink(missing_ok=True)
        subprocess.run([sys.executable, "-c", code, str(run_dir)], check=True, cwd=ROOT)
    assert snapshot(client_of(run_dir)) == one_lane


@pytest.mark.parametrize(
    "uri", ["nosuchscheme://x", "file:///tmp/mlruns", "sqlite:////proc/none/mlflow.db"]
)
def test_an_address_that_is_no_store_says_what_to_give(run_dir: Path, uri: str) -> None:
    with pytest.raises(InputError, match="--tracking-uri"):
        Tracker(run_dir, uri).connect()


class Flaky:
    """Projects nothing while ``up`` is not set."""

    def __init__(self) -> None:
        self.up = threading.Event()
        self.calls = 0

    def project(self, go_on: object = None) -> int:
        self.calls += 1
        if not self.up.is_set():
            raise TrackingAway("refused")
        return 0


def test_in_the_background_a_store_that_is_away_is_said_once() -> None:
    said: list[str] = []
    store = Flaky()
    with BackgroundTracker(store, said.append, every=0.01, patience=5) as background:
        while store.calls < 3:
            time.sleep(0.01)
        store.up.set()
        while len(said) < 2:
            time.sleep(0.01)
    assert background.finish()
    assert [text.split(";")[0] for text in said] == [
        "MLflow takes no writes",
        "MLflow answers again and has caught up",
    ]


def test_in_the_background_the_end_is_flushed(run_dir: Path) -> None:
    tracker = Tracker(run_dir, None)
    tracker.connect()
    records = story(lanes=(("replay", 0),))
    with BackgroundTracker(tracker, every=0.05, patience=60) as background:
        write(run_dir, records[:10])
        write(run_dir, records[10:])
    assert background.finish()
    assert tracked_offset(run_dir) == (run_dir / JOURNAL_FILE).stat().st_size
    assert "viewStateShareKey=tree" in tracker.links().tree
