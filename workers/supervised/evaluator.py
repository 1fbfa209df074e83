"""Scores and figures of a supervised lane's checkpoints. Keeps nothing that training depends on."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from workers.contract import (
    CheckpointRef,
    EvaluationReport,
    LaneSpec,
    TaskSpec,
    derive_seed,
    domains_of,
)
from workers.diagnostics import Diagnostic, Gates, Probe, made, measure
from workers.diagnostics.observing import (
    DRIFT_SAMPLES,
    PROBE_SAMPLES,
    Seen,
    drift_probe,
    mean_weights,
    observe,
    pooled,
    seeing,
)
from workers.evaluation import Measured, evaluation, places, stream_domains
from workers.machine import pick_device
from workers.moe.stepping import telling
from workers.streams import Part
from workers.streams.sampling import spread, strata
from workers.supervised.building import build_model, build_stream, training_config
from workers.supervised.objectives import Objective, measured, sums
from workers.supervised.restoring import answering, restored_with_method
from workers.supervised.starting import begin_with


class _Draws(NamedTuple):
    """Places of the samples that stand for a task's parts (int64), the same at each evaluation."""

    probe: Tensor
    """In the test part, for figures."""
    drift: Tensor
    """In the test part, for the drift of routing."""
    validation: Tensor | None
    """In the validation part; None where there is none."""


@dataclass(slots=True)
class _Lane:
    """What evaluations of one lane share."""

    spec: LaneSpec
    stream: Any
    training: Any
    """The Config of ``[training]``."""
    diagnostics: dict[str, Diagnostic]
    start: dict[str, Tensor] = field(default_factory=dict)
    """Parameters of the model that the lane began with."""
    draws: dict[str, _Draws] = field(default_factory=dict)
    """Task -> its samples."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Every domain of the stream, in the order in which a trainer counts them."""
        return stream_domains(self.stream)

    def told(self, task: TaskSpec) -> TaskSpec | None:
        """The task, where whoever uses a model knows it."""
        return task if self.stream.config.task_known else None


class SupervisedEvaluator:
    """Scores a checkpoint on the validation and test parts of each task, and measures it."""

    def __init__(self) -> None:
        self.lanes: dict[str, _Lane] = {}

    def evaluate(
        self, lane: LaneSpec, ref: CheckpointRef, tasks: tuple[TaskSpec, ...]
    ) -> EvaluationReport:
        """Scores in task order, over the whole output layer (class-incremental) or, where tasks
        are known, over the labels of each sample's task (task-incremental).

        Samples that figures are taken on are drawn by the lane's seed, evenly over classes and
        domains: the same ones for every checkpoint of the lane.
        """
        began = time.perf_counter()
        torch.set_num_threads(lane.threads)
        key = f"{lane.built_from}-{lane.seed}"
        if key not in self.lanes:
            self.lanes[key] = _lane(lane)
        known = self.lanes[key]
        model, method = _restored(known, ref)
        with observe(model) as take, seeing(model) as seen:
            found = {
                task.name: _measure_task(
                    known, model, answering(model, method, known.told(task)), task, take, seen
                )
                for task in tasks
            }
        figures = _measure_model(known, tasks, [one.probe for one in found.values()])
        return evaluation(found, figures, began)


def _lane(spec: LaneSpec) -> _Lane:
    config = training_config(spec)
    return _Lane(spec, build_stream(spec), config, made(config.diagnostics))


def _restored(known: _Lane, ref: CheckpointRef) -> tuple[nn.Module, Any]:
    """The model of a checkpoint in evaluation mode, in the shape it had grown to, and its method
    where that answers."""
    if not known.start:
        model = build_model(known.spec, known.stream)
        if known.spec.start is not None:
            begin_with(model, known.spec.start)
        device = pick_device()
        parameters = model.named_parameters()
        known.start = {name: p.detach().to(device, copy=True) for name, p in parameters}
    return restored_with_method(known.spec, known.stream, ref)


