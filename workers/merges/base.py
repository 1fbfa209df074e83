"""The contract of merges: trained models -> the first model of a lane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a merge may look at beside the models."""

    stream: Any
    """The lane's stream, whose data may be loaded."""
    domains: tuple[tuple[str, ...], ...]
    """Domains that each of the trained models has learnt, in their order."""
    seed: int
    """For everything random; torch's default generator is seeded with it."""


class Merge:
    """Makes a model of trained ones. Everything depends on the arguments only."""

    least: ClassVar[int] = 2
    """Trained models that it needs."""
    most: ClassVar[int | None] = None
    """Trained models at most; None = any number."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Base of the settings of merges."""

        kind: str

    def __init__(self, config: Any) -> None:
        self.config = config

    def check(self, model: nn.Module, parents: Sequence[nn.Module]) -> None:
        """Raise InputError where the model cannot be made of these; changes nothing.

        Called before anything is trained, with modules on the meta device, and again before
        ``fill``.
        """

    def fill(self, model: nn.Module, parents: Sequence[nn.Module], scene: Scene) -> None:
        """Set the model's parameters and buffers; it was drawn as an untrained one before."""
        raise NotImplementedError
