"""Textures of the pixel environments, prepared once per user although many workers want them.

Craftax prepares textures of three sizes, which takes a minute, and writes them into its own
package in place: a second worker could read half of them. Here only the size that agents see is
prepared; it is kept in the user's cache folder, written under a lock and renamed when complete.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.machine import own_cache

Textures = dict[str, NDArray[Any]]

_PACKAGES = {True: "craftax.craftax_classic", False: "craftax.craftax"}


def keep_textures(name: str) -> Path:
    """Give Craftax the textures of the pixel environment ``name``; returns the file they are in.

    The first call of a user prepares them, and others wait for it. Raises InputError where others
    could write into the folder.
    """
    package = _PACKAGES["Classic" in name]
    constants: Any = importlib.import_module(f"{package}.constants")
    renderer: Any = importlib.import_module(f"{package}.renderer")
    size = constants.BLOCK_PIXEL_SIZE_AGENT
    folder = Path.home() / ".cache" / "growstage" / "textures"
    own_cache(folder)
    ready = folder / f"{package}-{version('craftax')}-{size}.npz"
    with ready.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        textures = _read(ready)
        if textures is None:
            textures = {
                key: np.asarray(value)
                for key, value in constants.load_all_textures_given_size(size).items()
            }
            _write(ready, textures)
    renderer.load_all_textures = lambda: {size: _on_device(textures)}
    return ready


def _read(path: Path) -> Textures | None:
    """What is in the file; None where there is none, or one that cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            return dict(kept)
    except (FileNotFoundError, EOFError, ValueError, zipfile.BadZipFile):
        return None


def _write(path: Path, textures: Textures) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}.npz")
    np.savez(unfinished, **textures)  # type: ignore[arg-type]
    os.replace(unfinished, path)


def _on_device(textures: Textures) -> dict[str, Any]:
    import jax.numpy as jnp

    return {name: jnp.asarray(texture) for name, texture in textures.items()}
