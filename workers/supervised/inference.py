"""A supervised lane's checkpoint under an inference policy, beside the plain model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import (
    CheckpointRef,
    InputError,
    Json,
    LaneSpec,
    TaskSpec,
    derive_seed,
)
from workers.diagnostics import Gates
from workers.diagnostics.observing import observe
from workers.evaluation import places, stream_domains
from workers.inference.base import InferencePolicy, Subject
from workers.inference.running import Comparison, Part, compared, made
from workers.inference.steering import steerable
from workers.moe.stepping import telling
from workers.streams.sampling import spread, strata
from workers.supervised.building import build_stream, training_config
from workers.supervised.objectives import measured, sums
from workers.supervised.restoring import Answers, restored_with_method


def infer(
    lane: LaneSpec, checkpoint: CheckpointRef, tasks: tuple[TaskSpec, ...], policy: Json
) -> Comparison:
    """Scores of ``tasks`` with the policy and without.

    Raises InputError where the model routes nothing, or the policy cannot answer for it.
    """
    torch.set_num_threads(lane.threads)
    data = _Data(lane, build_stream(lane))
    model, method = restored_with_method(lane, data.stream, checkpoint)
    if method is not None:
        raise InputError(
            f"lane {lane.lane!r}: method {method.config.kind!r} answers by itself, and a policy "
            "would steer another answer; take a lane whose model answers"
        )
    layers = steerable(model)
    if not layers:
        raise InputError(
            f"lane {lane.lane!r}: this model has no router to steer; take a lane and stage whose "
            "layers are mixtures of two or more experts"
        )
    objective = data.stream.objective
    subject = Subject(
        model=model,
        kind=objective.needs,
        logits=objective.needs == "tokens" or objective.labels,
        layers=layers,
        tasks=tasks,
        seed=lane.seed,
        gates=lambda: data.gates(model, tasks),
        references=lambda samples: data.references(tasks, samples),
        right=data.right,
    )
    return compared(
        made(policy), subject, lambda one, task, part: data.score(model, one, task, part)
    )


class _Data:
    """What a lane's stream gives to score by and to look at."""

    def __init__(self, lane: LaneSpec, stream: Any) -> None:
        self.lane, self.stream = lane, stream
        self.training = training_config(lane)
        self.domains = stream_domains(stream)

    def score(
        self, model: nn.Module, policy: InferencePolicy, task: TaskSpec, part: Part
    ) -> dict[str, float] | None:
        """As the evaluator scores, and its figures."""
        objective, found = self.stream.objective, self._part(task, part)
        if found is None:
            return None
        policy.begin(1)
        batch = self.training.evaluated(objective)
        answers, domain_N = Answers(model, policy), places(self.domains, task, found)
        with telling(answers, domain_N):
            values = measured(answers, objective, found.x, found.y, batch)
        told: dict[str, float] = objective.summary(sums(values), len(found))
        return told

    def gates(
        self, model: nn.Module, tasks: tuple[TaskSpec, ...]
    ) -> Mapping[str, dict[str, Gates]]:
        """See ``Subject.gates``."""
        objective, found = self.stream.objective, {}
        with observe(model) as take:
            for task in tasks:
                part = self._part(task, "validation")
                if part is None:
                    raise InputError(
                        f"task {task.name!r} has no validation part to look at; give the run one "
                        "(stream.validation), or the policy what it would find there"
                    )
                batch = self.training.evaluated(objective)
                with telling(model, places(self.domains, task, part)):
                    measured(model, objective, part.x, part.y, batch, figures=False)
                found[task.name] = take()
        return found

    def references(
        self, tasks: tuple[TaskSpec, ...], samples: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``Subject.references``."""
        objective, parts, domains = self.stream.objective, [], []
        most = objective.most_looked_at
        for task in tasks:
            train = self.stream.data(task).train
            seed = derive_seed(self.lane.seed, "references", task.name)
            stratum = strata(len(train), train.domain, objective.classes(train.y))
            few = samples if most is None else min(samples, most)
            parts.append(train.take(spread(stratum, few, seed)).in_memory())
            domains.append(places(self.domains, task, parts[-1]))
        x, y = torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])
        return x, y, torch.cat(domains)

    def right(self, outputs: Tensor, y: Tensor) -> Tensor:
        """See ``Subject.right``; a sample that is not classified is right from score 0.5."""
        if self.stream.objective.needs == "tokens":
            return outputs.argmax(-1) == y
        found: Tensor = self.stream.objective.score(outputs, y) >= 0.5
        return found

    def _part(self, task: TaskSpec, name: Part) -> Any:
        """A part as evaluations score it: of a large validation part the samples drawn for it."""
        parts = self.stream.held_out(task)
        found = parts[name]
        if name == "test" or found is None:
            return found
        seed = derive_seed(self.lane.seed, "validation", task.name)
        stratum = strata(len(found), found.domain, self.stream.objective.classes(found.y))
        return found.take(spread(stratum, self.training.validated(len(parts["test"])), seed))
