"""Optimizers by name, with the options that matter for a stream."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


class AdamW:
    """Adam with decoupled weight decay."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = "adamw"
        lr: float = 1e-3
        weight_decay: float = 1e-3
        betas: tuple[float, float] = (0.9, 0.999)
        eps: float = 1e-8

        def __post_init__(self) -> None:
            _positive(self.lr)

    def __init__(self, config: Config) -> None:
        self.config = config

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """One parameter group over all of the model's parameters, by name."""
        config = self.config
        return torch.optim.AdamW(
            list(model.named_parameters()),
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
        )


class SGD:
    """Stochastic gradient descent, with momentum and weight decay as options."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = "sgd"
        lr: float = 0.05
        momentum: float = 0.0
        weight_decay: float = 0.0

        def __post_init__(self) -> None:
            _positive(self.lr)

    def __init__(self, config: Config) -> None:
        self.config = config

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """One parameter group over all of the model's parameters, by name."""
        config = self.config
        return torch.optim.SGD(
            list(model.named_parameters()),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )


def _positive(lr: float) -> None:
    if lr <= 0:
        raise ValueError("lr must be positive")


OPTIMIZERS: dict[str, type] = {"adamw": AdamW, "sgd": SGD}
