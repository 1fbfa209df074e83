"""Selection among trained models: the best and the most different of many become experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.contract import InputError
from workers.merges.base import Scene
from workers.merges.branch_train_mix import BranchTrainMix
from workers.merges.matching import Match, match
from workers.moe.experts import Expert
from workers.streams.sampling import of_each, strata
from workers.supervised.objectives import measured, sums


class Select(BranchTrainMix):
    """Branch-train-mix of winners among candidates: K-shot score and diversity (2408.15915).

    s_i = score of candidate i on K validation samples of each class (in each domain) of the lane's
    first task, or on all of a class that has fewer,
    d(i, j) = 1 - cosine of their feed-forwards' weights. The first winner has the largest s; each
    further one the largest s_i + diversity * min over winners j of d(i, j). As many win as the
    model has experts. The source ranks by reasoning perplexity too, which classifiers lack.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(BranchTrainMix.Config):
        """Settings of the selection."""

        kind: str = "select"
        shots: int = 5
        """K: validation samples of each class."""
        diversity: float = 0.5
        """Weight of the distance to the winners before; 0 = score alone."""

        def __post_init__(self) -> None:
            if self.shots < 1 or self.diversity < 0:
                raise ValueError(
                    "shots must be at least 1 and diversity not negative, got "
                    f"{self.shots} and {self.diversity}"
                )

    def check(self, model: nn.Module, parents: Sequence[nn.Module]) -> None:
        wanted = self._wanted(model, parents)
        if wanted > len(parents):
            raise InputError(
                f"the model has {wanted} experts, to be chosen among {len(parents)} candidates; "
                "name more, or lower model.experts"
            )
        for first in range(len(parents) - wanted + 1):  # every candidate must fit
            super().check(model, parents[first : first + wanted])

    @torch.no_grad()
    def fill(self, model: nn.Module, parents: Sequence[nn.Module], scene: Scene) -> None:
        scores = kshot(parents, scene, self.config.shots)
        vectors = [_vector(match(model, parent)) for parent in parents]
        chosen = winners(scores, vectors, self._wanted(model, parents), self.config.diversity)
        super().fill(model, [parents[number] for number in chosen], scene)

    def _wanted(self, model: nn.Module, parents: Sequence[nn.Module]) -> int:
        """Experts of the model, one from each winner."""
        layers: list[Any] = [model.get_submodule(n) for n in match(model, parents[0]).layers]
        return max((layer.live for layer in layers), default=1)


def winners(
    scores: Sequence[float], vectors: Sequence[Tensor], wanted: int, diversity: float
) -> list[int]:
    """Places of the winners, in the order in which they were chosen; of equals the first."""
    unit_ND = functional.normalize(torch.stack(list(vectors)).double(), dim=1)
    distance_NN = 1.0 - unit_ND @ unit_ND.t()
    chosen = [max(range(len(scores)), key=lambda i: scores[i])]
    while len(chosen) < wanted:
        left = [i for i in range(len(scores)) if i not in chosen]
        worth = {i: scores[i] + diversity * float(distance_NN[i, chosen].min()) for i in left}
        chosen.append(max(left, key=lambda i: worth[i]))
    return chosen


def kshot(parents: Sequence[nn.Module], scene: Scene, shots: int) -> list[float]:
    """Score of each candidate on a few validation samples of the stream's first task.

    Raises InputError where the task has no validation part.
    """
    objective, task = scene.stream.objective, scene.stream.tasks()[0]
    part = scene.stream.data(task).validation
    if part is None:
        raise InputError(
            f"merge select: task {task.name!r} has no validation part to choose by; set "
            "stream.validation above 0"
        )
    groups = strata(len(part), part.domain, objective.classes(part.y))
    few = part.take(of_each(groups, shots, scene.seed)).in_memory()
    found = []
    for parent in parents:
        values = sums(measured(parent, objective, few.x, few.y, len(few), figures=False))
        found.append(float(objective.summary(values, len(few))["score"]))
    return found


def _vector(found: Match) -> Tensor:
    """All weights of a candidate's feed-forwards, one behind the other."""
    parts: list[Tensor] = []
    for sources in found.layers.values():
        for source in sources:
            if isinstance(source, Expert):
                parts += [value.flatten() for value in source.parameters()]
            else:
                parts += [weight.flatten() for weight, _ in source.maps]
    return torch.cat(parts)
