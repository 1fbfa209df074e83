"""Scores of a supervised lane's checkpoints. Keeps nothing that training depends on."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from workers import checkpoint
from workers.contract import CheckpointRef, EvaluationReport, LaneSpec, TaskSpec
from workers.diagnostics import routing
from workers.moe.growth import surgery
from workers.moe.telemetry import keeping, recording, usage
from workers.supervised.building import build_model, build_stream, pick_device, training_config
from workers.supervised.objectives import measured


class SupervisedEvaluator:
    """Accuracy of a checkpoint on the test data of each task."""

    def __init__(self) -> None:
        self.streams: dict[str, Any] = {}

    def evaluate(
        self, lane: LaneSpec, ref: CheckpointRef, tasks: tuple[TaskSpec, ...]
    ) -> EvaluationReport:
        """Scores in task order; accuracy over the whole output layer (class-incremental)."""
        began = time.perf_counter()
        torch.set_num_threads(lane.threads)
        key = f"{lane.built_from}-{lane.seed}"
        stream = self.streams.setdefault(key, build_stream(lane))
        saved = checkpoint.read(ref)
        model = build_model(lane, stream)
        surgery.ensure_arch(model, saved.state["arch"])
        model.load_state_dict(saved.tensors["model"])
        model.to(pick_device())
        batch = training_config(lane).eval_batch
        report = EvaluationReport(scores=[], seconds=0.0)
        specialised = len({name for task in tasks for name in task.domains}) > 1
        for task in tasks:
            test = stream.held_out(task)["test"]
            with recording(model), keeping(model if specialised else nn.Module()) as kept:
                right = measured(model, stream.objective, test.x, test.y, batch)["score"]
                report.usage[task.name] = usage(model)
            report.scores.append(float(right.mean()))
            if specialised:
                report.details[task.name] = {
                    **_by_domain(right, task, test.domain),
                    **routing.measure(kept),
                }
                report.probes[task.name] = routing.probe(kept)
        return replace(report, seconds=time.perf_counter() - began)


def _by_domain(right: Tensor, task: TaskSpec, domain: Tensor | None) -> dict[str, float]:
    """Accuracy on each domain of a task that mixes several."""
    if domain is None:
        return {}
    return {
        f"accuracy/{name}": float(right[domain == place].mean())
        for place, name in enumerate(task.domains)
    }
