"""What the tables say of themselves: every key explained; the schema; files to begin with."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
from typer.testing import CliRunner

from orchestrator.__main__ import app
from orchestrator.config import catalogue
from orchestrator.config.describing import entry
from orchestrator.config.file import check
from orchestrator.config.schema import schema
from orchestrator.config.templates import SCHEMA_FILE, TEMPLATES, Wishes, render
from tests.commands import ROOT
from workers.contract import InputError
from workers.methods import METHODS
from workers.tables import choice

ENTRIES = [
    f"{table}.{name}"
    for table, entries in catalogue.entries().items()
    for name, cls in entries.items()
    if is_dataclass(getattr(cls, "Config", None))
]


class Outside:
    """A method from outside."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = "outside"
        share: float = 0.5
        """How much of it."""
        way: Literal["up", "down"] = "up"
        inner: Any = choice(METHODS, "replay")

        def __post_init__(self) -> None:
            if not 0.0 < self.share <= 1.0:
                raise ValueError("share must be above 0 and at most 1")


@pytest.mark.parametrize("name", ENTRIES)
def test_every_key_says_what_it_means(name: str) -> None:
    for key in entry(name).keys:
        assert key.text, f"{name}.{key.name} has no text below it"
        assert key.type != "value" or key.default, name


def test_a_class_from_outside_is_explained_like_ours() -> None:
    found = {key.name: key for key in entry(f"{__name__}:Outside").keys}
    share, way, inner = found["share"], found["way"], found["inner"]
    assert (share.type, share.default, share.text) == ("number", "0.5", "How much of it.")
    assert share.allowed == "above 0 and at most 1"
    assert way.allowed == "up, down"
    assert (inner.type, inner.default) == ("entry of methods", '"replay"')


def test_bounds_are_those_that_the_config_keeps() -> None:
    found = {key.name: key for key in entry("trainings.supervised").keys}
    assert found["warmup"].allowed == "at least 0 and at most 1"
    assert found["batch"].allowed == "at least 1"
    assert found["precision"].allowed == "float32, bfloat16"


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="no table 'tables'"):
        entry("tables.x")
    with pytest.raises(InputError, match="unknown name 'x'"):
        entry("methods.x")
    with pytest.raises(InputError, match="cannot import"):
        entry("nowhere:Nothing")


@pytest.fixture(scope="module")
def validator() -> Any:
    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").rglob("*.toml")), ids=lambda path: path.stem
)
def test_every_config_keeps_the_schema(validator: Any, path: Path) -> None:
    assert validator.is_valid(tomllib.loads(path.read_text()))


WRONG = {
    "training.epoch": "training = { epoch = 3 }",
    "training.batch": 'training = { batch = "many" }',
    "stream.kind": 'stream = { kind = "river" }',
    "stream.dataset": 'stream = { kind = "split", dataset = { kind = "digits", size = 3 } }',
    "streams": "streams = 3",
}


@pytest.mark.parametrize("where", WRONG)
def test_mistakes_break_the_schema(validator: Any, where: str) -> None:
    text = f'name = "a"\n{WRONG[where]}\n[[lanes]]\nmethod = "finetune"\n'
    assert not validator.is_valid(tomllib.loads(text))


@pytest.mark.parametrize("template", TEMPLATES)
def test_files_to_begin_with_plan_and_keep_the_schema(
    validator: Any, template: str, tmp_path: Path
) -> None:
    (tmp_path / "data.csv").write_text("a,b\n" + "".join(f"{n},{n % 4}\n" for n in range(40)))
    for kind in ("ash", "elm"):
        _image(tmp_path / "images" / kind)
    path = {"images": "images", "table": "data.csv"}.get(template)
    given = {"path": path and str(tmp_path / path), "label": "b"}
    text = render(template, "mine", given)
    assert text.startswith(f"#:schema ./{SCHEMA_FILE}\n")
    raw = tomllib.loads(text)
    assert validator.is_valid(raw)
    assert check(raw, "mine").plan().lanes
    assert max(map(len, text.splitlines())) <= 100 + len(str(tmp_path))


def _image(folder: Path) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")


def test_init_writes_file_and_schema_once(tmp_path: Path) -> None:
    file = tmp_path / "new" / "mine.toml"
    done = CliRunner().invoke(app, ["init", str(file)])
    assert done.exit_code == 0, done.output
    assert json.loads((file.parent / SCHEMA_FILE).read_text())["required"] == ["name", "lanes"]
    with pytest.raises(InputError, match="is there already"):
        app(["init", str(file)], standalone_mode=False)
    with pytest.raises(InputError, match="needs --path and --label"):
        render("table", "x", {})
    with pytest.raises(InputError, match="allowed: digits"):
        render("nothing", "x", {})


def test_an_odd_number_of_classes_is_cut_by_hand(tmp_path: Path) -> None:
    table = tmp_path / "trees.csv"
    table.write_text("a,b\n" + "".join(f"{n},{('ash', 'elm', 'fir')[n % 3]}\n" for n in range(30)))
    given = {"path": str(table), "label": "b"}
    raw = tomllib.loads(render("table", "mine", given, Wishes(grow=False, seeds=2)))
    assert raw["stream"]["classes"] == [["ash", "elm"], ["fir"]]
    assert "policies" not in raw
    assert [lane["seeds"] for lane in raw["lanes"]] == [[0, 1], [0, 1]]
    config = check(raw, "mine")
    assert [task.name for task in config.lanes[0].tasks()] == ["ash, elm", "fir"]
    with pytest.raises(InputError, match=r"dataset\.path"):
        render("table", "mine", given | {"path": str(tmp_path / "none.csv")})


def test_init_asks_at_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing, again where an answer is none; nothing where a template is given."""
    master, slave = os.openpty()
    with os.fdopen(slave) as terminal, os.fdopen(master, "wb", buffering=0) as keys:
        monkeypatch.setattr(sys, "stdin", terminal)
        keys.write(b"birds\ndigits\nn\n0\n4\n")
        app(["init", str(tmp_path / "asked.toml")], standalone_mode=False)
        raw = tomllib.loads((tmp_path / "asked.toml").read_text())
        assert raw["stream"]["dataset"] == "digits"
        assert "policies" not in raw
        assert raw["lanes"][0]["seeds"] == [0, 1, 2, 3]
        given = ["--template", "digits", "--seeds", "1"]
        app(["init", str(tmp_path / "told.toml"), *given], standalone_mode=False)
    raw = tomllib.loads((tmp_path / "told.toml").read_text())
    assert raw["policies"]["growth"]["kind"] == "periodic"
    assert raw["lanes"][0]["seeds"] == [0]
