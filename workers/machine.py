"""What this process has of the machine: its device, its memory, folders of its user alone."""

from __future__ import annotations

import resource
from pathlib import Path

import torch

from ops import caches
from workers.contract import InputError


def pick_device() -> torch.device:
    """The GPU the cluster gave this worker, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def leave_memory_unfilled() -> None:
    """Do not fill new tensors before they are written, which deterministic torch does.

    Nothing here reads memory it has not written; filling it costs time at every operation.
    """
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def resident_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def own_cache(folder: Path) -> Path:
    """A folder to keep what is run later, made where it is missing.

    Raises InputError where others than its user could write there.
    """
    if why := caches.untrusted(caches.made(folder)):
        raise InputError(why)
    return folder
