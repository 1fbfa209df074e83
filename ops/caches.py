"""Cache folders that code is loaded from: made for their owner alone, and checked before.

Whoever can write where a library or a compiled program is read from runs code as its reader.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import stat
import time
from pathlib import Path

STALE_S = 3600.0
"""After which a scratch folder that nothing changed belongs to a process that was killed: no single
step of a build may take as long."""


def made(folder: Path) -> Path:
    """The folder, made where it is missing so that only its owner can write there, and so those
    around it."""
    for place in reversed((folder, *folder.parents)):
        if not place.exists():
            place.mkdir(exist_ok=True, mode=0o700)
    return folder


def untrusted(path: Path) -> str | None:
    """Who else could have written what is at ``path``, and the cure; None where nobody could.

    It and the folder around it must belong to this user or root; neither these nor any folder
    above may be open to others, but for those where nobody can touch what is another's (/tmp). The
    group of a user's own, which many systems let write by default, is nobody else.
    """
    path = path.resolve()
    for place in (path, *path.parents):
        told = place.stat()
        near = place in (path, path.parent)
        if near and told.st_uid not in (os.geteuid(), 0):
            return (
                f"{place} belongs to user {told.st_uid}: code from there is not loaded; delete it, "
                "or name another folder"
            )
        shared = stat.S_ISDIR(told.st_mode) and told.st_mode & stat.S_ISVTX
        others = stat.S_IWOTH | (0 if _own_group(told.st_gid) else stat.S_IWGRP)
        if told.st_mode & others and not shared:
            return (
                f"{place} can be written by others (mode {stat.S_IMODE(told.st_mode):o}): code "
                f"from there is not loaded; chmod go-w {place}"
            )
    return None


def _own_group(number: int) -> bool:
    """Whether nobody but this user is in a group: it is called as the user and lists no other."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(number)
    except KeyError:
        return False
    called = (number, group.gr_name) == (user.pw_gid, user.pw_name)
    return called and set(group.gr_mem) <= {user.pw_name}


def sweep(folder: Path) -> None:
    """Delete scratch folders (``tmp*``) that killed builds left behind."""
    for scratch in folder.glob("tmp*"):
        if scratch.is_dir() and time.time() - scratch.stat().st_mtime > STALE_S:
            shutil.rmtree(scratch, ignore_errors=True)
