"""Percentile routing with one threshold for a batch, and a running one for evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.contract import LaneSettings
from workers.moe.selection import Selection, exact
from workers.moe.selectors.base import one_learner
from workers.moe.selectors.percentile_token import check_level
from workers.moe.selectors.ranked import Ranked
from workers.tables import Problem


class PercentileBatch(Ranked):
    """Experts whose score reaches a percentile of all scores of the batch; at least the best.

    ``S(x) = {e : s_e(x) >= P}``, ``s = g + noise``, with P the tau-th percentile of the scores of
    all tokens and experts of the forward: the reading of DynaMoE (arXiv 2603.01697, equation 4 in
    its text) under which the number of experts varies, with mean ``(1 - tau) E`` before every
    token gets its best one. Weights are a softmax of s / T over S.

    A forward without training takes the running threshold of the training steps, so that no
    token's answer depends on the others: ``P <- decay P + (1 - decay) P_step``, P_step the mean
    over the forwards of one step (its parts, its rounds), bias-corrected; before any step, the
    batch's own. Workers that train one lane take the percentile of their own part of a batch and
    keep one running threshold.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Ranked.Config):
        """Settings of percentile routing by batch; level, temperature and noise are DynaMoE's."""

        kind: str = "percentile_batch"
        level: float = 0.7
        """tau: the percentile as a fraction; about 1 - tau of all pairs are used."""
        decay: float = 0.99
        """Of the running threshold, for each step."""
        temperature: float = 0.5
        """T: logits are divided by it before the softmax."""
        noise: float = 0.1
        """Standard deviation of the Gaussian noise on the logits in training."""

        def __post_init__(self) -> None:
            check_level("level", self.level)
            if not 0.0 <= self.decay < 1.0:
                raise ValueError(f"decay must be from 0 to below 1, got {self.decay}")
            Ranked.Config.__post_init__(self)

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Its threshold is kept alike over the workers of a supervised lane only."""
            return one_learner(lane)

    running: Tensor
    mass: Tensor
    step_sum: Tensor
    step_parts: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.level, self.decay = config.level, config.decay
        for name in ("running", "mass", "step_sum", "step_parts"):
            self.register_buffer(name, torch.zeros(()))

    def active(self, experts: int) -> float:
        """Mean of ``max(k, 1)`` for k ~ Binomial(E, 1 - tau), as if scores were independent."""
        return (1.0 - self.level) * experts + self.level**experts

    def step_begins(self) -> None:
        """Fold the last step's threshold into the running one."""
        self.running, self.mass = self._folded()
        self.step_sum, self.step_parts = self.step_sum * 0.0, self.step_parts * 0.0

    def select(self, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool) -> Selection:
        """See ``Selector.select``; the percentile is of the scores of allowed experts."""
        noise_TE = self.noise_like(logits_TE, training)
        noisy_TE = exact(logits_TE.detach() if noise_TE is None else logits_TE.detach() + noise_TE)
        threshold = self._of_step(noisy_TE, allowed_TE) if training else None
        if threshold is None:
            threshold = self._kept(noisy_TE, allowed_TE)
        how = {"selector": "threshold", "k": logits_TE.shape[1]}
        how["threshold"] = threshold / self.temperature
        return self.ranked(logits_TE, allowed_TE, noise_TE, varies=True, **how)

    def _of_step(self, scores_TE: Tensor, allowed_TE: Tensor | None) -> Tensor | None:
        """The percentile of a training forward, noted for the running one; None without scores."""
        threshold = quantile(scores_TE, allowed_TE, self.level)
        if threshold is not None:
            self.step_sum = self.step_sum + threshold
            self.step_parts = self.step_parts + 1.0
        return threshold

    def _folded(self) -> tuple[Tensor, Tensor]:
        """The running threshold with the last step in it, and the share of all steps it holds."""
        keep = torch.where(self.step_parts > 0, self.decay, 1.0)
        mean = self.step_sum / self.step_parts.clamp(min=1.0)
        return keep * self.running + (1.0 - keep) * mean, keep * self.mass + (1.0 - keep)

    def _kept(self, scores_TE: Tensor, allowed_TE: Tensor | None) -> Tensor:
        running, mass = self._folded()
        if float(mass) > 0:
            return running / mass
        own = quantile(scores_TE, allowed_TE, self.level)
        return running if own is None else own


def quantile(scores_TE: Tensor, allowed_TE: Tensor | None, level: float) -> Tensor | None:
    """A percentile of all (allowed) scores, with linear interpolation; None without scores."""
    if scores_TE.is_meta:
        return scores_TE.new_zeros(())
    scores = scores_TE.reshape(-1) if allowed_TE is None else scores_TE[allowed_TE]
    if not len(scores):
        return None
    place = level * (len(scores) - 1)
    low = math.floor(place)
    if place == low:
        return _smallest(scores, low, low)[0]
    below, above = _smallest(scores, low, low + 1)
    return below + (place - low) * (above - below)


def _smallest(scores: Tensor, *places: int) -> tuple[Tensor, ...]:
    """The values at these places of the scores in rising order, from 0."""
    if scores.device.type == "cpu":  # torch selects several times slower, and once for each place
        parted = np.partition(scores.numpy(), places)
        return torch.from_numpy(parted[list(places)]).unbind()
    return tuple(scores.kthvalue(place + 1).values for place in places)
