"""Objectives by name: what a stream's outputs are compared with, as a loss and as a score.

An objective belongs to a stream. Loop, methods and evaluator ask it and know no loss of their own.
What is reported of a part follows from sums over its samples, so that shares of a part, of several
workers or of one domain, only have to be added up.
Letters: B samples of a batch, N of a part, C classes, K numbers of one target, S tokens of a
window, V of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
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
    needs: ClassVar[str] = "labels"
    """Capability that a model must have to be trained on it (``workers.models.Model``)."""
    eval_batch: ClassVar[int] = 2048
    """Samples that an evaluation passes through a model at once, where training says nothing."""
    most_looked_at: ClassVar[int | None] = None
    """Samples at most that stand for a stage or a domain where only a few are looked at; None = as
    many as whoever looks wants. One sample of tokens tells as much as many labelled ones."""
    masks_labels: ClassVar[bool] = False
    """Whether labels of other tasks can be left out of the answer to a sample whose task is known
    (``know_tasks``)."""
    domain_figures: ClassVar[tuple[str, ...]] = ()
    """What is told of each domain of a task beside the score, of what ``summary`` gives."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def know_tasks(self, tell: Callable[[], Tensor]) -> None:
        """Task-incremental: only the labels of a sample's own task answer it from now on.

        ``tell`` gives, when first asked for, int64 [C]: equal numbers for labels of one task.
        """
        raise NotImplementedError

    @property
    def task_of_label(self) -> Tensor | None:
        """int64 [C], what ``know_tasks`` was told; None = every label may answer every sample."""
        return None

    def answers(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The outputs as they are compared with targets: -inf for labels that are not of the
        sample's task, where that is known."""
        return outputs

    def answering(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Which of the outputs answer, bool [B, C]: those that ``answers`` leaves alone."""
        return self.answers(torch.zeros_like(outputs), y) == 0

    def check(self, y: Tensor, outputs: int, where: str) -> None:
        """Raise InputError, naming ``where``, if targets [N, ...] are not of this objective.

        ``outputs``: width of the model's output.
        """
        raise NotImplementedError

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """What is minimised: a scalar, the mean over the batch's samples."""
        raise NotImplementedError

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Loss of each sample by itself [B]."""
        one_by_one = zip(outputs.split(1), y.split(1), strict=True)
        return torch.stack([self.loss(output, target) for output, target in one_by_one])

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """How good each output is, float [B] from 0 (useless) to 1 (perfect)."""
        raise NotImplementedError

    def figures(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Further figures of each sample, name -> float [B]; their means are reported."""
        return {}

    def summed(self, outputs: Tensor, y: Tensor, figures: bool = True) -> dict[str, Tensor]:
        """What is added up over samples: name -> float [B]; here the score and the figures.

        ``figures`` false: only what the score follows from.
        """
        more = self.figures(outputs, y) if figures else {}
        return {"score": self.score(outputs, y), **more}

    def summary(self, sums: Mapping[str, float], samples: int) -> dict[str, float]:
        """What is reported of so many samples (at least one), from the sums over them.

        ``score`` and the figures; here the means of what was added up.
        """
        return {name: total / samples for name, total in sums.items()}

    def classes(self, y: Tensor) -> Tensor | None:
        """int64 [N], the class of each target, for draws that represent all; None = no classes."""
        return None

    def kept(self, samples: int, input_shape: tuple[int, ...], outputs: int) -> int:
        """How many of so many samples a probe holds, which keeps all outputs to them in memory."""
        return samples


class Classification(Objective):
    """One class out of C for each sample; score = accuracy.

    Outputs: logits [B, C]; targets: int64 [B], 0 to C - 1. Loss: cross entropy in nats. Figures:
    ``loss`` (nats). Where tasks are known, logits of labels of other tasks than the target's count
    as -inf in all of them, so that a batch may hold samples of several tasks.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Objective.Config):
        """No settings."""

        kind: str = "classification"

    score_name = "accuracy"
    labels = True
    masks_labels = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._tell: Callable[[], Tensor] | None = None

    def know_tasks(self, tell: Callable[[], Tensor]) -> None:
        self._tell = tell

    @cached_property
    def task_of_label(self) -> Tensor | None:
        return None if self._tell is None else self._tell()

    def answers(self, outputs: Tensor, y: Tensor) -> Tensor:
        if self.task_of_label is None:
            return outputs
        task_C = self.task_of_label.to(outputs.device)
        return outputs.masked_fill(task_C[y][:, None] != task_C, -math.inf)

    def check(self, y: Tensor, outputs: int, where: str) -> None:
        if y.dtype.is_floating_point or y.dim() != 1:
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
        return functional.cross_entropy(self.answers(outputs, y), y)

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(self.answers(outputs, y), y, reduction="none")

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (self.answers(outputs, y).argmax(-1) == y).float()

    def figures(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        answers = self.answers(outputs, y)
        return {"loss": functional.cross_entropy(answers, y, reduction="none")}

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
        if not y.dtype.is_floating_point or y.dim() != 2 or y.shape[1] != outputs:
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


NO_TARGET = -100
"""Target of a position at which nothing is to be predicted."""


class LanguageModelling(Objective):
    """The next token at each position of a window; score = 1 - bits per byte / 8, clipped to 0..1.

    Outputs: logits [B, S, V]; targets: int64 [B, S], the next token of each position, -100 where
    there is none. Loss: the sum of the cross entropies of all targets in nats, divided by B * S.
    Windows with fewer targets weigh less, and the loss of a batch is the mean of the losses of its
    samples, however the batch is split over workers. A part is scored by ratios of its totals:
    ``bits_per_byte = (nats / ln 2) / bytes``, with the bytes of the text that the targets stand
    for, so that tokenizers can be compared. Figures: ``loss`` (nats per token), ``perplexity``
    (its exponential), ``bits_per_byte`` and ``token_accuracy`` (share of targets that have the
    largest logit).
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Objective.Config):
        """No settings."""

        kind: str = "language_modelling"

    needs = "tokens"
    eval_batch = 32
    most_looked_at = 32
    domain_figures = ("bits_per_byte",)
    most_kept: ClassVar[int] = 16
    """Windows of a probe at most, fewer where their outputs have more than KEPT_OUTPUTS numbers."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._bytes_V: Tensor | None = None

    def measure_in(self, bytes_V: Tensor) -> None:
        """Set how many bytes of text each token stands for, int64 [V]; the stream knows it."""
        self._bytes_V = bytes_V

    def check(self, y: Tensor, outputs: int, where: str) -> None:
        if y.dtype.is_floating_point or y.dim() != 2:
            raise InputError(
                f"{where}: targets {y.dtype} {tuple(y.shape)}, language modelling needs the next "
                "tokens int64 [N, S]; give such targets, or set stream.objective"
            )
        if self._bytes_V is None:
            raise InputError(
                f"{where}: nobody said how many bytes a token stands for; use a stream of texts, "
                "or call objective.measure_in in the stream"
            )
        for targets in y.split(CHECKED):
            least, largest = int(targets.min()), int(targets.max())
            if least < NO_TARGET or NO_TARGET < least < 0 or largest >= outputs:
                raise InputError(
                    f"{where}: targets {least} to {largest}; allowed: {NO_TARGET} (none), and "
                    f"tokens 0 to {outputs - 1}"
                )

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        nats = functional.cross_entropy(
            outputs.flatten(0, 1), y.flatten(), ignore_index=NO_TARGET, reduction="sum"
        )
        return nats / y.numel()

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        sums = self.summed(outputs, y)
        return (1.0 - _bits_per_byte(sums["nats"], sums["bytes"]) / 8.0).clamp(0.0, 1.0)

    def summed(self, outputs: Tensor, y: Tensor, figures: bool = True) -> dict[str, Tensor]:
        assert self._bytes_V is not None, "checked with the data"
        nats = functional.cross_entropy(
            outputs.flatten(0, 1), y.flatten(), ignore_index=NO_TARGET, reduction="none"
        )
        asked = y != NO_TARGET
        bytes_BS = self._bytes_V.to(y.device)[y.clamp_min(0)] * asked
        found = {
            "nats": nats.view(y.shape).double().sum(-1),
            "tokens": asked.sum(-1).double(),
            "bytes": bytes_BS.sum(-1).double(),
        }
        if figures:  # another pass over all logits
            found["correct"] = ((outputs.argmax(-1) == y) & asked).sum(-1).double()
        return found

    def summary(self, sums: Mapping[str, float], samples: int) -> dict[str, float]:
        """``score``, ``loss``, ``perplexity``, ``bits_per_byte``, and ``token_accuracy`` where it
        was summed."""
        nats, tokens = sums["nats"], sums["tokens"]
        bits = float(
            _bits_per_byte(
                torch.tensor(nats, dtype=torch.float64),
                torch.tensor(sums["bytes"], dtype=torch.float64),
            )
        )
        loss = nats / max(1.0, tokens)
        found = {
            "score": min(1.0, max(0.0, 1.0 - bits / 8.0)),
            "loss": loss,
            "perplexity": math.exp(min(loss, LARGEST_EXPONENT)),
            "bits_per_byte": bits,
        }
        if "correct" in sums:
            found["token_accuracy"] = sums["correct"] / max(1.0, tokens)
        return found

    def kept(self, samples: int, input_shape: tuple[int, ...], outputs: int) -> int:
        fits = KEPT_OUTPUTS // (math.prod(input_shape) * outputs)
        return min(samples, max(1, min(self.most_kept, fits)))


CHECKED = 4096
"""Samples whose targets are checked at once."""
KEPT_OUTPUTS = 1 << 24
"""Numbers that a probe of tokens may keep as outputs (64 MiB of float32)."""
LARGEST_EXPONENT = 700.0
"""Keeps the perplexity of a model that knows nothing a finite number."""

OBJECTIVES: dict[str, type] = {
    "classification": Classification,
    "regression": Regression,
    "language_modelling": LanguageModelling,
}
"""Objectives by name."""


def measured(
    model: nn.Module, objective: Objective, x: Any, y: Any, batch: int, figures: bool = True
) -> dict[str, Tensor]:
    """What the objective adds up, of each sample: name -> float64 [N] on the CPU.

    x [N, ...] and y (tensors, or ``Rows`` on disk), ``batch`` samples at a time, in evaluation
    mode. ``figures`` false: only what the score follows from.
    """
    device = next(model.parameters()).device
    found: dict[str, list[Tensor]] = {}
    training = model.training
    if training:  # a walk over all modules
        model.eval()
    with torch.inference_mode():
        for inputs, targets in zip(x.split(batch), y.split(batch), strict=True):
            outputs, targets = model(inputs.to(device)), targets.to(device)
            for name, values in objective.summed(outputs, targets, figures).items():
                found.setdefault(name, []).append(values)
    if training:
        model.train()
    return {name: torch.cat(values).double().cpu() for name, values in found.items()}


def sums(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Values of samples by name, float64 [N] -> their sums."""
    return {name: float(values_N.sum()) for name, values_N in values.items()}


def _bits_per_byte(nats: Tensor, length: Tensor) -> Tensor:
    """``(nats / ln 2) / bytes``, float64; 0 where there is no text to predict."""
    bits = nats.double() / math.log(2.0) / length.double().clamp_min(1.0)
    return torch.where(length > 0, bits, 0.0)
