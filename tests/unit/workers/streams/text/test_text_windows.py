"""Windows: every token of a document is predicted exactly once, with what came before it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.streams.text.windows import windows

END, NONE = 0, -100


@given(lengths=st.lists(st.integers(1, 40), max_size=6), size=st.integers(2, 12))
def test_every_token_is_predicted_once(lengths, size):
    documents, first = [], 1
    for length in lengths:
        documents.append(np.arange(first, first + length, dtype=np.int32))
        first += length
    x, y = windows(documents, size, END)
    assert x.shape == y.shape == (x.shape[0], size)
    asked = sorted(y[y != NONE].tolist())
    assert asked == sorted([token for ids in documents for token in (*ids.tolist(), END)])
    for inputs, targets in zip(x, y, strict=True):
        before = {int(ids[0]): END for ids in documents} | {
            int(b): int(a) for ids in documents for a, b in pairwise(ids)
        }
        for token, target in zip(inputs.tolist(), targets.tolist(), strict=True):
            if target not in (NONE, END):
                assert token == before[target]


def test_a_long_document_ends_in_a_full_window():
    x, y = windows([np.array([1, 2, 3, 4, 5])], 4, END)
    assert x.tolist() == [[0, 1, 2, 3], [2, 3, 4, 5]]
    assert y.tolist() == [[1, 2, 3, 4], [NONE, NONE, 5, END]]


def test_a_short_document_is_filled_up_at_its_end():
    x, y = windows([np.array([7]), np.array([8, 9, 10])], 4, END)
    assert x.tolist() == [[0, 7, 0, 0], [0, 8, 9, 10]]
    assert y.tolist() == [[7, END, NONE, NONE], [8, 9, 10, END]]


@pytest.mark.parametrize(("most", "count"), [(1, 1), (3, 3), (None, 6)])
def test_windows_can_be_capped(most, count):
    x, y = windows((np.arange(1, 12) for _ in range(2)), 4, END, most)
    assert len(x) == len(y) == count


def test_without_documents_there_is_nothing():
    x, y = windows([np.array([], dtype=np.int32)], 4, END)
    assert x.shape == y.shape == (0, 4)
