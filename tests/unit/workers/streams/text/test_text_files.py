"""Files of one's own: read as they are, and refused by file and line where they are damaged."""

from __future__ import annotations

import pyarrow
import pytest
from pyarrow import parquet

from workers.contract import InputError
from workers.streams.text.corpus import corpus
from workers.streams.text.files import read


def test_each_form_gives_its_documents(tmp_path):
    (tmp_path / "a.txt").write_bytes("Grüße\r\n".encode())
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n\n{"text": "zwei\\n", "id": 3}\n')
    parquet.write_table(pyarrow.table({"body": ["x", "y"], "n": [1, 2]}), tmp_path / "c.parquet")
    assert list(read(tmp_path / "a.txt", "text")) == ["Grüße\r\n"]
    assert list(read(tmp_path / "b.jsonl", "text")) == ["one", "zwei\n"]
    assert list(read(tmp_path / "c.parquet", "body")) == ["x", "y"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "one"}\n{"text": \n', "a.jsonl, line 2: is no JSON"),
        ("a.jsonl", b'{"text": "one"}\n[1]\n', "a.jsonl, line 2: has no text under 'text'"),
        ("a.jsonl", b'{"body": "one"}\n', "(found: body); set stream.field"),
        ("a.jsonl", b'{"text": 5}\n', "a.jsonl, line 1: has no text under 'text'"),
        ("a.jsonl", b'{"text": "\xff"}\n', "a.jsonl, line 1: byte 10 is not UTF-8"),
        ("a.jsonl", b'{"text": "caf\\ud83d"}\n', "a.jsonl, line 1: holds half a character"),
        ("a.txt", b"abc\xffd", "a.txt: byte 3 is not UTF-8"),
        ("a.parquet", b"PAR1", "a.parquet: is no Parquet file"),
    ],
)
def test_damage_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read(tmp_path / name, "text"))
    assert words in str(caught.value)


def test_a_column_must_be_there_and_hold_text(tmp_path):
    parquet.write_table(pyarrow.table({"text": ["a", None]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="row 1: column 'text' holds None"):
        list(read(tmp_path / "a.parquet", "text"))
    with pytest.raises(InputError, match=r"no column 'body' \(found: text\); set stream.field"):
        list(read(tmp_path / "a.parquet", "body"))


def test_a_folder_is_one_text_and_its_digest_follows_its_files(tmp_path):
    (tmp_path / "mine" / "inside").mkdir(parents=True)
    (tmp_path / "mine" / "b.txt").write_text("second")
    (tmp_path / "mine" / "a.txt").write_text("first")
    (tmp_path / "mine" / "inside" / "c.txt").write_text(" \n")
    (tmp_path / "mine" / "notes.md").write_text("ignored")
    mine = corpus("mine", str(tmp_path), "text", False, "here")
    assert mine.documents() == ["first", "second"], "one without text is left out"
    assert mine.origin == "3 files"
    before = mine.digest
    (tmp_path / "mine" / "a.txt").write_text("other")
    assert corpus("mine", str(tmp_path), "text", False, "here").digest != before


def test_own_texts_go_before_known_ones(tmp_path):
    (tmp_path / "law.txt").write_text("mine")
    assert corpus("law", str(tmp_path), "text", False, "here").documents() == ["mine"]
    known = corpus("law", "", "text", False, "here")
    assert known.known.folder == "law"
    problem = corpus("lore", str(tmp_path), "text", False, "stream.domains")
    assert problem.path == "stream.domains"
    assert "no text is called 'lore'" in str(problem)
    assert "brown/lore" in str(problem)
    assert str(tmp_path) in str(problem)
