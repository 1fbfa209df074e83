"""Augmentations by name: what is done to a batch of images before the model sees it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from workers.contract import LaneSettings
from workers.tables import Problem


class NoAugmentation:
    """Images as they are."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """There is nothing to set."""

        kind: str = "none"

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """What came in, of any shape."""
        return x_BCHW


class CropFlip:
    """Random crop after zero padding, and a random horizontal flip (one draw per image)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of crop and flip."""

        kind: str = "crop_flip"
        padding: int = 4
        """Pixels of black border on each side, out of which the crop is drawn."""
        flip: bool = True
        """Mirror half of the images, drawn at random."""

        def __post_init__(self) -> None:
            if self.padding < 0:
                raise ValueError(f"padding must not be negative, got {self.padding}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """It changes images only."""
            if len(lane.input_shape) == 3:
                return []
            found = f"crop_flip with inputs of shape {lane.input_shape}"
            allowed = "it changes images [channels, height, width]: use augment none"
            return [Problem("kind", found, allowed)]

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> the same; draws from torch's global generator, whose state is part of a
        checkpoint."""
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
