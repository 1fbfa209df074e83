"""Readers of works of reference, which consist of short entries.

Each takes the folder of a package's files and gives entries; none imports a package.
"""

from __future__ import annotations

import gzip
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

SPACE = re.compile(r"\s+")


def medicine(root: Path) -> Iterator[str]:
    """Terms of the Human Phenotype Ontology, then the classes of ICD-10-CM."""
    for file in sorted(root.rglob("hp.obo")):
        yield from _ontology(file.read_text("utf-8"))
    for file in sorted(root.rglob("icd10c*.xml")):
        yield from _classes(file)


VALUE = re.compile(r'^(name|synonym|def|comment): (?:"((?:[^"\\]|\\.)*)"|(.*))', re.MULTILINE)
ESCAPED = re.compile(r"\\(.)")


def _ontology(text: str) -> Iterator[str]:
    """``name (synonyms). definition comment`` of every term of an OBO file."""
    for stanza in text.split("\n[Term]\n")[1:]:
        found: dict[str, list[str]] = {"name": [], "synonym": [], "def": [], "comment": []}
        for key, quoted, plain in VALUE.findall(stanza.partition("\n[")[0]):
            found[key].append(ESCAPED.sub(r"\1", quoted or plain))
        also = f" ({'; '.join(found['synonym'])})" if found["synonym"] else ""
        yield " ".join([f"{' '.join(found['name'])}{also}.", *found["def"], *found["comment"]])


def _classes(file: Path) -> Iterator[str]:
    """Each group of diagnoses with what is written below it, a line for each element."""
    try:
        tree = ElementTree.parse(file)
    except ElementTree.ParseError as error:
        raise ValueError(f"{file.name}: {error}") from error
    for section in tree.iter("section"):
        for diagnosis in section.findall("diag"):
            lines = (SPACE.sub(" ", text).strip() for text in diagnosis.itertext())
            yield "\n".join(line for line in lines if line)


COMMENT = re.compile(r"\$\((.*?)\$\)", re.DOTALL)
RULER = re.compile(r"[-=#*._~+\s]*")
"""Lines that only decorate."""
SHORTEST, LONGEST = 20, 40_000
"""Characters of a comment: shorter ones say nothing, longer ones list changes of labels."""
NO_PROSE = ("@(", "$t")
"""What marks statements that are switched off, and rules of typesetting."""


def maths(root: Path) -> Iterator[str]:
    """Comments of a Metamath database, each on one line, rulers left out."""
    for file in sorted(root.rglob("set.mm")):
        for comment in COMMENT.findall(file.read_text("utf-8", "replace")):
            lines = [line for line in comment.splitlines() if not RULER.fullmatch(line)]
            text = SPACE.sub(" ", " ".join(lines)).strip()
            prose = not any(mark in text for mark in NO_PROSE)
            if prose and SHORTEST <= len(text) <= LONGEST:
                yield text


def biology(root: Path) -> Iterator[str]:
    """``term: definition`` of the Gene Ontology, in the order of their numbers."""
    for file in sorted(root.rglob("GO.sqlite")):
        query = "select term, definition from go_term where definition is not null order by go_id"
        try:
            with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as base:
                base.text_factory = lambda raw: raw.decode("utf-8", "replace")
                found = base.execute(query).fetchall()
        except sqlite3.Error as error:
            raise ValueError(f"{file.name}: {error}") from error
        yield from (f"{term}: {definition}" for term, definition in found)


MARK = re.compile(r"^[ \t]*\[[^\]\n]*\][ \t]*$\n?", re.MULTILINE)
"""Lines that only name the edition an entry is from."""
ENTRY = re.compile(r"\n+(?=\S)")
"""Entries begin at the margin; what belongs to them is indented."""


def dictionary(root: Path) -> Iterator[str]:
    """Entries of a dictionary in the format of dictd, without its facts about itself."""
    for file in sorted(root.rglob("*.dict.dz")):
        text = MARK.sub("", gzip.decompress(file.read_bytes()).decode("utf-8", "replace"))
        for entry in ENTRY.split(text):
            if entry.strip() and not entry.startswith("00-"):
                yield entry.strip()
