"""The stream of texts: tasks, parts on disk, one clear error for each mistake."""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.config.file import check
from tests.tokens import WORDS, text_lane, text_stream, write_texts
from workers.contract import InputError
from workers.methods.plain import Joint
from workers.parsing import choose
from workers.streams import STREAMS, Rows, places
from workers.streams.text.cache import made_once
from workers.streams.text.parts import dealt

NAMES = list(WORDS)


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(places.ENVIRONMENT, str(tmp_path / "data"))
    return write_texts(tmp_path / "texts")


def build(folder: Path, seed: int = 0, **settings: Any) -> Any:
    raw = text_stream(folder, **settings)
    cls, config, problems = choose(STREAMS, raw, "stream")
    assert not problems, [str(problem) for problem in problems]
    return cls(config, seed)


def test_domains_come_one_after_another(texts):
    stream = build(texts)
    assert stream.problems() == []
    assert [(task.name, task.domains) for task in stream.tasks()] == [(n, (n,)) for n in NAMES]
    assert stream.needs == "tokens"
    assert (stream.input_shape, stream.outputs, stream.input_type) == ((16,), 300, "integer")


def test_an_order_can_be_drawn(texts):
    orders = {
        tuple(task.name for task in build(texts, order_seed=seed).tasks()) for seed in range(8)
    }
    assert len(orders) > 2
    assert all(sorted(order) == sorted(NAMES) for order in orders)
    again = [build(texts, lane, order_seed=3).tasks() for lane in (0, 1)]
    assert again[0] == again[1], "not the lane's seed"


def test_a_task_is_the_same_whatever_else_the_stream_has(texts):
    def base(**settings: Any) -> str:
        stream = build(texts, base=NAMES[:1], domains=NAMES[1:], **settings)
        return stream.identity(stream.tasks()[0])

    one = base(base_train_tokens=320, train_tokens=160)
    assert one == base(base_train_tokens=320, train_tokens=320, order="joint")
    assert one == base(train_tokens=320)
    assert one != base(base_train_tokens=160, train_tokens=160)
    assert one != base(base_train_tokens=320, split_seed=1)


def test_parts_are_windows_on_disk(texts):
    stream = build(texts)
    (task, *_) = stream.tasks()
    data = stream.data(task)
    for part in data.parts.values():
        assert isinstance(part.x, Rows)
        assert isinstance(part.y, Rows)
        assert part.bytes == 0
        x, y = part.x[:], part.y[:]
        assert x.dtype == y.dtype == torch.int64
        assert x.shape == y.shape == (len(part), 16)
        assert bool((x[:, 1:] == y[:, :-1])[y[:, :-1] >= 0].all()), "targets are the next inputs"
    assert len(data.validation) == 10
    assert len(data.test) == 20
    assert {array.dtype for array in data.train.x.arrays} == {np.dtype("uint16")}
    assert "cooking: " in data.source
    assert "(40 files); bpe of 300 trained on at most 600,000 characters each of cooking" in (
        data.source
    )


def test_no_window_of_training_is_held_out(texts):
    stream = build(texts, window=64)
    for task in stream.tasks():
        data = stream.data(task)
        seen = {tuple(row) for row in data.train.x[:].tolist()}
        for part in (data.validation, data.test):
            assert not seen & {tuple(row) for row in part.x[:].tolist()}


def test_every_lane_is_tested_on_the_same_text(texts):
    one, two, other = (build(texts, seed) for seed in (0, 0, 1))
    task = one.tasks()[1]
    assert one.data(task).digest == two.data(task).digest == other.data(task).digest
    cut = build(texts, split_seed=1)
    assert cut.data(task).digest != one.data(task).digest
    held = build(texts).held_out(task)
    assert held["test"].x[:].equal(one.data(task).test.x[:])
    assert held["validation"].y[:].equal(one.data(task).validation.y[:])


def test_arrays_are_made_once(texts, tmp_path):
    build(texts).data(build(texts).tasks()[0])
    made = sorted((tmp_path / "data" / "made").rglob("*"))
    stamps = [path.stat().st_mtime_ns for path in made]
    build(texts).data(build(texts).tasks()[0])
    assert [path.stat().st_mtime_ns for path in made] == stamps
    (texts / "cooking" / "000.txt").write_text("boil the salt")
    build(texts).data(build(texts).tasks()[0])
    assert len(sorted((tmp_path / "data" / "made").rglob("*"))) > len(made)


def test_a_mixture_knows_each_samples_domain(texts):
    stream = build(texts, base=NAMES[:1], domains=NAMES[1:], order="joint", train_tokens=800)
    base, joint = stream.tasks()
    assert (base.name, base.domains) == ("base", ("base",))
    assert joint.domains == tuple(NAMES[1:])
    assert stream.data(base).train.domain is None
    data = stream.data(joint)
    assert data.train.domain.bincount().tolist() == [50, 50]
    alone = build(texts, base=NAMES[:1], domains=NAMES[1:], train_tokens=800)
    second = alone.data(alone.tasks()[2]).train
    assert data.train.take((data.train.domain == 1).nonzero()[:, 0]).x[:].equal(second.x[:])


def test_joint_training_reads_nothing(texts):
    stream = build(texts)
    one, two, _ = (stream.data(task) for task in stream.tasks())
    both = Joint(Joint.Config(), 0).training_data(two, [one])
    assert isinstance(both.x, Rows)
    assert isinstance(both.y, Rows)
    at = torch.tensor([0, len(one.train), len(both) - 1])
    assert both.y[at][0].equal(one.train.y[:][0])
    assert both.y[at][1].equal(two.train.y[:][0])
    assert both.x[at][2].equal(two.train.x[:][-1])


