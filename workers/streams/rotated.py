"""Domain-incremental stream: the same classes seen at another angle per task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from workers.contract import TaskSpec
from workers.streams.base import DatasetStream, unique
from workers.tables import Problem

CHUNK = 4096
"""Images rotated at a time, to bound memory."""


class Rotated(DatasetStream):
    """Domain-incremental: all images turned by one angle per task."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(DatasetStream.Config):
        """Settings of the rotations."""

        kind: str = "rotated"
        angles: tuple[float, ...] = (0.0, 90.0, 180.0, 270.0)
        """Degrees counter-clockwise, one per task; multiples of 90 are exact."""

    config: Rotated.Config
    images = True

    def tasks(self) -> tuple[TaskSpec, ...]:
        domains = [f"rotation {angle:g}" for angle in self.config.angles]
        names = unique(domains)
        return tuple(
            TaskSpec(index=index, name=name, domain=domain, settings={"angle": angle})
            for index, (name, domain, angle) in enumerate(
                zip(names, domains, self.config.angles, strict=True)
            )
        )

    def transform(self, task: TaskSpec, x: Tensor) -> Tensor:
        return rotate(x, task.settings["angle"])

    def problems(self) -> list[Problem]:
        found, angles = super().problems(), self.config.angles
        if not angles:
            found.append(Problem("stream.angles", "got none", "give at least one angle"))
        if found or self.input_shape[1] == self.input_shape[2]:
            return found
        quarter = [angle for angle in angles if angle % 180 == 90]
        if quarter:
            allowed = f"images of {self.dataset.label} are not square: set dataset.size"
            found.append(Problem("stream.angles", f"got {quarter}", allowed))
        return found


def rotate(x: Tensor, angle: float) -> Tensor:
    """Images float32 [n, C, H, W] turned counter-clockwise by ``angle`` degrees about the centre.

    Multiples of 90 move pixels exactly; other angles are bilinear with black outside, rounded to
    255 grey levels so that digests agree between processors.
    """
    if angle % 90 == 0:
        return torch.rot90(x, int(angle // 90) % 4, (2, 3)).contiguous()
    return rotate_each(x, [angle] * len(x))


def rotate_each(x: Tensor, angles: Sequence[float]) -> Tensor:
    """Each image by an angle of its own, bilinear even for multiples of 90; else as ``rotate``."""
    _, channels, height, width = x.shape
    # affine_grid works in units of half an image side, hence the aspect ratio
    maps = {angle: _theta(angle, height, width) for angle in dict.fromkeys(angles)}
    parts = []
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK]
        theta = torch.stack([maps[angle] for angle in angles[start : start + CHUNK]])
        size = [len(part), channels, height, width]
        grid = functional.affine_grid(theta, size, align_corners=False)
        turned = functional.grid_sample(part, grid, mode="bilinear", align_corners=False)
        parts.append(turned.mul_(255).round_().div_(255))
    return torch.cat(parts) if parts else x


def _theta(angle: float, height: int, width: int) -> Tensor:
    """Map [2, 3] of the coordinates of such images."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return torch.tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]])
