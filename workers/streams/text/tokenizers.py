"""Tokenizers by name: what turns text into tokens, and how many bytes each token stands for.

The library ``tokenizers`` is imported where it is used. Letters: V tokens of the vocabulary.
"""

from __future__ import annotations

import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workers.contract import InputError
from workers.streams.packages import file_digest
from workers.streams.places import named_folder
from workers.streams.text.cache import made_once
from workers.streams.text.token_bytes import token_bytes
from workers.tables import Problem

if TYPE_CHECKING:
    import tokenizers

TrainingTexts = Callable[[Sequence[str], int], tuple[str, Iterable[str]]]
"""(names of texts, characters of each at most) -> (digest of what they are, the texts)."""

END = "<|endoftext|>"
TOGETHER = 1 << 20
"""Characters that are encoded at once: the library keeps some hundred bytes for each token."""


class Encoder(ABC):
    """A tokenizer that is ready: text to ids, and the bytes of each id."""

    end: int
    """Id that begins and ends a document."""
    identity: str
    """Digest of all that decides the ids."""

    @property
    @abstractmethod
    def bytes_V(self) -> np.ndarray:
        """Bytes of text that each token stands for, int64 [V] or shorter; 0 for special ones."""

    @abstractmethod
    def encode(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """Ids of each text, int32 [T_i], in order. No text may give ``end``."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; the numbers themselves where nobody can tell."""
        return " ".join(map(str, ids))

    def write(self, folder: Path) -> None:
        """Write the files by which transformers loads the same tokenizer.

        Raises InputError where it has no such form.
        """
        raise InputError(f"{type(self).__name__} has no form that other programs load")


class LibraryEncoder(Encoder):
    """A tokenizer of the library ``tokenizers``."""

    def __init__(self, library: tokenizers.Tokenizer, end: int, identity: str) -> None:
        self._library = library
        self._library.encode_special_tokens = True  # what looks like one in a text is text
        self._library.no_truncation()
        self._library.no_padding()
        self.end, self.identity = end, identity

    @cached_property
    def bytes_V(self) -> np.ndarray:
        return token_bytes(self._library)

    def encode(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        for some in _batches(texts):
            for encoded in self._library.encode_batch_fast(some, add_special_tokens=False):
                yield np.array(encoded.ids, dtype=np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        text: str = self._library.decode(list(ids), skip_special_tokens=True)
        return text

    def write(self, folder: Path) -> None:
        self._library.save(str(folder / FILE))
        end = self._library.id_to_token(self.end)
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end}
        (folder / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")


class Tokenizer(ABC):
    """Base of the entries of TOKENIZERS."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings; ``kind`` is its name in the table or ``module:Class``."""

        kind: str

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Ids there may be, V; known without any text."""

    @property
    def trained_on(self) -> tuple[str, ...] | None:
        """Texts that it is trained on; empty = the stream chooses, None = it is not trained."""
        return None

    @abstractmethod
    def encoder(self, texts: TrainingTexts, folder: Path) -> Encoder:
        """It, ready; trained on ``texts``, if it is, once: the result is kept in ``folder``."""

    def described(self, trained_on: Sequence[str]) -> str:
        """What it is, in words, for lineage; ``trained_on``: the texts it was trained on."""
        return f"{self.config.kind} of {self.outputs:,} tokens"

    def problems(self, path: str) -> list[Problem]:
        """What a plan must know; ``path`` is its place in the config."""
        return []


class Bpe(Tokenizer):
    """Byte-level byte-pair encoding, trained on texts of the stream; id 0 ends a document.

    Trained on the training part alone. Ids that a small text yields no merge for are never used.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Tokenizer.Config):
        """Settings of the training."""

        kind: str = "bpe"
        vocabulary: int = 4096
        """Tokens: the end of text, 256 bytes, merges."""
        trained_on: tuple[str, ...] = ()
        """Names of texts of the stream; none = those of ``base``, else the first domain. What it is
        trained on is shorter in tokens afterwards."""
        characters: int = 600_000
        """Characters of each text to train on at most."""

        def __post_init__(self) -> None:
            if self.vocabulary < 257:
                raise ValueError(f"vocabulary must be at least 257, got {self.vocabulary}")
            if self.characters < 1:
                raise ValueError(f"characters must be at least 1, got {self.characters}")

    config: Bpe.Config

    @property
    def outputs(self) -> int:
        return self.config.vocabulary

    @property
    def trained_on(self) -> tuple[str, ...]:
        return self.config.trained_on

    def encoder(self, texts: TrainingTexts, folder: Path) -> Encoder:
        config = self.config
        key, pieces = texts(config.trained_on, config.characters)
        name = f"bpe-{config.vocabulary}-{key}"
        kept = made_once(folder / name, lambda new: _trained(config, pieces, new / FILE))
        digest = file_digest(kept / FILE)[:16]
        return LibraryEncoder(_read(kept / FILE), 0, f"{digest}-{config.vocabulary}")

    def described(self, trained_on: Sequence[str]) -> str:
        characters = f"{self.config.characters:,} characters each of {', '.join(trained_on)}"
        return f"bpe of {self.config.vocabulary:,} trained on at most {characters}"

    def problems(self, path: str) -> list[Problem]:
        return _missing_library(path)


FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
CURE = "pip install growstage[hf]"


class HuggingFace(Tokenizer):
    """A tokenizer.json as the library tokenizers and transformers write it.

    A folder with ``vocab.json`` and ``merges.txt`` instead is read as GPT-2's kind.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Tokenizer.Config):
        """Settings of the file."""

        kind: str = "huggingface"
        path: str = ""
        """Folder that holds it, or the name of a fetched model (``model/smollm2-135m``)."""
        end: str = ""
        """Token that ends a document; empty = ``eos_token`` of the ``tokenizer_config.json``
        beside it."""

    config: HuggingFace.Config

    @property
    def outputs(self) -> int:
        return max(self._library.get_vocab(with_added_tokens=True).values()) + 1

    def encoder(self, texts: TrainingTexts, folder: Path) -> Encoder:
        return self._encoder

    @cached_property
    def _encoder(self) -> LibraryEncoder:
        end = self._library.token_to_id(self._end)
        if end is None:
            raise InputError(f"{self._folder}: has no token {self._end!r}; set tokenizer.end")
        digests = [file_digest(path)[:16] for path in self._files]
        return LibraryEncoder(self._library, end, "-".join([*digests, str(end)]))

    def described(self, trained_on: Sequence[str]) -> str:
        return f"tokenizer of {self._folder.name} with {self.outputs:,} tokens"

    def problems(self, path: str) -> list[Problem]:
        missing = _missing_library(path)
        if missing:
            return missing
        try:
            _ = self._encoder.bytes_V
        except InputError as error:
            what, _, remedy = str(error).rpartition("; ")
            return [Problem(f"{path}.path", what, remedy)]
        return []

    @property
    def _folder(self) -> Path:
        return named_folder(self.config.path).absolute()

    @cached_property
    def _files(self) -> tuple[Path, ...]:
        """The file, or the two of GPT-2's kind; InputError where there are none."""
        for names in ((FILE,), PAIR):
            found = tuple(self._folder / name for name in names)
            if self.config.path and all(file.is_file() for file in found):
                return found
        where = str(self._folder) if self.config.path else "no folder is given"
        raise InputError(
            f"{where}: no {FILE} and no {' with '.join(PAIR)}; give the folder of a tokenizer"
        )

    @cached_property
    def _library(self) -> tokenizers.Tokenizer:
        if len(self._files) == 1:
            return _read(self._files[0])
        return _gpt2(*self._files)

    @cached_property
    def _end(self) -> str:
        beside = self._folder / SETTINGS
        named: Any = None
        if not self.config.end and beside.is_file():
            try:
                told = json.loads(beside.read_text("utf-8"))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{beside}: is no JSON ({error}); set tokenizer.end") from error
            named = told.get("eos_token") if isinstance(told, dict) else None
        named = named.get("content") if isinstance(named, dict) else named
        if not (self.config.end or named):
            raise InputError(f"{self._folder}: names no eos_token; set tokenizer.end")
        return self.config.end or str(named)


PAIR = ("vocab.json", "merges.txt")

TOKENIZERS: dict[str, type] = {"bpe": Bpe, "huggingface": HuggingFace}
"""Tokenizers by name."""


# ---------------------------------------------------------------- the library


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in groups of about TOGETHER characters."""
    some: list[str] = []
    size = 0
    for text in texts:
        some.append(text)
        size += len(text)
        if size >= TOGETHER:
            yield some
            some, size = [], 0
    if some:
        yield some


def _missing_library(path: str) -> list[Problem]:
    if importlib.util.find_spec("tokenizers") is not None:
        return []
    return [Problem(path, "the library tokenizers is missing", CURE)]


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise InputError(f"the library tokenizers is missing ({error}); {CURE}") from error
    return tokenizers


def _read(path: Path) -> tokenizers.Tokenizer:
    try:
        return _library().Tokenizer.from_file(str(path))
    except InputError:
        raise
    except Exception as error:  # the library raises nothing more precise
        raise InputError(f"{path}: cannot be read ({error}); check the file") from error


def _gpt2(vocabulary: Path, merges: Path) -> tokenizers.Tokenizer:
    library = _library()
    try:
        made = library.Tokenizer(library.models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:  # the library raises nothing more precise
        raise InputError(f"{vocabulary}: cannot be read ({error}); check the files") from error
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    if made.token_to_id(END) is not None:
        made.add_special_tokens([END])
    return made


def _trained(config: Bpe.Config, texts: Iterable[str], path: Path) -> None:
    library = _library()
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=config.vocabulary,
        special_tokens=[END],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    made.save(str(path))
