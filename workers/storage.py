"""Folders on this machine or behind a URI (s3://, gs://, ..., any that fsspec knows), as one thing.

Knows bytes and names only. Only whole files are written: an object store can do no more.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from workers.contract import InputError


def is_remote(place: str | os.PathLike[str]) -> bool:
    """Whether ``place`` is a URI of something else than this machine's files."""
    scheme, separator, _ = str(place).partition("://")
    return bool(separator) and scheme not in ("file", "local")


def local_path(place: str | os.PathLike[str]) -> Path:
    """The path of a place on this machine; ``file://`` may stand before it."""
    text = str(place)
    assert not is_remote(text), text
    scheme, separator, rest = text.partition("://")
    return Path(rest if separator else scheme)


def join(place: str, name: str) -> str:
    """The place called ``name`` inside ``place``; a URI keeps its query behind the path."""
    base, mark, query = place.partition("?") if is_remote(place) else (place, "", "")
    return f"{base.rstrip('/')}/{name}{mark}{query}"


def sync_folder(folder: Path) -> None:
    """Make the names in a folder of this machine durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class RemoteFolder:
    """A folder behind a URI, through pyarrow's file systems or fsspec's."""

    def __init__(self, uri: str) -> None:
        """Raises InputError where no file system answers to the URI."""
        self.uri = uri
        self._fs, self._root = _resolve(uri)

    def names(self) -> list[str]:
        """Names of the files directly in it, sorted; none where it does not exist."""
        from pyarrow.fs import FileSelector, FileType

        with _answering(self.uri):
            found = self._fs.get_file_info(FileSelector(self._root, allow_not_found=True))
        return sorted(entry.base_name for entry in found if entry.type == FileType.File)

    def read(self, name: str) -> bytes:
        """Whole content of a file."""
        with _answering(self.uri), self._fs.open_input_stream(f"{self._root}/{name}") as file:
            data: bytes = file.read()
        return data

    def holds(self, name: str) -> bool:
        """Whether the file is there."""
        from pyarrow.fs import FileType

        with _answering(self.uri):
            info = self._fs.get_file_info(f"{self._root}/{name}")
        return bool(info.type == FileType.File)

    def write(self, name: str, data: bytes) -> None:
        """Create or replace a file; durable on return."""
        with _answering(self.uri):
            self._fs.create_dir(self._root, recursive=True)
            with self._fs.open_output_stream(f"{self._root}/{name}") as file:
                file.write(data)

    def replace(self, name: str, data: bytes) -> None:
        """The same, through a file beside it: a kill leaves the old content or the new one, also
        where the storage is none of objects and writes piece by piece."""
        self.write(f".{name}", data)
        with _answering(self.uri):
            self._fs.move(f"{self._root}/.{name}", f"{self._root}/{name}")

    def remove(self, name: str) -> None:
        """Delete a file that is there."""
        with _answering(self.uri):
            self._fs.delete_file(f"{self._root}/{name}")


class _answering:  # noqa: N801  (reads as a statement)
    """What a store fails with becomes an InputError that names the place."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError):
            raise InputError(
                f"{self.uri}: the storage does not answer or refuses ({error}); check the "
                "address and the credentials in the environment of this process"
            ) from error


def _resolve(uri: str) -> tuple[Any, str]:
    """(pyarrow file system, path in it): pyarrow's own where it has one, else fsspec's."""
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    try:
        with _answering(uri):
            filesystem, path = FileSystem.from_uri(uri)
        return filesystem, path.rstrip("/")
    except ArrowInvalid:
        pass
    import fsspec

    try:
        found, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError, OSError) as error:
        raise InputError(
            f"{uri}: no file system for it ({error}); give a path, or a URI that pyarrow or "
            "fsspec (with its package installed) knows, such as s3://bucket/folder"
        ) from error
    return PyFileSystem(FSSpecHandler(found)), path.rstrip("/")
