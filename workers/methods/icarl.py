"""iCaRL: exemplars chosen by herding, distillation, and the nearest mean of exemplars.

Letters: N samples, D features, C outputs, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.contract import LaneSettings, TaskSpec
from workers.methods.base import Method, MethodContext
from workers.methods.features import featureless, outputs_and_features
from workers.methods.memory import classes_of, needs_classes
from workers.methods.teacher import Teacher
from workers.streams import Part, TaskData
from workers.streams.data import joined
from workers.supervised.objectives import Objective
from workers.tables import Problem

BATCH = 512
"""Samples that features are taken of at once."""
UNSEEN = -1e4
"""Output for a class without exemplars: below every negative squared distance, and finite."""


class ICaRL(Method):
    """Class-incremental learning with exemplars (arXiv 1611.07725).

    Each stage trains on the task's samples and on the exemplars (algorithm 3), minimising

    ``- sum_k [t_k ln g_k(x) + (1 - t_k) ln(1 - g_k(x))]``, ``g = sigmoid(outputs)``,

    summed over the classes seen, a mean over samples. For classes of the task t is 1 at the label
    and 0 elsewhere; for earlier ones that are not among them it is what the model answered before
    the stage, ``t_k = g_k(x)`` of a frozen copy; where tasks are known, classes of the sample's
    task count alone. At the stage's end every class seen keeps
    ``m = buffer // classes`` exemplars: those of earlier classes are cut to their first m
    (algorithm 5), those of the task's classes are herded (algorithm 4) out of all its samples of
    the stage. Features are what the model's ``readout`` reads, divided by their length.

    The paper has no class come again. Where one does, its labels decide anew, and its exemplars
    are herded out of the task's samples of it and the exemplars that it had.

    Evaluations take the class whose mean is nearest (algorithm 1): the mean, scaled to length 1, of
    the features that the evaluated model gives to the class's exemplars. Outputs are negative
    squared distances [C], ``UNSEEN`` for a class without exemplars; the figure ``loss`` is their
    cross entropy. Before there are exemplars the model itself answers.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """Settings of the exemplars."""

        kind: str = "icarl"
        buffer: int = 500
        """Exemplars remembered over the whole stream (K of the paper)."""

        def __post_init__(self) -> None:
            if self.buffer < 1:
                raise ValueError("buffer must be at least 1")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Exemplars are those of classes, and every class must get one; means need features."""
            found = needs_classes(lane, "kind", f"method {self.kind!r}")
            if found:
                return found
            if self.buffer < lane.outputs:
                allowed = f"each of the stream's {lane.outputs} classes needs one at least"
                found = [Problem("buffer", f"got {self.buffer}", allowed)]
            return found + featureless(lane, f"method {self.kind!r}")

    config: ICaRL.Config
    mixes = answers = True

    def __init__(self, config: Config, seed: int, objective: Objective | None = None) -> None:
        super().__init__(config, seed, objective)
        self.exemplars: dict[int, Part] = {}
        """Class -> its exemplars, the most representative first; x and y on the CPU."""
        self._current = torch.empty(0, dtype=torch.int64)
        self._teacher: Teacher | None = None
        self._means: tuple[Tensor, Tensor] | None = None

    @property
    def _old(self) -> list[int]:
        """Earlier classes that are not among the task's."""
        return sorted(set(self.exemplars) - set(self._current.tolist()))

    def training_data(self, current: TaskData, past: Sequence[TaskData]) -> Part:
        parts = [current.train, *self.exemplars.values()]
        return Part(joined([part.x for part in parts]), joined([part.y for part in parts]))

    def begin_stage(self, context: MethodContext) -> dict[str, str]:
        assert context.data is not None
        self._current = classes_of(self.objective, context.data.train.y).unique()
        self._teacher = Teacher.of(context.model) if self._old else None
        return {}

    def loss(self, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs_BC = model(x)
        current_K, old_K = self._current.to(x.device), torch.tensor(self._old, device=x.device)
        target_BK = (classes_of(self.objective, y)[:, None] == current_K).to(outputs_BC.dtype)
        seen_K = current_K
        if self._teacher is not None:
            told_BC = torch.sigmoid(self._teacher(x))
            target_BK = torch.cat([target_BK, told_BC[:, old_K]], 1)
            seen_K = torch.cat([current_K, old_K])
        losses_BK = functional.binary_cross_entropy_with_logits(
            outputs_BC[:, seen_K], target_BK, reduction="none"
        )
        assert self.objective is not None
        return (losses_BK * self.objective.answering(outputs_BC, y)[:, seen_K]).sum(1).mean()

    def end_stage(self, context: MethodContext) -> None:
        assert context.data is not None
        kept = self.config.buffer // len({*self.exemplars, *self._current.tolist()})
        pool = self.training_data(context.data, ())
        classes_N = classes_of(self.objective, pool.y)
        chosen = {number: part.head(kept) for number, part in self.exemplars.items()}
        for number in self._current.tolist():
            of_class = pool.take(torch.nonzero(classes_N == number).flatten())
            features_ND = normalised_features(context.model, of_class.x)
            chosen[number] = of_class.take(herded(features_ND, kept)).in_memory()
        self.exemplars, self._teacher = dict(sorted(chosen.items())), None

    def answer(self, model: nn.Module, x: Tensor, task: TaskSpec | None) -> Tensor:
        if not self.exemplars:
            outputs: Tensor = model(x)
            return outputs
        if self._means is None:
            means = [mean_of(normalised_features(model, p.x)) for p in self.exemplars.values()]
            self._means = torch.stack(means), torch.tensor(list(self.exemplars), device=x.device)
        means_KD, classes_K = self._means
        outputs, features_BD = outputs_and_features(model, x)
        answered_BC = torch.full_like(outputs, UNSEEN)
        squared_BK = torch.cdist(functional.normalize(features_BD), means_KD.to(x.device)).square()
        answered_BC[:, classes_K] = -squared_BK
        return answered_BC

    def state(self) -> dict[str, Tensor]:
        found = {"current": self._current.clone()}
        for number, part in self.exemplars.items():
            found |= {
                f"exemplars/{number}/x": part.x.clone(),
                f"exemplars/{number}/y": part.y.clone(),
            }
        if self._teacher is not None:
            found |= {f"teacher/{name}": tensor for name, tensor in self._teacher.state().items()}
        return found

    def load_state(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        self._current, self._means = state["current"].cpu().clone(), None
        numbers = sorted(int(name.split("/")[1]) for name in state if name.endswith("/x"))
        self.exemplars = {
            number: Part(*(state[f"exemplars/{number}/{name}"].cpu().clone() for name in "xy"))
            for number in numbers
        }
        prefix = "teacher/"
        taught = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        self._teacher = Teacher.restored(model, taught) if taught else None


@torch.no_grad()
def normalised_features(model: nn.Module, x: Any) -> Tensor:
    """Features of samples [N, ...] in evaluation mode, each of length 1: float32 [N, D]."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    found = [outputs_and_features(model, part.to(device))[1] for part in x.split(BATCH)]
    model.train(training)
    return functional.normalize(torch.cat(found).float())


def mean_of(features_ND: Tensor) -> Tensor:
    """Their mean, scaled to length 1: [D]."""
    return functional.normalize(features_ND.mean(0), dim=0)


def herded(features_ND: Tensor, samples: int) -> Tensor:
    """Places of at most so many samples, int64 [n]: number k is the one with which the mean of the
    first k comes nearest to the mean of all (iCaRL, algorithm 4); none is taken twice."""
    mean_D = mean_of(features_ND)
    total_D = torch.zeros_like(mean_D)
    free_N = torch.ones(len(features_ND), dtype=torch.bool, device=features_ND.device)
    chosen: list[int] = []
    for k in range(1, min(samples, len(features_ND)) + 1):
        distance_N = (mean_D - (total_D + features_ND) / k).square().sum(1)
        place = int(distance_N.masked_fill(~free_N, torch.inf).argmin())
        total_D = total_D + features_ND[place]
        free_N[place] = False
        chosen.append(place)
    return torch.tensor(chosen, dtype=torch.int64)
