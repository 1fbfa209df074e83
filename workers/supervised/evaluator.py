"""Scores and figures of a supervised lane's checkpoints. Keeps nothing that training depends on."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from workers import checkpoint
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
from workers.evaluation import Measured, evaluation
from workers.machine import pick_device
from workers.moe.growth import surgery
from workers.streams import Part
from workers.streams.sampling import spread, strata
from workers.supervised.building import build_model, build_stream, training_config
from workers.supervised.objectives import Objective, measured
from workers.supervised.starting import begin_with


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
    draws: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Task -> places of its probe's and of its drift probe's samples in its test part."""


class SupervisedEvaluator:
    """Scores a checkpoint on the validation and test parts of each task, and measures it."""

    def __init__(self) -> None:
        self.lanes: dict[str, _Lane] = {}

    def evaluate(
        self, lane: LaneSpec, ref: CheckpointRef, tasks: tuple[TaskSpec, ...]
    ) -> EvaluationReport:
        """Scores in task order over the whole output layer (class-incremental).

        Samples that figures are taken on are drawn by the lane's seed, evenly over classes and
        domains: the same ones for every checkpoint of the lane.
        """
        began = time.perf_counter()
        torch.set_num_threads(lane.threads)
        key = f"{lane.built_from}-{lane.seed}"
        if key not in self.lanes:
            self.lanes[key] = _lane(lane)
        known = self.lanes[key]
        model = _restored(known, ref)
        with observe(model) as take, seeing(model) as seen:
            found = {task.name: _measure_task(known, model, task, take, seen) for task in tasks}
        figures = _measure_model(known, tasks, [one.probe for one in found.values()])
        return evaluation(found, figures, began)


def _lane(spec: LaneSpec) -> _Lane:
    config = training_config(spec)
    return _Lane(spec, build_stream(spec), config, made(config.diagnostics))


def _restored(known: _Lane, ref: CheckpointRef) -> nn.Module:
    """The model of a checkpoint in evaluation mode, in the shape it had grown to."""
    saved = checkpoint.read(ref)
    model = build_model(known.spec, known.stream)
    if not known.start:
        if known.spec.start is not None:
            begin_with(model, known.spec.start)
        device = pick_device()
        parameters = model.named_parameters()
        known.start = {name: p.detach().to(device, copy=True) for name, p in parameters}
    surgery.ensure_arch(model, saved.state["arch"])
    model.load_state_dict(saved.tensors["model"])
    return model.to(pick_device()).eval()


def _measure_task(
    known: _Lane,
    model: nn.Module,
    task: TaskSpec,
    take: Callable[[], dict[str, Gates]],
    seen: Seen,
) -> Measured:
    """Scores and figures of one task; ``take`` and ``seen`` watch the model.

    A test part that fits into a probe is passed through the model once, a larger one first as a
    whole, then the samples drawn for the probe.
    """
    objective, parts = known.stream.objective, known.stream.held_out(task)
    test, validation = parts["test"], parts["validation"]
    assert test is not None
    index, drifting = _drawn(known, task, objective, test)
    validated = None if validation is None else _validated(known, model, task, validation, test)
    take()
    batch = known.training.eval_batch
    whole = len(index) == len(test.y) <= batch
    with seen if whole else nullcontext():
        values = measured(model, objective, test.x, test.y, batch)
    routed, few = take(), test if whole else test.take(index)
    few = replace(few, x=few.x[:])  # in memory
    if not whole:
        with seen:
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
    )
    score = values.pop("score")
    figures = {name: float(value.mean()) for name, value in values.items()}
    figures |= _by_domain(objective.score_name, score, task, test.domain)
    return Measured(
        score=float(score.mean()),
        validation=validated,
        figures=figures | measure(probe, known.diagnostics, ("task", "layer")),
        gate_weights=mean_weights(routed),
        drift=drift_probe(routed, len(test.y), drifting),
        probe=probe,
    )


def _measure_model(
    known: _Lane, tasks: tuple[TaskSpec, ...], probes: list[Probe]
) -> dict[str, float]:
    """Figures of the model over all tasks."""
    wanted = any(diagnostic.needs_gradients for diagnostic in known.diagnostics.values())
    loss = known.stream.objective.loss if wanted else None
    return measure(pooled(probes, domains_of(tasks), loss), known.diagnostics, ("model",))


def _drawn(known: _Lane, task: TaskSpec, objective: Objective, test: Part) -> tuple[Tensor, Tensor]:
    """Places of the samples of the probe and of the drift probe, drawn once a lane."""
    if task.name not in known.draws:
        seed = derive_seed(known.spec.seed, "probe", task.name)
        stratum = strata(len(test.y), test.domain, objective.classes(test.y))
        known.draws[task.name] = (
            spread(stratum, PROBE_SAMPLES, seed),
            spread(stratum, DRIFT_SAMPLES, seed),
        )
    return known.draws[task.name]


def _validated(
    known: _Lane, model: nn.Module, task: TaskSpec, validation: Part, test: Part
) -> float:
    """Mean score on the validation part, or on samples of a large one that stand for it."""
    objective, training = known.stream.objective, known.training
    stratum = strata(len(validation), validation.domain, objective.classes(validation.y))
    seed = derive_seed(known.spec.seed, "validation", task.name)
    part = validation.take(spread(stratum, training.validated(len(test)), seed))
    x, y = part.x, part.y
    found = measured(model, objective, x, y, training.eval_batch, figures=False)
    return float(found["score"].mean())


def _by_domain(name: str, score: Tensor, task: TaskSpec, domain: Tensor | None) -> dict[str, float]:
    """Score on each domain that has samples, of a task that mixes several."""
    if domain is None:
        return {}
    return {
        f"{name}/{label}": float(score[domain == place].mean())
        for place, label in enumerate(task.domains)
        if (domain == place).any()
    }
