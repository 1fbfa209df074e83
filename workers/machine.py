"""What this process has of the machine: its device and its memory."""

from __future__ import annotations

import resource

import torch


def pick_device() -> torch.device:
    """The GPU the cluster gave this worker, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resident_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
