"""A text with a name: where its documents come from, and what tells it from another version."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path

from workers.contract import digest
from workers.streams.packages import file_digest
from workers.streams.text.files import READERS, read
from workers.streams.text.known import KNOWN, Known
from workers.tables import Problem


class Corpus(ABC):
    """One text as documents, in an order of their own."""

    def __init__(self, name: str, glossary: bool) -> None:
        """``glossary``: its documents are short entries; together they are one document."""
        self.name, self.glossary = name, glossary

    @property
    @abstractmethod
    def digest(self) -> str:
        """Of all that its documents are read from (16 hex digits)."""

    @property
    @abstractmethod
    def origin(self) -> str:
        """Where it comes from, in words."""

    @abstractmethod
    def documents(self) -> list[str]:
        """All of them; those without text are left out. Raises InputError on damaged files."""

    @abstractmethod
    def problems(self, path: str) -> list[Problem]:
        """What keeps it from being read; ``path`` is the place in the config that names it."""


class OwnCorpus(Corpus):
    """Files of one's own: one file, or all of a folder, those of folders inside it too."""

    def __init__(self, name: str, root: Path, field: str, glossary: bool) -> None:
        super().__init__(name, glossary)
        self.root, self.field = root, field

    @property
    def digest(self) -> str:
        files = [
            [str(file.relative_to(self.root.parent)), file_digest(file)] for file in self._files
        ]
        return digest([files, self.field])

    @property
    def origin(self) -> str:
        return f"{len(self._files)} files" if self.root.is_dir() else self.root.name

    def documents(self) -> list[str]:
        found = [text for file in self._files for text in read(file, self.field)]
        return [text for text in found if text.strip()]

    def problems(self, path: str) -> list[Problem]:
        if self._files:
            return []
        allowed = f"give files that end in {', '.join(READERS)}"
        return [Problem(path, f"{self.root} holds no text", allowed)]

    @cached_property
    def _files(self) -> tuple[Path, ...]:
        if self.root.is_file():
            return (self.root,) if self.root.suffix in READERS else ()
        found = (file for file in self.root.rglob("*") if file.suffix in READERS)
        return tuple(sorted(file for file in found if file.is_file()))


class KnownCorpus(Corpus):
    """One of KNOWN, fetched before."""

    def __init__(self, name: str, known: Known) -> None:
        super().__init__(name, known.glossary)
        self.known = known

    @cached_property
    def digest(self) -> str:
        return digest([self.name, self.known.contents(), self.known.revision])

    @property
    def origin(self) -> str:
        return self.known.origin()

    def documents(self) -> list[str]:
        return [text for text in self.known.documents() if text.strip()]

    def problems(self, path: str) -> list[Problem]:
        missing = self.known.missing()
        return (
            [] if missing is None else [Problem(path, f"{self.name}: {missing}", self.known.cure)]
        )


def corpus(name: str, path: str, field: str, glossary: bool, where: str) -> Corpus | Problem:
    """The text of this name: below ``path``, if that is given and has it, else of KNOWN.

    ``where``: place in the config that names it.
    """
    root = Path(path).expanduser().absolute() if path else None
    candidates = [] if root is None else [root / name, *(root / f"{name}{s}" for s in READERS)]
    for found in candidates:
        if found.exists():
            return OwnCorpus(name, found, field, glossary)
    if name in KNOWN:
        return KnownCorpus(name, KNOWN[name])
    inside = "" if root is None else f", or a file or folder in {root}"
    return Problem(where, f"no text is called {name!r}", f"allowed: {', '.join(KNOWN)}{inside}")
