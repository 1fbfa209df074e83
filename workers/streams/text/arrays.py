"""Token arrays of a text, made once and then read from disk by every process.

Letters: N windows, S tokens of a window, V tokens of the vocabulary.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from workers.contract import InputError, digest
from workers.streams.data import NO_ARRAY
from workers.streams.datasets import PartName
from workers.streams.text.cache import made_once
from workers.streams.text.corpus import Corpus
from workers.streams.text.parts import REVISION as DEALT
from workers.streams.text.parts import Split, dealt, pieces
from workers.streams.text.tokenizers import Encoder
from workers.streams.text.windows import windows
from workers.supervised.objectives import NO_TARGET

REVISION = 1
"""Of what is written; raised with every change of it."""
FACTS = "facts.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How parts become windows."""

    window: int
    """Tokens of a window, S."""
    tokens: dict[PartName, int | None]
    """Tokens of each part at most; None = all."""

    def most(self, part: PartName) -> int | None:
        """Windows of a part at most."""
        tokens = self.tokens[part]
        return None if tokens is None else tokens // self.window


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a part of a text came to."""

    windows: int
    targets: int
    """Tokens to predict, ends of documents included."""
    bytes: int
    """Of text that they stand for."""
    padding: float
    """Share of positions at which nothing is predicted."""


class TokenArrays:
    """The windows of one text: inputs and targets of each part, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        told = json.loads((folder / FACTS).read_text())
        self.facts: dict[PartName, Facts] = {part: Facts(**facts) for part, facts in told.items()}

    def x(self, part: PartName) -> np.ndarray:
        """Inputs, unsigned 16-bit or signed 32-bit integers [N, S]."""
        return self._array(f"{part}_x")

    def y(self, part: PartName) -> np.ndarray:
        """Targets, signed 16- or 32-bit integers [N, S]; -100 = none."""
        return self._array(f"{part}_y")

    def _array(self, name: str) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        try:
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except NO_ARRAY as error:
            raise InputError(
                f"{path}: cannot be read ({error}); delete the folder, it is made again"
            ) from error
        return array


def token_arrays(
    corpus: Corpus, encoder: Encoder, outputs: int, split: Split, cut: Cut, folder: Path
) -> TokenArrays:
    """The arrays of a text, made in ``folder`` if they are not there.

    ``outputs``: V. While they are made, the text is in memory, and of a small vocabulary about 16
    bytes a token. Raises InputError where a part that is to have text gets none.
    """
    settings = [
        asdict(split),
        asdict(cut),
        corpus.name,
        corpus.glossary,
        outputs,
        REVISION,
        DEALT,
    ]
    key = digest([corpus.digest, encoder.identity, settings])
    name = f"{corpus.name.replace('/', '-')}-{key}"
    types = (
        np.uint16 if outputs <= 1 << 16 else np.int32,
        np.int16 if outputs <= 1 << 15 else np.int32,
    )

    def make(new: Path) -> None:
        told = {}
        for part, documents in dealt(corpus.documents(), split, corpus.name).items():
            ids = _encoded(documents, corpus.glossary, encoder)
            x, y = windows(ids, cut.window, encoder.end, cut.most(part), types)
            _refuse_empty(corpus.name, part, len(x), split)
            np.save(new / f"{part}_x.npy", x)
            np.save(new / f"{part}_y.npy", y)
            told[part] = asdict(_facts(y, encoder.bytes_V))
        (new / FACTS).write_text(json.dumps(told, indent=1))

    return TokenArrays(made_once(folder / name, make))


def training_pieces(corpus: Corpus, split: Split, characters: int) -> Iterator[str]:
    """Text of the training part, in pieces, so many characters at most."""
    left = characters
    for document in dealt(corpus.documents(), split, corpus.name)["train"]:
        for piece in pieces(document + "\n" if corpus.glossary else document):
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                return


def _encoded(documents: Sequence[str], glossary: bool, encoder: Encoder) -> Iterator[np.ndarray]:
    """Token ids of each document; entries of a glossary, a line end after each, are one."""
    if glossary:
        entries = (piece for entry in documents for piece in pieces(f"{entry}\n"))
        found = list(encoder.encode(entries))
        yield from [np.concatenate(found)] if found else []
        return
    counts: deque[int] = deque()

    def cut() -> Iterator[str]:
        for document in documents:
            several = pieces(document)
            counts.append(len(several))
            yield from several

    ids = encoder.encode(cut())
    for first in ids:  # by now its document has been cut
        yield np.concatenate([first, *islice(ids, counts.popleft() - 1)])


def _facts(y: np.ndarray, bytes_V: np.ndarray) -> Facts:
    """``y``: integers [N, S]."""
    targets = y[y != NO_TARGET]
    return Facts(
        windows=len(y),
        targets=len(targets),
        bytes=int(bytes_V[targets].sum()),
        padding=round(1.0 - len(targets) / y.size, 4) if y.size else 0.0,
    )


def _refuse_empty(name: str, part: PartName, count: int, split: Split) -> None:
    asked = part != "validation" or split.validation > 0.0
    if asked and not count:
        raise InputError(
            f"text {name!r}: its {part} part has no text; give more text, or change stream.test "
            "and stream.validation, the shares that are held out"
        )
