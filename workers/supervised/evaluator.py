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
from workers.moe.routed import observing, recording, take_gate_weights
from workers.supervised.building import build_model, build_stream, pick_device, training_config


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
            x, y = stream.test(task)
            with recording(model), observing(model if specialised else nn.Module()) as seen:
                right = correct(model, x, y, batch)
                report.usage[task.name] = take_gate_weights(model)
            report.scores.append(float(right.double().mean()))
            if specialised:
                kept = {name: [r.weights for r in parts] for name, parts in seen.items()}
                report.details[task.name] = {
                    **_by_domain(right, task, stream.test_domains(task)),
                    **routing.measure(kept),
                }
                report.probes[task.name] = routing.probe(kept)
        return replace(report, seconds=time.perf_counter() - began)


def correct(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> Tensor:
    """Bool [N] on the CPU: is the largest logit the sample's label? In evaluation mode.

    x [N, C, H, W], y [N]; ``batch`` samples at a time.
    """
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        right = [
            model(part.to(device)).argmax(-1) == labels.to(device)
            for part, labels in zip(x.split(batch), y.split(batch), strict=True)
        ]
    model.train()
    return torch.cat(right).cpu()


def _by_domain(right: Tensor, task: TaskSpec, domain: Tensor | None) -> dict[str, float]:
    """Accuracy on each domain of a task that mixes several."""
    if domain is None:
        return {}
    return {
        f"accuracy/{name}": float(right[domain == place].double().mean())
        for place, name in enumerate(task.domains)
    }
