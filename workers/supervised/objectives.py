"""Objectives by name: what a stream's outputs are compared with, as a loss and as a score.

An objective belongs to a stream. Loop, methods and evaluator ask it and know no loss of their own.
Letters: B samples of a batch, N of a part, C classes, K numbers of one target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.contract import InputError


class Objective:
    """Base: what is learnt from pairs of a model's outputs and targets."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the objective; ``kind`` is its name in the table or ``module:Class``."""

        kind: str

    score_name: ClassVar[str] = "score"
    """What ``score`` is called in metrics (``train_<score_name>``)."""
    labels: ClassVar[bool] = False
    """Whether targets are class labels, as data sets of labelled samples give them."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def check(self, y: Tensor, outputs: int, where: str) -> None:
        """Raise InputError, naming ``where``, if targets [N, ...] are not of this objective.

        ``outputs``: width of the model's output.
        """
        raise NotImplementedError

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """What is minimised: a scalar, the mean over the batch's samples."""
        raise NotImplementedError

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """How good each output is, float [B] from 0 (useless) to 1 (perfect)."""
        raise NotImplementedError

    def figures(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Further figures of each sample, name -> float [B]; their means are reported."""
        return {}

    def classes(self, y: Tensor) -> Tensor | None:
        """int64 [N], the class of each target, for draws that represent all; None = no classes."""
        return None


class Classification(Objective):
    """One class out of C for each sample; score = accuracy.

    Outputs: logits [B, C]; targets: int64 [B], 0 to C - 1. Loss: cross entropy in nats. Figures:
    ``loss`` (nats).
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Objective.Config):
        """No settings."""

        kind: str = "classification"

    score_name = "accuracy"
    labels = True

    def check(self, y: Tensor, outputs: int, where: str) -> None:
        if y.is_floating_point() or y.dim() != 1:
            raise InputError(
                f"{where}: targets {y.dtype} {tuple(y.shape)}, classification needs labels "
                "int64 [N]; give labels, or set stream.objective"
            )
        if int(y.min()) < 0 or int(y.max()) >= outputs:
            raise InputError(
                f"{where}: labels {int(y.min())} to {int(y.max())}, but the stream's outputs "
                f"allow 0 to {outputs - 1}; change the labels or outputs"
            )

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, y)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs.argmax(-1) == y).float()

    def figures(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"loss": functional.cross_entropy(outputs, y, reduction="none")}

    def classes(self, y: Tensor) -> Tensor | None:
        return y


class Regression(Objective):
    """K numbers for each sample; score = 1 - squared error / scale^2, clipped to 0..1.

    Outputs and targets: float32 [B, K]. Loss: squared error, mean over K and samples. The score
    of a sample is ``clip(1 - mean_k (output - target)^2 / scale^2, 0, 1)``: where ``scale`` is the
    targets' standard deviation, it is the sample's part of the coefficient of determination (R^2,
    here never below 0). Figures: ``loss`` (squared error) and ``absolute_error``, both in the
    targets' units and mean over K.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Objective.Config):
        """Settings of the score."""

        kind: str = "regression"
        scale: float = 1.0
        """Error (root of the mean square over K, in the targets' unit) from which the score is
        0; e.g. the standard deviation of the targets."""

        def __post_init__(self) -> None:
            if self.scale <= 0:
                raise ValueError(f"scale must be positive, got {self.scale}")

    config: Regression.Config

    def check(self, y: Tensor, outputs: int, where: str) -> None:
        if not y.is_floating_point() or y.dim() != 2 or y.shape[1] != outputs:
            raise InputError(
                f"{where}: targets {y.dtype} {tuple(y.shape)}, regression needs float32 "
                f"[N, {outputs}] (the stream's outputs); give such targets, or set "
                "stream.objective"
            )

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return functional.mse_loss(outputs, y)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        error_B = (outputs - y).square().mean(-1)
        return (1.0 - error_B / self.config.scale**2).clamp(0.0, 1.0)

    def figures(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        difference = outputs - y
        return {
            "loss": difference.square().mean(-1),
            "absolute_error": difference.abs().mean(-1),
        }


OBJECTIVES: dict[str, type] = {"classification": Classification, "regression": Regression}
"""Objectives by name."""


def measured(
    model: nn.Module, objective: Objective, x: Any, y: Tensor, batch: int, figures: bool = True
) -> dict[str, Tensor]:
    """``score`` and (if wanted) the objective's figures of each sample: name -> float64 [N], CPU.

    x [N, ...] (a tensor, or ``Rows`` on disk) and y, ``batch`` samples at a time, in evaluation
    mode.
    """
    device = next(model.parameters()).device
    found: dict[str, list[Tensor]] = {}
    training = model.training
    if training:  # a walk over all modules
        model.eval()
    with torch.inference_mode():
        for inputs, targets in zip(x.split(batch), y.split(batch), strict=True):
            outputs, targets = model(inputs.to(device)), targets.to(device)
            found.setdefault("score", []).append(objective.score(outputs, targets))
            more = objective.figures(outputs, targets) if figures else {}
            for name, values in more.items():
                found.setdefault(name, []).append(values)
    if training:
        model.train()
    return {name: torch.cat(values).double().cpu() for name, values in found.items()}