def _measure_task(
    known: _Lane,
    model: nn.Module,
    answers: nn.Module,
    task: TaskSpec,
    take: Callable[[], dict[str, Gates]],
    seen: Seen,
) -> Measured:
    """Scores of what ``answers`` and figures of the model; ``take`` and ``seen`` watch the model.

    A test part that fits into a probe is passed through the model once, a larger one first as a
    whole, then the samples drawn for the probe.
    """
    objective, parts = known.stream.objective, known.stream.held_out(task)
    test, validation = parts["test"], parts["validation"]
    assert test is not None
    index, drifting, validating = _drawn(known, task, test, validation)
    validated = None
    if validation is not None:
        assert validating is not None
        drawn = validation.take(validating)
        with telling(answers, places(known.domains, task, drawn)):
            validated = _validated(known, answers, drawn)
    take()
    batch = known.training.evaluated(objective)
    whole = len(index) == len(test.y) <= batch
    with seen if whole else nullcontext(), telling(model, places(known.domains, task, test)):
        values = measured(model, objective, test.x, test.y, batch)
    routed = take()
    if answers is not model:
        with telling(answers, places(known.domains, task, test)):
            values = measured(answers, objective, test.x, test.y, batch)
        take()
    few = (test if whole else test.take(index)).in_memory()
    if not whole:
        with seen, telling(model, places(known.domains, task, few)):
            measured(model, objective, few.x, few.y, len(index), figures=False)
        take()
    device = pick_device()
    assert seen.outputs is not None
    domain = torch.zeros(len(test.y), dtype=torch.long) if test.domain is None else test.domain
    probe = Probe(
        model=model,
        inputs=few.x.to(device),
        outputs=seen.outputs,
        targets=few.y.to(device),
        activations=seen.activations,
        routed=routed,
        domains=task.domains,
        domain=domain.to(device),
        start=known.start,
        inputs_domain=(domain if whole else domain[index]).to(device),
        stream_domains=known.domains,
        score=objective.score,
        events=_events(known, test),
    )
    figures = objective.summary(sums(values), len(test.y))
    score = figures.pop("score")
    figures |= _by_domain(objective, values, task, test.domain)
    return Measured(
        score=score,
        validation=validated,
        figures=figures | measure(probe, known.diagnostics, ("task", "layer")),
        gate_weights=mean_weights(routed),
        drift=drift_probe(routed, len(test.y), drifting),
        probe=probe,
    )


def _events(known: _Lane, part: Part) -> dict[str, Tensor]:
    """Class of each sample as events, where a diagnostic asks for them."""
    classes = known.stream.objective.classes(part.y)
    wanted = any(diagnostic.needs_events for diagnostic in known.diagnostics.values())
    if classes is None or not wanted:
        return {}
    return {f"class{number}": classes == number for number in classes.unique().tolist()}


def _measure_model(
    known: _Lane, tasks: tuple[TaskSpec, ...], probes: list[Probe]
) -> dict[str, float]:
    """Figures of the model over all tasks."""
    wanted = any(diagnostic.needs_gradients for diagnostic in known.diagnostics.values())
    loss = known.stream.objective.loss if wanted else None
    probe = pooled(probes, domains_of(tasks), loss, _probed(known))
    return measure(probe, known.diagnostics, ("model",))


def _probed(known: _Lane) -> int:
    """Samples of a probe: outputs to all of them are kept."""
    stream = known.stream
    samples: int = stream.objective.kept(PROBE_SAMPLES, stream.input_shape, stream.outputs)
    return samples


def _drawn(known: _Lane, task: TaskSpec, test: Part, validation: Part | None) -> _Draws:
    """The task's samples, drawn once a lane."""
    if task.name not in known.draws:
        objective, lane_seed = known.stream.objective, known.spec.seed
        seed = derive_seed(lane_seed, "probe", task.name)
        stratum = strata(len(test), test.domain, objective.classes(test.y))
        probe, drift = (spread(stratum, few, seed) for few in (_probed(known), DRIFT_SAMPLES))
        validating = None
        if validation is not None:
            seed = derive_seed(lane_seed, "validation", task.name)
            stratum = strata(len(validation), validation.domain, objective.classes(validation.y))
            validating = spread(stratum, known.training.validated(len(test)), seed)
        known.draws[task.name] = _Draws(probe, drift, validating)
    return known.draws[task.name]


def _validated(known: _Lane, model: nn.Module, part: Part) -> float:
    """Score on the validation part, or on samples of a large one that stand for it."""
    objective = known.stream.objective
    batch = known.training.evaluated(objective)
    found = sums(measured(model, objective, part.x, part.y, batch, figures=False))
    score: float = objective.summary(found, len(part))["score"]
    return score


def _by_domain(
    objective: Objective, values: dict[str, Tensor], task: TaskSpec, domain: Tensor | None
) -> dict[str, float]:
    """Score, and what else the objective tells by domain, of each domain that has samples."""
    figures: dict[str, float] = {}
    if domain is None:
        return figures
    for place, label in enumerate(task.domains):
        inside = domain == place
        if not inside.any():
            continue
        of_domain = sums({name: value[inside] for name, value in values.items()})
        told = objective.summary(of_domain, int(inside.sum()))
        figures[f"{objective.score_name}/{label}"] = told["score"]
        figures |= {f"{name}/{label}": told[name] for name in objective.domain_figures}
    return figures
