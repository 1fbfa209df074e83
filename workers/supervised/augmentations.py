"""Augmentations by name: what is done to a batch of images before the model sees it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


class NoAugmentation:
    """Images as they are."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = "none"

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW


class CropFlip:
    """Random crop after zero padding, and a random horizontal flip (one draw per image)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = "crop_flip"
        padding: int = 4
        flip: bool = True

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Draws from torch's global generator, whose state is part of a checkpoint."""
        pad, (B, _, H, W) = self.config.padding, x_BCHW.shape
        padded = functional.pad(x_BCHW, (pad, pad, pad, pad))
        top, left = torch.randint(0, 2 * pad + 1, (2, B)).to(x_BCHW.device)
        rows = top[:, None] + torch.arange(H, device=x_BCHW.device)
        columns = left[:, None] + torch.arange(W, device=x_BCHW.device)
        if self.config.flip:
            mirrored = (torch.rand(B) < 0.5).to(x_BCHW.device)
            columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        batch = torch.arange(B, device=x_BCHW.device)[:, None, None]
        return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(
            0, 3, 1, 2
        )


AUGMENTATIONS: dict[str, type] = {"none": NoAugmentation, "crop_flip": CropFlip}
