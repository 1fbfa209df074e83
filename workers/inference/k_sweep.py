"""Another number of experts for each token than the model was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from workers.contract import InputError
from workers.inference.base import Forward, InferencePolicy, Subject, log_probabilities
from workers.inference.steering import Rule, Select, steered
from workers.moe.selection import Selection, exact
from workers.moe.selectors.base import largest


class KSweep(InferencePolicy):
    """Each token runs its k largest experts, k chosen on validation parts or averaged over.

    Dynamic Experts Search (arXiv 2509.22572): the number of active experts is searched at inference
    and kept along a trajectory. Here k = 1..E is scored on the validation parts and the best one,
    the smallest of equals, answers; ``ensemble`` averages probabilities over all k instead (outputs
    that are values are averaged as they are). An agent keeps its k through every episode. Weights
    are as the layer's selector gives them: probabilities over all experts where it leaves them so,
    else shares of the chosen that sum to what the selector's own weights sum to.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(InferencePolicy.Config):
        """Which k."""

        kind: str = "k_sweep"
        k: int | None = None
        """Experts for each token (all of a layer's while it has fewer); None = chosen."""
        choose: Literal["all", "task"] = "all"
        """One k for all tasks, or one for each, which whoever asks must then know."""
        ensemble: bool = False
        """Average over k = 1..E instead of choosing."""

        def __post_init__(self) -> None:
            if self.k is not None and self.k < 1:
                raise ValueError(f"k must be at least 1, got {self.k}")
            if self.ensemble and self.k is not None:
                raise ValueError(f"ensemble averages over every k; leave k = {self.k} out")

    config: KSweep.Config

    def prepare(self, subject: Subject) -> None:
        if self.config.ensemble and subject.kind == "acts":
            raise InputError(
                "policy 'k_sweep': an agent keeps its k through an episode, an ensemble has none; "
                "leave ensemble out, or take a lane that does not act"
            )
        super().prepare(subject)
        self._most = max(layer.live for layer in subject.layers.values())
        self._k = self.config.k

    @property
    def choices(self) -> Sequence[int]:
        settled = self.config.ensemble or self.config.k is not None
        return () if settled else range(1, self._most + 1)

    @property
    def by_task(self) -> bool:
        return self.config.choose == "task"

    def choose(self, choice: int) -> None:
        self._k = choice

    def answer(self, forward: Forward, x: Tensor) -> Tensor:
        if not self.config.ensemble:
            assert self._k is not None, "chosen by now"
            return with_k(self.subject.layers, self._k, forward, x)
        several = [with_k(self.subject.layers, k, forward, x) for k in range(1, self._most + 1)]
        if not self.subject.logits:
            return torch.stack(several).mean(0)
        return torch.stack([log_probabilities(one) for one in several]).exp().mean(0).log()


def with_k(layers: Mapping[str, Any], k: int, forward: Forward, x: Tensor) -> Tensor:
    """The outputs where each token runs its k largest experts."""
    with steered(layers, {name: k_largest(layer, k) for name, layer in layers.items()}):
        return forward(x)


def k_largest(layer: Any, k: int) -> Rule:
    """Choose the k largest logits of a token, of those allowed."""
    selector = layer.selector

    def rule(select: Select, logits_TE: Tensor, allowed_TE: Tensor | None) -> Selection:
        own = select(logits_TE, allowed_TE)
        p_TE = own.probabilities_TE
        if p_TE is None:
            p_TE = selector.probabilities(logits_TE, allowed_TE)
        p_TE, own_TE = exact(p_TE), exact(own.weights_TE)
        chosen_TE = largest(p_TE, min(k, p_TE.shape[1])) & (p_TE > 0)
        weights_TE = p_TE * chosen_TE
        if not _left_as_they_are(p_TE, own_TE, own.chosen_TE):
            own_T1 = own_TE.sum(-1, keepdim=True)
            own_T1 = torch.where(own_T1 > 0, own_T1, 1.0)  # a token that its selector left out
            weights_TE = weights_TE * (own_T1 / weights_TE.sum(-1, keepdim=True).clamp_min(1e-30))
        return Selection(chosen_TE, weights_TE, probabilities_TE=p_TE)

    return rule


def _left_as_they_are(p_TE: Tensor, weights_TE: Tensor, chosen_TE: Tensor) -> bool:
    """Whether weights are the probabilities over all experts though not all are chosen."""
    return not bool(chosen_TE.all()) and torch.allclose(weights_TE, p_TE * chosen_TE, atol=1e-5)
