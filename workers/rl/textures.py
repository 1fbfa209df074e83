"""Textures of the pixel environments, prepared once per user although many workers want them.

Craftax writes its texture cache into its own package, in place: a second worker could read half
of it. Here it is written to the user's cache folder, under a lock, and renamed when complete.
"""

from __future__ import annotations

import fcntl
import importlib
import os
from pathlib import Path
from typing import Any

_MODULES = {True: "craftax.craftax_classic.constants", False: "craftax.craftax.constants"}


def keep_textures(name: str) -> Path:
    """Make sure the textures of the pixel environment ``name`` are there; returns their file.

    The first call of a user takes up to a minute, and others wait for it.
    """
    constants: Any = importlib.import_module(_MODULES["Classic" in name])
    folder = Path.home() / ".cache" / "growstage" / "textures"
    folder.mkdir(parents=True, exist_ok=True)
    ready = folder / Path(constants.TEXTURE_CACHE_FILE).name
    with (folder / f"{ready.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        constants.TEXTURE_CACHE_FILE = str(ready)
        if not ready.exists():
            constants.TEXTURE_CACHE_FILE = f"{ready}.{os.getpid()}"
            constants.load_all_textures()
            os.replace(constants.TEXTURE_CACHE_FILE, ready)
            constants.TEXTURE_CACHE_FILE = str(ready)
    return ready
