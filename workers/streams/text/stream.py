"""Stream of texts for language models: domains one after another or together, after a base."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from workers.contract import TaskSpec, derive_seed, digest
from workers.streams.base import InputType, Stream
from workers.streams.data import Part, Rows, TaskData
from workers.streams.datasets import PartName
from workers.streams.domains import BASE, JOINT
from workers.streams.places import data_folder
from workers.streams.text.arrays import Cut, TokenArrays, token_arrays, training_pieces
from workers.streams.text.corpus import Corpus, corpus
from workers.streams.text.parts import REVISION, Split
from workers.streams.text.tokenizers import TOKENIZERS, Encoder, Tokenizer
from workers.supervised.objectives import OBJECTIVES, LanguageModelling
from workers.tables import Problem, choice, construct

LONGEST_TOKEN = 8
"""Characters of a token at most, on average: bounds the text that held-out parts take."""


class Text(Stream):
    """Texts, known ones or your own, as windows of tokens: one domain after another, or together.

    The first task (left out where ``base`` is empty) mixes the base texts under the one label
    ``base``; its scores after later stages tell what is retained. A window holds tokens of one
    document only; held-out windows are of other documents than those of training, or of the tails
    of documents where a text has a few only.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Stream.Config):
        """Settings of the texts; the caps hold for each text."""

        kind: str = "text"
        objective: Any = choice(OBJECTIVES, "language_modelling")
        """What outputs are compared with."""
        domains: tuple[str, ...] = ("law", "medicine", "maths", "fiction", "code", "german")
        """Texts that are domains of their own: names of known ones, or of files and folders below
        ``path`` (there ``name``, ``name.txt``, ``name.jsonl``, ``name.parquet``)."""
        base: tuple[str, ...] = ()
        """Texts of the base mixture; none = no such task."""
        order: Literal["sequential", "joint"] = "sequential"
        """``sequential``: one stage for each domain; ``joint``: one stage on all together."""
        order_seed: int | None = None
        """Draws the order of the domains; None = as they are listed."""
        path: str = ""
        """Folder of your own texts: .txt (a document each), .jsonl or .parquet (a document each
        line or row). What it has goes before known texts of the same name."""
        field: str = "text"
        """Key of the lines and column of the rows that holds the text."""
        glossaries: tuple[str, ...] = ()
        """Those of your own texts whose documents are short entries: they are put one behind the
        other, so that windows are full."""
        tokenizer: Any = choice(TOKENIZERS, "bpe")
        """What turns text into tokens."""
        window: int = 128
        """Tokens of one sample, which is what a model sees at once."""
        test: float = 0.1
        """Share of each text that is held out for testing; ``validation`` likewise."""
        train_tokens: int | None = None
        """Training tokens of each text at most, padding included; None = all."""
        base_train_tokens: int | None = None
        """The same of each text of the base; None = as ``train_tokens``."""
        validation_tokens: int | None = 20_000
        """Validation tokens likewise."""
        test_tokens: int | None = 40_000
        """Test tokens likewise."""
        split_seed: int = 0
        """Draws which documents are held out. Not the lane's seed: lanes of other seeds learn from
        and are tested on the same text."""

        def __post_init__(self) -> None:
            Stream.Config.__post_init__(self)
            if not 0.0 < self.test < 1.0 - self.validation:
                raise ValueError(f"test must be above 0 and, with validation, below 1: {self.test}")

    config: Text.Config
    objective: LanguageModelling
    input_type: InputType = "integer"

    def __init__(self, config: Any, seed: int) -> None:
        super().__init__(config, seed)
        self.tokenizer: Tokenizer = construct(TOKENIZERS, config.tokenizer)
        self._unknown: list[Problem] = []
        self.texts = {name: found for name in self._names if (found := self._text(name))}
        self._made: dict[str, TokenArrays] = {}

    def tasks(self) -> tuple[TaskSpec, ...]:
        names = list(self.config.domains)
        if self.config.order_seed is not None:
            order = np.random.default_rng(derive_seed(self.config.order_seed, "domain order"))
            names = [names[place] for place in order.permutation(len(names))]
        parts: list[tuple[str, dict[str, Any]]] = []
        if self.config.base:
            parts.append((BASE, {"texts": list(self.config.base)}))
        if self.config.order == "joint" and names:
            parts.append((JOINT, {"texts": names, "domains": names}))
        elif self.config.order == "sequential":
            parts += [(name, {"texts": [name]}) for name in names]
        return tuple(
            TaskSpec(index=index, name=name, domain=name, settings=settings)
            for index, (name, settings) in enumerate(parts)
        )

    def identity(self, task: TaskSpec) -> str:
        """Which other texts the stream has, and in which order, decides nothing of a task."""
        settings, read = asdict(self.config), {*task.settings["texts"], *self._trained_on}
        for name in ("domains", "base", "order", "order_seed", "train_tokens", "base_train_tokens"):
            del settings[name]
        settings["caps"] = [self._caps(name)["train"] for name in task.settings["texts"]]
        settings["glossaries"] = sorted(read & set(self.config.glossaries))
        return digest([settings, list(self._trained_on), asdict(task)])

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.config.window,)

    @property
    def outputs(self) -> int:
        return self.tokenizer.outputs

    def load(self, task: TaskSpec) -> TaskData:
        return TaskData.of(
            train=self._part(task, "train"),
            validation=self._part(task, "validation") if self.validates(task) else None,
            test=self._part(task, "test"),
            source=self._source(task),
        )

    def held_out(self, task: TaskSpec) -> dict[str, Part | None]:
        if task.index in self._cache:
            return super().held_out(task)
        validation = self._part(task, "validation") if self.validates(task) else None
        return {"validation": validation, "test": self._part(task, "test")}

    def problems(self) -> list[Problem]:
        config, found = self.config, self._setting_problems()
        found += self._unknown + self.tokenizer.problems("stream.tokenizer")
        for where, names in (("domains", config.domains), ("base", config.base)):
            for name in names:
                if name in self.texts:
                    found += self.texts[name].problems(f"stream.{where}")
        return found

    def tokens(self, text: str) -> Tensor:
        (ids,) = self._encoder.encode([text])
        return torch.from_numpy(ids).long()

    @property
    def reader(self) -> str:
        return self._encoder.identity

    def readable(self, inputs: Tensor) -> list[str]:
        return [self._encoder.decode([number]) for number in inputs.tolist()]

    def write_reader(self, folder: Path) -> None:
        self._encoder.write(folder)

    # ------------------------------------------------------------ inside

    @property
    def _names(self) -> tuple[str, ...]:
        """Every text, those of the base first."""
        return (*self.config.base, *self.config.domains)

    def _text(self, name: str) -> Corpus | None:
        where = f"stream.{'base' if name in self.config.base else 'domains'}"
        config = self.config
        found = corpus(name, config.path, config.field, name in config.glossaries, where)
        if isinstance(found, Problem):
            self._unknown.append(found)
            return None
        return found

    def _setting_problems(self) -> list[Problem]:
        config, found = self.config, []
        if config.path and not Path(config.path).expanduser().is_dir():
            allowed = "give the folder of your own texts"
            found.append(Problem("stream.path", f"{config.path} is no folder", allowed))
        if not self._names:
            found.append(Problem("stream.domains", "got none", "give a domain, or a base"))
        twice = sorted({name for name in self._names if self._names.count(name) > 1})
        if twice:
            allowed = "name each text once, in base or in domains"
            found.append(Problem("stream.domains", f"got {', '.join(twice)} twice", allowed))
        if {BASE, JOINT} & set(self._names):
            allowed = f"{BASE!r} and {JOINT!r} name the stream's own tasks"
            found.append(Problem("stream.domains", f"got {self._names}", allowed))
        if config.window < 2:
            found.append(Problem("stream.window", f"got {config.window}", "must be at least 2"))
        for name in ("train_tokens", "base_train_tokens", "validation_tokens", "test_tokens"):
            value = getattr(config, name)
            if value is not None and value < max(1, config.window):
                allowed = "must hold a window at least"
                found.append(Problem(f"stream.{name}", f"got {value}", allowed))
        if not isinstance(self.objective, LanguageModelling):
            got = f"got {config.objective.kind!r} with texts"
            found.append(Problem("stream.objective", got, "use language_modelling"))
        absent = sorted(
            (set(config.glossaries) | set(self.tokenizer.trained_on or ())) - set(self._names)
        )
        if absent:
            what = f"the stream has no text {', '.join(absent)}"
            allowed = f"allowed in glossaries and tokenizer.trained_on: {', '.join(self._names)}"
            found.append(Problem("stream", what, allowed))
        return found

    @property
    def _split(self) -> Split:
        config = self.config
        limits = (config.validation_tokens, config.test_tokens)
        validation, test = (None if t is None else LONGEST_TOKEN * t for t in limits)
        return Split(
            validation=config.validation,
            test=config.test,
            most=(validation, test),
            seed=config.split_seed,
        )

    @cached_property
    def _trained_on(self) -> tuple[str, ...]:
        """Texts that the tokenizer is trained on, if it is."""
        if self.tokenizer.trained_on is None:
            return ()
        return self.tokenizer.trained_on or self.config.base or self.config.domains[:1]

    @cached_property
    def _encoder(self) -> Encoder:
        """The tokenizer, ready; from here on the objective knows the bytes of its tokens."""

        def texts(named: Any, characters: int) -> tuple[str, Any]:
            chosen, split = [self.texts[name] for name in self._trained_on], self._split
            key = digest([[text.name, text.digest, text.glossary] for text in chosen])
            lazily = (p for text in chosen for p in training_pieces(text, split, characters))
            return digest([key, repr(split), characters, REVISION]), lazily

        return self.tokenizer.encoder(texts, _folder("tokenizers"))

    def _arrays(self, name: str) -> TokenArrays:
        """The windows of a text. With the first, those of all are made, so that a text which is
        damaged or too short stops the lane before anything is trained."""
        if not self._made:
            encoder, config = self._encoder, self.config
            bytes_V = torch.zeros(self.outputs, dtype=torch.int64)
            bytes_V[: len(encoder.bytes_V)] = torch.from_numpy(encoder.bytes_V)
            self.objective.measure_in(bytes_V)
            for text in self.texts.values():
                cut = Cut(window=config.window, tokens=self._caps(text.name))
                self._made[text.name] = token_arrays(
                    text, encoder, self.outputs, self._split, cut, _folder("tokens")
                )
        return self._made[name]

    def _caps(self, name: str) -> dict[PartName, int | None]:
        """Tokens of each part of a text at most."""
        config, train = self.config, self.config.train_tokens
        if name in config.base and config.base_train_tokens is not None:
            train = config.base_train_tokens
        return {
            "train": train,
            "validation": config.validation_tokens,
            "test": config.test_tokens,
        }

    def _part(self, task: TaskSpec, part: PartName) -> Part:
        arrays = [self._arrays(name) for name in task.settings["texts"]]
        x = Rows(*(array.x(part) for array in arrays), dtype=torch.int64)
        y = Rows(*(array.y(part) for array in arrays), dtype=torch.int64)
        if len(task.domains) < 2:
            return Part(x, y)
        sizes = torch.tensor([array.facts[part].windows for array in arrays])
        return Part(x, y, torch.repeat_interleave(torch.arange(len(sizes)), sizes))

    def _source(self, task: TaskSpec) -> str:
        """What was learnt from, in words: of each text its size and origin, and the tokenizer."""
        told = []
        for name in task.settings["texts"]:
            facts = self._arrays(name).facts["train"]
            told.append(
                f"{name}: {facts.targets:,} tokens of {facts.bytes:,} bytes, "
                f"{100 * facts.padding:.1f} % padding ({self.texts[name].origin})"
            )
        return f"{'; '.join(told)}; {self.tokenizer.described(self._trained_on)}"


def _folder(name: str) -> Path:
    """Where what is made of texts is kept."""
    return data_folder() / "made" / name
