"""A run over a table of one's own, from Python: what it came to, its models, and their copies."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import growstage
from orchestrator.__main__ import app
from tests.doors.lane import run_lane
from workers.contract import InputError

CLASSES = ("ash", "elm", "fir", "oak")
ROWS = 240
LEARNS = {"kind": "adamw", "lr": 0.01}


def table(rows: int = ROWS, seed: int = 0, label: bool = True) -> str:
    """A CSV of trees: two numbers and a text that tell the class; some numbers are missing."""
    rng = np.random.default_rng(seed)
    lines = [",".join(["height", "girth", "bark", *(["tree"] if label else [])])]
    for number in range(rows):
        kind = number % len(CLASSES)
        height = f"{10 * (kind % 2) + rng.normal():.3f}" if number % 17 else ""
        girth = f"{5 * (kind // 2) + rng.normal():.3f}"
        bark = ("rough", "smooth")[kind % 2]
        lines.append(",".join([height, girth, bark, *([CLASSES[kind]] if label else [])]))
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``trees.csv`` and ``run``: a growing lane over two tasks of two classes."""
    root = tmp_path_factory.mktemp("python")
    (root / "trees.csv").write_text(table())
    raw: dict[str, Any] = {
        "name": "trees",
        "stream": {
            "kind": "split",
            "dataset": {"kind": "table", "path": str(root / "trees.csv"), "label": "tree"},
        },
        "model": {"head": {"kind": "moe", "hidden": [16]}},
        "training": {"intervals": 2, "epochs": 30, "batch": 16, "optimizer": LEARNS},
        "policies": {"growth": {"kind": "periodic"}},
        "lanes": [{"method": {"kind": "replay", "buffer": 60}}],
    }
    run_lane(root / "run", raw)
    return root


@pytest.fixture(scope="module")
def run(folder: Path) -> growstage.Run:
    return growstage.load(folder / "run")


def test_tables_of_a_run(run: growstage.Run) -> None:
    assert (run.name, run.state) == ("trees", "done")
    assert list(run.lanes) == ["replay-s0"]
    matrix = run.lanes["replay-s0"].matrix
    assert list(matrix.index) == [-1, 0, 1]
    assert list(matrix.columns) == ["ash, elm", "fir, oak"]
    assert matrix.loc[1].mean() == pytest.approx(run.metrics.loc["replay-s0", "acc.final"])
    assert run.matrix.loc[("replay-s0", 0), "ash, elm"] > 0.9
    (edit,) = run.edits[run.edits["stage"] == 1].to_dict("records")
    assert (edit["policy"], edit["kind"]) == ("periodic", "grow")
    assert edit["parameters_after"] > edit["parameters_before"]
    scores = run.values.query("metric == 'score' and part == 'test' and stage == 1")
    assert scores["value"].mean() == pytest.approx(matrix.loc[1].mean())


def test_a_model_gives_the_scores_of_the_matrix(run: growstage.Run, folder: Path) -> None:
    from orchestrator.report import checkpoints
    from workers.supervised.building import build_stream

    found = checkpoints.find(folder / "run", None, None)
    stream = build_stream(found.lane.spec())
    for stage in (0, 1):
        model = run.model("replay-s0", stage).cpu()
        for task in found.lane.tasks():
            part = stream.held_out(task)["test"]
            with torch.no_grad():
                hits = (model(part.x).argmax(1) == part.y).float().mean()
            score = run.matrix.loc[("replay-s0", stage), task.name]
            assert float(hits) == pytest.approx(score)


def test_predictions_carry_the_names_of_the_classes(folder: Path) -> None:
    new = folder / "new.csv"
    new.write_text(table(40, seed=1, label=False))
    done = CliRunner().invoke(app, ["predict", str(folder / "run"), str(new)])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    told = [row["prediction"] for row in rows]
    truth = [CLASSES[number % 4] for number in range(40)]
    assert sum(a == b for a, b in zip(told, truth, strict=True)) > 34
    shares = [sum(float(row[f"p({name})"]) for name in CLASSES) for row in rows]
    assert shares == pytest.approx([1.0] * 40, abs=1e-4)


def test_an_array_is_predicted_too_and_other_files_are_refused(folder: Path) -> None:
    array, text = folder / "x.npy", folder / "x.txt"
    np.save(array, np.zeros((3, 4), np.float32))
    text.write_text("no table")
    invoke = ["predict", str(folder / "run")]
    with pytest.raises(InputError, match=r"a file \.csv or \.parquet"):
        app([*invoke, str(text)], standalone_mode=False)
    new = folder / "short.csv"
    new.write_text("height,girth\n1,2\n")
    with pytest.raises(InputError, match="no column 'bark'"):
        app([*invoke, str(new)], standalone_mode=False)
    app([*invoke, str(array), "--out", str(folder / "out.csv")], standalone_mode=False)
    assert len((folder / "out.csv").read_text().splitlines()) == 4


def test_an_exported_model_needs_no_run(run: growstage.Run, folder: Path) -> None:
    target = folder / "model"
    app(["export", str(folder / "run"), "replay-s0", "1", str(target)], standalone_mode=False)
    names = {path.name for path in target.iterdir()}
    assert names == {"growstage.json", "README.md", "MLmodel", "weights"}
    x = torch.randn(5, 4)
    with torch.no_grad():
        assert torch.equal(growstage.load_model(target)(x), run.model("replay-s0", 1)(x))
    assert "growstage.load_model" in (target / "README.md").read_text()
    weights = target / "weights" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InputError, match="export it anew"):
        growstage.load_model(target)
    with pytest.raises(InputError, match="is no model"):
        growstage.load_model(folder)


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    target = folder / "served"
    app(["export", str(folder / "run"), "replay-s0", "1", str(target)], standalone_mode=False)
    return target


SAMPLES = [[-1.0, 0.5, 1.0, 0.0], [1.5, 0.5, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]


def test_mlflow_loads_an_exported_model(run: growstage.Run, exported: Path) -> None:
    from mlflow import pyfunc

    model = pyfunc.load_model(str(exported))
    said = model.predict(np.array(SAMPLES, np.float32))
    with torch.no_grad():
        shares = run.model("replay-s0", 1).cpu()(torch.tensor(SAMPLES)).softmax(1)
    assert list(said["prediction"]) == [CLASSES[place] for place in shares.argmax(1)]
    assert said[[f"p({name})" for name in CLASSES]].to_numpy() == pytest.approx(shares.numpy())
    with pytest.raises(Exception, match="shape"):
        model.predict(np.zeros((1, 3), np.float32))


def test_the_report_is_written_where_it_is_asked_for(run: growstage.Run, folder: Path) -> None:
    assert run.report(folder / "page.html").read_text().startswith("<!doctype html>")
    assert "1 of 1 lanes done" in repr(run)
    assert "acc.final" in run._repr_html_()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no journal there"):
        growstage.load(tmp_path)
