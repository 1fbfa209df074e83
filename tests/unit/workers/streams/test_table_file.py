"""Tables as data sets: columns to inputs, labels to classes, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.contract import InputError
from workers.parsing import choose
from workers.streams.datasets import DATASETS, TableFile

TEXT = "n,colour,flag,label\n" + "".join(
    f"{row},{'red' if row % 2 else 'blue'},{str(row % 3 == 0).lower()},{row % 2 + 9}\n"
    for row in range(20)
)


def made(path: Path, **settings: Any) -> TableFile:
    raw = {"kind": "table", "path": str(path), "label": "label", **settings}
    _, config, problems = choose(DATASETS, raw, "dataset")
    assert not problems
    return TableFile(config)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "things.csv"
    path.write_text(TEXT)
    return path


def test_columns_become_inputs(file: Path) -> None:
    data = made(file)
    assert data.names == ["9", "10"]  # as numbers, not as texts
    assert data.shape == (5,)  # n, blue, red, False, True
    assert data.label == "things"
    train = data.inputs("train", np.arange(len(data.labels("train"))))
    assert train.dtype == np.float32
    assert train[:, 0].mean() == pytest.approx(0.0, abs=1e-6)
    assert train[:, 0].std() == pytest.approx(1.0, abs=1e-6)
    assert set(np.unique(train[:, 1:])) == {0.0, 1.0}
    assert (train[:, 2] == data.labels("train")).all()
    assert len(data.labels("test")) == 4
    assert data.problems("dataset") == []


def test_parquet_and_csv_are_the_same(file: Path, tmp_path: Path) -> None:
    from pyarrow import csv

    pq.write_table(csv.read_csv(file), tmp_path / "things.parquet")
    both = made(file), made(tmp_path / "things.parquet")
    one, other = (data.inputs("test", np.arange(4)) for data in both)
    assert (one == other).all()


def test_a_test_file_is_encoded_as_the_training_file(file: Path, tmp_path: Path) -> None:
    test = tmp_path / "test.csv"
    test.write_text("label,n,colour,flag\n9,9.5,green,true\n10,,red,\n")
    data = made(file, test=str(test), columns=["n", "colour"])
    found = data.inputs("test", np.arange(2))
    assert found.shape == (2, 3)
    assert found[0, 0] == pytest.approx(0.0, abs=1e-6)  # 9.5 is the mean of 0 to 19
    assert list(found[0, 1:]) == [0.0, 0.0]  # a colour that training never saw
    assert list(found[1]) == [0.0, 0.0, 1.0]  # a missing number is the mean
    assert list(data.labels("test")) == [0, 1]


WRONG = {
    "no column 'kind' for the label": {"label": "kind"},
    "no column 'size'; there are": {"columns": ["size"]},
    "cannot be read as a table": {"path": "broken.parquet"},
    "no table that can be read": {"path": "things.txt"},
    "label '11' is not in": {"test": "other.csv"},
    "must be between 0 and 1": {"holdout": 0.0},
    "give the label's column": {"label": ""},
    "which are no categories": {"path": "words.csv"},
    "rows without a label": {"path": "gaps.parquet"},
}


@pytest.mark.parametrize("words", WRONG)
def test_what_is_wrong_is_said_when_planned(
    file: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    Path("broken.parquet").write_bytes(b"PAR1")
    Path("other.csv").write_text(TEXT.replace(",9\n", ",11\n"))
    Path("words.csv").write_text("w,label\n" + "".join(f"w{n},{n % 2}\n" for n in range(600)))
    pq.write_table(pa.table({"n": [1, 2], "label": [None, 1]}), "gaps.parquet")
    data = made(**{"path": file.name, **WRONG[words]})
    (problem, *_) = data.problems("dataset")
    assert words in str(problem)


def test_reading_a_file_that_is_none_names_it(file: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.csv"):
        made(file).read(file.parent / "gone.csv")