def test_entries_of_a_glossary_fill_windows(texts):
    lines = [json.dumps({"text": f"salt {n}"}) for n in range(400)]
    (texts / "terms.jsonl").write_text("\n".join(lines))
    padding = {}
    for glossaries in ([], ["terms"]):
        stream = build(texts, domains=["terms"], glossaries=glossaries)
        padding[len(glossaries)] = 1 - float(
            (stream.data(stream.tasks()[0]).train.y[:] >= 0).float().mean()
        )
    assert padding[1] < 0.01 < 0.3 < padding[0]


def test_bytes_of_the_test_text_are_counted(texts):
    stream = build(texts, test_tokens=None, validation=0.0, test=0.2)
    (task, *_) = stream.tasks()
    data = stream.data(task)
    assert data.validation is None
    targets = data.test.y[:]
    table = stream.objective._bytes_V
    counted = int(table[targets.clamp_min(0)][targets >= 0].sum())
    documents = dealt(stream.texts["cooking"].documents(), stream._split, "cooking")["test"]
    assert counted == sum(len(text.encode()) for text in documents)


@pytest.mark.parametrize(
    ("settings", "path", "words"),
    [
        ({"domains": ["cooking", "lawyers"]}, "stream.domains", "no text is called 'lawyers'"),
        ({"base": ["lawyers"]}, "stream.base", "no text is called 'lawyers'"),
        ({"domains": []}, "stream.domains", "give a domain, or a base"),
        ({"base": ["cooking"]}, "stream.domains", "got cooking twice"),
        ({"window": 1}, "stream.window", "must be at least 2"),
        ({"test_tokens": 15}, "stream.test_tokens", "must hold a window at least"),
        ({"objective": "classification"}, "stream.objective", "use language_modelling"),
        ({"glossaries": ["terms"]}, "stream", "the stream has no text terms"),
        (
            {"tokenizer": {"kind": "bpe", "trained_on": ["law"]}},
            "stream",
            "the stream has no text law",
        ),
        (
            {"tokenizer": {"kind": "huggingface", "path": "nowhere"}},
            "stream.tokenizer.path",
            "no tokenizer.json",
        ),
    ],
)
def test_problems_name_the_setting(texts, settings, path, words):
    found = build(texts, **settings).problems()
    assert [problem.path for problem in found] == [path]
    assert words in str(found[0])


def test_a_missing_path_is_a_problem(texts, tmp_path):
    found = build(texts, path=str(tmp_path / "gone")).problems()
    assert found[0].path == "stream.path"
    assert "gone is no folder" in str(found[0])


def test_a_name_that_is_a_task_is_a_problem(texts):
    (texts / "base.txt").write_text("text")
    (problem,) = build(texts, domains=["base"]).problems()
    assert "'base' and 'joint' name the stream's own tasks" in str(problem)


def test_known_texts_that_were_not_fetched_are_a_problem(texts, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (problem,) = build(texts, domains=["law", "code"]).problems()
    assert str(problem) == (
        "stream.domains: law: is not on this machine; run `growstage data fetch text/law`"
    )


def test_an_empty_folder_is_a_problem(texts):
    (texts / "empty").mkdir()
    (problem,) = build(texts, domains=["empty"]).problems()
    assert "holds no text; give files that end in .txt, .jsonl, .parquet" in str(problem)


@pytest.mark.parametrize("share", [0.8, 1.0])
def test_shares_must_leave_something(texts, share):
    _, config, problems = choose(
        STREAMS, {"kind": "text", "validation": 0.3, "test": share}, "stream"
    )
    assert config is None
    assert "test must be above 0 and, with validation, below 1" in str(problems[0])


def test_a_later_text_that_is_damaged_stops_the_first_task(texts):
    with (texts / "sailing.jsonl").open("a") as file:
        file.write("{broken\n")
    stream = build(texts)
    with pytest.raises(InputError, match=r"sailing.jsonl, line 41: is no JSON"):
        stream.data(stream.tasks()[0])


def test_a_text_that_is_too_short_is_told(texts):
    (texts / "short.txt").write_text("salt")
    stream = build(texts, domains=["cooking", "short"])
    with pytest.raises(InputError, match=r"text 'short': its (validation|test) part has no text"):
        stream.data(stream.tasks()[0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "classifier"}, "'classifier' is a model for: labels; the stream needs one for"),
        ({"stream": {"kind": "split"}}, "is a model for: tokens; the stream needs one for labels"),
    ],
)
def test_models_are_asked_for_tokens(texts, changes, words):
    raw = {"name": "x", **text_lane(texts), **changes}
    with pytest.raises(InputError, match=words):
        check(raw, "x")


# ---------------------------------------------------------------- several processes


def _digest(arguments: tuple[str, str]) -> str:
    folder, data = arguments
    os.environ[places.ENVIRONMENT] = data
    stream = build(Path(folder))
    return str(stream.data(stream.tasks()[2]).digest)


def test_processes_that_start_at_once_share_what_is_made(texts, tmp_path):
    data = str(tmp_path / "data")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = set(pool.map(_digest, [(str(texts), data)] * 2))
    assert len(found) == 1
    folders = [path.name for path in (tmp_path / "data" / "made").glob("*/*")]
    assert not [name for name in folders if name.startswith(".")], "nothing is left behind"
    assert len(folders) == 4


def test_what_another_process_made_first_is_taken(tmp_path):
    def slow(new: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "file").write_text("theirs")
        (new / "file").write_text("mine")

    assert (made_once(tmp_path / "a", slow) / "file").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written .*GROWSTAGE_DATA"):
        made_once(tmp_path / "file" / "a", lambda new: None)
