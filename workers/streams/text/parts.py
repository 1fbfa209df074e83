"""Deals the documents of a text out to its training, validation and test part.

Knows documents as strings; nothing of tokens, so that a tokenizer can be trained on the training
part alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workers.contract import derive_seed
from workers.streams.datasets import PartName

FEW_DOCUMENTS = 20
"""Below so many documents each gives its tail to the held-out parts: whole ones would be too
coarse."""
FULL = 0.9
"""A held-out part is full when it has so much of the text that it is to get."""
SENTENCE = 2000
"""Characters within which a cut looks for the end of a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How a text is cut. The seed is not a lane's: all lanes are tested on the same documents."""

    validation: float
    """Share of the characters that validates; 0 = none."""
    test: float
    """Share of the characters that tests."""
    most: tuple[int | None, int | None]
    """Characters of the validation and of the test part at most; None = no limit."""
    seed: int

    def targets(self, characters: int) -> tuple[int, int]:
        """Characters that the validation and the test part are to get of so many."""
        shares = (self.validation, self.test)
        wanted = [int(share * characters) for share in shares]
        validation, test = (
            size if limit is None else min(size, limit)
            for size, limit in zip(wanted, self.most, strict=True)
        )
        return validation, test


REVISION = 2
"""Raised when documents are dealt otherwise: what was made of them before is made anew."""
Parts = dict[PartName, list[str]]
"""The documents of each part, in an order drawn by the split's seed."""


def dealt(documents: Sequence[str], split: Split, name: str) -> Parts:
    """Documents of each part: whole ones, or the tails of each where there are only a few.

    ``name``: of the text; texts are dealt independently. A document that is there several times is
    taken once, or a part would be tested on what another one is trained on. Every character is in
    one part.
    """
    documents = list(dict.fromkeys(documents))
    rng = np.random.default_rng(derive_seed(split.seed, "documents", name))
    order = [documents[place] for place in rng.permutation(len(documents))]
    targets = split.targets(sum(map(len, order)))
    if len(order) >= FEW_DOCUMENTS:
        parts = _whole(order, targets)
        if parts is not None:
            return parts
    return _tails(order, targets)


def _whole(documents: Sequence[str], targets: tuple[int, int]) -> Parts | None:
    """Whole documents for each part; None where they are too long for a part's share."""
    rest, held = list(documents), list[list[str]]()
    for target in targets:
        taken, kept, size = [], [], 0
        for document in rest:
            if size < FULL * target and size + len(document) <= target:
                taken.append(document)
                size += len(document)
            else:
                kept.append(document)
        if size < target / 2:
            return None
        held.append(taken)
        rest = kept
    return {"train": rest, "validation": held[0], "test": held[1]}


def _tails(documents: Sequence[str], targets: tuple[int, int]) -> Parts:
    """Each document's tail tests, what lies before it validates, the rest trains."""
    total = max(1, sum(map(len, documents)))
    parts: Parts = {"train": [], "validation": [], "test": []}
    for document in documents:
        validation, test = (target * len(document) // total for target in targets)
        last = _line_end(document, len(document) - test) if test else len(document)
        middle = _line_end(document[:last], last - validation) if validation else last
        pieces = (document[:middle], document[middle:last], document[last:])
        for part, piece in zip(parts.values(), pieces, strict=True):
            if piece.strip():
                part.append(piece)
    return parts


def _line_end(text: str, place: int) -> int:
    """The first end of a line in the characters from ``place`` on, else ``place``."""
    found = text.find("\n", place, min(len(text) - 1, place + SENTENCE))
    return place if found < 0 else found + 1


def pieces(document: str, size: int = 1 << 16) -> list[str]:
    """A document in pieces of about so many characters, cut at ends of lines.

    Tokenizers take time and memory that grow with what they get at once; joined, the pieces are
    the document.
    """
    found, start = [], 0
    while len(document) - start > size:
        end = document.rfind("\n", start, start + size) + 1
        end = end if end > start else start + size
        found.append(document[start:end])
        start = end
    return [*found, document[start:]]
