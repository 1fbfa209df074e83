"""The contract of selectors: logits -> which experts run for a token, and their weights.

A selector runs no expert and knows no mask: ``dispatch`` does. Letters: T tokens, E experts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from workers.contract import Json, LaneSettings
from workers.moe.losses.base import Loss
from workers.moe.routed import Birth
from workers.moe.selection import Selection
from workers.tables import Problem


class Selector(nn.Module, ABC):
    """Chooses experts for each token. May have buffers and parameters, also one for each expert.

    Built without experts; ``experts_changed`` tells it of every expert that is added or removed
    before the next ``select``.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Base of the settings of selectors."""

        kind: str

        @property
        def chooses_all(self) -> bool:
            """Whether every token chooses every expert, so that counts of choices say nothing."""
            return False

    counts_unserved: ClassVar[bool] = False
    """Whether its sums hold ``tokens`` and ``unserved``: those that no expert was there for."""

    temperature: float = 1.0
    """Logits are divided by it before their softmax."""
    steered: bool = False
    """Whether ``forward`` is at present answered from outside (``workers.inference.steering``)."""

    @property
    def fewest(self) -> int:
        """Experts that a layer must keep when some are removed."""
        return 1

    def for_inputs(self, inputs: int) -> None:
        """Told once, before the first expert: tokens have so many features."""

    def forward(
        self, x_TD: Tensor, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool
    ) -> Selection:
        """What the layer calls; ``x``: the features that the router scored.

        Override it, rather than ``select``, where features count beside logits.
        """
        return self.select(logits_TE, allowed_TE, training)

    def select(self, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool) -> Selection:
        """Experts and weights of T tokens.

        ``allowed`` (bool [T, E]): experts that a token may choose; None = all. ``training``: a
        training forward with gradients, in which running statistics may move and noise is added.
        """
        raise NotImplementedError(f"{type(self).__name__} defines neither select nor forward")

    def step_begins(self) -> None:
        """A training step begins: before the first ``select`` of its first part.

        What moves once a step moves here, by what ``select`` noted in buffers in the step before.
        Floating-point buffers are what all workers of a lane have in common: after each step their
        movement is averaged over the workers, weighted by samples.
        """

    @abstractmethod
    def active(self, experts: int) -> float:
        """Experts that a token runs through on average, of ``experts`` live ones."""

    def probabilities(self, logits_TE: Tensor, allowed_TE: Tensor | None) -> Tensor:
        """Softmax over all allowed experts [T, E], whichever of them are chosen."""
        if allowed_TE is not None:
            logits_TE = logits_TE.masked_fill(~allowed_TE, float("-inf"))
        return torch.softmax(logits_TE / self.temperature, -1)

    def logit_shift(self, ratio: float) -> float:
        """What to add to an expert's logit so that its weight becomes ``ratio`` times as large,
        compared with the others'."""
        return self.temperature * math.log(ratio)

    def losses(self) -> tuple[Loss, ...]:
        """Losses that the selector brings along, besides those configured on the layer."""
        return ()

    def experts_changed(self, births: Mapping[int, Birth]) -> None:
        """The layer's experts are now these, by id and in this order, each with its origin.

        State of an expert that stays must stay: buffers may be replaced by wider ones, parameters
        are named by id and only added. Where a saved shape is restored it is called before values
        are loaded."""

    def summed(self, experts: int) -> Mapping[str, int]:
        """Name -> number of entries of what its selections hold in ``sums``; none by default."""
        return {}

    def take(self, sums: Mapping[str, Tensor]) -> dict[str, list[float]]:
        """Sums over the interval and the workers, float64, as every worker gets them; what of
        them the driver is told: ``IntervalReport.sums``. A buffer may keep the rest."""
        return {name: values.tolist() for name, values in sums.items()}

    def unserved(self) -> Tensor | None:
        """Direction [D] of the features of the last tokens that no expert was there for; None
        where there were none, or where nobody counts them (``counts_unserved``)."""
        return None

    def parameters_of(self, expert: int) -> Iterable[nn.Parameter]:
        """What belongs to one expert and stops learning with it; nothing by default."""
        return ()

    def arch(self) -> Json:
        """What a restored selector needs besides the ids of the experts; None = nothing."""
        return None

    def ensure_arch(self, arch: Json) -> None:
        """Take the shape that ``arch`` says; values are loaded afterwards."""


def largest(scores_TE: Tensor, k: int) -> Tensor:
    """Bool [T, E]: is this one of the token's k largest scores? Exactly k for each token."""
    chosen_TK = scores_TE.detach().topk(k, dim=-1).indices
    return torch.zeros_like(scores_TE, dtype=torch.bool).scatter_(1, chosen_TK, True)


def check_weights(name: str, k: int | None, weights: str) -> None:
    """Refuse one expert for each token under weights that are a softmax over the chosen.

    That weight is 1 whatever the logits are, so neither the task nor a loss teaches the router.
    """
    if k == 1 and weights == "chosen":
        raise ValueError(
            f"{name} = 1 with weights = 'chosen' weighs the one chosen expert by 1, so its router "
            f"never learns; set weights = 'full' (the softmax over all experts), or {name} to at "
            "least 2"
        )


def one_learner(lane: LaneSettings) -> list[Problem]:
    """Refuse several learners of an RL lane, which would each move a running statistic alone."""
    if getattr(lane.sections.get("training"), "num_learners", 0) < 2:
        return []
    found = "has running statistics, and several learners would each keep their own"
    return [Problem("kind", found, "set training.num_learners to 1 or 0, or use another selector")]
