"""Optimizers by name, with the options that matter for a stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

Implementation = Literal["default", "foreach", "fused"]
"""``foreach``: one kernel for a list of parameters; ``fused``: one for the whole update, CPU
included; ``default``: what torch takes for the device."""


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
        implementation: Implementation = "default"
        """Which of torch's kernels: equal up to rounding, of different speed."""

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
            **_flags(config.implementation),
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
        implementation: Implementation = "default"
        """Which of torch's kernels: equal up to rounding, of different speed."""

        def __post_init__(self) -> None:
            _positive(self.lr)

    def __init__(self, config: Config) -> None:
        self.config = config

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """One parameter group over all of the model's parameters, by name."""
        config = self.config
        made = torch.optim.SGD(
            list(model.named_parameters()),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            **_flags(config.implementation),
        )
        if config.momentum and config.implementation == "fused":
            made.register_step_pre_hook(_begin_momentum)
        return made


def _flags(implementation: Implementation) -> dict[str, Any]:
    """Arguments of torch's optimizers."""
    return {} if implementation == "default" else {implementation: True}


def _begin_momentum(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Momentum 0 where a parameter learns for the first time, which gives the same bits.

    Torch's fused SGD stops where some parameters have momentum and others not yet, as after
    growth.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and not optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _positive(lr: float) -> None:
    if lr <= 0:
        raise ValueError("lr must be positive")


OPTIMIZERS: dict[str, type] = {"adamw": AdamW, "sgd": SGD}
