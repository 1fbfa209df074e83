"""A stage under way: its samples, the order of its batches, and samples that stand for them all.

Knows streams, methods and settings; nothing of models, optimizers and checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from workers.contract import InputError, StageSpec, derive_seed
from workers.methods import Method
from workers.streams import Part, Stream, TaskData
from workers.streams.sampling import spread, strata
from workers.supervised.batches import Batches

Assigned = dict[str, Tensor]
"""Routed layer -> place of the heaviest expert of each token, int64 [T]."""

SCORE_SAMPLES = 512
"""Training samples on which an interval's training score is measured: drawn by the stage's seed
over the whole stage, of each class and domain its share; fewer where the objective says so. Of an
accuracy, the standard error is at most 2.2 points."""


@dataclass(slots=True)
class Stage:
    """What exists only while a stage is trained."""

    spec: StageSpec
    data: TaskData
    part: Part
    """The samples to train on, with the place of each one's domain among the lane's domains
    (``domain`` None: not known, or of no importance); on the device unless they lie on disk."""
    batches: Batches
    steps: int
    """Gradient steps in all."""
    scored: Part
    """Samples that stand for the whole stage, for its training score; in memory."""
    probe: Part
    """Likewise, for edits."""
    validated: Part | None = None
    """Likewise of the validation part; None where there is none."""
    assigned: Assigned | None = None
    """Where the model as it is sends ``scored``; None = nobody looked since it was changed."""
    step: int = 0
    """Gradient steps done."""

    @property
    def progress(self) -> float:
        """Share of the stage's training that is done."""
        return self.step / self.steps

    @property
    def done(self) -> bool:
        """Whether every step has been taken."""
        return self.step == self.steps


def prepare(
    spec: StageSpec,
    stream: Stream,
    method: Method,
    training: Any,
    domains: tuple[str, ...],
    device: torch.device,
    validates: bool = False,
) -> Stage:
    """Load a stage's data and set the order of its batches.

    ``training``: the Config of ``[training]``. ``domains``: all domains of the lane, or none where
    they are of no importance. ``validates``: whether the validation part is looked at.
    Raises InputError where there is nothing to train on, or fewer
    steps than intervals.
    """
    data = stream.data(spec.task)
    past = () if stream.cumulative or not method.needs_past else stream.tasks()[: spec.task.index]
    part = method.training_data(data, [stream.data(task) for task in past])
    if len(part) == 0:
        raise InputError(f"task {spec.task.name!r}: no training samples; check its settings")
    groups = strata(len(part), part.domain, stream.objective.classes(part.y))
    scored = min(SCORE_SAMPLES, stream.objective.most_looked_at or SCORE_SAMPLES)
    validated = None
    if validates and (held := data.validation) is not None:
        of = strata(len(held), held.domain, stream.objective.classes(held.y))
        known = replace(held, domain=_placed_domains(spec, held, domains))
        validated = _sample(known, of, scored, derive_seed(spec.seed, "validated"), device)
    part = _placed(part, _domains_of(spec, method, data, part, domains), device)
    order = derive_seed(spec.seed, "order")
    batches = Batches(len(part), training.batch, order, part.domain, training.batches == "domain")
    steps = _steps(spec, training, batches)
    if not method.needs_past:
        batches.order = _ordered(spec, stream, method, len(part), steps * training.batch)
    probed = stream.objective.kept(training.probe, stream.input_shape, stream.outputs)
    return Stage(
        spec=spec,
        data=data,
        part=part,
        batches=batches,
        steps=steps,
        validated=validated,
        scored=_sample(part, groups, scored, derive_seed(spec.seed, "scored"), device),
        probe=_sample(part, groups, probed, derive_seed(spec.seed, "probe"), device),
    )


def _steps(spec: StageSpec, training: Any, batches: Batches) -> int:
    """Gradient steps of the stage."""
    epochs = 1.0 if training.epochs is None else training.epochs
    steps: int = training.steps or max(1, round(epochs * batches.per_epoch))
    if steps < spec.intervals:
        raise InputError(
            f"task {spec.task.name!r}: {steps} gradient steps cannot be split into "
            f"{spec.intervals} intervals; lower training.intervals or train longer"
        )
    return steps


def _ordered(
    spec: StageSpec, stream: Stream, method: Method, samples: int, taken: int
) -> Tensor | None:
    """The stream's own order of so many ``taken`` samples; None where it has none."""
    order = stream.arrival(spec.task, taken)
    if order is not None and samples != len(stream.data(spec.task).train):
        raise InputError(
            f"method {method.config.kind}: training_data gives {samples} samples, and the order in "
            f"which stream {stream.config.kind} gives them is of the task's own "
            f"{len(stream.data(spec.task).train)}; use a method that adds to batches instead"
        )
    return order


def _domains_of(
    spec: StageSpec, method: Method, data: TaskData, part: Part, domains: tuple[str, ...]
) -> Tensor | None:
    """Domain of each training sample, as its place in the lane's domains."""
    plain = method.starts_plainly() and spec.task.index == 0
    if not domains or (method.mixes and not plain):
        return None
    if len(part) != len(data.train):
        told = f"training_data gives {len(part)} samples, the task has {len(data.train)}"
        raise mixing(method, told)
    return _placed_domains(spec, data.train, domains)


def _placed_domains(spec: StageSpec, part: Part, domains: tuple[str, ...]) -> Tensor | None:
    """Domain of each sample of one of the task's parts, as its place in the lane's domains."""
    if not domains:
        return None
    places = torch.tensor([domains.index(name) for name in spec.task.domains])
    return places[0].repeat(len(part)) if part.domain is None else places[part.domain]


def mixing(method: Method, told: str) -> InputError:
    """The error of a method that mixes samples of unknown domains and does not say so."""
    return InputError(
        f"method {method.config.kind}: {told}, so their domains are unknown; its class must say "
        "`mixes = True`"
    )


def _placed(part: Part, domain: Tensor | None, device: torch.device) -> Part:
    """The samples on the device, or on disk where they lie there."""
    x = part.x.to(device) if isinstance(part.x, Tensor) else part.x
    y = part.y.to(device) if isinstance(part.y, Tensor) else part.y
    return Part(x, y, domain)


def _sample(part: Part, groups: Tensor, samples: int, seed: int, device: torch.device) -> Part:
    """At most so many samples, drawn over all groups (int64 [N]), in memory on the device."""
    drawn = part.take(spread(groups, samples, seed)).in_memory()
    return replace(drawn, x=drawn.x.to(device), y=drawn.y.to(device))
