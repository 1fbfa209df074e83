"""What both trainers' evaluators have in common: tasks measured one by one, put into one report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workers.contract import EvaluationReport, TaskSpec, domains_of
from workers.diagnostics import Probe


class Measured(NamedTuple):
    """What one task's parts, or episodes, gave."""

    score: float
    """On the test part."""
    validation: float | None
    """On the validation part; None where there is none."""
    figures: dict[str, float]
    gate_weights: dict[str, list[float]]
    """Layer -> mean gate weight of each expert [E]."""
    drift: dict[str, list[list[float]]]
    """Layer -> gate weights of the task's drift probe [n][E]."""
    probe: Probe


def stream_domains(stream: Any) -> tuple[str, ...]:
    """Every domain of a stream: those of its stages as a trainer counts them, then those that only
    scored tasks have."""
    return domains_of((*stream.tasks(), *stream.scored_tasks()))


def places(domains: tuple[str, ...], task: TaskSpec, part: Any) -> Tensor:
    """Domain of each sample of a task's part, as its place among the stream's, int64 [N]."""
    own = torch.tensor([domains.index(name) for name in task.domains])
    return own[:1].repeat(len(part)) if part.domain is None else own[part.domain.cpu()]


def evaluation(
    found: Mapping[str, Measured], model_figures: dict[str, float], began: float
) -> EvaluationReport:
    """The report of tasks by name, in their order; ``began``: ``time.perf_counter()`` then.

    Validation scores are told where every task has one.
    """
    validation = [one.validation for one in found.values() if one.validation is not None]
    return EvaluationReport(
        scores=[one.score for one in found.values()],
        validation=validation if len(validation) == len(found) else [],
        figures={name: one.figures for name, one in found.items()},
        model_figures=model_figures,
        gate_weights={name: one.gate_weights for name, one in found.items()},
        probes={name: one.drift for name, one in found.items()},
        seconds=time.perf_counter() - began,
    )
