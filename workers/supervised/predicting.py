"""A supervised lane's trained model, ready to predict, from a checkpoint or an exported folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import CheckpointRef, InputError, LaneSpec
from workers.machine import pick_device
from workers.supervised.building import build_stream, training_config
from workers.supervised.restoring import answering, restored_with_method


@dataclass(frozen=True, slots=True)
class Predictor:
    """What answers for a model, and what its inputs and outputs are."""

    model: nn.Module
    """Inputs [B, *input_shape] -> outputs [B, ...] of the stream's objective: the model, or its
    method through it. In evaluation mode."""
    stream: Any
    batch: int
    """Samples that go through it at once."""

    def read(self, path: Path) -> Tensor:
        """Inputs of a file as the model gets them; InputError where it holds none such."""
        inputs: Tensor = self.stream.read(path)
        return inputs

    @property
    def names(self) -> list[str] | None:
        """Names of the classes; None where outputs are no classes."""
        return list(self.stream.names) if self.stream.objective.labels else None

    @torch.no_grad()
    def outputs(self, inputs: Tensor) -> Tensor:
        """Outputs [N, ...] to inputs [N, *input_shape], float32 on the CPU.

        Raises InputError where the inputs are of another shape.
        """
        shape = tuple(self.stream.input_shape)
        if tuple(inputs.shape[1:]) != shape:
            raise InputError(
                f"inputs of shape {tuple(inputs.shape[1:])}; the model takes {shape}, samples first"
            )
        return torch.cat(list(self._batches(inputs)))

    def predict(self, inputs: Tensor) -> tuple[list[Any], Tensor]:
        """(prediction of each sample, float32 [N, C] probabilities or [N, K] numbers).

        A prediction is the name of a class, or what the outputs are where they are no classes.
        """
        outputs = self.outputs(inputs)
        names = self.names
        if names is None:
            return outputs.tolist(), outputs
        return [names[place] for place in outputs.argmax(1).tolist()], outputs.softmax(1)

    def _batches(self, inputs: Tensor) -> Iterator[Tensor]:
        device = pick_device()
        for part in inputs.split(self.batch):
            yield self.model(part.to(device)).float().cpu()


def predictor(lane: LaneSpec, ref: CheckpointRef) -> Predictor:
    """The model of a checkpoint with the shape it had grown to.

    Raises InputError where the checkpoint is missing or damaged.
    """
    stream = build_stream(lane)
    model, method = restored_with_method(lane, stream, ref)
    batch = training_config(lane).evaluated(stream.objective)
    return Predictor(answering(model, method, None), stream, batch)
