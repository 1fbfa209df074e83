"""Readers of texts that consist of whole documents: licences, novels, pages, source files.

Each takes the folder of a package's files and gives documents; none imports a package.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from workers.streams.text.known.stdlib import modules

GENRES = (
    "news",
    "editorial",
    "reviews",
    "religion",
    "hobbies",
    "lore",
    "belles_lettres",
    "government",
    "learned",
    "fiction",
    "mystery",
    "science_fiction",
    "adventure",
    "romance",
    "humor",
)
"""Of the Brown corpus."""


def licences(root: Path) -> Iterator[str]:
    """Each different English text once, without the facts on top of its file."""
    seen: set[str] = set()
    for file in sorted(root.rglob("licenses/*.LICENSE")):
        head, text = _front_matter(file.read_text("utf-8", "replace"))
        language = re.search(r"^language:\s*(\S+)", head, re.MULTILINE)
        if text and text not in seen and (language is None or language[1] == "en"):
            seen.add(text)
            yield text


def _front_matter(text: str) -> tuple[str, str]:
    """(facts between two lines of ``---``, the rest)."""
    if not text.startswith("---\n"):
        return "", text.strip()
    head, _, rest = text[4:].partition("\n---\n")
    return head, rest.strip()


def documentation(root: Path) -> Iterator[str]:
    """Every page as it was written."""
    for file in sorted(root.rglob("_sources/**/*.txt")):
        yield file.read_text("utf-8", "replace")


def source_code(root: Path) -> Iterator[str]:
    """Every module; ``root``: folder of the standard library."""
    for file in modules(root):
        yield file.read_text("utf-8", "replace")


def brown(root: Path, genre: str) -> Iterator[str]:
    """The texts of one genre, words without their part of speech."""
    folder = root / "package"
    for line in sorted((folder / "cats.txt").read_text("utf-8").splitlines()):
        name, _, of = line.partition(" ")
        if of.strip() == genre:
            yield _untagged((folder / name).read_text("utf-8", "replace"))


def _untagged(text: str) -> str:
    """``The/at jury/nn`` -> ``The jury``, a sentence a line."""
    lines = (line.split() for line in text.splitlines())
    return "\n".join(" ".join(word.rpartition("/")[0] for word in line) for line in lines if line)


# ---------------------------------------------------------------- manual pages

HEADING = re.compile(r"[.']\s*(SH|SS|B|I|BR|IR|RB|BI|IB|RI|TP|IP|SM|Nm|Nd|Fl|Ar|It)\b\s*(.*)")
"""Requests of roff whose arguments are text."""
FONT = re.compile(r"\\f(?:\[[^\]]*\]|\([A-Z]{2}|.)|\\[&|/,:^%]|\\s[+-]?\d")
"""Changes of font and size, and characters without width."""
SPELLED = {r"\-": "-", r"\(aq": "'", r"\(bu": "*", r"\(lq": "“", r"\(rq": "”", r"\~": " "}
SPELLED |= {r"\ ": " ", r"\(dq": '"', r"\(em": "—", r"\(en": "–", r"\(co": "©"}
OTHER = re.compile(r"\\\*?\[[^\]]*\]|\\\*?\(..|\\\*.")
"""Characters and strings by name that SPELLED does not have."""


def manual_pages(root: Path) -> Iterator[str]:
    """Every page without the markup of roff."""
    for file in sorted(root.rglob("man*/*.gz")):
        text = _without_roff(gzip.decompress(file.read_bytes()).decode("utf-8", "replace"))
        if text:
            yield text


def _without_roff(page: str) -> str:
    lines = []
    for line in page.splitlines():
        if line[:1] in (".", "'"):
            found = HEADING.match(line)
            if found is None:
                continue
            line = found[2].strip().strip('"')
        lines.append(_spelled(line))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _spelled(line: str) -> str:
    line = FONT.sub("", line)
    for written, meant in SPELLED.items():
        line = line.replace(written, meant)
    return OTHER.sub("", line).replace(r"\e", "\\").rstrip()


# ---------------------------------------------------------------- novels

CHARSXP = 9
"""Type of a string in the serialisation of R."""
LONGEST_LINE = 5000
FEWEST_LINES = 1000
"""An object with fewer strings is no novel."""


def novels(root: Path) -> Iterator[str]:
    """Each object of an R package's data with many strings: a novel, one string a line."""
    for file in sorted(root.rglob("Rdata.rdb")):
        for raw in _objects(file.read_bytes()):
            lines = list(_strings(raw))
            if len(lines) >= FEWEST_LINES:
                yield "\n".join(lines)


def _objects(data: bytes) -> Iterator[bytes]:
    """The serialised objects: each a big-endian length, then a stream of zlib."""
    place = 0
    while place + 4 < len(data):
        stream = zlib.decompressobj()
        try:
            yield stream.decompress(data[place + 4 :])
        except zlib.error as error:
            raise ValueError(f"object at byte {place}: {error}") from error
        place = len(data) - len(stream.unused_data)


def _strings(raw: bytes) -> Iterator[str]:
    """Strings of a serialised object: flags whose last byte is the type, a length, the bytes."""
    place = 14  # format, versions
    while place + 8 <= len(raw):
        flags, (length,) = raw[place : place + 4], struct.unpack(">i", raw[place + 4 : place + 8])
        end = place + 8 + length
        if flags[0] == 0 and flags[3] == CHARSXP and 0 <= length < LONGEST_LINE and end <= len(raw):
            yield raw[place + 8 : end].decode("utf-8", "replace")
            place = end
        else:
            place += 1
