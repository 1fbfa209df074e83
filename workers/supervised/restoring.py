"""What answers for a supervised lane's checkpoint: its model, or its method through the model."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from workers import checkpoint
from workers.contract import CheckpointRef, LaneSpec, TaskSpec
from workers.machine import pick_device
from workers.moe.growth import surgery
from workers.supervised.building import build_method, build_model


class Answers(nn.Module):
    """A model through which somebody answers: whoever has ``answer(model, x, ...)``."""

    def __init__(self, model: nn.Module, by: Any, *more: Any) -> None:
        """``by``: an inference policy or a method; ``more``: what it is told beside the inputs."""
        super().__init__()
        self.model, self.by, self.more = model, by, more

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> what is answered to them, as the model's outputs."""
        answered: Tensor = self.by.answer(self.model, x, *self.more)
        return answered


def restore(model: Any, ref: CheckpointRef) -> Any:
    """The model with the shape and weights of a checkpoint, in evaluation mode on the device."""
    return _given(model, checkpoint.read(ref))


def restored(lane: LaneSpec, stream: Any, ref: CheckpointRef) -> Any:
    """The same, built from the lane's settings."""
    return restore(build_model(lane, stream), ref)


def restored_with_method(lane: LaneSpec, stream: Any, ref: CheckpointRef) -> tuple[Any, Any]:
    """The model, and the lane's method as it was then where it has answers of its own, else None.

    A checkpoint of a model alone, merged or compressed, has no method.
    """
    saved, method = checkpoint.read(ref), build_method(lane, stream)
    model = _given(build_model(lane, stream), saved)
    if not method.answers or "method" not in saved.tensors:
        return model, None
    method.load_state(saved.tensors["method"], model)
    return model, method


def answering(model: Any, method: Any, task: TaskSpec | None) -> Any:
    """What answers to samples; ``method`` None = the model itself."""
    return model if method is None else Answers(model, method, task)


def _given(model: Any, saved: checkpoint.Checkpoint) -> Any:
    surgery.ensure_arch(model, saved.state["arch"])
    model.load_state_dict(saved.tensors["model"])
    return model.to(pick_device()).eval()
