"""Documents are dealt out once, by a seed of their own, before anyone knows tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.streams.text.parts import Split, dealt, pieces

SPLIT = Split(validation=0.1, test=0.2, most=(None, None), seed=0)
MANY = [f"document {n}\n" + "word " * (n % 7 + 5) for n in range(100)]


def test_many_documents_are_dealt_whole():
    parts = dealt(MANY, SPLIT, "a")
    assert sorted(text for part in parts.values() for text in part) == sorted(MANY)
    total = sum(map(len, MANY))
    for part, share in (("validation", 0.1), ("test", 0.2)):
        assert share * 0.85 < sum(map(len, parts[part])) / total <= share


def test_a_document_that_is_there_twice_is_in_one_part() -> None:
    twice = [*MANY, *MANY[:50]]
    parts = dealt(twice, SPLIT, "a")
    assert sorted(text for part in parts.values() for text in part) == sorted(MANY)


def test_the_seed_and_the_name_draw_them():
    assert dealt(MANY, SPLIT, "a") == dealt(MANY, SPLIT, "a")
    assert dealt(MANY, SPLIT, "a")["test"] != dealt(MANY, SPLIT, "b")["test"]
    assert dealt(MANY, SPLIT, "a")["test"] != dealt(MANY, replace(SPLIT, seed=1), "a")["test"]


@pytest.mark.parametrize("count", [1, 3])
def test_a_few_documents_give_their_tails(count):
    lines = "".join(f"line {n} of it\n" for n in range(500))
    documents = [f"{n}\n{lines}" for n in range(count)]
    parts = dealt(documents, SPLIT, "a")
    for train, validation, test in zip(*parts.values(), strict=True):
        assert train + validation + test in documents
        assert validation.startswith("line")
        assert test.startswith("line")
        assert 0.17 < len(test) / len(lines) <= 0.2


def test_documents_longer_than_a_share_give_their_tails_too():
    documents = ["word\n" * 20_000, *MANY]
    parts = dealt(documents, SPLIT, "a")
    assert max(map(len, parts["test"])) == pytest.approx(20_000, rel=0.2)
    assert sum(len(text) for part in parts.values() for text in part) == sum(map(len, documents))


def test_held_out_parts_take_no_more_than_is_used():
    parts = dealt(MANY, replace(SPLIT, most=(100, 150)), "a")
    assert 50 <= sum(map(len, parts["validation"])) <= 100
    assert 75 <= sum(map(len, parts["test"])) <= 150
    none = dealt(MANY, replace(SPLIT, validation=0.0), "a")
    assert none["validation"] == []


@given(text=st.text(alphabet="ab\n", max_size=200), size=st.integers(1, 50))
def test_pieces_are_the_document(text, size):
    found = pieces(text, size)
    assert "".join(found) == text
    assert all(len(piece) <= size for piece in found)
    assert pieces("aa\nbb\ncc", 6) == ["aa\nbb\n", "cc"]
