"""Optimizers by name, with the options that matter for a stream."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


class AdamW:
    """Adam with decoupled weight decay.

    Loshchilov and Hutter, arXiv 1711.05101.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of AdamW."""

        kind: str = "adamw"
        lr: float = 1e-3
        """Learning rate."""
        weight_decay: float = 1e-3
        """Share of the learning rate by which each parameter shrinks in a step."""
        betas: tuple[float, float] = (0.9, 0.999)
        """Decay of the running means of gradient and squared gradient."""
        eps: float = 1e-8
        """Added to the root of the squared gradient."""

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
        """Settings of SGD."""

        kind: str = "sgd"
        lr: float = 0.05
        """Learning rate."""
        momentum: float = 0.0
        """Share of the last step that the next one keeps."""
        weight_decay: float = 0.0
        """Factor of the parameter that is added to its gradient."""

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
