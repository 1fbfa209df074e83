"""The path of a model or stage, read from MLflow alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.core.journal import JOURNAL_FILE, read
from orchestrator.report.history import report
from orchestrator.tracking.lineage import as_json, lineage
from orchestrator.tracking.tracker import Tracker, default_uri, print_lineage
from tests.journals import TASKS, story, write
from workers.contract import InputError, Json, digest


@pytest.fixture(scope="module")
def run_dir(make_runs: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = make_runs(tmp_path_factory.mktemp("lineage")) / "one"
    write(run_dir, story())
    Tracker(run_dir, None).project()
    (run_dir / "gone.jsonl").write_bytes((run_dir / JOURNAL_FILE).read_bytes())
    (run_dir / JOURNAL_FILE).unlink()
    return run_dir


@pytest.fixture(scope="module")
def client(run_dir: Path) -> MlflowClient:
    return MlflowClient(default_uri(run_dir))


@pytest.fixture(scope="module")
def lane(run_dir: Path) -> Json:
    told = report(record for record, _ in read(run_dir / "gone.jsonl"))
    return told["lanes"][0]


def test_a_model_leads_back_to_data_config_and_code(client: MlflowClient, lane: Json) -> None:
    chain = as_json(lineage(client, "replay-s0-stage02"))
    assert [step["model"]["name"] for step in chain] == [
        "replay-s0-stage02",
        "replay-s0-stage01",
        "replay-s0-stage00",
        "replay-s0-untrained",
    ]
    assert [step["stage"] and step["stage"]["id"] for step in chain] == [
        *(stage["id"] for stage in reversed(lane["stages"])),
        None,
    ]
    for step, stage in zip(chain, reversed(lane["stages"]), strict=False):
        assert step["model"]["digest"] == stage["checkpoint"]["digest"]
        assert step["model"]["uri"] == stage["checkpoint"]["uri"]
        assert [item["digest"] for item in step["data"]] == [stage["data"]["digest"]]
        assert list(step["edits"]) == json.loads(json.dumps(stage["edits"]))
    assert {step["code_version"] for step in chain} == {"abc1234"}
    assert len({step["config_digest"] for step in chain}) == 1
    assert chain[-1]["data"] == ()


def test_every_name_of_a_model_leads_to_it(client: MlflowClient, lane: Json) -> None:
    expected = lineage(client, "replay-s0-stage01")
    model, stage = expected[0].model, expected[0].stage
    for name in (
        model["id"],
        model["digest"],
        model["digest"][:8],
        lane["stages"][1]["id"],
        lane["stages"][1]["id"][:7],
        stage["run"],
    ):
        assert lineage(client, name) == expected


@pytest.mark.parametrize("name", ["nothing-like-it", "", "abc", "x' OR 'a' = 'a", "%%%%%%%"])
def test_no_such_thing(client: MlflowClient, name: str) -> None:
    with pytest.raises(InputError, match="names no model or stage"):
        lineage(client, name)


def test_an_ambiguous_name_lists_what_it_may_be(runs: Path) -> None:
    for name in ("one", "two"):
        records = story(lanes=(("replay", 0),), run_id=f"fashion-{name}", lose_at=None)
        write(runs / name, records)
        Tracker(runs / name, None).project()
    client = MlflowClient(default_uri(runs / "one"))
    with pytest.raises(InputError, match="names 2 models") as found:
        lineage(client, "replay-s0-stage00")
    ids = [line.split()[0] for line in str(found.value).splitlines()[1:]]
    assert "fashion-two" in str(found.value)
    for identifier in ids:
        assert lineage(client, identifier)[0].model["id"] == identifier


def test_a_stage_without_a_model_yet(runs: Path) -> None:
    records = story(lanes=(("replay", 0),), lose_at=None)
    saves = [i for i, r in enumerate(records) if r.event.type == "CheckpointSaved"]
    write(runs / "one", records[: saves[2]])
    Tracker(runs / "one", None).project()
    client = MlflowClient(default_uri(runs / "one"))
    started = [r.event.stage for r in records if r.event.type == "StageStarted"]
    (step, *_) = lineage(client, started[1].id)
    assert step.model is None
    assert step.stage["task"] == TASKS[1]
    assert [edit["experts"] for edit in step.edits] == [2]
    assert [item["digest"] for item in step.data] == [digest(TASKS[1]) * 4]


def test_printed_as_a_tree_and_as_json(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    uri = default_uri(run_dir)
    print_lineage("replay-s0-stage02", uri, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert [step["model"]["name"] for step in printed][-1] == "replay-s0-untrained"
    print_lineage("replay-s0-stage02", uri, as_json=False)
    text = capsys.readouterr().out
    assert "edit grown to 2 experts after interval 1: plateau (slope)" in text
    assert text.index("replay-s0-stage02") < text.index("replay-s0-untrained")
    assert "imagined train shoes, boots" in text
