"""Models outside the run they were trained in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def load_model(folder: str | Path) -> nn.Module:
    """The model that ``growstage export`` wrote into a folder, in evaluation mode.

    Takes inputs [B, ...] and gives outputs [B, ...], as the README in the folder says. Models in
    the form of another library are opened with that one. Raises InputError where the folder holds
    no such model, or its weights are damaged.
    """
    from workers.supervised.exporting import load_exported

    model: nn.Module = load_exported(Path(folder)).model
    return model
