"""Folders that are made once and then only read; several processes may want one at a time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from workers.contract import InputError


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """``folder``, filled by ``make`` where it is not there yet.

    It appears all at once. Of several processes that make it at the same time one wins, and the
    others take what it made. Raises InputError where it cannot be written.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        new.chmod(0o755)  # others may share the folder
        try:
            make(new)
            os.rename(new, folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error}); set GROWSTAGE_DATA to a folder that can"
        ) from error
    return folder
